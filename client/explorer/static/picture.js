// What is seen of a neuron as one picture: its tree, and beside it each cluster's facts and first texts.
(function () {
  "use strict";
  const SCALE = 2, EDGE = 16, HEAD = 78, TREE = 380, CARDS = 620, LINE = 17; // in CSS pixels but for the scale
  const MOST_TEXTS = 3; // of a cluster
  const SANS = "12px system-ui, sans-serif", BOLD = "bold 13px system-ui, sans-serif";
  const MONO = "12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";

  // As an SVG of its own: the page's ink in place of currentColor.
  function treeSvg(svg, ink) {
    const alone = svg.cloneNode(true);
    alone.setAttribute("color", ink);
    alone.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    return new XMLSerializer().serializeToString(alone);
  }

  const tokensOf = (example) => example.shown || example.tokens;

  // The tokens that fit beside the key token: first and last + 1.
  function around(context, example, room) {
    const width = (i) => context.measureText(tokensOf(example)[i]).width;
    let first = example.key, last = example.key + 1, used = width(example.key);
    for (let wider = true; wider;) {
      wider = false;
      if (first > 0 && used + width(first - 1) <= room) { used += width(--first); wider = true; }
      if (last < tokensOf(example).length && used + width(last) <= room) { used += width(last++); wider = true; }
    }
    return [first, last];
  }

  function drawText(context, example, x, y, room, ink) {
    context.font = MONO;
    const [first, last] = around(context, example, room);
    const strongest = Polysem.strongestOf(example);
    for (let i = first; i < last; i++) {
      const token = tokensOf(example)[i], width = context.measureText(token).width;
      context.fillStyle = `rgba(205,20,30,${0.55 * Polysem.shade(example.activations[i], strongest)})`;
      context.fillRect(x, y - 12, width, LINE - 1);
      context.fillStyle = ink;
      context.fillText(token, x, y);
      if (i === example.key) context.fillRect(x, y + 2, width, 1.5);
      x += width;
    }
  }

  function cropped(context, text, room) {
    if (context.measureText(text).width <= room) return text;
    while (text && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
    return `${text}…`;
  }

  // view: what Polysem.show gave; colours: the page's ink and ground. A promise of a PNG.
  async function picture(view, data, colours) {
    const { ink, ground } = colours, found = view.found(), cards = view.cards();
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(treeSvg(view.svg, ink))}`;
    await image.decode();
    const height = (card) => LINE * (2.4 + Math.min(card.places.length, MOST_TEXTS)) + 8;
    const hidden = found.clusters.length - cards.length;
    const tall = Math.max(view.svg.viewBox.baseVal.height,
      cards.reduce((sum, card) => sum + height(card), hidden ? LINE : 0));
    const canvas = document.createElement("canvas");
    canvas.width = (EDGE + TREE + EDGE + CARDS + EDGE) * SCALE;
    canvas.height = (HEAD + tall + EDGE) * SCALE;
    const context = canvas.getContext("2d");
    context.scale(SCALE, SCALE);
    context.fillStyle = ground;
    context.fillRect(0, 0, canvas.width, canvas.height);
    const write = (text, font, x, y, room = TREE + CARDS) => {
      context.font = font;
      context.fillStyle = ink;
      context.fillText(cropped(context, text, room), x, y);
    };
    write(`neuron ${data.neuron}: ${view.summary()}`, BOLD, EDGE, 24);
    write(view.facts(), SANS, EDGE, 43);
    write(data.note, SANS, EDGE, 61);
    context.drawImage(image, EDGE, HEAD, TREE, view.svg.viewBox.baseVal.height);
    let y = HEAD;
    const left = EDGE + TREE + EDGE;
    for (const { cluster, facts, places } of cards) {
      context.fillStyle = found.colours.get(cluster.label);
      context.fillRect(left, y, 5, height({ places }) - 10);
      write(`${cluster.letter}  ${cluster.size} example${cluster.size === 1 ? "" : "s"}` +
        (cluster.rare ? ", a rare behaviour" : ""), BOLD, left + 12, y + 13, CARDS - 12);
      write(facts, SANS, left + 12, y + 13 + LINE, CARDS - 12);
      places.slice(0, MOST_TEXTS).forEach((place, i) =>
        drawText(context, data.examples[place], left + 12, y + 14 + LINE * (2 + i), CARDS - 12, ink));
      y += height({ places });
    }
    if (hidden) write(`… and ${hidden} more clusters`, SANS, left + 12, y + 13);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  Object.assign(Polysem, { picture, treeSvg });
})();
