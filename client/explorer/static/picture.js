// What is seen of a neuron as one picture: its tree, and beside it each cluster's letter, size and first texts.
(function () {
  "use strict";
  const SCALE = 2, EDGE = 16, HEAD = 78, TREE = 400, CARDS = 620, LINE = 17; // in CSS pixels but for the scale
  const MOST_TEXTS = 3; // of a cluster
  const SANS = "12px system-ui, sans-serif", BOLD = "bold 13px system-ui, sans-serif";
  const MONO = "12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
  const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "font-family", "font-size", "font-weight"];

  // As an SVG of its own: with the page's styles in it.
  function treeSvg(svg) {
    const alone = svg.cloneNode(true), copies = alone.querySelectorAll("*");
    svg.querySelectorAll("*").forEach((shape, i) => {
      const style = getComputedStyle(shape);
      for (const name of STYLES) copies[i].setAttribute(name, style.getPropertyValue(name));
    });
    const { width, height } = svg.viewBox.baseVal;
    alone.setAttribute("width", width);
    alone.setAttribute("height", height);
    alone.setAttribute("color", getComputedStyle(svg).color);
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

  function drawText(context, example, most, colour, x, y, room) {
    context.font = MONO;
    const [first, last] = around(context, example, room);
    for (let i = first; i < last; i++) {
      const token = tokensOf(example)[i], width = context.measureText(token).width;
      const step = Polysem.level(Polysem.shareOf(example.activations[i], most));
      if (step) {
        context.fillStyle = colour(`--t${step}`);
        context.fillRect(x, y - 12, width, LINE - 1);
      }
      context.fillStyle = colour("--ink");
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

  // Colours as they are on the page: of a custom property, or of a cluster's class.
  function colours() {
    const probe = document.body.appendChild(document.createElement("span"));
    const resolved = (name, of) => {
      probe.className = of || "";
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    };
    return { colour: resolved, done: () => probe.remove() };
  }

  // view: what Polysem.show gave. A promise of a PNG.
  async function picture(view, data) {
    const found = view.found(), cards = view.cards(), most = Polysem.mostOf(data);
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(treeSvg(view.svg))}`;
    await image.decode();
    const { colour, done } = colours();
    const height = (card) => LINE * (1.4 + Math.min(card.places.length, MOST_TEXTS)) + 8;
    const hidden = found.many.length - cards.length, n = found.single.length;
    const tail = (hidden ? LINE : 0) + (n ? LINE : 0);
    const tall = Math.max(view.svg.viewBox.baseVal.height, cards.reduce((sum, card) => sum + height(card), tail));
    const canvas = document.createElement("canvas");
    canvas.width = (EDGE + TREE + EDGE + CARDS + EDGE) * SCALE;
    canvas.height = (HEAD + tall + EDGE) * SCALE;
    const context = canvas.getContext("2d");
    context.scale(SCALE, SCALE);
    context.fillStyle = colour("--ground");
    context.fillRect(0, 0, canvas.width, canvas.height);
    const write = (text, font, x, y, room = TREE + CARDS) => {
      context.font = font;
      context.fillStyle = colour("--ink");
      context.fillText(cropped(context, text, room), x, y);
    };
    write(`${data.unit} ${data.neuron}: ${view.summary()}`, BOLD, EDGE, 24);
    write(view.facts(), SANS, EDGE, 43);
    write(data.note, SANS, EDGE, 61);
    context.drawImage(image, EDGE, HEAD, TREE, view.svg.viewBox.baseVal.height);
    let y = HEAD;
    const left = EDGE + TREE + EDGE;
    for (const { cluster, places } of cards) {
      context.fillStyle = colour("--c", cluster.paint);
      context.fillRect(left, y, 5, height({ places }) - 10);
      write(`${cluster.letter}  ${Polysem.title(cluster)} · ${Polysem.count(cluster.size, "example")}` +
        (cluster.rare ? ", a rare behaviour" : ""), BOLD, left + 12, y + 13, CARDS - 12);
      places.slice(0, MOST_TEXTS).forEach((place, i) =>
        drawText(context, data.examples[place], most, colour, left + 12, y + 14 + LINE * (1 + i), CARDS - 12));
      y += height({ places });
    }
    if (hidden) write(`… and ${Polysem.count(hidden, "more cluster")}`, SANS, left + 12, y + 13);
    if (n) write(Polysem.count(n, "single example"), SANS, left + 12, y + 13 + (hidden ? LINE : 0));
    done();
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  Object.assign(Polysem, { picture, treeSvg });
})();
