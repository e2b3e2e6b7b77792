// What is seen of a neuron, taken away: JSON, CSV, PNG, the tree as SVG, and the link.
(function () {
  "use strict";
  const { say, element } = Polysem;

  // id: the neuron's; view, data: what is drawn by now, and of what; effects: a promise of what it writes.
  function downloads(id, view, data, effects) {
    const seen = (writes) => {
      const found = view().found();
      return {
        neuron: id, distance_threshold: found.threshold, n_examples: data().n, n_clusters: found.clusters.length,
        intra: found.intra, inter: found.inter, silhouette: found.silhouette, largest_share: found.largestShare,
        how: data().note, link: location.href,
        clusters: found.clusters.map((c) => ({ letter: c.letter, label: c.label, name: c.name ?? null, size: c.size, central: c.central, rare: c.rare,
          mean_distance: c.meanDistance, members: [...c.members].sort((a, b) => a - b) })),
        labels: found.labels,
        linkage: data().merges.map(([a, b], i) => [a, b, data().heights[i]]),
        examples: data().examples.map((e) => ({ document: e.document, position: e.position, activation: e.activation,
          key: e.key, key_token: e.key_token, key_part: e.key_part, tokens: e.tokens, activations: e.activations })),
        logit_effects: writes,
      };
    };

    function csv() {
      const rows = [["neuron", "example", "cluster", "letter", "central", "document", "position", "activation", "key_token",
        "key_part", "text"]];
      const { labels, clusters } = view().found();
      const centrals = new Set(clusters.map((cluster) => cluster.central));
      const letters = new Map(clusters.map((cluster) => [cluster.label, cluster.letter]));
      data().examples.forEach((e, place) => rows.push([id, place, labels[place], letters.get(labels[place]),
        centrals.has(place) ? 1 : 0, e.document, e.position, e.activation, e.key_token, e.key_part, e.tokens.join("")]));
      return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
    }

    // Quoted where need be. A text that a spreadsheet would take for a formula gets an apostrophe before it, and so does
    // one that begins with an apostrophe: without the first one, each is what it was.
    function cell(value) {
      const text = typeof value === "string" && /^[=+\-@\t\r\n＝＋－＠']/.test(value) ? `'${value}` : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    }

    const makers = {
      json: async () => new Blob([JSON.stringify(seen(await effects().catch(() => null)), null, 1)], { type: "application/json" }),
      csv: async () => new Blob([csv()], { type: "text/csv" }),
      png: () => Polysem.picture(view(), data()),
      svg: async () => new Blob([Polysem.treeSvg(view().svg)], { type: "image/svg+xml" }),
    };
    for (const button of document.querySelectorAll("[data-download]")) {
      button.addEventListener("click", async () => {
        const kind = button.dataset.download;
        let made;
        try {
          made = await makers[kind]();
        } catch (error) {
          say(`the ${kind.toUpperCase()} could not be made: ${error.message}`, true);
          return;
        }
        const address = URL.createObjectURL(made);
        element("a", { href: address, download: `polysem-${id}.${kind}` }).click();
        setTimeout(() => URL.revokeObjectURL(address), 10000);
      });
    }
    document.querySelector("[data-print]").addEventListener("click", () => print());
    const copy = document.querySelector("[data-copy]");
    if (copy) {
      copy.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(location.href);
          say("the link to this view is copied");
        } catch {
          say(`the link to this view: ${location.href}`);
        }
      });
    }
  }

  Object.assign(Polysem, { downloads });
})();
