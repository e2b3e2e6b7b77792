"""Flat clusters from trees: a cut keeps the merges at or below a height. And the orders in which trees are walked.

cut_reference  plain Python: merges sets of examples
cut            CPU: one pass down the tree hands every node the topmost kept node above it (Numba). O(n)
               CUDA: the same by pointer jumping (kernels/gpu/tree.py)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import Array, Sizes, as_array, as_counts
from polysem.kernels.definitions import raise_if_no_tree
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, for_each_neuron


def cut_reference(linkage: Tensor, n_examples: Tensor, distance_threshold: float | Tensor) -> Tensor:
    """Compute `cut` from the definition."""
    trees, counts, width = tree_arguments(linkage, n_examples)
    thresholds = thresholds_of(distance_threshold, len(counts))
    check_trees(trees, counts)
    labels = np.full((len(counts), width), -1, np.int32)
    for b, n in enumerate(counts):
        members = [frozenset([i]) for i in range(n)]  # node -> examples
        cluster = dict(enumerate(members))  # example -> examples of its cluster
        for u, v, height, _ in trees[b, : max(n - 1, 0)]:
            members.append(members[int(u)] | members[int(v)])
            if height <= thresholds[b]:
                cluster.update(dict.fromkeys(members[-1], members[-1]))
        in_order = list(dict.fromkeys(cluster[i] for i in range(n)))
        labels[b, :n] = [in_order.index(cluster[i]) for i in range(n)]
    return torch.from_numpy(labels)


@kernel
def cut(linkage: Tensor, n_examples: Tensor, distance_threshold: float | Tensor) -> Tensor:
    """The flat clustering of each neuron made by the merges of height <= distance_threshold.

    linkage             (B, max(N-1, 0), 4) float64, as every `linkage` here returns it
    n_examples          (B,) int32 or int64, 0..N
    distance_threshold  one number or (B,) float32 or float64; not NaN
    returns             labels (B, N) int32, numbered by first appearance, -1 in padding

    As partitions equal to SciPy's `fcluster(Z, t, "distance")`. A linkage without rows tells N = 0 from N = 1 by the
    largest of n_examples. Raises TypeError or ValueError for wrong dtypes, shapes, counts and thresholds and for what
    is not a tree of n_examples leaves with ascending heights.
    """
    trees, counts, width = tree_arguments(linkage, n_examples)
    thresholds = thresholds_of(distance_threshold, len(counts))
    labels = torch.empty((len(counts), width), dtype=torch.int32)
    bad = np.zeros(len(counts), np.bool_)
    for_each_neuron(_cut_kernel, len(counts), trees, counts, thresholds, labels.numpy(), bad)
    raise_if_no_tree(bad)
    return labels


def tree_arguments(linkage: Tensor, n_examples: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """The trees, the counts, and N."""
    sizes: Sizes = {"4": 4}
    trees = as_array("linkage", linkage, "B N-1 4", sizes, (torch.float64,))
    n_rows = sizes["N-1"]
    sizes["N"] = n_rows + 1
    counts = as_counts(n_examples, sizes)
    return trees, counts, n_rows + 1 if n_rows else int(counts.max(initial=0))


def check_trees(trees: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
    """For the references: every neuron's rows are a tree."""
    raise_if_no_tree(np.array([not is_tree(tree, n) for tree, n in zip(trees, counts, strict=True)], bool))


def thresholds_of(distance_threshold: float | Tensor, n_neurons: int) -> NDArray[np.float64]:
    """Return the height of each neuron's cut, (B,) float64. Raises ValueError for NaN, TypeError for a wrong dtype."""
    if isinstance(distance_threshold, Tensor) and distance_threshold.ndim > 0:
        dtypes = (torch.float64, torch.float32)
        thresholds = as_array("distance_threshold", distance_threshold, "B", {"B": n_neurons}, dtypes)
    else:
        thresholds = np.full(n_neurons, float(distance_threshold))
    if np.isnan(thresholds).any():
        raise ValueError(f"distance_threshold is {distance_threshold}; expected a number")
    return thresholds.astype(np.float64)


@compiled
def _cut_kernel(
    first: int, step: int, trees: Array, counts: Array, thresholds: Array, labels: Array, bad: Array
) -> None:
    for b in range(first, len(counts), step):
        n = counts[b]
        labels[b, n:] = -1
        if is_tree(trees[b], n):
            cut_tree(trees[b], n, thresholds[b], labels[b])
        else:
            bad[b] = True


@compiled
def cut_tree(tree: Array, n: int, threshold: float, labels: Array) -> None:
    """Label one tree's clusters below a height: labels (n,) int32, numbered in order of their first examples. O(n).

    tree  (n - 1, 4) or more rows, as `linkage` returns it
    """
    top = np.arange(max(2 * n - 1, 0))  # the topmost kept node above each
    for row in range(n - 2, -1, -1):
        if tree[row, 2] <= threshold:
            top[int(tree[row, 0])] = top[int(tree[row, 1])] = top[n + row]
    label = np.full(len(top), -1, np.int32)
    n_clusters = np.int32(0)
    for i in range(n):
        if label[top[i]] < 0:
            label[top[i]] = n_clusters
            n_clusters += np.int32(1)
        labels[i] = label[top[i]]


@compiled
def is_tree(tree: Array, n: int) -> bool:
    """Whether rows 0..n-2 use every node but the last once, after it was made, at heights that never decrease."""
    used = np.zeros(max(2 * n - 1, 0), np.bool_)
    for row in range(n - 1):
        for side in range(2):
            node = tree[row, side]
            if not (node >= 0 and node < n + row) or used[int(node)]:
                return False
            used[int(node)] = True
        if not tree[row, 2] >= tree[max(row - 1, 0), 2]:
            return False
    return True


@compiled
def children_first(tree: Array, size: Array, n: int) -> Array:
    """All rows of the tree, each after those of its children, the larger child's before the smaller's."""
    rows = np.empty(n - 1, np.int64)
    waiting = np.empty(n, np.int64)
    waiting[0], n_waiting = n - 2, 1
    for place in range(n - 2, -1, -1):
        n_waiting -= 1
        row = waiting[n_waiting]
        rows[place] = row
        u, v = int(tree[row, 0]), int(tree[row, 1])
        if size[u] < size[v]:
            u, v = v, u
        for child in (u, v):
            if child >= n:
                waiting[n_waiting] = child - n
                n_waiting += 1
    return rows


@compiled
def leaf_ranges(tree: Array, n: int) -> tuple[Array, Array, Array]:
    """start and size of every node's range in the leaf order, and that order: children side by side."""
    size = np.ones(2 * n - 1, np.int64)
    for row in range(n - 1):
        size[n + row] = size[int(tree[row, 0])] + size[int(tree[row, 1])]
    start = np.zeros(2 * n - 1, np.int64)
    for row in range(n - 2, -1, -1):
        u, v = int(tree[row, 0]), int(tree[row, 1])
        start[u] = start[n + row]
        start[v] = start[u] + size[u]
    order = np.empty(n, np.int64)
    for i in range(n):
        order[start[i]] = i
    return start, size, order
