// How strongly a neuron fires: of each text its strongest activation, counts on a root scale.
(function () {
  "use strict";
  const { svgElement, shown, percent, count, isPhone } = Polysem;
  const HEIGHT = 190, LEFT = 44, BOTTOM = 34, TOP = 14, TICKS = [1, 10, 100, 500, 1000, 5000, 20000, 100000, 500000];
  const APART = 13; // of ticks, at the least

  // known: maximum, minimum, mean, share, histogram (counts of equal bins from 0), end, lowest, highest, n_texts, side
  function histogram(host, says, known) {
    const negative = known.side === "negative", sign = negative ? -1 : 1, top = Math.max(...known.histogram);
    says.textContent = sentence(known, negative);
    if (!top || !known.end) return;
    const width = isPhone() ? 370 : 660, bin = (width - LEFT - 10) / known.histogram.length;
    const y = (n) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.sqrt(n / top));
    const x = (activation) => LEFT + (width - LEFT - 10) * activation / known.end;
    const text = (attributes, content) => svgElement("text", attributes, content);
    const svg = svgElement("svg", { class: "histogram", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img",
      "aria-label": `texts by their ${negative ? "lowest" : "highest"} activation, 0 to ${shown(known.end)}, on a root scale; ` +
        `the fullest bar holds ${count(top, "text")}` });
    if (known.lowest !== null) {
      const ends = [x(known.lowest), x(known.highest)].sort((a, b) => a - b);
      svg.append(svgElement("rect", { class: "band", x: ends[0], y: TOP, width: Math.max(1, ends[1] - ends[0]), height: HEIGHT - TOP - BOTTOM }));
    }
    let before = Infinity;
    for (const tick of TICKS.filter((n) => n <= top)) {
      if (before - y(tick) < APART) continue;
      before = y(tick);
      svg.append(svgElement("line", { class: "grid", x1: LEFT, x2: width - 10, y1: y(tick), y2: y(tick) }),
        text({ x: LEFT - 7, y: y(tick) + 4, "text-anchor": "end" }, tick.toLocaleString("en")));
    }
    known.histogram.forEach((n, i) => {
      const [low, high] = [known.end * i / known.histogram.length, known.end * (i + 1) / known.histogram.length];
      const inside = known.lowest !== null && sign * high >= sign * known.lowest && sign * low <= sign * known.highest;
      svg.append(svgElement("rect", { class: inside ? "bar inside" : "bar", x: LEFT + i * bin, y: y(n), width: bin - 1.2,
        height: HEIGHT - BOTTOM - y(n), rx: 1 }, svgElement("title", {}, `${shown(low)} to ${shown(high)}: ${count(n, "text")}`)));
    });
    svg.append(svgElement("line", { class: "axis", x1: LEFT, x2: width - 10, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    for (let i = 0; i <= 4; i++) {
      svg.append(text({ x: x(known.end * i / 4), y: HEIGHT - BOTTOM + 15, "text-anchor": i === 4 ? "end" : "middle" },
        shown(known.end * i / 4)));
    }
    svg.append(text({ x: width - 10, y: HEIGHT - 3, "text-anchor": "end" }, `${negative ? "lowest" : "highest"} activation in a text →`),
      text({ x: 2, y: HEIGHT - 3 }, "texts, root scale"));
    if (known.lowest !== null) {
      const middle = (x(known.lowest) + x(known.highest)) / 2;
      svg.append(text({ class: "named", x: Math.min(Math.max(middle, LEFT + 36), width - 46), y: TOP + 12, "text-anchor": "middle" }, "the examples"));
    }
    host.replaceChildren(svg);
  }

  function sentence(known, negative) {
    const where = `${negative ? "Below" : "Above"} zero in ${percent(known.share)} of the ${known.n_texts.toLocaleString("en")} texts, ` +
      `${shown(known.mean)} on average, ${negative ? "at least" : "at most"} ${shown(known.end)}.`;
    if (known.lowest === null) return where;
    return `${where} The examples come from the band ${shown(known.lowest)} to ${shown(known.highest)}: what it does ` +
      `${negative ? "above" : "below"} that band is not shown by them.`;
  }

  Object.assign(Polysem, { histogram });
})();
