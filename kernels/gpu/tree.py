"""Cuts on a GPU, one Triton program a neuron. For what is meant see `polysem.kernels.tree`.

Every node jumps to the topmost kept node above it, twice as far each time: O(N log N) a neuron. All in integers, so the
result is exact, and the same in any batch. Checks are batched torch.
"""

import math
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import raise_if_no_tree
from polysem.kernels.gpu.blocks import one_program


def cut(linkage: Tensor, n_examples: Tensor, distance_threshold: float | Tensor) -> Tensor:
    """Compute `polysem.kernels.tree.cut` for tensors of one device."""
    sizes: Sizes = {"4": 4}
    device = linkage.device
    trees = checked("linkage", linkage, "B N-1 4", sizes, (torch.float64,), device)
    n_rows = sizes["N-1"]
    sizes["N"] = n_rows + 1
    counts = checked_counts(n_examples, sizes, device)
    thresholds = thresholds_of(distance_threshold, sizes["B"], device)
    counts = check_trees(trees, counts)
    if n_rows == 0:
        width = max(counts.tolist(), default=0)
        return torch.arange(width, device=device).expand(len(counts), -1).where(_used(counts, width), -1).int()
    labels = torch.empty(len(counts), n_rows + 1, dtype=torch.int32, device=device)
    if len(counts):
        scratch = counts.new_empty((len(counts), 4 * (n_rows + 1)))
        constants, options = one_program(n_rows + 1)
        with torch.cuda.device_of(trees):
            _cut_kernel[(len(counts),)](trees, counts, thresholds, scratch, labels, n_rows + 1, **constants, **options)
    return labels


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


def thresholds_of(distance_threshold: float | Tensor, n_neurons: int, device: torch.device) -> Tensor:
    """The threshold of each neuron, (B,) float64. Raises ValueError for one that is no number."""
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


@triton.jit(do_not_specialize=["N"])
def _cut_kernel(
    trees,  # (B, N - 1, 4) float64
    counts,  # (B,)
    thresholds,  # (B,) float64
    scratch,  # (B, 4 N) int32
    labels,  # (B, N) int32, out
    N,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    lane = tl.arange(0, BLOCK)
    label = cut_tree(trees + b * (N - 1) * 4, tl.load(thresholds + b), scratch + b * 4 * N, n, N, lane, BLOCK)
    tl.store(labels + b * N + lane, label, mask=lane < N)


@triton.jit
def cut_tree(tree, threshold, scratch, n, N, lane, BLOCK: tl.constexpr):
    """Each example's cluster in one neuron's tree (N - 1, 4) cut at `threshold`, (BLOCK,) int32; -1 in padding.

    scratch (4 N) int32
    """
    above = scratch  # each node's parent, where that is kept
    lowest = scratch + 2 * N  # example below each topmost node
    node = tl.arange(0, 2 * BLOCK)
    used = lane < n
    tl.store(above + node, node, mask=node < 2 * N)
    tl.store(lowest + node, BLOCK, mask=node < 2 * N)
    tl.debug_barrier()
    height = tl.load(tree + 4 * lane + 2, mask=lane < n - 1, other=float("inf"))
    kept = (lane < n - 1) & (height <= threshold)
    tl.store(above + tl.load(tree + 4 * lane, mask=kept, other=0.0).to(tl.int32), n + lane, mask=kept)
    tl.store(above + tl.load(tree + 4 * lane + 1, mask=kept, other=0.0).to(tl.int32), n + lane, mask=kept)
    tl.debug_barrier()
    top = tl.load(above + node, mask=node < 2 * N, other=0)
    steps = 1
    while steps < 2 * BLOCK:
        top = tl.gather(top, top, 0)
        steps *= 2
    top = tl.gather(top, lane, 0)
    tl.atomic_min(lowest + top, lane, mask=used)
    tl.debug_barrier()
    first = tl.load(lowest + top, mask=used, other=0)
    number = tl.cumsum((used & (first == lane)).to(tl.int32), 0) - 1
    return tl.where(used, tl.gather(number, first, 0), -1)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"trees": "*fp64", "counts": "*i32", "thresholds": "*fp64", "scratch": "*i32", "labels": "*i32", "N": "i32"}
    for N in (100, 1000, 4096):
        yield _cut_kernel, types, *one_program(N)
