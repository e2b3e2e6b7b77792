// A cut of one neuron's tree and what follows from it. The notebook, the report and the explorer read these files one
// after the other (browser.script): cut.js, parts.js, tree.js, neuron.js. No library, no request of their own.
//
// Polysem.cut(n, merges, heights, threshold)   the cut, as client/cutting.py and kernels/tree.py make it
// Polysem.clustering(data, sizes, threshold)   its clusters, A (the largest) first, and their metrics
(function (root) {
  "use strict";

  const nKept = (heights, threshold) => {
    let low = 0, high = heights.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (heights[middle] <= threshold) low = middle + 1;
      else high = middle;
    }
    return low;
  };

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

  // The silhouette of a cut, of the steps [height, silhouette] that the server told; null where it told none.
  // exact: whether no merge lies between the step and the cut.
  function silhouetteAt(data, threshold) {
    if (threshold === data.distance_threshold) return { value: data.silhouette, exact: true };
    const steps = data.silhouettes || [];
    let found = null;
    for (const step of steps) if (step[0] <= threshold) found = step;
    if (!found) return { value: null, exact: true };
    return { value: found[1], exact: nKept(data.heights, found[0]) === nKept(data.heights, threshold) };
  }

  // What examples have as key tokens, the commonest first: [token in words, how many].
  function keyTokens(data, members) {
    const counts = new Map();
    if (data.examples) {
      for (const place of [...members].sort((a, b) => a - b)) { // of equals the one that comes first in the corpus
        const token = data.examples[place].key_name;
        counts.set(token, (counts.get(token) || 0) + 1);
      }
    }
    return [...counts].sort((a, b) => b[1] - a[1]);
  }

  // Clusters: many, of several examples, A first; single, of one. paint: the class that has a cluster's colour.
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
    const byLabel = new Array(clusters.length);
    clusters.forEach((cluster, rank) => {
      cluster.rank = rank;
      cluster.letter = cluster.size > 1 ? letter(rank) : "·";
      cluster.paint = cluster.size < 2 ? "ps-single" : rank < 12 ? `ps-${cluster.letter}` : "ps-beyond";
      byLabel[cluster.label] = cluster;
    });
    const { least_examples, common_share, least_minority } = data.rare; // of a neuron with a common and a rare behaviour
    const rare = clusters.length > 1 && data.n >= least_examples && clusters[0].size >= common_share * data.n &&
      data.n - clusters[0].size >= least_minority && !(data.tested && !data.tested.several);
    if (rare) for (const cluster of clusters.slice(1)) cluster.rare = true;
    const silhouette = silhouetteAt(data, threshold);
    return {
      threshold, labels, clusters, byLabel, rare, ...intraAndInter(data.n, sizes, data.mean_distances, tops),
      many: clusters.filter((cluster) => cluster.size > 1),
      single: clusters.filter((cluster) => cluster.size < 2),
      silhouette: silhouette.value,
      silhouetteIsExact: silhouette.exact,
      largestShare: clusters.length ? clusters[0].size / data.n : null,
    };
  }

  root.Polysem = Object.assign(root.Polysem || {}, { letter, cut, intraAndInter, nodeSizes, clustering, keyTokens });
})(typeof globalThis === "undefined" ? this : globalThis);
