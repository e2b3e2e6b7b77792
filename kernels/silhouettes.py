"""The silhouette of every cut of a tree, along the tree.

cut_silhouettes_reference  NumPy float64, every cut anew. O(n³)
cut_silhouettes            CPU: sums of distances from each cluster to every example; a merge adds two rows of them, and
                           what is nearest is found again in one pass over the rows that are left (Numba). O(n³ / 2),
                           eight numbers an instruction
                           CUDA: `gpu/silhouettes.py`, the same in Triton

Sums are exact in float64, as in metrics.py, so a cut's silhouette is that of `cluster_metrics` but for the last bits of
the quotients, which are added in another order.

Tried and dropped: remembering each example's nearest cluster and looking again only where that merged, 7 times as long
(columns of the sums are far from each other).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import Array, Sizes, as_array, as_counts, as_distances, check_distances, raise_if_outside
from polysem.kernels.definitions import raise_if_no_tree
from polysem.kernels.dispatch import kernel
from polysem.kernels.metrics import silhouette_reference
from polysem.kernels.parallel import compiled, compiled_sum, for_each_neuron
from polysem.kernels.tree import check_trees, is_tree


def cut_silhouettes_reference(distances: Tensor, linkage: Tensor, n_examples: Tensor) -> Tensor:
    """As `cut_silhouettes`, from the definition."""
    matrix, trees, counts = _arguments(distances, linkage, n_examples)
    check_distances(matrix, counts)
    check_trees(trees, counts)
    result = np.full(trees.shape[:2], np.nan)
    for b, n in enumerate(counts):
        d = matrix[b, :n, :n].astype(np.float64)
        for row in range(n - 1):
            label = np.arange(n)
            for u, v, height, _ in trees[b, : n - 1]:
                if height <= trees[b, row, 2]:
                    label[_leaves(trees[b], n, int(v))] = label[_leaves(trees[b], n, int(u))[0]]
            result[b, row] = silhouette_reference(d, label)
    return torch.from_numpy(result)


def _leaves(tree: NDArray[np.float64], n: int, node: int) -> list[int]:
    if node < n:
        return [node]
    return [leaf for child in tree[node - n, :2] for leaf in _leaves(tree, n, int(child))]


@kernel
def cut_silhouettes(distances: Tensor, linkage: Tensor, n_examples: Tensor) -> Tensor:
    """The silhouette of each tree's cut at each of its heights.

    distances   (B, N, N) float32 in [0, 2], symmetric; the diagonal and padding are never read
    linkage     (B, max(N-1, 0), 4) float64, as every `linkage` here returns it
    n_examples  (B,) int32 or int64, 0..N
    returns     (B, max(N-1, 0)) float64 in [-1, 1]: entry r is of the cut at height [r, 2], so merges at equal heights
                share one; singletons score 0; NaN where the cut leaves one cluster, and in padding

    Raises TypeError or ValueError for wrong dtypes, shapes, counts and distances and for what is no tree. Memory beside
    the result: 8 N² bytes a task.
    """
    matrix, trees, counts = _arguments(distances, linkage, n_examples)
    B, N = matrix.shape[:2]
    result = np.full(trees.shape[:2], np.nan)
    bad = np.zeros(B, np.int32)
    for_each_neuron(_silhouettes_kernel, B, matrix, trees, counts, result, bad, scratch=lambda: (np.empty((N, N)),))
    raise_if_no_tree(bad == NO_TREE)
    raise_if_outside(bad == BAD_DISTANCE, matrix, counts)
    return torch.from_numpy(result)


def _arguments(
    distances: Tensor, linkage: Tensor, n_examples: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    sizes: Sizes = {"4": 4}
    matrix = as_distances(distances, sizes)
    sizes["N-1"] = max(sizes["N"] - 1, 0)
    trees = as_array("linkage", linkage, "B N-1 4", sizes, (torch.float64,))
    return matrix, trees, as_counts(n_examples, sizes)


NO_TREE, BAD_DISTANCE = 1, 2


@compiled
def _silhouettes_kernel(
    first: int, step: int, distances: Array, trees: Array, counts: Array, result: Array, bad: Array, sums: Array
) -> None:
    for b in range(first, len(counts), step):
        n = counts[b]
        if not is_tree(trees[b], n):
            bad[b] = NO_TREE
        elif not _copied(distances[b], n, sums):
            bad[b] = BAD_DISTANCE
        elif n > 2:
            _along(sums, n, trees[b], result[b])


@compiled
def _copied(distances: Array, n: int, sums: Array) -> bool:
    """Row c of the sums is singleton c's, `inf` for its own member; False if a distance is not in 0..2."""
    outside = 0
    for c in range(n):
        for i in range(n):
            value = distances[c, i]
            sums[c, i] = value
            outside += 0 if (value >= np.float32(0.0)) & (value <= np.float32(2.0)) else 1
        own = distances[c, c]
        outside -= 0 if (own >= np.float32(0.0)) & (own <= np.float32(2.0)) else 1
        sums[c, c] = np.inf
    return outside == 0


