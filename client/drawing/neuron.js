// One neuron: what it is about in a sentence, its clusters side by side, its tree with a cut that is dragged, and the
// clusters of that cut as cards.
//
// Polysem.show(element, data, options)         draws `data` (client/drawing/browser.py) into the element
(function () {
  "use strict";
  const { element, shown, percent, count, chip, title, shareBar, meter, mostOf, line, distinct, tip, tree, suggestedCut } = Polysem;
  const MOST_CARDS = 20, MOST_LINES = 5, MOST_SINGLE = 4, IN_SENTENCE = 3; // before "more"

  // ---- Words

  // What the neuron is about at a cut.
  function sentence(data, found) {
    const top = found.many.slice(0, IN_SENTENCE);
    if (!top.length) return [`At this cut ${data.n === 1 ? "its one example stands" : "every example stands"} alone.`];
    const words = top.flatMap((cluster, i) => [i === 0 ? "" : i === top.length - 1 ? " and " : ", ",
      chip(cluster), element("b", {}, title(cluster)), ` ${percent(cluster.size / data.n)}`]);
    const others = found.clusters.length - top.length;
    const left = top.reduce((sum, cluster) => sum - cluster.size, data.n) / data.n;
    return [...words, others ? `; ${percent(left)} in ${count(others, "smaller group")}.` : "."];
  }

  // Whether its clusters are more than chance makes.
  function badge(tested) {
    const p = Number(tested.p_value.toPrecision(2)), many = tested.n_clusters > 1;
    const strength = many ? ` Prediction strength ${shown(tested.prediction_strength)}.`
      : tested.n_clusters === null ? " Its merges were not tested." : "";
    const sign = tested.significant ? "✓" : "?";
    const made = tip(`Rotation test: ${tested.verdict}. Best silhouette over all cuts ${shown(tested.best_silhouette)}, of ` +
      `random rotations of the same examples ${shown(tested.null_mean)} on average; p ${p}. Its own mean is subtracted first ` +
      `(frame own), so this is not the silhouette of the tree below.${strength}`,
    element("span", { "aria-hidden": "true" }, sign), " ",
    element("b", {}, tested.significant ? "more than chance" : "no more than chance"),
    ` ${shown(tested.best_silhouette)} against ${shown(tested.null_mean)}`);
    made.classList.add("ps-badge", "ps-tested", tested.significant ? "ps-good" : "ps-weak");
    return made;
  }

  // The numbers of a cut beside those of chance; what is known of the server's own cut only is – at others.
  function numbers(data, found) {
    const here = found.threshold === data.distance_threshold ? data.baselines : {};
    const known = data.baselines.null_n_clusters !== null && data.baselines.null_n_clusters !== undefined;
    const chance = (value, digits) => (known ? value === null || value === undefined ? "–" : value.toFixed(digits) : null);
    const singletons = found.single.length / Math.max(found.clusters.length, 1);
    const rows = [
      ["clusters", String(found.clusters.length), chance(here.null_n_clusters, 1), "Groups that the cut leaves, single examples among them."],
      ["intra", shown(found.intra), chance(here.null_intra, 2), "Mean cosine distance over all pairs in one cluster. Smaller is tighter."],
      ["inter", shown(found.inter), chance(here.null_inter, 2), "Mean cosine distance over all pairs in different clusters. Larger is further apart."],
      ["silhouette", shown(found.silhouette), chance(here.null_silhouette, 2), "How much nearer examples are to their own cluster than to the next, −1 to 1."],
      ["largest cluster", percent(found.largestShare), null, "Share of the examples in A."],
      ["agreement with the key token", shown(here.token_agreement), null, "Adjusted mutual information: 1 where clusters are the key tokens, 0 by chance."],
      ["singletons", percent(found.clusters.length ? singletons : null), null, "Of the clusters, those of one example."],
      ["of one key token", percent(here.single_token_share), null, "Of the clusters of several examples, those whose examples have one key token."],
      ["mean distance", shown(data.mean_distance), null, "Over all pairs of examples, whatever the cut."],
      ["largest distance", shown(data.max_distance), null, "Over all pairs of examples, whatever the cut."],
    ];
    return element("table", { class: "ps-numbers" },
      element("thead", {}, element("tr", {}, element("td", {}), element("th", { scope: "col" }, "here"),
        known ? element("th", { scope: "col" }, "by chance") : null)),
      element("tbody", {}, ...rows.map(([name, value, null_, what]) => element("tr", { "data-metric": name },
        element("th", { scope: "row" }, tip(what, name)), element("td", {}, value),
        known ? element("td", {}, null_ ?? "") : null))));
  }

  // ---- The ground: a notebook need not say whether it is light or dark

  function followGround(host) {
    if (getComputedStyle(host).colorScheme !== "normal") return;
    let ground = null;
    for (let at = host; at && !ground; at = at.parentElement) {
      const [red, green, blue, alpha] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || []).map(Number);
      if (alpha !== 0 && red !== undefined) ground = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    }
    host.style.colorScheme = ground !== null && ground < 110 ? "dark" : "light";
  }

  // ---- The whole

  // options:
  //   threshold      the first cut; else data.distance_threshold
  //   open           letter of a cluster that is shown whole and come to
  //   badges         an element for the badges; else they stand above the sentence
  //   settings       an element under the tree that says how the neuron was clustered
  //   whole(place), importance(place)   promises of an example
  //   ofCluster(cluster)                more about a cluster, on its card
  //   changed(clustering)               after each cut
  //   heading        the level of the cards' headings (3)
  function show(host, data, options) {
    options = options || {};
    followGround(host);
    const name = options.title === false ? null : element("p", { class: "ps-name" }, `${data.unit} ${data.neuron}`);
    if (!data.n) {
      host.replaceChildren(element("div", { class: "ps" }, name, element("p", {},
        `no dataset examples: on this corpus the ${data.unit} does not fire`)));
      return { cut: () => {}, found: () => null, svg: null };
    }
    const sizes = Polysem.nodeSizes(data.n, data.merges), strongest = mostOf(data);
    const given = new Map((data.kept || []).map((name) => [name.members.join(), name])); // names, by their set
    const setOf = (cluster) => [...cluster.members].sort((a, b) => a - b).join();
    const most = Math.min(2, Math.max((data.heights[data.heights.length - 1] || 0) * 1.06, data.distance_threshold, 0.2));
    const lines = new Map(); // made once, moved between cards
    const opened = new Set(); // nodes whose cards show every example; -1: the card of single examples
    let nCards = MOST_CARDS, found = null, asked = null, drawn = new Map(), at = -1;

    const lineOf = (place, paint) => {
      const key = `${place} ${paint}`;
      if (!lines.has(key)) lines.set(key, line({ place, ...data.examples[place] }, paint, strongest, options));
      return lines.get(key);
    };
    const says = element("p", { class: "ps-says" });
    const bar = element("div", { class: "ps-bar" });
    const cards = element("section", { class: "ps-cards", "aria-label": `clusters of ${data.unit} ${data.neuron}` });
    const summary = element("span", { class: "ps-summary", role: "status" });
    const figures = element("div", {});
    const number = element("input", { type: "number", min: 0, max: 2, step: "any", class: "ps-number",
      onchange: () => { if (number.checkValidity() && number.value) go(Number(number.value)); else number.reportValidity(); } });
    const suggested = suggestedCut(data);
    const button = (of, text, words, threshold) => element("button", { type: "button", class: `ps-button ${of}`,
      title: words, onclick: () => go(threshold) }, text);
    const toSuggested = suggested === null ? null : button("ps-suggested", "suggested",
      `the cut that tells the ${data.tested.n_clusters} significant clusters apart best`, suggested);
    const toServers = button("ps-paper", String(data.distance_threshold), "the cut that was asked for", data.distance_threshold);

    // known of the clusters of the server's own cut, not of a single example
    const stabilityOf = (cluster) => (!data.tested || cluster.size < 2 || found.threshold !== data.distance_threshold
      ? null : data.tested.stability[cluster.label] ?? null);

    function placesOf(cluster) { // of the lines on its card
      const order = [cluster.central, ...cluster.members.filter((place) => place !== cluster.central)
        .sort((a, b) => Math.abs(data.examples[b].activation) - Math.abs(data.examples[a].activation))];
      return opened.has(cluster.node) ? order : distinct(data, order).slice(0, MOST_LINES);
    }

    function measures(cluster) {
      const stable = stabilityOf(cluster), [key] = cluster.tokens;
      return element("div", { class: "ps-measures" },
        key ? element("span", {}, tip("How much of the cluster has this one token as its key token. Near 100 %, the " +
          "cluster may be no more than that token.", "key token"), " ", element("code", {}, key[0]), " ",
        meter(key[1] / cluster.size), element("b", {}, percent(key[1] / cluster.size))) : null,
        stable === null ? null : element("span", {}, tip("Mean overlap (Jaccard) of this cluster with its likest in " +
          "bootstrap samples of the examples. 0.75 and more is stable, 0.5 and less dissolves.",
        stable < 0.6 ? "unstable" : "stable"), " ", meter(stable), element("b", {}, shown(stable))),
        cluster.score === null || cluster.score === undefined ? null : element("span", {}, tip("How often an example of the " +
          `cluster fits the name better than a text where the ${data.unit} does not fire so, on examples that the name was not ` +
          "chosen by; beside it the same of names of random groups. 0.50 is no better than a coin.", "name fits"), " ",
        element("b", {}, shown(cluster.score)), ` against ${shown(cluster.nullScore)}`),
        cluster.kept ? element("span", {}, tip("Who named exactly this set of examples. At a cut without this set the name " +
          "is detached.", cluster.kept.method === "model" ? "named by a language model, " : "named by "),
        element("b", {}, cluster.kept.author), ` ${cluster.kept.day}`) : null,
        cluster.meanDistance === null ? null : element("span", {}, tip("Mean cosine distance over all pairs of its " +
          "examples. Smaller is tighter.", "within"), " ", element("b", {}, shown(cluster.meanDistance))));
    }

    const more = (node, all, size) => element("button", { type: "button", class: "ps-link ps-more", "aria-expanded": String(all),
      onclick: () => {
        if (all) opened.delete(node);
        else opened.add(node);
        paint(found.threshold);
        drawn.get(node).card.querySelector(".ps-more")?.focus();
      } }, all ? "show fewer" : `all ${size}`);

    function card(cluster) {
      const all = opened.has(cluster.node), places = data.examples ? placesOf(cluster) : [];
      const stable = stabilityOf(cluster);
      const heading = element(`h${options.heading || 3}`, { class: `ps-title${stable !== null && stable < 0.6 ? " ps-quietly" : ""}` },
        chip(cluster), " ", title(cluster));
      const acts = element("div", { class: "ps-acts" },
        data.examples && (all || cluster.size > places.length) ? more(cluster.node, all, cluster.size) : null,
        options.ofCluster ? options.ofCluster(cluster) : null);
      return element("section", { class: `ps-card ${cluster.paint}`, "data-cluster": cluster.letter, "data-label": cluster.label,
        "aria-label": `cluster ${cluster.letter} of ${data.unit} ${data.neuron}` },
      element("div", { class: "ps-head" }, heading,
        cluster.rare ? element("span", { class: "ps-rare", title: `one cluster holds at least ${100 * data.rare.common_share} % ` +
          "of the examples; this is another" }, "rare behaviour") : null,
        element("span", { class: "ps-size" }, `${count(cluster.size, "example")} · ${percent(cluster.size / data.n)}`)),
      measures(cluster), element("ol", { class: "ps-lines" }, ...places.map((place) => lineOf(place, cluster.paint))), acts);
    }

    function singleCard() {
      const all = opened.has(-1), n = found.single.length;
      const places = found.single.map((cluster) => cluster.central).slice(0, all ? n : MOST_SINGLE);
      return element("section", { class: "ps-card ps-single", "aria-label": `single examples of ${data.unit} ${data.neuron}` },
        element("div", { class: "ps-head" }, element(`h${options.heading || 3}`, { class: "ps-title" },
          element("span", { class: "ps-chip ps-single" }, "·"), " ", count(n, "single example")),
        found.rare ? element("span", { class: "ps-rare" }, "rare behaviour") : null,
        element("span", { class: "ps-size" }, "near no other at this cut")),
        data.examples ? element("ol", { class: "ps-lines" }, ...places.map((place) => lineOf(place, "ps-single"))) : null,
        element("div", { class: "ps-acts" }, data.examples && n > MOST_SINGLE ? more(-1, all, n) : null));
    }

    function paintCards() {
      const before = drawn;
      drawn = new Map();
      const keep = (node, as, make) => { // a cluster that stays keeps its card
        const kept = before.get(node);
        drawn.set(node, kept && kept.as === as ? kept : { as, card: make() });
        return drawn.get(node).card;
      };
      const made = found.many.slice(0, nCards).map((cluster) => keep(cluster.node,
        `${cluster.letter} ${cluster.rare} ${opened.has(cluster.node)} ${stabilityOf(cluster)}`, () => card(cluster)));
      const hidden = found.many.length - made.length;
      if (hidden > 0) {
        made.push(element("button", { type: "button", class: "ps-button", onclick: () => { nCards += MOST_CARDS; paint(found.threshold); } },
          `show ${Math.min(hidden, MOST_CARDS)} more of ${count(hidden, "cluster")}`));
      }
      if (found.single.length) {
        const as = `${found.single.map((cluster) => cluster.node).join()} ${found.rare} ${opened.has(-1)}`;
        made.push(keep(-1, as, singleCard));
      }
      cards.replaceChildren(...made);
    }

    function paint(threshold) {
      found = Polysem.clustering(data, sizes, threshold);
      for (const cluster of found.many) {
        cluster.tokens = Polysem.keyTokens(data, cluster.members);
        [cluster.name, cluster.score, cluster.nullScore] = (data.names || {})[cluster.node] || [];
        cluster.kept = given.size ? given.get(setOf(cluster)) : undefined;
        if (cluster.kept) cluster.name = cluster.kept.text;
      }
      const there = new Set(given.size ? found.clusters.map(setOf) : []);
      found.detached = [...given].filter(([set]) => !there.has(set)).map(([, name]) => name);
      drawing.paint(found);
      const distance = Number(threshold.toFixed(3));
      if (document.activeElement !== number || Number(number.value) !== distance) number.value = distance;
      const alone = found.single.length;
      summary.replaceChildren(element("b", {}, count(found.many.length, "cluster")),
        alone ? ` + ${alone} single` : "", found.rare ? " · a common and a rare behaviour" : "");
      toServers.setAttribute("aria-pressed", String(distance === data.distance_threshold));
      if (toSuggested) toSuggested.setAttribute("aria-pressed", String(Math.abs(threshold - suggested) < 6e-4));
      says.replaceChildren(...sentence(data, found));
      bar.replaceChildren(shareBar(found.many, alone, data.n, { go: jump }));
      figures.replaceChildren(numbers(data, found));
      paintCards();
      if (options.changed) options.changed(found);
    }

    // Many moves of the mouse come between two frames; only the last is painted.
    function go(threshold) {
      const wanted = Math.min(Math.max(Math.round(threshold * 1000) / 1000, 0), 2);
      if (asked === null) requestAnimationFrame(() => { const last = asked; asked = null; paint(last); });
      asked = wanted;
    }

    function jump(cluster) {
      if (!cluster) return;
      if (cluster.rank >= nCards) {
        nCards = cluster.rank + 1;
        paint(found.threshold);
      }
      const to = drawn.get(cluster.node).card;
      for (const other of cards.querySelectorAll(".ps-now")) other.classList.remove("ps-now");
      to.classList.add("ps-now");
      to.scrollIntoView({ block: "start" });
      at = cluster.rank;
    }

    const drawing = tree(data, sizes, most, go, jump);
    const badges = options.badges || element("p", { class: "ps-badges" });
    badges.replaceChildren(...(data.tested ? [badge(data.tested), " "] : []), element("span", { class: "ps-badge" }, count(data.n, "example")),
      " ", element("span", { class: "ps-badge" }, `fires to ${shown(strongest)}`));
    host.replaceChildren(element("div", { class: "ps" }, name, options.badges ? null : badges, says, bar,
      element("div", { class: "ps-body" },
        element("section", { class: "ps-side", "aria-label": `tree of ${data.unit} ${data.neuron}` },
          element("div", { class: "ps-cutline" }, summary, element("span", { class: "ps-control" },
            element("label", {}, "cut at ", number), " ", toSuggested, toSuggested ? " " : null, toServers)),
          drawing.svg,
          element("p", { class: "ps-quiet ps-hint" }, data.silhouettes && data.silhouettes.length
            ? "Blue: how clear each cut is (silhouette). " : "", "Drag the line, click in the tree, or use the arrow keys on it. ",
          tip(`Two examples that join far to the left are read differently by the ${data.unit}; near the right edge, alike. ` +
            "Everything right of the line is one cluster." + (data.tested && data.tested.merges.length
            ? " ● significant: its two sides are more than one cloud." : ""), "How to read this")),
          element("details", { class: "ps-details" }, element("summary", {}, "Numbers"), figures),
          options.settings || (data.note ? element("p", { class: "ps-quiet" }, data.note) : null),
          data.examples ? element("p", { class: "ps-legend" }, ...[1, 2, 3, 4, 5].map((step) => element("span", { class: `ps-t${step}` })),
            " 12\u202f% to 87\u202f% and more of its strongest") : null),
        cards)));
    for (const cluster of firstCut().many) if (cluster.letter === options.open) opened.add(cluster.node);
    paint(options.threshold === undefined ? data.distance_threshold : options.threshold);
    if (options.open) jump(found.many.find((cluster) => cluster.letter === options.open));

    function firstCut() {
      return Polysem.clustering(data, sizes, options.threshold === undefined ? data.distance_threshold : options.threshold);
    }

    const step = (by) => jump(found.many[Math.min(Math.max(at + by, 0), found.many.length - 1)]);
    return {
      cut: paint, go, found: () => found, svg: drawing.svg, next: () => step(1), previous: () => step(-1),
      suggest: () => { if (suggested !== null) go(suggested); },
      cards: () => found.many.slice(0, nCards).map((cluster) => ({ cluster, places: placesOf(cluster) })),
      summary: () => `${summary.textContent} at cosine distance ${Number(found.threshold.toFixed(3))}`,
      facts: () => `intra ${shown(found.intra)} · inter ${shown(found.inter)} · silhouette ${shown(found.silhouette)}`,
    };
  }

  Object.assign(Polysem, { show, badge });
})();
