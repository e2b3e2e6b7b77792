"""Cuts on a GPU: batched torch, no kernel of our own. For what is meant see `polysem.kernels.tree`.

Every node jumps to the topmost kept node above it, twice as far each time: O(N log N) a neuron, 2·log N launches a
batch. All in integers, so the result is exact, and the same in any batch.
"""

import math
from typing import NoReturn

import torch
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import raise_if_no_tree


def cut(linkage: Tensor, n_examples: Tensor, distance_threshold: float | Tensor) -> Tensor:
    """Compute `polysem.kernels.tree.cut` for tensors of one device."""
    sizes: Sizes = {"4": 4}
    device = linkage.device
    trees = checked("linkage", linkage, "B N-1 4", sizes, (torch.float64,), device)
    n_rows = sizes["N-1"]
    sizes["N"] = n_rows + 1
    counts = checked_counts(n_examples, sizes, device)
    thresholds = _thresholds(distance_threshold, sizes["B"], device)
    counts = check_trees(trees, counts)
    if n_rows == 0:
        width = max(counts.tolist(), default=0)
        return torch.arange(width, device=device).expand(len(counts), -1).where(_used(counts, width), -1).int()
    return _numbered(_topmost(trees, counts, thresholds), counts)


def check_trees(trees: Tensor, counts: Tensor) -> Tensor:
    """Check that every neuron's rows are a tree; the counts to go on with."""
    rows, node = rows_of(trees, counts)
    ordered = ((trees[..., :2] >= 0) & (trees[..., :2] < node[..., None])).all(2)
    ordered &= trees[..., 2] >= trees[..., 2].roll(1, 1).where(node > counts[:, None], trees[..., 2])
    children = trees[..., :2].where((rows & ordered)[..., None], -1).long().flatten(1)
    times_used = counts.new_zeros(len(counts), 2 * trees.shape[1] + 2).scatter_add_(
        1, children + 1, torch.ones_like(children, dtype=counts.dtype)
    )
    bad = (rows & ~ordered).any(1) | (times_used[:, 1:] > 1).any(1)
    faults.check(bad, lambda: raise_if_no_tree(bad.cpu().numpy()))
    return faults.sound(counts, bad)


def rows_of(trees: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are used, and the node that each makes: (B, N-1) bool and int64."""
    row = torch.arange(trees.shape[1], device=trees.device)
    return row < counts[:, None] - 1, row + counts[:, None]


def _used(counts: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=counts.device) < counts[:, None]


def _thresholds(distance_threshold: float | Tensor, n_neurons: int, device: torch.device) -> Tensor:
    if isinstance(distance_threshold, Tensor) and distance_threshold.ndim > 0:
        dtypes = (torch.float64, torch.float32)
        thresholds = checked("distance_threshold", distance_threshold, "B", {"B": n_neurons}, dtypes, device).double()
        faults.check(thresholds.isnan(), lambda: _raise_no_number(distance_threshold))
        return thresholds
    if math.isnan(threshold := float(distance_threshold)):
        _raise_no_number(distance_threshold)
    return torch.full((n_neurons,), threshold, dtype=torch.float64, device=device)


def _raise_no_number(distance_threshold: float | Tensor) -> NoReturn:
    raise ValueError(f"distance_threshold is {distance_threshold}; expected a number")


def _topmost(trees: Tensor, counts: Tensor, thresholds: Tensor) -> Tensor:
    """The topmost kept node above each example, itself if none: (B, N) int64."""
    rows, node = rows_of(trees, counts)
    kept = (rows & (trees[..., 2] <= thresholds[:, None]))[..., None]
    n_nodes = 2 * trees.shape[1] + 1
    above = torch.arange(n_nodes + 1, device=trees.device).repeat(len(counts), 1)  # the last takes what is not kept
    children = trees[..., :2].where(kept, n_nodes).long()
    above.scatter_(1, children.flatten(1), node[..., None].where(kept, n_nodes).expand_as(children).flatten(1))
    for _ in range(n_nodes.bit_length()):
        above = above.gather(1, above)
    return above[:, : trees.shape[1] + 1]


def _numbered(names: Tensor, counts: Tensor) -> Tensor:
    """names (B, N) within 0..2N-2, renumbered by first appearance as int32; -1 in padding."""
    B, N = names.shape
    used = _used(counts, N)
    place = torch.arange(N, device=names.device).expand(B, N)
    names = names.where(used, 2 * N - 1)
    first = place.new_full((B, 2 * N), N).scatter_reduce_(1, names, place, "amin").gather(1, names)
    number = (used & (first == place)).cumsum(1) - 1
    return number.gather(1, first).where(used, -1).int()
