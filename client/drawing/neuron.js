// One neuron in a browser: its tree, a cut that is dragged or typed, and the clusters of that cut as cards.
// The same file serves the notebook, the report and the explorer. No library, no request of its own.
//
// Polysem.cut(n, merges, heights, threshold)   the cut, as client/cutting.py and kernels/tree.py make it
// Polysem.show(element, data, options)         draws `data` (client/drawing/__init__.py) into the element
//
// Texts of a corpus are untrusted: they only ever become text nodes.
(function (root) {
  "use strict";

  const WIDTH = 380, PAD = 12, TOP = 34; // of the tree, in CSS pixels
  const MOST_HEIGHT = { page: 640, phone: 330 }; // so that a phone shows texts without much scrolling
  const MOST_CARDS = 20, MOST_EXAMPLES = 5; // before "show more"
  const SVG = "http://www.w3.org/2000/svg";

  // ---- The cut

  function nKept(heights, threshold) {
    let low = 0, high = heights.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (heights[middle] <= threshold) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // labels: of each example, numbered by first appearance; tops: the node of each cluster, in the order of the labels.
  function cut(n, merges, heights, threshold) {
    const kept = nKept(heights, threshold);
    const top = Int32Array.from({ length: n + kept }, (_, node) => node);
    for (let i = kept - 1; i >= 0; i--) { // from the root down: a node's children have its top
      top[merges[i][0]] = top[n + i];
      top[merges[i][1]] = top[n + i];
    }
    const labelOf = new Map();
    const labels = new Array(n);
    for (let i = 0; i < n; i++) {
      if (!labelOf.has(top[i])) labelOf.set(top[i], labelOf.size);
      labels[i] = labelOf.get(top[i]);
    }
    return { labels, tops: [...labelOf.keys()] };
  }

  // Mean distance over all pairs in the same cluster and over all in different ones; null where there is no pair.
  function intraAndInter(n, sizes, meanDistances, tops) {
    if (n < 2) return { intra: null, inter: null };
    let within = 0, nWithin = 0;
    for (const node of tops) {
      if (node < n) continue;
      const pairs = sizes[node] * (sizes[node] - 1) / 2;
      within += pairs * meanDistances[node - n];
      nWithin += pairs;
    }
    const nAll = n * (n - 1) / 2, total = meanDistances[n - 2] * nAll;
    return {
      intra: nWithin ? within / nWithin : null,
      inter: nAll > nWithin ? (total - within) / (nAll - nWithin) : null,
    };
  }

  function nodeSizes(n, merges) {
    const sizes = new Array(n).fill(1);
    for (const [a, b] of merges) sizes.push(sizes[a] + sizes[b]);
    return sizes;
  }

  // A of the largest cluster, then B … Z, AA, AB (client/letters.py).
  function letter(rank) {
    let text = "";
    for (let left = rank + 1; left; left = Math.floor((left - 1) / 26)) {
      text = String.fromCharCode(65 + (left - 1) % 26) + text;
    }
    return text;
  }

  // The clusters of a cut, largest first, and its metrics.
  function clustering(data, sizes, threshold) {
    const { labels, tops } = cut(data.n, data.merges, data.heights, threshold);
    const members = tops.map(() => []);
    for (const example of data.leaves) members[labels[example]].push(example); // in drawing order
    const clusters = tops.map((node, label) => ({
      label,
      node,
      size: sizes[node],
      central: node < data.n ? node : data.centrals[node - data.n],
      meanDistance: node < data.n ? null : data.mean_distances[node - data.n],
      members: members[label],
      rare: false,
    }));
    clusters.sort((a, b) => b.size - a.size || a.label - b.label);
    clusters.forEach((cluster, rank) => { cluster.letter = cluster.size > 1 ? letter(rank) : "·"; });
    const { least_examples, common_share, least_minority } = data.rare; // of a neuron with a common and a rare behaviour
    const rare = clusters.length > 1 && data.n >= least_examples && clusters[0].size >= common_share * data.n &&
      data.n - clusters[0].size >= least_minority && !(data.tested && data.tested.n_clusters < 2);
    if (rare) for (const cluster of clusters.slice(1)) cluster.rare = true;
    const nRanked = data.palette.length - 2; // then one colour for those beyond, and one for single examples
    const colours = new Map(clusters.map((cluster, rank) =>
      [cluster.label, data.palette[cluster.size > 1 ? Math.min(rank, nRanked) : nRanked + 1]]));
    return {
      threshold, labels, clusters, colours, rare, ...intraAndInter(data.n, sizes, data.mean_distances, tops),
      silhouette: threshold === data.distance_threshold ? data.silhouette : null,
      largestShare: clusters.length ? clusters[0].size / data.n : null,
    };
  }

  // What the clusters are to be compared with; what is known of the server's own cut only is – at others.
  function baselines(data, threshold, found) {
    const here = threshold === data.distance_threshold ? data.baselines : {};
    const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);
    const singletons = found.clusters.filter((cluster) => cluster.size === 1).length;
    const chance = data.baselines.null_n_clusters === null ? "" : `by chance: ${here.null_n_clusters === undefined ? "–" :
      here.null_n_clusters.toFixed(1)} clusters, intra ${shown(here.null_intra)}, inter ${shown(here.null_inter)}, ` +
      `silhouette ${shown(here.null_silhouette)} · `;
    return `${chance}agreement with the key token ${shown(here.token_agreement)} (AMI) · singletons ` +
      `${percent(found.clusters.length ? singletons / found.clusters.length : null)} of clusters, of one key token ` +
      `${percent(here.single_token_share)} of the others`;
  }

  // ---- Elements

  function element(name, attributes, ...children) {
    return filled(document.createElement(name), attributes, children);
  }

  function svgElement(name, attributes, ...children) {
    return filled(document.createElementNS(SVG, name), attributes, children);
  }

  function filled(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  // ---- An example: its tokens, shaded by their share of the strongest, the key token underlined

  const shade = (value, strongest) => (strongest !== 0 && value !== null ? Math.min(Math.max(value / strongest, 0), 1) : 0);

  // of an example's tokens, on its side of 0
  const strongestOf = (example) =>
    example.activation < 0 ? Math.min(...example.activations, 0) : Math.max(...example.activations, 0);

  function exampleText(example, importances) {
    const text = element("span", { class: "ps-text" });
    const values = importances || example.activations;
    const strongest = importances ? 1 : strongestOf(example);
    (example.shown || example.tokens).forEach((token, i) => {
      const share = shade(values[i], strongest);
      if (i !== example.key && share <= 0.02) {
        text.append(token);
        return;
      }
      const name = importances ? `importance ${shown(values[i])}` : `activation ${shown(example.activations[i])}`;
      const span = element(i === example.key ? "mark" : "span", { class: "ps-token", title: name }, token);
      span.style.backgroundColor = importances ? `rgba(40,110,220,${share * 0.55})` : `rgba(205,20,30,${share * 0.55})`;
      text.append(span);
    });
    return text;
  }

  function exampleRow(example, options) {
    const body = element("span", {}, exampleText(example));
    const note = element("span", { class: "ps-note", role: "status" });
    const row = element("li", { class: "ps-example", "data-place": example.place }, body, " ",
      element("span", { class: "ps-meta" }, `${example.shown_document || example.document} · ${shown(example.activation)}`));
    const action = (label, back, ask) => {
      let changed = false;
      const button = element("button", { type: "button", class: "ps-small", onclick: async () => {
        if (changed) {
          body.replaceChildren(exampleText(example));
          note.textContent = "";
        } else {
          note.textContent = "asking the server …";
          button.disabled = true;
          try {
            body.replaceChildren(await ask());
            note.textContent = "";
          } catch (error) {
            note.textContent = error.message;
            return;
          } finally {
            button.disabled = false;
          }
        }
        changed = !changed;
        button.textContent = changed ? back : label;
      } }, label);
      row.append(" ", button);
    };
    if (options.whole) {
      action("whole text", "shorter", async () => exampleText(await options.whole(example.place)));
    }
    if (options.importance) {
      action("importance", "activation", async () => {
        const found = await options.importance(example.place);
        return exampleText(found, found.importances);
      });
    }
    row.append(" ", note);
    return row;
  }

  // ---- The tree: distance along the width, the root on the left

  function tree(data, most, onCut) {
    const room = matchMedia("(max-width: 600px)").matches ? MOST_HEIGHT.phone : MOST_HEIGHT.page;
    const leaf = Math.max(Math.min(14, room / data.n), 1);
    const bottom = TOP + leaf * data.n;
    const inner = WIDTH - 2 * PAD - 26; // numbers of clusters stand right of the leaves
    const x = (distance) => PAD + inner * (1 - Math.min(distance / most, 1));
    const y = new Array(data.n);
    data.leaves.forEach((example, place) => { y[example] = TOP + leaf * (place + 0.5); });
    for (const [a, b] of data.merges) y.push((y[a] + y[b]) / 2);
    const at = (node) => x(node < data.n ? 0 : data.heights[node - data.n]);

    const svg = svgElement("svg", { class: "ps-tree", viewBox: `0 0 ${WIDTH} ${bottom + 6}`, width: WIDTH,
      height: bottom + 6, role: "group", "aria-label": `dendrogram of neuron ${data.neuron}` });
    const text = (attributes, content) => svgElement("text", { "font-size": 11, "font-family": "sans-serif",
      fill: "currentColor", ...attributes }, content);
    const step = [0.05, 0.1, 0.2, 0.25, 0.5].find((s) => most / s <= 6) || 0.5;
    for (let tick = 0; tick <= most + 1e-9; tick += step) {
      svg.append(
        svgElement("line", { class: "ps-grid", x1: x(tick), x2: x(tick), y1: TOP - 5, y2: bottom, stroke: "currentColor",
          opacity: 0.12 }),
        text({ x: x(tick), y: TOP - 8, "text-anchor": "middle" }, String(Number(tick.toFixed(2)))));
    }
    svg.append(text({ x: PAD, y: 12 }, "cosine distance"));
    const above = svgElement("path", { fill: "none", stroke: "currentColor", opacity: 0.75 });
    const below = data.palette.map((colour) => svgElement("path", { fill: "none", stroke: colour, "stroke-width": 1.6 }));
    const strips = data.palette.map((colour) => svgElement("path", { fill: colour }));
    const numbers = svgElement("g", {});
    const line = svgElement("line", { y1: TOP - 6, y2: bottom + 2, stroke: "currentColor", "stroke-width": 1.5,
      "stroke-dasharray": "4 3" });
    const grip = svgElement("circle", { cy: TOP - 6, r: 6, fill: "currentColor" });
    const reach = svgElement("line", { y1: TOP - 12, y2: bottom + 2, stroke: "transparent", "stroke-width": 24 });
    const handle = svgElement("g", { class: "ps-handle", tabindex: 0, role: "slider", "aria-orientation": "horizontal",
      "aria-label": "cut at cosine distance", "aria-valuemin": 0, "aria-valuemax": Number(most.toFixed(3)) },
    reach, line, grip);
    const significant = svgElement("g", { class: "ps-significant" }, ...(data.tested ? data.tested.merges : []).map((i) =>
      svgElement("circle", { cx: at(data.n + i), cy: y[data.n + i], r: 4, fill: "currentColor" },
        svgElement("title", {}, "significant: its two sides are more than one cloud"))));
    svg.append(above, ...below, ...strips, significant, numbers, handle);

    // Keys as on any slider; the line lies mirrored (0 on the right), so left and up mean higher.
    const steps = { ArrowLeft: 0.01, ArrowUp: 0.01, ArrowRight: -0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1 };
    let current = 0; // ahead of what is painted: keys may come faster than frames
    const move = (distance) => {
      current = Math.min(Math.max(distance, 0), most);
      onCut(current);
    };
    handle.addEventListener("keydown", (event) => {
      if (event.key in steps) move(current + steps[event.key]);
      else if (event.key === "Home") move(0);
      else if (event.key === "End") move(most);
      else return;
      event.preventDefault();
    });
    const dragTo = (event) => {
      const box = svg.getBoundingClientRect();
      const place = (event.clientX - box.left) * WIDTH / box.width;
      move(most * (1 - (place - PAD) / inner));
    };
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus({ preventScroll: true });
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) dragTo(event);
    });
    svg.addEventListener("click", (event) => { if (!handle.contains(event.target)) dragTo(event); });

    function paint(found) {
      current = found.threshold;
      const drawn = new Map(data.palette.map((colour) => [colour, ""]));
      let rest = "";
      const label = (node) => {
        while (node >= data.n) node = data.merges[node - data.n][0];
        return found.labels[node];
      };
      data.merges.forEach(([a, b], i) => {
        const path = `M${at(a).toFixed(1)} ${y[a].toFixed(1)}H${at(data.n + i).toFixed(1)}` +
          `V${y[b].toFixed(1)}H${at(b).toFixed(1)}`;
        if (data.heights[i] > found.threshold) rest += path;
        else {
          const colour = found.colours.get(label(a));
          drawn.set(colour, drawn.get(colour) + path);
        }
      });
      above.setAttribute("d", rest);
      below.forEach((path, i) => path.setAttribute("d", drawn.get(data.palette[i])));
      const runs = new Map(data.palette.map((colour) => [colour, ""]));
      const marks = [];
      for (const cluster of found.clusters) {
        const from = y[cluster.members[0]] - leaf / 2, height = leaf * cluster.size;
        const colour = found.colours.get(cluster.label);
        const gap = Math.min(leaf * 0.2, 1);
        runs.set(colour, runs.get(colour) + `M${x(0) + 3} ${from + gap}h5v${height - 2 * gap}h-5z`);
        if (height >= 10) {
          marks.push(text({ x: x(0) + 12, y: from + height / 2 + 4, "font-size": 10 }, cluster.letter));
        }
      }
      strips.forEach((path, i) => path.setAttribute("d", runs.get(data.palette[i])));
      numbers.replaceChildren(...marks);
      for (const part of [line, reach]) {
        part.setAttribute("x1", x(found.threshold));
        part.setAttribute("x2", x(found.threshold));
      }
      grip.setAttribute("cx", x(found.threshold));
      handle.setAttribute("aria-valuenow", Number(found.threshold.toFixed(3)));
      handle.setAttribute("aria-valuetext",
        `${Number(found.threshold.toFixed(3))}: ${count(found.clusters.length, "cluster")}`);
    }
    return { svg, paint };
  }

  // ---- The whole

  // options: whole(place) and importance(place), promises of an example; ofCluster(cluster), more about a cluster;
  // changed(clustering), after each cut; heading: the level of the cards' headings (3).
  function show(host, data, options) {
    options = options || {};
    const sizes = nodeSizes(data.n, data.merges);
    const most = Math.min(2, Math.max((data.heights[data.heights.length - 1] || 0) * 1.06, data.distance_threshold, 0.2));
    const rows = new Map(); // made once, moved between cards
    const row = (place) => {
      if (!rows.has(place)) rows.set(place, exampleRow({ place, ...data.examples[place] }, options));
      return rows.get(place);
    };
    const summary = element("p", { class: "ps-summary" });
    const facts = element("p", { class: "ps-facts" }), compared = element("p", { class: "ps-meta ps-baselines" });
    const cards = element("div", { class: "ps-cards" });
    const number = element("input", { type: "number", min: 0, max: 2, step: "any", class: "ps-number",
      onchange: () => { if (number.checkValidity() && number.value) go(Number(number.value)); else number.reportValidity(); } });
    const opened = new Set(); // nodes whose cards show every example
    let nCards = MOST_CARDS, found = null, asked = null, drawnCards = new Map();

    const factsOf = (cluster) => keyTokens(cluster.members) +
      (cluster.meanDistance === null ? "" : ` · mean distance ${shown(cluster.meanDistance)}`) +
      (stabilityOf(cluster) === null ? "" : ` · stability ${shown(stabilityOf(cluster))}`);

    // known of the clusters of the server's own cut, not of a single example
    const stabilityOf = (cluster) => (!data.tested || cluster.size < 2 || found.threshold !== data.distance_threshold
      ? null : data.tested.stability[cluster.label] ?? null);

    function placesOf(cluster) { // of the examples on its card
      const order = [cluster.central, ...cluster.members.filter((place) => place !== cluster.central)];
      if (opened.has(cluster.node)) return order;
      return data.examples ? distinct(order).slice(0, MOST_EXAMPLES) : [];
    }

    function card(cluster) {
      const all = opened.has(cluster.node), places = placesOf(cluster);
      const list = element("ul", { class: "ps-examples" }, ...(data.examples ? places.map(row) : []));
      const rest = cluster.size - places.length;
      const title = element(`h${options.heading || 3}`, { class: "ps-title" }, cluster.size > 1 ? cluster.letter : "single example",
        element("span", { class: "ps-size" }, ` ${count(cluster.size, "example")}`));
      if (cluster.rare) {
        title.append(" ", element("span", { class: "ps-rare", title: `one cluster holds at least ${100 * data.rare.common_share} % of the examples; this is another` },
          "rare behaviour"));
      }
      const about = element("p", { class: "ps-meta" }, factsOf(cluster));
      const made = element("section", { class: "ps-card", "data-cluster": cluster.label }, title, about, list);
      if (data.examples && (rest > 0 || all) && cluster.size > 1) {
        const label = all ? "show fewer" : `show all ${cluster.size}`;
        if (cluster.size > MOST_EXAMPLES || rest > 0) {
          made.append(element("button", { type: "button", class: "ps-small ps-more", onclick: () => {
            if (all) opened.delete(cluster.node);
            else opened.add(cluster.node);
            paint(found.threshold);
            drawnCards.get(cluster.node).card.querySelector(".ps-more")?.focus();
          } }, label));
        }
      }
      if (options.ofCluster) made.append(options.ofCluster(cluster, found));
      return made;
    }

    function distinct(places) {
      const texts = new Set();
      return places.filter((place) => {
        const text = data.examples[place].tokens.join("");
        return !texts.has(text) && texts.add(text);
      });
    }

    function keyTokens(places) {
      if (!data.examples) return "";
      const counts = new Map();
      for (const place of places) {
        const token = data.examples[place].key_name;
        counts.set(token, (counts.get(token) || 0) + 1);
      }
      const common = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5);
      return "fires at " + common.map(([token, n]) => (n > 1 ? `${token} ×${n}` : token)).join(", ") +
        (counts.size > 5 ? " …" : "");
    }

    function paint(threshold) {
      found = clustering(data, sizes, threshold);
      drawing.paint(found);
      const distance = Number(threshold.toFixed(3));
      if (document.activeElement !== number || Number(number.value) !== distance) number.value = distance;
      summary.textContent = `${count(data.n, "example")} in ${count(found.clusters.length, "cluster")} ` +
        `at cosine distance ${distance}` + (found.rare ? " · a common and a rare behaviour" : "");
      facts.textContent = `intra ${shown(found.intra)} · inter ${shown(found.inter)} · silhouette ` +
        `${shown(found.silhouette)} · largest cluster ${found.largestShare === null ? "–" :
          Math.round(100 * found.largestShare) + " %"} · mean distance ${shown(data.mean_distance)} · ` +
        `largest distance ${shown(data.max_distance)}`;
      compared.textContent = baselines(data, threshold, found);
      const before = drawnCards;
      drawnCards = new Map();
      const made = found.clusters.slice(0, nCards).map((cluster) => { // a cluster that stays keeps its card
        const as = `${cluster.letter} ${cluster.rare} ${opened.has(cluster.node)} ${stabilityOf(cluster)}`;
        const kept = before.get(cluster.node);
        const drawn = kept && kept.as === as ? kept : { as, card: card(cluster) };
        drawn.card.style.borderInlineStartColor = found.colours.get(cluster.label);
        drawnCards.set(cluster.node, drawn);
        return drawn.card;
      });
      const hidden = found.clusters.length - made.length;
      if (hidden > 0) {
        made.push(element("button", { type: "button", onclick: () => { nCards += MOST_CARDS; paint(found.threshold); } },
          `show ${Math.min(hidden, MOST_CARDS)} more of ${count(hidden, "cluster")}`));
      }
      cards.replaceChildren(...made);
      if (options.changed) options.changed(found);
    }

    // Many moves of the mouse come between two frames; only the last is painted.
    function go(threshold) {
      const wanted = Math.min(Math.max(Math.round(threshold * 1000) / 1000, 0), 2);
      if (asked === null) requestAnimationFrame(() => { const last = asked; asked = null; paint(last); });
      asked = wanted;
    }

    const title = options.title === false ? null : element("p", { class: "ps-name" }, `neuron ${data.neuron}`);
    if (!data.n) {
      host.replaceChildren(element("div", { class: "ps" }, title || "", element("p", {},
        "no dataset examples: on this corpus the neuron does not fire")));
      return { cut: () => {}, found: () => null, svg: null };
    }
    const drawing = tree(data, most, go);
    const label = element("label", { class: "ps-cut" }, "cut at ", number);
    const reset = element("button", { type: "button", class: "ps-small", onclick: () => go(data.distance_threshold) },
      `back to ${data.distance_threshold}`);
    const tested = data.tested;
    const suggested = tested && tested.n_clusters > 1 ? element("button", { type: "button", class: "ps-small ps-suggested",
      onclick: () => go(tested.cut) }, `${tested.n_clusters} significant clusters`) : null;
    const chance = tested ? element("p", { class: "ps-meta ps-tested", title: "Rotation test: a small p says that the " +
      "examples are not one Gaussian cloud. The neuron's mean is subtracted first (frame own)." },
    `${tested.verdict} (p ` +
      `${Number(tested.p_value.toPrecision(2))}, frame own): best silhouette ${shown(tested.best_silhouette)}, by chance ` +
      `${shown(tested.null_mean)}` + (tested.n_clusters < 2 ? "" :
        ` · prediction strength ${shown(tested.prediction_strength)}`) + (tested.merges.length ? " · ● significant merges" : "")) : "";
    host.replaceChildren(element("div", { class: "ps" }, title || "", summary, facts, compared, chance,
      data.note ? element("p", { class: "ps-meta" }, data.note) : "",
      element("div", { class: "ps-body" },
        element("div", { class: "ps-side" }, element("p", { class: "ps-control" }, label, " ", reset, " ", suggested || ""), drawing.svg,
          element("p", { class: "ps-meta ps-hint" }, "drag the dashed line, click in the tree, or use the arrow keys on it"),
          data.examples ? element("p", { class: "ps-meta" }, "in the texts: red is activation, as a share of the text's " +
            "strongest; the key token is underlined") : ""),
        cards)));
    paint(options.threshold === undefined ? data.distance_threshold : options.threshold);
    const onCards = () => found.clusters.slice(0, nCards).map((cluster) =>
      ({ cluster, facts: factsOf(cluster), places: placesOf(cluster) }));
    return { cut: paint, found: () => found, svg: drawing.svg, cards: onCards,
      summary: () => summary.textContent, facts: () => facts.textContent };
  }

  root.Polysem = { letter, cut, intraAndInter, nodeSizes, clustering, show, shade, strongestOf, exampleText, element };
})(typeof globalThis === "undefined" ? this : globalThis);
