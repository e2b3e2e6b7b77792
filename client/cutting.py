"""Cut a neuron's tree anywhere, on the client: the same answer as the server's kernels give (kernels/tree.py).

Each merge's node knows its central example and its mean pairwise distance, so clusters, their centres, intra and inter
follow from the tree alone.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray, IntArray


class Tree(NamedTuple):
    """A tree of n examples: M = n − 1 merges, heights never decreasing.

    merges          (M, 2) int32: the nodes joined; i < n is example i, n + i is merge i
    heights         (M,) float64
    centrals        (M,) int32: central example of each merge's node
    mean_distances  (M,) float64: over the pairs in each merge's node
    """

    merges: IntArray
    heights: DoubleArray
    centrals: IntArray
    mean_distances: DoubleArray


def linkage(tree: Tree) -> DoubleArray:
    """SciPy's linkage matrix (M, 4): the two nodes, their distance, the examples under both."""
    n = len(tree.merges) + 1
    z = np.empty((len(tree.merges), 4))
    z[:, :2], z[:, 2] = tree.merges, tree.heights
    sizes = node_sizes(tree, n)
    z[:, 3] = sizes[n:]
    return z


def node_sizes(tree: Tree, n: int) -> IntArray:
    """(n + M,) int32: examples under each node."""
    sizes = np.ones(n + len(tree.merges), np.int32)
    for i, (a, b) in enumerate(tree.merges.tolist()):
        sizes[n + i] = sizes[a] + sizes[b]
    return sizes


def _top_of_each(tree: Tree, n: int, distance_threshold: float) -> IntArray:
    """(n,) the highest node at or below the threshold over each example."""
    kept = int(np.searchsorted(tree.heights, distance_threshold, side="right"))
    top = np.arange(n + kept, dtype=np.int32)
    for i in range(kept - 1, -1, -1):  # from the root down: a node's children have its top
        top[tree.merges[i]] = top[n + i]
    return top[:n]


def labels(tree: Tree, n: int, distance_threshold: float) -> IntArray:
    """(n,) int32 cluster of each example, numbered by first appearance: merges with height <= threshold."""
    return _numbered(_top_of_each(tree, n, distance_threshold))


def _numbered(groups: Array) -> IntArray:
    """(n,) int32: groups by their numbers, renumbered by first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def top_nodes(tree: Tree, n: int, distance_threshold: float) -> list[int]:
    """The node of each cluster, in the order of the labels."""
    return list(dict.fromkeys(_top_of_each(tree, n, distance_threshold).tolist()))


def significant_labels(tree: Tree, n: int, significant: IntArray) -> IntArray:
    """(n,) int32: groups that the significant merges (M,) tell apart, from the root down; by first appearance."""
    top = np.arange(n + len(tree.merges))  # the group that each node belongs to, by its topmost node
    for i in range(len(tree.merges) - 1, -1, -1):
        if top[n + i] != n + i or not significant[i]:
            top[tree.merges[i]] = top[n + i]
    return _numbered(top[:n])


def suggested_cut(tree: Tree, n: int, groups: IntArray) -> float | None:
    """The cut that agrees best with the groups (n,), by adjusted Rand index; of equals the highest. None for n < 2.

    It lies half-way between two merges, or at the root's height.
    """
    if n < 2:
        return None
    heights = [0.0, *np.unique(tree.heights).tolist()]
    cuts: list[float] = [(low + high) / 2 for low, high in itertools.pairwise(heights)] + heights[-1:]
    return max(cuts, key=lambda cut: (_adjusted_rand(labels(tree, n, cut), groups), cut))


def _adjusted_rand(a: IntArray, b: IntArray) -> float:
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)
    together, in_a, in_b = ((x * (x - 1) / 2).sum() for x in (table, table.sum(1), table.sum(0)))
    expected = in_a * in_b / (len(a) * (len(a) - 1) / 2)
    most = (in_a + in_b) / 2
    return float((together - expected) / (most - expected)) if most > expected else 1.0


def intra_and_inter(tree: Tree, n: int, tops: Sequence[int]) -> tuple[float | None, float | None]:
    """Mean distance over all pairs in the same cluster, and over all in different ones; None where there is no pair."""
    if n < 2:
        return None, None
    sizes = node_sizes(tree, n)[list(tops)].astype(np.float64)
    pairs = sizes * (sizes - 1) / 2
    means = np.array([0.0 if node < n else tree.mean_distances[node - n] for node in tops])
    within, n_within, n_all = float(pairs @ means), float(pairs.sum()), n * (n - 1) / 2
    total = float(tree.mean_distances[-1]) * n_all
    intra = within / n_within if n_within else None
    inter = (total - within) / (n_all - n_within) if n_all > n_within else None
    return intra, inter
