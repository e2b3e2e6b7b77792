// Your own text: the text once, shaded by the chosen neuron; the neurons beside it, and their features in the corpus.
(function () {
  "use strict";
  const { byId, ask, keys, element, svgElement, shown, percent, count, chip, title, level } = Polysem;
  const data = JSON.parse(byId("data").textContent), n = data.tokens.length;
  const MOST_LISTED = 40, MOST_CHIPS = 5; // neurons before "more"; letters of one of them
  const NEAR_NONE = -1; // what the data has as cluster of a token that fires near none
  const given = new URLSearchParams(location.search), { unit } = document.body.dataset;
  let chosen = 0, token = 0, nListed = MOST_LISTED;

  const view = new URLSearchParams([...given].filter(([name]) => !["text", "neurons", "line_ends"].includes(name)));
  const address = (path, query) => path + (query.toString() ? `?${query}` : "");
  const pageOf = (id, letter) => address(`/neuron/${id}${letter && letter !== "·" ? `/${letter}` : ""}`, view);
  const textBy = (id) => {
    const query = new URLSearchParams(given);
    query.set("neurons", id);
    return `/text?${query}`;
  };
  const asked = () => new URLSearchParams([...view].filter(([name]) => name === "index" || name === "side"));

  for (const neuron of data.neurons) {
    neuron.byLabel = new Map(neuron.features.map((feature) => [feature.label, feature]));
    neuron.hits = neuron.clusters.flatMap((cluster, i) => (cluster === null ? [] : [i]));
  }
  const featureAt = (neuron, i) => neuron.byLabel.get(neuron.clusters[i]) || null;

  // ---- The text: pieces are made once; a choice changes their shade and sign

  const pieces = data.tokens.map(({ text, part }, i) => {
    const sign = element("span", { class: "sign" }), cut = text.indexOf("\n");
    const piece = element("span", { role: "button", onclick: () => pick(i, true) }, cut < 0 ? text : text.slice(0, cut),
      part ? element("small", {}, part) : null, sign, cut < 0 ? null : text.slice(cut));
    return { piece, sign };
  });

  function pick(i, focus) {
    token = Math.min(Math.max(i, 0), n - 1);
    paintText();
    paintStrongest();
    if (focus) pieces[token].piece.focus();
  }

  byId("paper").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -n, End: n }[event.key];
    if (by) pick(token + by, true);
    else if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
  });

  function paintText() {
    const neuron = data.neurons[chosen];
    pieces.forEach(({ piece, sign }, i) => {
      const share = neuron ? neuron.shares[i] : 0, step = level(share);
      const fires = neuron && neuron.clusters[i] !== null, feature = fires ? featureAt(neuron, i) : null;
      piece.className = `piece${step ? ` ps-t${step}` : ""}${feature ? ` fire ${feature.paint}` : ""}`;
      const words = !fires ? "" : feature ? `, cluster ${feature.letter}, ${title(feature)}` : ", near none of its clusters";
      piece.setAttribute("aria-label", data.tokens[i].name + words);
      piece.setAttribute("aria-pressed", String(i === token));
      piece.tabIndex = i === token ? 0 : -1;
      piece.title = neuron ? `activation ${shown(neuron.activations[i])}, ${percent(Math.max(0, share))} of its strongest` +
        (neuron.distances[i] === null ? "" : `, distance ${shown(neuron.distances[i])}`) + words : "";
      sign.replaceChildren(...(feature ? [chip(feature, true)] : fires ? [element("span", { class: "none" }, "∅")] : []));
    });
  }

  // ---- The neurons, the strongest at a token, and the corpus

  function who(neuron) {
    if (!neuron.hits.length) return "does not fire here";
    const [one] = neuron.features, some = neuron.features.length;
    const lost = neuron.clusters.filter((cluster) => cluster === NEAR_NONE).length;
    const words = [some === 1 ? title(one) : some ? count(some, "feature") : "", lost ? `${lost} × ∅` : ""];
    return [...neuron.features.slice(0, MOST_CHIPS).map((feature) => chip(feature, true)), words.filter((text) => text).join(" · ")];
  }

  function choose(i) {
    chosen = Math.min(Math.max(i, 0), data.neurons.length - 1);
    for (const [k, button] of [...byId("pick").querySelectorAll("[aria-pressed]")].entries()) button.setAttribute("aria-pressed", String(k === chosen));
    const neuron = data.neurons[chosen];
    byId("reader").replaceChildren(...(neuron ? [element("a", { href: pageOf(neuron.id) }, `${unit[0].toUpperCase()}${unit.slice(1)} ${neuron.id}`), " on your text"]
      : [`No ${unit} of this index fires often enough to compare`]));
    paintText();
    paintStrongest();
    paintCorpus();
  }

  function paintPick() {
    const made = data.neurons.slice(0, nListed).map((neuron, i) => element("li", {},
      element("button", { type: "button", "aria-pressed": "false", onclick: () => choose(i) }, element("b", {}, neuron.id),
        element("span", { class: "who" }, who(neuron)),
        element("span", { class: "strip", "aria-hidden": "true" }, neuron.shares.map((share) =>
          element("span", { class: level(share) ? `ps-t${level(share)}` : null }))))));
    const hidden = data.neurons.length - made.length;
    if (hidden > 0) {
      made.push(element("li", {}, element("button", { type: "button", class: "ps-link", onclick: () => {
        nListed = data.neurons.length;
        paintPick();
        choose(chosen);
      } }, `${count(hidden, `more ${unit}`)}`)));
    }
    byId("pick").replaceChildren(...made);
  }

  function paintStrongest() {
    byId("at").replaceChildren("Strongest at ", element("code", {}, data.tokens[token].name));
    byId("strong").replaceChildren(...data.strongest[token].map(([id, share]) => {
      const place = data.neurons.findIndex((neuron) => neuron.id === id);
      const bar = svgElement("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
        svgElement("rect", { width: 100 * Math.min(Math.max(share, 0), 1), height: 8, rx: 2 }));
      return element("li", {}, element("a", { href: textBy(id), onclick: (event) => {
        if (place < 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        choose(place);
      } }, id), bar, element("span", {}, percent(share)));
    }));
  }

  function paintCorpus() {
    const neuron = data.neurons[chosen];
    const made = (neuron ? neuron.features : []).map((feature) => {
      const at = neuron.hits.filter((i) => neuron.clusters[i] === feature.label);
      const times = at.length === 1 ? "once" : `${at.length} times`;
      const nearest = Math.min(...at.map((i) => neuron.distances[i]));
      return element("li", { class: `hit ${feature.paint}`, "data-letter": feature.letter }, element("div", { class: "ps-head" },
        element("a", { href: pageOf(neuron.id, feature.letter), "aria-label": `cluster ${feature.letter} of ${unit} ${neuron.id}` }, chip(feature)),
        element("b", {}, title(feature)), element("span", { class: "ps-size" },
          `${count(feature.size, "example")} · ${times} in your text, nearest ${shown(nearest)}`)),
      element("ol", { class: "ps-lines" }, (feature.lines || []).map((example) => Polysem.line(example, feature.paint, neuron.most, {
        whole: (place) => ask(address(`/api/neuron/${neuron.id}/example/${place}`, asked())),
      }))));
    });
    byId("same").replaceChildren(...(made.length ? made : [element("li", { class: "ps-quiet" },
      neuron && neuron.hits.length ? "It fires in your text, but near none of its features."
        : "Nothing in your text falls in one of its features.")]));
  }

  byId("signs").append(...[1, 2, 3, 4, 5].map((step) => element("span", { class: `ps-t${step}` })),
    " 12\u202f% to 87\u202f% and more of its strongest", element("i", {}), chip({ paint: "ps-A", letter: "A" }, true),
    " falls in its largest feature", element("i", {}), "∅ fires, but near none of its features");
  byId("paper").append(...pieces.map(({ piece }) => piece));
  Object.assign(keys, { j: () => choose(chosen + 1), k: () => choose(chosen - 1) });
  if (data.neurons.length) token = data.neurons[0].shares.indexOf(Math.max(...data.neurons[0].shares));
  paintPick();
  choose(0);
})();
