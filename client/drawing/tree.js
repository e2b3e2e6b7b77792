// A neuron's tree: distance along the width, the root on the left; above it, on the same axis, the silhouette of each cut.
(function () {
  "use strict";
  const { svgElement, shown, count, isPhone, title } = Polysem;
  const WIDTH = 400, PAD = 8, RIGHT = 30, TOP = 96, BASE = 66, HIGH = 40; // in the drawing's own units
  const LEAF = 5.6, LEAST = 240, MOST = 560, PHONE = 300;
  const KEYS = { ArrowLeft: 0.01, ArrowUp: 0.01, ArrowRight: -0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1 };

  // most: the distance at the left edge. onCut(distance): the cut is moved. onCluster(cluster): it is clicked.
  function tree(data, sizes, most, onCut, onCluster) {
    const height = isPhone() ? PHONE : Math.min(MOST, Math.max(LEAST, data.n * LEAF));
    const leaf = height / data.n, bottom = TOP + height;
    const inner = WIDTH - PAD - RIGHT;
    const x = (distance) => PAD + inner * (1 - Math.min(distance / most, 1));
    const y = new Array(data.n);
    data.leaves.forEach((example, place) => { y[example] = TOP + leaf * (place + 0.5); });
    for (const [a, b] of data.merges) y.push((y[a] + y[b]) / 2);
    const thin = leaf < 1 ? 1 / leaf : 0; // branches of fewer examples are under a unit high: one stroke stands for them
    const at = (node) => x(node < data.n || sizes[node] < thin ? 0 : data.heights[node - data.n]);

    const text = (attributes, content) => svgElement("text", attributes, content);
    const svg = svgElement("svg", { class: "ps-tree", viewBox: `0 0 ${WIDTH} ${bottom + 22}`, role: "group",
      "aria-label": `dendrogram of ${data.unit} ${data.neuron}` });
    const step = [0.05, 0.1, 0.2, 0.25, 0.5].find((s) => most / s <= 6) || 0.5;
    for (let tick = 0; tick <= most + 1e-9; tick += step) {
      svg.append(
        svgElement("line", { class: "ps-grid", x1: x(tick), x2: x(tick), y1: TOP - 4, y2: bottom + 4 }),
        text({ x: x(tick), y: bottom + 17, "text-anchor": "middle" }, String(Number(tick.toFixed(2)))));
    }
    svg.append(...profile(), ...suggestion());
    const clear = text({ x: PAD, y: 24 }, "");
    const above = svgElement("path", { class: "ps-above" });
    const coloured = svgElement("g", {}), hits = svgElement("g", {}), letters = svgElement("g", {});
    const significant = svgElement("g", { class: "ps-significant" }, ...(data.tested ? data.tested.merges : []).map((i) =>
      svgElement("circle", { cx: x(data.heights[i]), cy: y[data.n + i], r: 3.5 },
        svgElement("title", {}, "significant: its two sides are more than one cloud"))));
    const line = svgElement("line", { class: "ps-cut", y1: BASE, y2: bottom + 2 });
    const grip = svgElement("rect", { class: "ps-grip", y: BASE + 6, width: 42, height: 20, rx: 10 });
    const value = text({ class: "ps-griptext", y: BASE + 20, "text-anchor": "middle" }, "");
    const reach = svgElement("line", { class: "ps-reach", y1: BASE, y2: bottom + 2 });
    const handle = svgElement("g", { class: "ps-handle", tabindex: 0, role: "slider", "aria-orientation": "horizontal",
      "aria-label": "cut at cosine distance", "aria-valuemin": 0, "aria-valuemax": Number(most.toFixed(3)) },
    reach, line, grip, value);
    svg.append(clear, above, coloured, significant, hits, letters, handle);

    function profile() { // steps: each holds from its height to the next
      const steps = (data.silhouettes || []).filter(([, silhouette]) => silhouette !== null);
      const py = (silhouette) => BASE - HIGH * Math.max(0, silhouette);
      let path = "", before = null;
      for (const [distance, silhouette] of steps) {
        path += before === null ? `M${x(distance).toFixed(1)} ${BASE}V${py(silhouette).toFixed(1)}`
          : `H${x(distance).toFixed(1)}V${py(silhouette).toFixed(1)}`;
        before = silhouette;
      }
      const base = svgElement("line", { class: "ps-base", x1: x(most), x2: x(0), y1: BASE, y2: BASE });
      const ends = [text({ x: WIDTH - RIGHT + 3, y: BASE - 2 }, "0"), text({ x: WIDTH - RIGHT + 3, y: BASE - HIGH + 6 }, "1")];
      return before === null ? [base] : [svgElement("path", { class: "ps-profile", d: `${path}H${x(most)}V${BASE}Z` }), base, ...ends];
    }

    function suggestion() {
      const cut = suggestedCut(data);
      if (cut === null) return [];
      const sx = x(cut), anchor = sx < 120 ? "start" : sx > 300 ? "end" : "middle";
      return [svgElement("line", { class: "ps-suggestion", x1: sx, x2: sx, y1: 18, y2: bottom }),
        svgElement("path", { class: "ps-pointer", d: `M${sx - 4} 14h8l-4 6z` }),
        text({ class: "ps-suggestiontext", x: sx, y: 10, "text-anchor": anchor }, `suggested ${shown(cut)}`)];
    }

    // The line lies mirrored (0 on the right), so left and up mean higher.
    let current = 0; // ahead of what is painted: keys may come faster than frames
    const move = (distance) => {
      current = Math.min(Math.max(distance, 0), most);
      onCut(current);
    };
    handle.addEventListener("keydown", (event) => {
      if (event.key in KEYS) move(current + KEYS[event.key]);
      else if (event.key === "Home") move(0);
      else if (event.key === "End") move(most);
      else return;
      event.preventDefault();
    });
    const dragTo = (event) => {
      const box = svg.getBoundingClientRect();
      move(most * (1 - ((event.clientX - box.left) * WIDTH / box.width - PAD) / inner));
    };
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) dragTo(event);
    });
    svg.addEventListener("click", (event) => {
      if (!handle.contains(event.target) && !hits.contains(event.target)) dragTo(event);
    });

    function paint(found) {
      current = found.threshold;
      let rest = "";
      const paths = new Map();
      data.merges.forEach(([a, b], i) => {
        if (sizes[data.n + i] < thin) return;
        const path = `M${at(a).toFixed(1)} ${y[a].toFixed(1)}H${x(data.heights[i]).toFixed(1)}` +
          `V${y[b].toFixed(1)}H${at(b).toFixed(1)}`;
        if (data.heights[i] > found.threshold) rest += path;
        else {
          let node = a;
          while (node >= data.n) node = data.merges[node - data.n][0];
          const of = found.byLabel[found.labels[node]].paint;
          paths.set(of, (paths.get(of) || "") + path);
        }
      });
      above.setAttribute("d", rest);
      const strips = new Map(), marks = [], places = [];
      for (const cluster of found.clusters) {
        const from = y[cluster.members[0]] - leaf / 2, high = leaf * cluster.size, gap = Math.min(leaf * 0.2, 0.6);
        strips.set(cluster.paint, (strips.get(cluster.paint) || "") +
          `M${x(0) + 4} ${(from + gap).toFixed(2)}h6v${(high - 2 * gap).toFixed(2)}h-6z`);
        if (cluster.size > 1 && high >= 10) {
          marks.push(text({ class: "ps-letter", x: x(0) + 14, y: from + high / 2 + 4 }, cluster.letter));
        }
        if (cluster.size > 1) {
          places.push(svgElement("rect", { class: "ps-hit", x: x(found.threshold), y: from,
            width: WIDTH - x(found.threshold), height: high, onclick: () => onCluster(cluster) },
          svgElement("title", {}, `${cluster.letter} · ${title(cluster)}`)));
        }
      }
      coloured.replaceChildren(
        ...[...paths].map(([of, d]) => svgElement("path", { class: `ps-below ${of}`, d })),
        ...[...strips].map(([of, d]) => svgElement("path", { class: `ps-strip ${of}`, d })));
      letters.replaceChildren(...marks);
      hits.replaceChildren(...places);
      const cx = x(found.threshold), gx = Math.min(WIDTH - 22, Math.max(22, cx));
      for (const part of [line, reach]) {
        part.setAttribute("x1", cx);
        part.setAttribute("x2", cx);
      }
      grip.setAttribute("x", gx - 21);
      value.setAttribute("x", gx);
      value.textContent = shown(found.threshold);
      clear.textContent = found.silhouette === null ? ""
        : `silhouette ${found.silhouetteIsExact ? "" : "about "}${shown(found.silhouette)}`;
      const suggested = suggestedCut(data), leftIsTaken = suggested !== null && x(suggested) < 190;
      clear.setAttribute("x", leftIsTaken ? WIDTH - RIGHT : PAD);
      clear.setAttribute("text-anchor", leftIsTaken ? "end" : "start");
      handle.setAttribute("aria-valuenow", Number(found.threshold.toFixed(3)));
      handle.setAttribute("aria-valuetext", `${Number(found.threshold.toFixed(3))}: ` +
        `${count(found.many.length, "cluster")}, ${count(found.single.length, "single example")}`);
    }
    return { svg, paint };
  }

  // The cut that agrees best with the significant merges; null where there are none.
  function suggestedCut(data) {
    return data.tested && data.tested.n_clusters > 1 ? data.tested.cut : null;
  }

  Object.assign(Polysem, { tree, suggestedCut });
})();
