// What pages are made of: chips, share bars, lines of examples aligned at the key token, tips.
// Texts of a corpus are untrusted: they only ever become text nodes. Geometry is set on the DOM's style object.
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const BEFORE = 24; // tokens before the key token that a line shows at most
  const STEPS = [0.12, 0.3, 0.5, 0.7, 0.87]; // of activation, as a share of the neuron's most
  const PHONE = "(max-width: 760px)";

  function filled(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }
  const element = (name, attributes, ...children) => filled(document.createElement(name), attributes, children);
  const svgElement = (name, attributes, ...children) =>
    filled(document.createElementNS(SVG, name), attributes, children);

  const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
  const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}\u202f%`);
  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const isPhone = () => matchMedia(PHONE).matches;

  // ---- Clusters

  const chip = (cluster, small) => element("span",
    { class: `ps-chip ${cluster.paint}${small ? " ps-small" : ""}` }, cluster.letter);

  // Its name, else what it fires at.
  function title(cluster) {
    if (cluster.name) return cluster.name.replace(/`([^`]*)`/g, "‘$1’");
    const tokens = cluster.tokens || [];
    if (!tokens.length) return count(cluster.size, "example");
    return `at ${tokens.slice(0, 3).map(([token]) => `‘${token}’`).join(", ")}${tokens.length > 3 ? " …" : ""}`;
  }

  // Sizes of clusters side by side, A first; a list for a screen reader. single: how many examples stand alone.
  // go: called with the cluster that is clicked.
  function shareBar(many, single, n, options = {}) {
    const least = isPhone() ? 0.05 : options.thin ? 0.033 : 0.025;
    const bar = element("ul", { class: `ps-share${options.thin ? " ps-thin" : ""}`, "aria-label": "examples in each cluster" });
    for (const cluster of many) {
      const words = `${title(cluster)}: ${count(cluster.size, "example")}, ${percent(cluster.size / n)}`;
      const part = element("li", { class: cluster.paint, title: `${cluster.letter} · ${words}` },
        element("span", { "aria-hidden": "true" }, cluster.size / n >= least ? cluster.letter : ""),
        element("span", { class: "ps-unseen" }, `${cluster.letter}, ${words}`));
      part.style.flexGrow = cluster.size;
      if (options.go) part.addEventListener("click", () => options.go(cluster));
      bar.append(part);
    }
    if (single) {
      const rest = element("li", { class: "ps-rest", title: count(single, "single example") },
        element("span", { "aria-hidden": "true" }, single / n >= 2.2 * least ? `${single} ×1` : ""),
        element("span", { class: "ps-unseen" }, count(single, "single example")));
      rest.style.flexGrow = single;
      bar.append(rest);
    }
    return bar;
  }

  function meter(share) {
    return svgElement("svg", { class: "ps-meter", viewBox: "0 0 46 6", "aria-hidden": "true" },
      svgElement("rect", { class: "ps-track", width: 46, height: 6, rx: 3 }),
      svgElement("rect", { class: "ps-filled", width: (46 * Math.min(Math.max(share, 0), 1)).toFixed(1), height: 6, rx: 3 }));
  }

  // ---- Texts

  // 0..1: a token's activation as a share of the neuron's most, on its side of 0; 0 of the other sign.
  const shareOf = (value, most) => (most && value !== null ? Math.min(Math.max(value / most, 0), 1) : 0);
  const level = (share) => STEPS.filter((step) => share >= step).length;

  // The strongest of what is known: of the neuron over the corpus where it was told, else of its examples.
  function mostOf(data) {
    if (data.most) return data.most;
    const activations = (data.examples || []).map((example) => example.activation);
    return activations.reduce((most, a) => (Math.abs(a) > Math.abs(most) ? a : most), 0);
  }

  const textsOf = (example) => example.shown || example.tokens;

  function token(text, share, name, kind) {
    const step = level(share);
    return step || name ? element("span", { class: step ? `ps-${kind || "t"}${step}` : null, title: name }, text) : text;
  }

  // The whole of what is known of an example; importances: shade by them.
  function exampleText(example, most, importances) {
    const text = element("span", { class: "ps-text" });
    textsOf(example).forEach((piece, i) => {
      const value = importances ? importances[i] : example.activations[i];
      const share = importances ? value || 0 : shareOf(value, most);
      const name = `${importances ? "importance" : "activation"} ${shown(value)}`;
      const made = i === example.key ? element("mark", { title: name, class: `ps-${importances ? "i" : "t"}${level(share)}` }, piece)
        : token(piece, share, share > 0.02 ? name : null, importances ? "i" : "t");
      text.append(made);
    });
    return text;
  }

  // On one line: line breaks show already (⏎); runs of spaces shrink.
  const flat = (text) => text.replace(/⏎ +/g, "⏎ ").replace(/ {3,}/g, "  ");

  function aroundKey(example, most) {
    const texts = textsOf(example), key = example.key;
    const piece = (i) => token(flat(texts[i]), shareOf(example.activations[i], most));
    const left = [], right = [];
    for (let i = Math.max(0, key - BEFORE); i < key; i++) left.push(piece(i));
    for (let i = key + 1; i < texts.length; i++) right.push(piece(i));
    const word = flat(texts[key]);
    const step = Math.max(1, level(shareOf(example.activations[key], most)));
    return { left, right, word: word.trim() || word.replace(/ /g, "␣"), step };
  }

  // A line: the key token at the same place in all of them. A click, or Enter on the key token, opens its source.
  // options: whole(place) and importance(place), promises of an example with its texts.
  function line(example, paint, most, options = {}) {
    const { left, right, word, step } = aroundKey(example, most);
    const key = element("button", { type: "button", class: `ps-key ps-t${step} ${paint}`, "aria-expanded": "false",
      title: `activation ${shown(example.activation)}; open the source` }, word);
    const row = element("li", { class: "ps-line", "data-place": example.place },
      element("span", { class: "ps-left" }, element("bdi", {}, ...left)),
      element("span", { class: "ps-right" }, key, ...right),
      element("span", { class: "ps-value" }, shown(example.activation)));
    let source = null;
    const turn = () => {
      if (!source) row.append(source = sourceOf(example, most, options));
      else source.hidden = !source.hidden;
      key.setAttribute("aria-expanded", String(!source.hidden));
    };
    row.addEventListener("click", (event) => {
      if ((source && source.contains(event.target)) || getSelection().toString()) return;
      turn();
    });
    return row;
  }

  function sourceOf(example, most, options) {
    const body = element("div", { class: "ps-whole" }, exampleText(example, most));
    const note = element("span", { class: "ps-note", role: "status" });
    const made = element("div", { class: "ps-source" }, body, element("span", { class: "ps-quiet" },
      `${example.shown_document || example.document} · token ${example.position} · activation ${shown(example.activation)}`));
    const action = (label, back, ask) => {
      let changed = false;
      const button = element("button", { type: "button", class: "ps-link", onclick: async () => {
        if (changed) {
          body.replaceChildren(exampleText(example, most));
        } else {
          note.textContent = "asking the server …";
          button.disabled = true;
          try {
            body.replaceChildren(await ask());
          } catch (error) {
            note.textContent = error.message;
            return;
          } finally {
            button.disabled = false;
          }
        }
        note.textContent = "";
        changed = !changed;
        button.textContent = changed ? back : label;
      } }, label);
      made.append(" ", button);
    };
    if (options.whole) {
      action("whole text", "shorter", async () => exampleText(await options.whole(example.place), most));
    }
    if (options.importance) {
      action("importance", "activation", async () => {
        const found = await options.importance(example.place);
        return exampleText(found, most, found.importances);
      });
    }
    made.append(" ", note);
    return made;
  }

  // A few words around the key token, for a row.
  function snippet(example) {
    const { left, right, word } = aroundKey(example, 0);
    const text = element("span", { class: "ps-snippet" });
    const before = left.join("") + (/^ +\S/.test(textsOf(example)[example.key]) ? " " : "");
    text.append(element("span", { class: "ps-before" }, before.slice(-14)), element("b", {}, word), right.join("").slice(0, 60));
    return text;
  }

  // Of these places those whose neighbourhood of the key token differs.
  function distinct(data, places) {
    const seen = new Set();
    return places.filter((place) => {
      const { tokens, key } = data.examples[place], text = tokens.slice(Math.max(0, key - 3), key + 4).join("\u0000");
      return !seen.has(text) && seen.add(text);
    });
  }

  // ---- Tips: a sentence on what it is and one on how to read it, on hover, focus and tap; Escape closes

  const tip = (text, ...children) => element("span", { class: "ps-tip", tabindex: 0, "data-tip": text }, ...children);
  let pop = null;

  function hide() {
    if (pop) pop.remove();
    pop = null;
  }

  function show(event) {
    const of = event.target.closest && event.target.closest("[data-tip]");
    if (pop && of === pop.of) return;
    hide();
    if (!of) return;
    pop = element("div", { class: "ps-pop ps", role: "tooltip", id: "ps-pop" }, of.dataset.tip);
    pop.of = of;
    of.setAttribute("aria-describedby", "ps-pop");
    document.body.append(pop);
    const box = of.getBoundingClientRect(), room = document.documentElement.clientWidth - pop.offsetWidth - 8;
    pop.style.left = `${Math.max(8, Math.min(box.left, room)) + scrollX}px`;
    pop.style.top = `${box.bottom + 6 + scrollY}px`;
  }

  if (!Polysem.listens) { // a notebook has these files once a cell
    Polysem.listens = true;
    for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, show);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  }

  Object.assign(Polysem, {
    element, svgElement, shown, percent, count, isPhone, chip, title, shareBar, meter, shareOf, level, mostOf, exampleText,
    line, snippet, distinct, flat, tip,
  });
})();
