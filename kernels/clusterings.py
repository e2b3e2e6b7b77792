"""Tree, cut and metrics of many neurons in one call: what a clustering is asked for most.

hac_clusterings, scc_clusterings  CPU: the steps of agglomerative.py or scc.py, tree.py and metrics.py, neuron by neuron
                                  (Numba): its distances are still in the cache, and what one step has made the next
                                  need not check
                                  CUDA: up to 128 examples one launch (`gpu/clusterings.py`)
measured                          cut and metrics of trees that were made elsewhere, by the kernels in turn

The references of those files say what is meant.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels import metrics, tree
from polysem.kernels.agglomerative import chain, copy_distances, hac_arguments, linkage_scratch, sort_by_height
from polysem.kernels.arrays import Array, raise_if_outside
from polysem.kernels.definitions import LINKAGES, Clusterings, Linkage, NodeMetrics, TreeMetrics
from polysem.kernels.dispatch import kernel
from polysem.kernels.metrics import cluster_metrics_of, cluster_sizes, measure_tree, n_labels, node_buffer
from polysem.kernels.parallel import compiled, for_each_neuron
from polysem.kernels.scc import rounds, rounds_scratch, scc_arguments
from polysem.kernels.tree import cut_tree, thresholds_of


@kernel
def hac_clusterings(
    distances: Tensor, n_examples: Tensor, distance_threshold: float | Tensor, method: Linkage = "average"
) -> Clusterings:
    """Return `agglomerative.linkage` of each neuron, its `tree.cut` and their `metrics.tree_metrics`, to the byte.

    The arguments are those of the three, and so are the errors; here the distances' diagonal is read, too.
    """
    matrix, counts = hac_arguments(distances, n_examples, method)
    scratch = linkage_scratch
    return _clustered(_hac_kernel, matrix, counts, distance_threshold, (LINKAGES[method],), scratch)


@kernel
def scc_clusterings(
    distances: Tensor,
    n_examples: Tensor,
    distance_threshold: float | Tensor,
    thresholds: Tensor,
    until_stable: bool = False,
) -> Clusterings:
    """Return the same of the trees of `scc.linkage`, whose thresholds and until_stable these are."""
    matrix, counts, taus = scc_arguments(distances, n_examples, thresholds)
    return _clustered(_scc_kernel, matrix, counts, distance_threshold, (taus, until_stable), rounds_scratch)


def measured(distances: Tensor, trees: Tensor, n_examples: Tensor, distance_threshold: float | Tensor) -> Clusterings:
    """The trees with a cut of them and the metrics of both, by the kernels one after the other."""
    labels = tree.cut(trees, n_examples, distance_threshold)
    return Clusterings(trees, labels, metrics.tree_metrics(distances, trees, labels, n_examples))


def _clustered(
    of_trees: Callable[..., None],
    matrix: NDArray[np.float32],
    counts: NDArray[np.int64],
    distance_threshold: float | Tensor,
    how: tuple[Any, ...],
    scratch: Callable[[int], Array],
) -> Clusterings:
    B, N = matrix.shape[:2]
    n_rows = max(N - 1, 0)
    trees, labels = np.empty((B, n_rows, 4)), np.empty((B, N), np.int32)
    central, mean = np.empty((B, n_rows), np.int32), np.empty((B, n_rows))
    n_clusters, numbers, bad = np.zeros(B, np.int32), np.empty((6, B)), np.zeros(B, np.bool_)
    cuts = thresholds_of(distance_threshold, B)
    results = trees, labels, n_clusters, numbers, central, mean, bad
    for_each_neuron(of_trees, B, matrix, counts, cuts, *how, *results, scratch=lambda: (scratch(N),))
    raise_if_outside(bad, matrix, counts)
    nodes = NodeMetrics(torch.from_numpy(central), torch.from_numpy(mean))
    of_trees_and_cuts = TreeMetrics(cluster_metrics_of(counts, n_clusters, numbers), nodes)
    return Clusterings(torch.from_numpy(trees), torch.from_numpy(labels), of_trees_and_cuts)


@compiled
def _hac_kernel(
    first: int,
    step: int,
    distances: Array,
    counts: Array,
    cuts: Array,
    method: int,
    trees: Array,
    labels: Array,
    n_clusters: Array,
    numbers: Array,
    central: Array,
    mean: Array,
    bad: Array,
    work: Array,
) -> None:
    size, sums = np.empty(distances.shape[1], np.int64), node_buffer(distances.shape[1])
    for b in range(first, len(counts), step):
        n = counts[b]
        bad[b] = not copy_distances(distances[b], n, work) or not chain(work, n, method, trees[b])
        if n > 1 and not bad[b]:
            sort_by_height(trees[b, : n - 1])
        if not bad[b]:
            found = labels[b], numbers[:, b], central[b], mean[b]
            n_clusters[b], bad[b] = _measure(distances[b], n, trees[b], cuts[b], size, sums, *found)


@compiled
def _scc_kernel(
    first: int,
    step: int,
    distances: Array,
    counts: Array,
    cuts: Array,
    thresholds: Array,
    until_stable: bool,
    trees: Array,
    labels: Array,
    n_clusters: Array,
    numbers: Array,
    central: Array,
    mean: Array,
    bad: Array,
    work: Array,
) -> None:
    size, sums = np.empty(distances.shape[1], np.int64), node_buffer(distances.shape[1])
    for b in range(first, len(counts), step):
        n = counts[b]
        bad[b] = not rounds(distances[b], n, thresholds, until_stable, trees[b], work)
        if not bad[b]:
            found = labels[b], numbers[:, b], central[b], mean[b]
            n_clusters[b], bad[b] = _measure(distances[b], n, trees[b], cuts[b], size, sums, *found)


@compiled
def _measure(
    d: Array,
    n: int,
    tree: Array,
    cut: float,
    size: Array,
    sums: Array,
    labels: Array,
    numbers: Array,
    central: Array,
    mean: Array,
) -> tuple[int, bool]:
    """Cut and measure one neuron's tree; the number of clusters, and whether a distance is not in 0..2."""
    n_rows = max(n - 1, 0)
    tree[n_rows:] = np.nan
    central[n_rows:] = -1
    mean[n_rows:] = np.nan
    labels[n:] = -1
    numbers[:] = np.nan
    cut_tree(tree, n, cut, labels)
    cluster_sizes(labels, n, size)
    k = n_labels(size, n, numbers)
    outside = n > 1 and measure_tree(d, tree, labels[:n], size, k, sums, central, mean, numbers) > 0
    return k, outside
