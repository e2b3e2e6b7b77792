"""Which merges of a tree are significant: the rotation test from the root down.

significant_merges  Kimes, Liu, Hayes and Marron 2017, "Statistical significance for hierarchical clustering": the node
                    of all examples is tested at `level`; where that rejects, its two children are, each at its share
                    of the level, and so on. Made of the kernels of the rotation test: CPU and CUDA

A node is tested by `significance`'s rotation test of its examples, their own mean subtracted: are they more than one
Gaussian cloud? So the p-values depend on which examples a node holds, not on the frame in which the tree was made.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels import significance
from polysem.kernels.definitions import Linkage
from polysem.kernels.null_silhouettes import null_silhouettes
from polysem.kernels.products import gathered_products
from polysem.kernels.significance import TIE, RotationTest
from polysem.kernels.tree import check_trees, tree_arguments

LEVEL = 0.05
N_NULL = 99
MOST_NULLS = 1999
LEAST_EXAMPLES = 3  # of a node that can be tested
ROUNDS = (19, 99, 199, 399, 799, 1599, MOST_NULLS)  # rotations of a node after which it is asked whether to go on
PADDED = 1.2  # nodes are tested together that are at most so many times as large as the smallest, or that are FEW
FEW = 64 * 100 * 100  # entries of Gram matrices, padded
ROOM = 64 * FEW  # of them at a time


class MergeTests(NamedTuple):
    """root: of each neuron's root, (B,) each. The others are one entry a row of the linkage, (B, max(N-1, 0))."""

    root: RotationTest  # n_null rotations
    p_value: Tensor  # float64; NaN where a node was not tested: too small, or its parent is not significant
    significant: Tensor  # bool: the node is more than one cloud, so its two children are told apart


def level_of(n_in_node: int, n: int, level: float = LEVEL) -> float:
    """The level at which a node of n_in_node of the neuron's n examples is tested (Kimes et al. 2017, section 3)."""
    return level * (n_in_node - 1) / (n - 1)


def nulls_for(level: float, n_null: int = N_NULL) -> int:
    """Rotations with which a p-value can reach the level: at least n_null."""
    return max(n_null, math.ceil(1 / level - 1e-9) - 1)


