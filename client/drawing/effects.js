// What a neuron writes: the tokens that it makes likelier and less likely, and how all tokens' effects are spread.
(function () {
  "use strict";
  const { element, svgElement, shown } = Polysem;
  const WIDTH = 480, HEIGHT = 96, BOTTOM = 18, TOP = 4;
  const signed = (value) => (value > 0 ? "+" : "−") + shown(Math.abs(value));

  // data: client/drawing/browser.py's effects_data
  function logitEffects(host, data) {
    if (!data.likelier.length) {
      host.replaceChildren(element("p", { class: "ps-quiet" }, "It moves the logits of all tokens alike."));
      return;
    }
    const most = Math.max(data.likelier[0].effect, -data.less_likely[0].effect, 0);
    host.replaceChildren(element("div", { class: "ps" },
      element("p", { class: "ps-quiet" }, sentence(data)),
      element("div", { class: "ps-effects" },
        list("makes likelier", data.likelier, most), list("makes less likely", data.less_likely, most)),
      histogram(data)));
  }

  const sentence = (data) => `The direct effect of its output weights on the next token${data.side === "negative"
    ? ", where its activation is negative" : ""}, in standard deviations over the ${data.n_tokens.toLocaleString("en")} ` +
    `tokens. What later layers make of it is not in it. Skewness ${shown(data.skewness)}, excess kurtosis ${shown(data.kurtosis)}: ` +
    "the larger, the fewer tokens stand out.";

  const list = (title, tokens, most) =>
    element("div", {}, element("b", {}, title), element("ol", { "aria-label": title }, ...tokens.map((token) => {
      const bar = element("span", { class: "ps-effect", "aria-hidden": "true" });
      bar.style.width = `${(100 * Math.abs(token.effect) / most).toFixed(1)}%`;
      return element("li", {}, element("code", { title: `token ${token.id}` }, token.shown),
        element("span", {}, bar), element("span", { class: "ps-value" }, signed(token.effect)));
    })));

  function histogram(data) {
    const top = Math.max(...data.histogram), bin = WIDTH / data.histogram.length;
    const first = data.less_likely[0].effect, last = data.likelier[0].effect;
    const x = (effect) => WIDTH * (effect - first) / (last - first);
    const svg = svgElement("svg", { class: "ps-spread", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
      "aria-label": `tokens by their effect, ${signed(first)} to ${signed(last)}, on a root scale` });
    data.histogram.forEach((n, i) => {
      const height = (HEIGHT - TOP - BOTTOM) * Math.sqrt(n / top);
      if (n) svg.append(svgElement("rect", { x: i * bin, y: HEIGHT - BOTTOM - height, width: bin - 1, height }));
    });
    svg.append(svgElement("line", { x1: 0, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    const text = (at, anchor, content) => svg.append(svgElement("text", { x: at, y: HEIGHT - 4, "text-anchor": anchor }, content));
    text(0, "start", signed(first));
    if (x(0) > 0.15 * WIDTH && x(0) < 0.6 * WIDTH) text(x(0), "middle", "0");
    text(WIDTH, "end", `${signed(last)} · tokens by effect, root scale`);
    return svg;
  }

  Object.assign(Polysem, { logitEffects });
})();