@compiled
def _along(sums: Array, n: int, tree: Array, result: Array) -> None:
    """sums[p, i]: of the distances from example i to the p-th cluster that is left, `inf` for the cluster's own."""
    place = np.arange(2 * n - 1)  # of each node that is left, among the clusters
    node = np.arange(n)  # and the other way round
    size = np.ones(n)  # of each cluster that is left
    following, last = np.full(n, -1), np.arange(n)  # a cluster's examples: from `first` on, each with the next
    first = np.arange(n)
    own, n_own = np.zeros(n), np.ones(n)  # of each example: its sum of distances inside its cluster, and that's size
    other = np.empty(n)
    begin = 0
    for row in range(n - 1):
        left = n - row
        u, v = place[int(tree[row, 0])], place[int(tree[row, 1])]
        _unite(sums, u, v, first, following, own)
        size[u] += size[v]
        following[last[u]], last[u] = first[v], last[v]
        node[u], place[n + row] = n + row, u
        i = first[u]
        while i >= 0:
            n_own[i] = size[u]
            i = following[i]
        if v != left - 1:  # the last cluster takes the free place
            sums[v] = sums[left - 1]
            size[v], first[v], last[v] = size[left - 1], first[left - 1], last[left - 1]
            node[v] = node[left - 1]
            place[node[v]] = v
        if left == 2 or (row < n - 2 and tree[row + 1, 2] == tree[row, 2]):
            continue
        _least_means(sums, size, left - 1, other)
        result[begin : row + 1] = _mean_score(own, n_own, other)
        begin = row + 1


@compiled
def _unite(sums: Array, u: int, v: int, first: Array, following: Array, own: Array) -> None:
    """Row u becomes that of both clusters; members add what the other cluster is to them to their own."""
    for one, another in ((u, v), (v, u)):
        i = first[one]
        while i >= 0:
            own[i] += sums[another, i]
            i = following[i]
    for i in range(len(own)):
        sums[u, i] += sums[v, i]


@compiled
def _least_means(sums: Array, size: Array, left: int, other: Array) -> None:
    """Each example's least mean distance to one of the first `left` clusters; four rows at a time."""
    other[:] = np.inf
    for p in range(0, left - 3, 4):
        share_0, share_1, share_2, share_3 = 1.0 / size[p], 1.0 / size[p + 1], 1.0 / size[p + 2], 1.0 / size[p + 3]
        for i in range(len(other)):
            mean_0, mean_1 = sums[p, i] * share_0, sums[p + 1, i] * share_1
            mean_2, mean_3 = sums[p + 2, i] * share_2, sums[p + 3, i] * share_3
            mean_0 = mean_0 if mean_0 < mean_1 else mean_1
            mean_2 = mean_2 if mean_2 < mean_3 else mean_3
            mean_0 = mean_0 if mean_0 < mean_2 else mean_2
            other[i] = mean_0 if mean_0 < other[i] else other[i]
    for p in range(left // 4 * 4, left):
        share = 1.0 / size[p]
        for i in range(len(other)):
            mean = sums[p, i] * share
            other[i] = mean if mean < other[i] else other[i]


@compiled_sum
def _mean_score(own: Array, n_own: Array, other: Array) -> float:
    total = 0.0
    for i in range(len(own)):
        a = own[i] / max(n_own[i] - 1.0, 1.0)
        scale = max(a, other[i])
        total += (other[i] - a) / scale if (n_own[i] > 1.0) & (scale > 0.0) else 0.0
    return total / len(own)