def significant_merges(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    linkage: Tensor,
    offsets: Tensor | None = None,
    *,
    n_null: int = N_NULL,
    seed: int = 0,
    level: float = LEVEL,
    method: Linkage = "average",
) -> MergeTests:
    """Test each neuron's merges from the root down.

    rows … n_examples, offsets  those of `distances.gathered_cosine_distances`
    linkage  (B, max(N-1, 0), 4) float64: the neurons' trees, however they were made
    n_null   rotations of the root; smaller nodes get as many as their level needs, at most MOST_NULLS, and are not
             significant where that is too few
    seed     0..2⁶³ - 1: of the rotations
    level    of the root, 0 to 1; a node of m of n examples has level · (m - 1) / (n - 1)
    method   the linkage of the trees inside the test

    A neuron gives the same bytes in any batch. Raises what `rotation_test` raises, ValueError for a level outside 0..1
    and for what is no tree. Cost: n_null rotations of the root; if it is significant, 19 of each child and so on, and
    up to MOST_NULLS while so few are as good as the node itself that it can be significant.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected more than 0 and less than 1")
    trees, counts, _ = tree_arguments(linkage.cpu(), n_examples.cpu())
    check_trees(trees, counts)
    root = significance.gathered_rotation_test(
        rows, example_rows, weights, n_examples, offsets, n_null, seed, method=method
    )
    p_value = np.full(trees.shape[:2], np.nan)
    significant = np.zeros(trees.shape[:2], bool)
    nodes: list[_Node] = []
    for b, p in enumerate(root.p_value.tolist()):
        if counts[b] >= LEAST_EXAMPLES:
            p_value[b, counts[b] - 2], significant[b, counts[b] - 2] = p, p <= level
            nodes += _children(trees, counts, b, int(counts[b]) - 2) if p <= level else []
    tester = _Tester(rows, example_rows, weights, offsets, seed, method)
    while nodes:
        found: list[_Node] = []
        for together in _batches(nodes):
            levels = [level_of(len(node.members), int(counts[node.neuron]), level) for node in together]
            for node, (p, more) in zip(together, tester.tested(together, levels), strict=True):
                p_value[node.neuron, node.row], significant[node.neuron, node.row] = p, more
                found += _children(trees, counts, node.neuron, node.row) if more else []
        nodes = found
    device = rows.device
    return MergeTests(root, torch.from_numpy(p_value).to(device), torch.from_numpy(significant).to(device))


def significant_clusters(linkage: Tensor, significant: Tensor, n_examples: Tensor) -> Tensor:
    """Return how many groups of 3 examples or more the significant merges tell apart, (B,) int64; 0 below 3 examples.

    linkage, n_examples  as in `significant_merges`; significant (B, max(N-1, 0)) bool: as it returns it
    """
    trees, told = linkage.cpu().numpy(), significant.cpu().numpy()
    found = [_n_groups(trees[b], told[b], n) for b, n in enumerate(n_examples.tolist())]
    return torch.tensor(found, dtype=torch.int64, device=linkage.device)


def _n_groups(tree: NDArray[np.float64], significant: NDArray[np.bool_], n: int) -> int:
    waiting, found = [2 * n - 2] if n >= LEAST_EXAMPLES else [], 0
    while waiting:
        node = waiting.pop()
        if node >= n and significant[node - n]:
            waiting += [int(child) for child in tree[node - n, :2]]
        else:
            found += node >= n and tree[node - n, 3] >= LEAST_EXAMPLES
    return found


class _Node(NamedTuple):
    neuron: int
    row: int
    members: NDArray[np.int64]


def members_of(tree: NDArray[np.float64], n: int, node: int) -> NDArray[np.int64]:
    """The examples under a node, ascending."""
    waiting, found = [node], []
    while waiting:
        at = waiting.pop()
        if at < n:
            found.append(at)
        else:
            waiting += [int(child) for child in tree[at - n, :2]]
    return np.sort(np.array(found, np.int64))


def _children(trees: NDArray[np.float64], counts: NDArray[np.int64], b: int, row: int) -> list[_Node]:
    """The children of a row that are large enough to be tested."""
    n = int(counts[b])
    nodes = [int(child) for child in trees[b, row, :2] if child >= n]
    made = [_Node(b, node - n, members_of(trees[b], n, node)) for node in nodes]
    return [node for node in made if len(node.members) >= LEAST_EXAMPLES]


def _batches(nodes: Sequence[_Node]) -> Iterator[list[_Node]]:
    """Few nodes together, and many of about one size."""
    batch: list[_Node] = []
    for node in sorted(nodes, key=lambda node: len(node.members)):
        size = len(node.members)
        n_entries = (len(batch) + 1) * size**2
        if batch and (n_entries > ROOM or (n_entries > FEW and size > PADDED * len(batch[0].members))):
            yield batch
            batch = []
        batch.append(node)
    if batch:
        yield batch


class _Tester:
    def __init__(
        self, rows: Tensor, example_rows: Tensor, weights: Tensor, offsets: Tensor | None, seed: int, method: Linkage
    ) -> None:
        self._rows, self._used, self._weights, self._offsets = rows, example_rows, weights, offsets
        self._seed, self._method = seed, method

    def tested(self, nodes: Sequence[_Node], levels: Sequence[float]) -> list[tuple[float, bool]]:
        """The p-value of each node and whether it is significant: ROUNDS of rotations while its level can be reached.

        Rotations that are as good never grow fewer, so a node that stops would not be significant with all of them.
        """
        counts = torch.tensor([len(node.members) for node in nodes], device=self._rows.device)
        gram, best = self._prepared(nodes, counts)
        needed = np.array([nulls_for(level) for level in levels])
        n_most = np.floor(np.array(levels) * (1 + needed) * (1 + 1e-9)).astype(int) - 1  # as good, if significant
        n_most[needed > MOST_NULLS] = -1
        n_done, n_as_good = np.zeros((2, len(nodes)), int)
        left, first = np.arange(len(nodes)), 0
        for last in ROUNDS:
            at = torch.from_numpy(left).to(gram.device)
            nulls = null_silhouettes(gram[at], counts[at], first, last, self._seed, self._method)
            as_good = (nulls >= best[at, None] - TIE).cpu().numpy()
            n_done[left] = np.minimum(needed[left], last)
            n_as_good[left] += (as_good & (np.arange(first, last) < needed[left, None])).sum(1)
            left = left[(n_as_good[left] <= n_most[left]) & (n_done[left] < needed[left])]
            if not len(left):
                break
            first = last
        p_values = (1 + n_as_good) / (1 + n_done)
        return list(zip(p_values.tolist(), (n_as_good <= n_most).tolist(), strict=True))

    def _prepared(self, nodes: Sequence[_Node], counts: Tensor) -> tuple[Tensor, Tensor]:
        """Gram matrices and best silhouettes of the nodes' examples, their own mean subtracted."""
        width = max(len(node.members) for node in nodes)
        neurons = torch.tensor([node.neuron for node in nodes], device=self._rows.device)
        members = np.stack([np.pad(node.members, (0, width - len(node.members))) for node in nodes])
        used = self._used[neurons].long().gather(1, torch.from_numpy(members).to(self._rows.device))
        weights = self._weights[neurons]
        offsets = None if self._offsets is None else self._offsets[neurons]
        rows = self._rows
        offsets = significance.centring_offsets(rows, used, weights, counts, offsets)
        best = significance.statistics_of(rows, used, weights, counts, offsets, method=self._method)
        return gathered_products(rows, used, weights, counts, offsets), best
