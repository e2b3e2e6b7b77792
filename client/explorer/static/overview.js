// The overview: clarity by layer, whose cells filter, and rows of neurons with their three largest features.
(function () {
  "use strict";
  const { byId, ask, say, keys, pending, element, svgElement, shown, count, isPhone, chip, title, shareBar, snippet, tip } = Polysem;
  const data = JSON.parse(byId("data").textContent), rows = byId("rows"), more = byId("more");
  const HEIGHT = 240, LEAST = 5, MOST = 24, LABELLED = 20; // of a layer's row in the field; layers that all have a label
  const LEFT = 52, SHADES = 6, LEAST_STEPS = 12;
  const given = new URLSearchParams(location.search), { unit } = document.body.dataset;

  // The page's address with other choices; null takes one away.
  function addressWith(changed) {
    const query = new URLSearchParams(given);
    for (const [name, value] of Object.entries({ page: null, ...changed })) {
      if (value === null) query.delete(name);
      else query.set(name, value);
    }
    return query.toString() ? `/?${query}` : "/";
  }

  // ---- Clarity by layer: a row a layer, a column a step; shade is the root of the number of neurons

  function field(host, { layers, counts, step, chosen }) {
    const width = isPhone() ? 370 : 500, high = Math.max(LEAST, Math.min(MOST, HEIGHT / layers.length));
    const most = Math.max(...counts.flat(), 1);
    const steps = Math.min(counts[0].length, Math.max(LEAST_STEPS, ...counts.map((bins) => bins.findLastIndex((n) => n > 0) + 2)));
    const cell = (width - LEFT - 4) / steps, bottom = high * layers.length;
    const text = (attributes, content) => svgElement("text", attributes, content);
    const svg = svgElement("svg", { viewBox: `0 0 ${width} ${bottom + 34}`, role: "group", "aria-label": `${unit}s by layer and clarity` });
    const links = layers.map(() => new Array(steps).fill(null));
    layers.forEach((layer, row) => {
      if (layers.length <= LABELLED || row % 5 === 0) {
        svg.append(text({ class: "name", x: LEFT - 8, y: row * high + high / 2 + 4, "text-anchor": "end" }, `layer ${layer}`));
      }
      for (let i = 0; i < steps; i++) {
        const n = counts[row][i], shade = n ? Math.min(SHADES, 1 + Math.floor((SHADES - 0.01) * Math.sqrt(n / most))) : 0;
        const isChosen = chosen && chosen.layer === layer && chosen.step === i;
        const rect = svgElement("rect", { class: `h${shade}${isChosen ? " chosen" : ""}`, x: LEFT + i * cell, y: row * high + 0.5, width: cell - 1,
          height: Math.max(high - 1, 1), rx: Math.min(2, high / 4) });
        const ends = [(i * step).toFixed(2), ((i + 1) * step).toFixed(2)];
        if (!n) {
          svg.append(rect);
          continue;
        }
        const words = `layer ${layer}, clear ${ends[0]} to ${ends[1]}: ${count(n, unit)}`;
        const to = addressWith(isChosen ? { layer: null, clear: null } : { layer, clear: Number(ends[0]) });
        links[row][i] = svgElement("a", { href: to, tabindex: -1, "aria-label": words, "aria-current": isChosen ? "true" : null },
          rect, svgElement("title", {}, words));
        svg.append(links[row][i]);
      }
    });
    for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1].filter((t) => t <= steps * step + 1e-9)) {
      svg.append(text({ x: LEFT + tick / step * cell, y: bottom + 14, "text-anchor": tick ? "middle" : "start" }, String(tick)));
    }
    svg.append(text({ x: LEFT, y: bottom + 29 }, "blurred"), text({ x: width - 4, y: bottom + 29, "text-anchor": "end" }, "falls apart clearly"));
    byArrows(svg, links);
    host.append(svg);
  }

  // One tab stop for the whole field; arrows go to the nearest cell that holds neurons.
  function byArrows(svg, links) {
    const all = links.flat().filter((link) => link);
    if (!all.length) return;
    (all.find((link) => link.getAttribute("aria-current")) || all[0]).setAttribute("tabindex", 0);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const row = links.findIndex((of) => of.includes(document.activeElement));
      if (!by || row < 0) return;
      event.preventDefault();
      let r = row + by[0], i = links[row].indexOf(document.activeElement) + by[1];
      while (links[r] && i >= 0 && i < links[r].length && !links[r][i]) { r += by[0]; i += by[1]; }
      if (!links[r] || !links[r][i]) return;
      document.activeElement.setAttribute("tabindex", -1);
      links[r][i].setAttribute("tabindex", 0);
      links[r][i].focus();
    });
  }

  // ---- Rows

  const titled = (cluster) => element("b", { title: title(cluster) }, title(cluster));

  function feature(cluster) {
    const [line] = cluster.lines;
    return element("li", {}, element("div", { class: "named" }, chip(cluster, true), titled(cluster),
      element("span", { class: "ps-quiet" }, String(cluster.size))), line ? snippet(line) : null);
  }

  // Filled: the best silhouette over all cuts; hollow: that of data without clusters.
  function structure(row) {
    const x = (value) => 5 + 210 * Math.min(1, Math.max(0, value)), known = row.chance !== null;
    const axis = row.clear === null ? null : svgElement("svg", { viewBox: "0 0 220 22", "aria-hidden": "true" },
      svgElement("line", { class: "axis", x1: 5, x2: 215, y1: 11, y2: 11 }),
      known ? svgElement("line", { class: "span", x1: x(row.chance), x2: x(row.clear), y1: 11, y2: 11 }) : null,
      known ? svgElement("circle", { class: "null", cx: x(row.chance), cy: 11, r: 4.5 }) : null,
      svgElement("circle", { class: "real", cx: x(row.clear), cy: 11, r: 5 }));
    return element("div", { class: "struct" }, element("div", {}, tip(known
      ? `Best silhouette over all cuts, and the mean of random rotations of the same examples, which have no clusters: p ${Number(row.p.toPrecision(2))}. The ${unit}'s own mean is subtracted first (frame own).`
      : "Best silhouette over all cuts. What chance gives is not known: the index holds no rotation tests.", "clear"), " ",
    element("b", {}, shown(row.clear)), known ? ` · by chance ${shown(row.chance)}` : ""), axis,
    element("div", {}, `${count(row.n, "example")} · to ${shown(row.most)}`));
  }

  const barOf = (row) => shareBar(row.many, row.single, row.n, { thin: true });

  function drawn(row) {
    const bar = row.many.length + row.single ? barOf(row)
      : element("p", { class: "ps-quiet" }, row.n ? "too many examples for this linkage" : "no dataset examples");
    const made = element("li", { class: "row" }, element("div", {}, element("a", { class: "id", href: row.address }, row.id),
      element("div", { class: "ps-quiet" }, row.n ? count(row.many.length, "feature") : "")),
    element("div", { class: "middle" }, bar, element("ul", { class: "what" }, ...row.features.map(feature))), structure(row));
    if (row.many.some((cluster) => !cluster.name)) {
      unnamed.set(made, row);
      inView.observe(made);
    }
    return made;
  }

  // ---- Names: asked for the rows in view, some at a time, once they are drawn; a name takes the place of the key tokens

  const NAMED_AT_ONCE = 4, unnamed = new Map(), waiting = new Set(); // rows by their elements; elements in view
  const inView = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) waiting.add(target);
      else waiting.delete(target);
    }
    askForNames();
  });

  function named(made, names) {
    const row = unnamed.get(made);
    for (const cluster of [...row.many, ...row.features]) cluster.name = names[cluster.label];
    made.querySelector(".ps-share").replaceWith(barOf(row));
    made.querySelectorAll(".named b").forEach((old, i) => old.replaceWith(titled(row.features[i])));
  }

  let asking = false;
  async function askForNames() {
    if (asking) return;
    asking = true;
    try {
      while (waiting.size) {
        const some = [...waiting].slice(0, NAMED_AT_ONCE), query = new URLSearchParams(given);
        query.set("neurons", some.map((made) => unnamed.get(made).id).join(" "));
        const names = await ask(`/api/names?${query}`);
        for (const made of some) {
          named(made, names[unnamed.get(made).id]);
          inView.unobserve(made);
          waiting.delete(made);
        }
      }
    } catch (error) {
      say(error.message, true); // the key tokens stay; rows that come into view ask again
    } finally {
      asking = false;
    }
  }

  // ---- More: page after page, each asked for when it is wanted

  let page = 1;
  async function next() {
    const wanted = page + 1, query = new URLSearchParams(given);
    query.set("page", wanted);
    const bars = rows.appendChild(element("li", {}));
    const answered = pending(bars, `The server lists, clusters and finds texts of the next ${unit}s.`, 5);
    more.disabled = true;
    try {
      const found = await ask(`/api/neurons?${query}`);
      say("");
      page = wanted;
      rows.append(...found.rows.map(drawn));
      more.hidden = page >= data.n_pages;
      history.replaceState(null, "", addressWith({ page }));
    } catch (error) {
      say(error.message, true);
    } finally {
      answered();
      bars.remove();
      more.disabled = false;
    }
  }

  const step = (by) => {
    const links = [...rows.querySelectorAll(".id")], at = links.indexOf(document.activeElement);
    links[Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
  };
  Object.assign(keys, { j: () => step(1), k: () => step(-1) });
  if (data.field) field(byId("field"), data.field);
  rows.append(...data.rows.map(drawn));
  more.hidden = page >= data.n_pages;
  more.addEventListener("click", next);
  (async () => {
    const last = Math.min(Number(given.get("page")) || 1, data.n_pages);
    while (page < last) {
      const before = page;
      await next();
      if (page === before) break;
    }
  })();
  performance.mark("drawn"); // for tests/benchmarks/explorer.py
})();
