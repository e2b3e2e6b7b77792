"""The silhouette of every cut of a tree, along the tree.

cut_silhouettes_reference  NumPy float64, every cut anew. O(n³)
cut_silhouettes            CPU: sums of distances from each node to every example, a merge adding two rows of them; then
                           down the tree, one split after the other (Numba). O(n²)
                           CUDA: `gpu/silhouettes.py`, up the tree, what is nearest found again for each cut. O(n³ / 2)

On the way down an example's least mean distance to another cluster needs no search. A cluster that splits is as far as
the mean of its parts, weighted by their sizes, so one part is at least as near as the whole was: the least of what was
and of the two parts is the new least.

Sums are exact in float64, as in metrics.py, so a cut's silhouette is that of `cluster_metrics` but for the last bits of
the quotients, which are added in another order. Examples stand in the order of the tree's leaves, where every node is a
range.
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
    """Compute `cut_silhouettes` from the definition."""
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
    the result: 16 N² bytes a task.
    """
    matrix, trees, counts = _arguments(distances, linkage, n_examples)
    B, N = matrix.shape[:2]
    result = np.full(trees.shape[:2], np.nan)
    bad = np.zeros(B, np.int32)
    for_each_neuron(_silhouettes_kernel, B, matrix, trees, counts, result, bad, scratch=lambda: (node_sums(N),))
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


def best_silhouettes(distances: Tensor, linkage: Tensor, n_examples: Tensor) -> Tensor:
    """The best silhouette over all cuts of each tree, (B,) float64: 0 where no cut separates anything, NaN for n < 3.

    The arguments are those of `cut_silhouettes`.
    """
    return best_of_cuts(cut_silhouettes(distances, linkage, n_examples), n_examples)


def best_of_cuts(silhouettes: Tensor, n_examples: Tensor) -> Tensor:
    """(B,) of those (B, max(N-1, 0)) of the cuts."""
    enough = n_examples.to(silhouettes.device) > 2
    if silhouettes.shape[1] == 0:
        return silhouettes.new_full((len(silhouettes),), torch.nan)
    best = silhouettes.nan_to_num(nan=-torch.inf).amax(1)
    return best.where(best > -torch.inf, 0.0).where(enough, torch.nan)


def node_sums(N: int) -> Array:
    """Scratch of `score_cuts` for up to N examples."""
    return np.empty((max(2 * N - 1, 0), N))


@compiled
def _silhouettes_kernel(
    first: int, step: int, distances: Array, trees: Array, counts: Array, result: Array, bad: Array, sums: Array
) -> None:
    for b in range(first, len(counts), step):
        n = counts[b]
        if not is_tree(trees[b], n):
            bad[b] = NO_TREE
        elif not _within(distances[b], n):
            bad[b] = BAD_DISTANCE
        elif n > 2:
            score_cuts(distances[b], n, trees[b], sums, result[b])


@compiled
def _within(distances: Array, n: int) -> bool:
    """Whether all distances but those of the diagonal are in 0..2."""
    outside = 0
    for i in range(n):
        for k in range(n):
            value = distances[i, k]
            outside += 0 if (value >= np.float32(0.0)) & (value <= np.float32(2.0)) else 1
        own = distances[i, i]
        outside -= 0 if (own >= np.float32(0.0)) & (own <= np.float32(2.0)) else 1
    return outside == 0


@compiled
def score_cuts(distances: Array, n: int, tree: Array, sums: Array, result: Array) -> None:
    """result[r] is the silhouette of the cut at the height of merge r, for n > 2; NaN stays where it is one cluster."""
    begin, size = _ranges(tree, n)
    _sum_distances(distances, n, tree, begin, sums)
    own, alone = np.zeros(n), np.zeros(n)  # mean distance of each example to its cluster's others; 1 if it has none
    other = np.full(n, np.inf)  # least mean distance to another cluster
    for row in range(n - 2, 0, -1):
        for side in range(2):
            node = int(tree[row, side])
            first, last = begin[node], begin[node] + size[node]
            _take_less(sums[node], 1.0 / size[node], 0, first, other)
            _take_less(sums[node], 1.0 / size[node], last, n, other)
            share = 1.0 / max(size[node] - 1.0, 1.0)
            for i in range(first, last):
                own[i] = sums[node, i] * share
                alone[i] = 1.0 if size[node] == 1 else 0.0
        if tree[row, 2] > tree[row - 1, 2]:
            result[row - 1] = _mean_score(own, alone, other)
    for row in range(n - 3, -1, -1):
        if tree[row, 2] == tree[row + 1, 2]:
            result[row] = result[row + 1]


@compiled
def _ranges(tree: Array, n: int) -> tuple[Array, Array]:
    """Return each node's first example in the order of the leaves, and how many it has."""
    begin, size = np.zeros(2 * n - 1, np.int64), np.ones(2 * n - 1, np.int64)
    for row in range(n - 1):
        size[n + row] = size[int(tree[row, 0])] + size[int(tree[row, 1])]
    for row in range(n - 2, -1, -1):
        u, v = int(tree[row, 0]), int(tree[row, 1])
        begin[u] = begin[n + row]
        begin[v] = begin[u] + size[u]
    return begin, size


@compiled
def _sum_distances(distances: Array, n: int, tree: Array, begin: Array, sums: Array) -> None:
    """sums[node, p]: of the distances from the p-th leaf to all examples of the node."""
    leaf = np.empty(n, np.int64)
    for i in range(n):
        leaf[begin[i]] = i
    for i in range(n):
        for p in range(n):
            sums[i, p] = distances[i, leaf[p]]
        sums[i, begin[i]] = 0.0
    for row in range(n - 1):
        u, v = int(tree[row, 0]), int(tree[row, 1])
        for p in range(n):
            sums[n + row, p] = sums[u, p] + sums[v, p]


@compiled
def _take_less(sums: Array, share: float, first: int, last: int, least: Array) -> None:
    for i in range(first, last):
        mean = sums[i] * share
        least[i] = mean if mean < least[i] else least[i]


@compiled_sum
def _mean_score(own: Array, alone: Array, other: Array) -> float:
    total = 0.0
    for i in range(len(own)):
        scale = max(own[i], other[i])
        total += (other[i] - own[i]) / scale if (alone[i] == 0.0) & (scale > 0.0) else 0.0
    return total / len(own)
