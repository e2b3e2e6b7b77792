// What a cluster causes: a sentence, the effects of each ablation, and the ten tokens that move most, before and after.
(function () {
  "use strict";
  const { element, svgElement, shown } = Polysem;
  const WIDTH = 260, EDGE = 6;
  const nats = (value) => (value === null ? "–" : Number(value.toPrecision(2)).toString());

  // Hollow: the mean probability as it is; filled: with the ablation. All rows share one scale.
  function dots({ before, after }, most) {
    const x = (value) => (EDGE + (WIDTH - 2 * EDGE) * value / most).toFixed(1);
    return svgElement("svg", { class: "moved", viewBox: `0 0 ${WIDTH} 14`, "aria-hidden": "true" },
      svgElement("line", { class: "axis", x1: EDGE, x2: WIDTH - EDGE, y1: 7, y2: 7 }),
      svgElement("line", { class: "span", x1: x(before), x2: x(after), y1: 7, y2: 7 }),
      svgElement("circle", { class: "null", cx: x(before), cy: 7, r: 4 }),
      svgElement("circle", { class: "real", cx: x(after), cy: 7, r: 4 }));
  }

  function tokens(all) {
    const most = Math.max(...all.map((one) => Math.max(one.before, one.after)), 1e-9);
    return element("ul", { class: "moves", "aria-label": "tokens that move most" }, ...all.map((one) => element("li", {},
      element("code", {}, one.token), dots(one, most),
      element("span", { class: "ps-quiet" }, `${shown(one.before)} → ${shown(one.after)}`))));
  }

  function table(rows) {
    const head = ["set to zero", "divergence, nats", "loss, nats", "tokens set"];
    return element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {},
      ...head.map((name, i) => element("th", { scope: "col", class: i ? null : "start" }, name)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, element("th", { scope: "row", class: "start" }, row.what),
      element("td", {}, nats(row.divergence) + (row.error === null ? "" : ` ± ${Number(row.error.toPrecision(1))}`)),
      element("td", {}, nats(row.loss)), element("td", {}, String(row.n_set)))))));
  }

  // Draws an answer of /api/neuron/…/ablation/… into `host`.
  Polysem.ablation = (host, found) => host.replaceChildren(element("p", {}, found.words),
    ...(found.tokens.length ? [element("p", { class: "ps-quiet" }, "Probability of the next token: ○ as it is, ● with the cluster set to zero"),
      tokens(found.tokens)] : []),
    ...(found.rows.length ? [element("details", { class: "ps-details" }, element("summary", {}, "Beside the whole neuron, another cluster and controls"),
      table(found.rows))] : []));
})();
