"""Feature clusters of many neurons, from their trees."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from polysem.proto.arrays import IntArray
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.wire.columns import from_counts


@dataclass(frozen=True, eq=False)
class Clusters:
    """The C feature clusters of neurons, neuron by neuron in the order of their labels.

    neurons   (C, 2) int32
    labels    (C,) int32
    centrals  (C,) int32: number of the central example
    sizes     (C,) int32: examples
    methods   (C,) int32: how the tree was made, a place in METHODS plus 1
    """

    neurons: IntArray
    labels: IntArray
    centrals: IntArray
    sizes: IntArray
    methods: IntArray


def clusters_of(batch: ClusterBatch, distance_threshold: float) -> Clusters:
    """The clusters of a batch, from its trees: the topmost kept nodes."""
    n = batch.n_examples.astype(np.int64)
    n_merges = np.maximum(n - 1, 0)
    first_example, first_node = from_counts(n)[:-1], from_counts(n + n_merges)[:-1]
    which_example, which_merge = np.repeat(np.arange(len(n)), n), np.repeat(np.arange(len(n)), n_merges)
    within = np.arange(len(which_merge)) - from_counts(n_merges)[which_merge]
    leaves = first_node[which_example] + np.arange(len(which_example)) - first_example[which_example]
    merges = (first_node + n)[which_merge] + within  # node of each merge
    n_nodes = len(leaves) + len(merges)
    neuron, central = np.empty(n_nodes, np.int64), np.empty(n_nodes, np.int64)
    neuron[leaves], neuron[merges] = which_example, which_merge
    central[leaves] = np.arange(len(leaves)) - first_example[which_example]
    central[merges] = batch.node_centrals
    kept = np.ones(n_nodes + 1, bool)
    kept[merges] = batch.heights <= distance_threshold
    kept[-1] = False  # above every root
    parents = np.full(n_nodes, n_nodes)
    for side in (0, 1):
        parents[first_node[which_merge] + batch.merges[:, side]] = merges
    tops = np.flatnonzero(kept[:-1] & ~kept[parents])
    labels = batch.labels[first_example[neuron[tops]] + central[tops]]
    order = np.lexsort((labels, neuron[tops]))
    tops, labels = tops[order], labels[order]
    of_example = from_counts(batch.n_clusters)[which_example] + batch.labels
    return Clusters(
        neurons=batch.neurons[neuron[tops]],
        labels=labels,
        centrals=central[tops].astype(np.int32),
        sizes=np.bincount(of_example, minlength=len(tops)).astype(np.int32),
        methods=batch.methods[neuron[tops]],
    )


def joined(parts: Sequence[Clusters]) -> Clusters:
    return Clusters(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Clusters)))
