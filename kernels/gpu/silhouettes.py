"""The silhouette of every cut of a tree on a GPU: one Triton program a neuron and COLS examples.

    _silhouettes_kernel  keeps each cluster's sums of distances to its examples, a row a cluster; a merge adds two rows,
                         then one pass over the rows that are left finds each example's nearest other cluster. O(n³ / 2)

A column is read and written by one thread, so only what a merge says of slots needs a barrier. Scores are added as
multiples of 2⁻⁴⁴, in any order alike, as in metrics.py; they differ from the CPU half's in the last bits. Holds a copy
of the distances in float64. For what is meant see `polysem.kernels.silhouettes`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.gpu.copies import working_copy
from polysem.kernels.gpu.tree import check_trees, rows_of

CONSTANTS = {"COLS": 128}
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
SCORE_UNIT = 2.0**-44
UNIT = tl.constexpr(SCORE_UNIT)
UNITS = tl.constexpr(2.0**44)


def cut_silhouettes(distances: Tensor, linkage: Tensor, n_examples: Tensor) -> Tensor:
    """Compute `polysem.kernels.silhouettes.cut_silhouettes` for tensors of one device."""
    sizes: Sizes = {"4": 4}
    matrix = checked("distances", distances, "B N N", sizes, (torch.float32,), distances.device)
    sizes["N-1"] = max(sizes["N"] - 1, 0)
    trees = checked("linkage", linkage, "B N-1 4", sizes, (torch.float64,), matrix.device)
    counts = checked_counts(n_examples, sizes, matrix.device)
    sums, counts = working_copy(matrix, check_trees(trees, counts), torch.float64)
    B, n_rows = trees.shape[:2]
    if B * n_rows == 0:
        return trees.new_empty(B, n_rows)
    scores = _scores(sums, trees, counts)
    rows, _ = rows_of(trees, counts)
    place = torch.arange(n_rows, device=trees.device)
    ends = (rows & (trees[..., 2] < trees[..., 2].roll(-1, 1))) | (place == counts[:, None] - 2)
    end = place.where(ends, n_rows - 1).flip(1).cummin(1).values.flip(1)  # of the merges at the same height
    silhouette = scores.double().mul(SCORE_UNIT).div(counts.clamp(min=1)[:, None]).gather(1, end)
    return silhouette.where(rows & (end < counts[:, None] - 2), torch.nan)


def _scores(sums: Tensor, trees: Tensor, counts: Tensor) -> Tensor:
    """(B, N-1) int64: the examples' scores after each merge, summed, in units of SCORE_UNIT."""
    B, N, stride = sums.shape
    blocks = triton.cdiv(N, CONSTANTS["COLS"])
    children = trees[:, :, :2].nan_to_num().int().contiguous()
    scratch = counts.new_empty((B, blocks, 5 * N))
    scores = torch.zeros((B, blocks, N - 1), dtype=torch.int64, device=sums.device)
    with torch.cuda.device_of(sums):
        _silhouettes_kernel[(B, blocks)](sums, children, counts, scratch, scores, N, stride, **CONSTANTS, **OPTIONS)
    return scores.sum(1)


@triton.jit(do_not_specialize=["N"])
def _silhouettes_kernel(
    sums,  # (B, N, stride) float64, distances with `inf` on the diagonal; spoilt
    children,  # (B, N - 1, 2) int32
    counts,  # (B,) int32
    scratch,  # (B, blocks, 5 N) int32
    scores,  # (B, blocks, N - 1) int64, out
    N,
    stride,
    COLS: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    here = b * tl.num_programs(1) + tl.program_id(1)
    of_neuron = sums + b * N * stride, children + b * (N - 1) * 2
    score_merges(*of_neuron, scratch + here * 5 * N, scores + here * (N - 1), column, n, N, stride, COLS)


@triton.jit
def score_merges(sums, children, scratch, scores, column, n, N, stride, COLS: tl.constexpr):
    """Write the scores of one neuron's examples `column` after each merge, summed, in units of SCORE_UNIT."""
    used = column < n
    live = scratch  # slots of the clusters that are left, in no order
    place = live + N  # of each slot among them
    size = place + N  # of each slot's cluster
    slot = size + N  # of each node
    for start in range(0, n, COLS):
        i = start + tl.arange(0, COLS)
        tl.store(live + i, i, mask=i < n)
        tl.store(place + i, i, mask=i < n)
        tl.store(size + i, 1, mask=i < n)
        tl.store(slot + i, i, mask=i < n)
    tl.debug_barrier()
    own = tl.zeros((COLS,), tl.float64)  # each example's sum of distances inside its cluster
    n_own = tl.zeros((COLS,), tl.float64) + 1.0
    for row in range(n - 2):
        left = n - 1 - row
        u = tl.load(slot + tl.load(children + 2 * row))
        v = tl.load(slot + tl.load(children + 2 * row + 1))
        together = tl.load(size + u) + tl.load(size + v)
        freed = tl.load(place + v)
        moved = tl.load(live + left)
        tl.debug_barrier()  # all has been read that is now written over
        tl.store(size + u, together)
        tl.store(slot + n + row, u)
        tl.store(live + freed, moved)
        tl.store(place + moved, freed)
        to_u = tl.load(sums + u * stride + column, mask=used, other=0.0)
        to_v = tl.load(sums + v * stride + column, mask=used, other=0.0)
        in_u = to_u == float("inf")
        in_v = to_v == float("inf")
        own += tl.where(in_u, tl.where(in_v, 0.0, to_v), tl.where(in_v, to_u, 0.0))
        n_own = tl.where(in_u | in_v, together.to(tl.float64), n_own)
        tl.store(sums + u * stride + column, to_u + to_v, mask=used)
        tl.debug_barrier()
        other = tl.full((COLS,), float("inf"), tl.float64)
        for p in range(left):
            cluster = tl.load(live + p)
            to_cluster = tl.load(sums + cluster * stride + column, mask=used, other=0.0)
            other = tl.minimum(other, to_cluster / tl.load(size + cluster).to(tl.float64))
        a = own / tl.maximum(n_own - 1.0, 1.0)
        scale = tl.maximum(a, other)
        scored = used & (n_own > 1.0) & (scale > 0.0)
        score = tl.where(scored, (other - a) / tl.where(scored, scale, 1.0), 0.0)
        units = score * UNITS
        whole = (units + tl.where(units < 0.0, -0.5, 0.5)).to(tl.int64)
        tl.store(scores + row, tl.sum(whole, 0))


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"sums": "*fp64", "children": "*i32", "counts": "*i32", "scratch": "*i32", "scores": "*i64"}
    yield _silhouettes_kernel, types | {"N": "i32", "stride": "i32:16"}, CONSTANTS, OPTIONS
