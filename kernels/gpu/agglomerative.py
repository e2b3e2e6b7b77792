"""Agglomerative clustering of many neurons' examples: the nearest-neighbour chain, one Triton program a neuron.

    _chain_kernel  all merges of a neuron, in the chain's order: fewer than 3 n row scans and n row updates
    _rows_kernel   merges in the order of their heights, which torch sorts, and children renamed accordingly

The chain, its tie rules and its arithmetic are those of the CPU half, so the tree is too, to the byte. Hence IEEE
division, and `enable_fp_fusion=False`: with a·b + c·d contracted, a mean would hang on the order of its operands.

A scan is one integer minimum over distance and column; the chain's previous element stands before all columns, so of
equals it wins and the chain cannot circle. Which slots live, and when each last merged, is kept in registers. What a
merge needs to know of a slot (size, height, node) lies in a scratch row instead: few scalar loads a merge, no reduction
over the block. As on the CPU a merge rewrites one row and no column; a thread that reads a row takes what it lacks from
the rows of the clusters merged since, and leaves it there for itself. So a step waits for one row to come, for what it
lacks, and for one minimum, a merge for a second row and two barriers as well.

Costs O(n²) a neuron and holds a copy of the distances, B·N² floats. H200, N = 1000: 20 times its floor, one reading of
the distances. Columns that were written took twice as long (0.276 s against 0.138 for 6,144 neurons, H100): 32 bytes of
memory traffic for 4. Of 1 to 16 warps a neuron eight are best, but none worse than by 1.3.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts, raise_if_outside
from polysem.kernels.definitions import LINKAGES, Linkage, check_linkage
from polysem.kernels.gpu.blocks import one_program
from polysem.kernels.gpu.copies import working_copy

AVERAGE = tl.constexpr(LINKAGES["average"])
COMPLETE = tl.constexpr(LINKAGES["complete"])
INFINITE_BITS = 0x7F800000
SCRATCH_ROWS = 7


def linkage(distances: Tensor, n_examples: Tensor, method: Linkage = "average") -> Tensor:
    """Compute `polysem.kernels.agglomerative.linkage`, to the byte."""
    check_linkage(method)
    sizes: Sizes = {}
    matrix = checked("distances", distances, "B N N", sizes, (torch.float32,), distances.device)
    counts = checked_counts(n_examples, sizes, matrix.device)
    work, counts = working_copy(matrix, counts, torch.float32)
    return _tree(_merges(work, matrix, counts, LINKAGES[method]), counts)


def _merges(work: Tensor, matrix: Tensor, counts: Tensor, method: int) -> Tensor:
    """(B, N - 1, 4) int32 in the chain's order: two nodes, numbered in it too, the height's bits, the size."""
    B, N = matrix.shape[:2]
    merges = torch.full((B, max(N - 1, 0), 4), INFINITE_BITS, dtype=torch.int32, device=matrix.device)
    failed = torch.zeros_like(counts)
    if merges.numel():
        scratch = counts.new_empty((B, SCRATCH_ROWS, N))
        arguments = work, counts, scratch, merges, failed, N, work.shape[2]
        constants, options = one_program(N)
        with torch.cuda.device_of(work):
            _chain_kernel[(B,)](*arguments, METHOD=method, **constants, **options)
    faults.check(failed, lambda: raise_if_outside(failed.cpu().numpy(), matrix.cpu().numpy(), counts.cpu().numpy()))
    return merges


def _tree(merges: Tensor, counts: Tensor) -> Tensor:
    """(B, N - 1, 4) float64: sorted by height, stably, and each child named by the row that made it."""
    B, n_rows = merges.shape[:2]
    trees = torch.empty((B, n_rows, 4), dtype=torch.float64, device=merges.device)
    if trees.numel():
        order = merges[:, :, 2].sort(stable=True).indices.int()  # bits of floats from 0 up are in the floats' order
        constants, options = one_program(n_rows)
        with torch.cuda.device_of(merges):
            _rows_kernel[(B,)](merges, order, torch.empty_like(order), counts, trees, n_rows, **constants, **options)
    return trees


@triton.jit
def _chain_kernel(
    work,  # (B, N, stride) float32, `inf` on the diagonal; spoilt
    counts,  # (B,) int32
    scratch,  # (B, 7, N) int32
    merges,  # (B, N - 1, 4) int32, out: nodes, height's bits, size; n - 1 rows, children before parents
    failed,  # (B,) int32, out: 1 where the distances are not symmetric
    N,
    stride,
    METHOD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    row = merge_all(work + b * N * stride, scratch + b * 7 * N, merges + b * (N - 1) * 4, n, N, stride, METHOD, BLOCK)
    tl.store(failed + b, (row < n - 1).to(tl.int32))


@triton.jit
def merge_all(work, scratch, merges, n, N, stride, METHOD: tl.constexpr, BLOCK: tl.constexpr):
    """Write one neuron's merges in the chain's order; their number, below n - 1 where distances are not symmetric.

    A merged cluster lives in the later slot of its two. `merged`: how many merges there were after a slot's last.
    """
    chain = scratch
    live = scratch + N  # in no order, the first n - row of them
    place = scratch + 2 * N  # of each slot in it
    size = scratch + 3 * N
    height = scratch + 4 * N  # bits, of each slot's last merge
    node = scratch + 5 * N  # that lives in the slot
    known = scratch + 6 * N  # of how many merges each row knows
    slots = tl.arange(0, BLOCK)
    used = slots < n
    tl.store(live + slots, slots, mask=used)
    tl.store(place + slots, slots, mask=used)
    tl.store(size + slots, 1, mask=used)
    tl.store(height + slots, 0, mask=used)
    tl.store(node + slots, slots, mask=used)
    tl.store(known + slots, 0, mask=used)
    tl.store(chain, 0, mask=n > 0)
    tl.debug_barrier()

    alive = used
    merged = tl.zeros([BLOCK], tl.int32)
    row = 0
    length = 1
    top = 0
    before = -1  # the chain's last element but one
    while (row < n - 1) & (length <= n):
        near = tl.load(work + top * stride + slots, mask=alive, other=float("inf"))
        told = alive & (merged > tl.load(known + top))
        near = tl.where(told, tl.load(work + slots * stride + top, mask=told, other=0.0), near)
        tl.store(work + top * stride + slots, near, mask=told)
        ordered = tl.where(slots == before, 0, slots + 1)
        least = tl.min((near.to(tl.int32, bitcast=True).to(tl.int64) << 32) | ordered.to(tl.int64), 0)
        nearest = least.to(tl.int32) - 1
        if nearest < 0:  # top and before are each other's nearest
            also = tl.load(work + before * stride + slots, mask=alive, other=float("inf"))
            told = alive & (merged > tl.load(known + before))
            also = tl.where(told, tl.load(work + slots * stride + before, mask=told, other=0.0), also)
            n_top = tl.load(size + top)
            n_before = tl.load(size + before)
            node_top = tl.load(node + top)
            node_before = tl.load(node + before)
            # rounding may put a mean one unit below its children's: a tree never descends
            lowest = tl.maximum(tl.load(height + top), tl.load(height + before))
            bits = tl.maximum((least >> 32).to(tl.int32), lowest)
            first = tl.minimum(top, before)
            last = tl.maximum(top, before)
            freed = tl.load(place + first)
            moved = tl.load(live + n - 1 - row)
            if METHOD == AVERAGE:
                share_top = n_top.to(tl.float32)
                share_before = n_before.to(tl.float32)
                joined = tl.div_rn(share_top * near + share_before * also, share_top + share_before)
            elif METHOD == COMPLETE:
                joined = tl.maximum(near, also)
            else:
                joined = tl.minimum(near, also)
            joined = tl.where(slots == last, float("inf"), joined)
            alive &= slots != first
            merged = tl.where(slots == last, row + 1, merged)
            tl.debug_barrier()  # all has been read that is now written over
            tl.store(work + last * stride + slots, joined, mask=alive)
            tl.store(known + last, row + 1)
            tl.store(size + last, n_top + n_before)
            tl.store(height + last, bits)
            tl.store(node + last, n + row)
            tl.store(live + freed, moved)
            tl.store(place + moved, freed)
            tl.store(merges + 4 * row, node_top)
            tl.store(merges + 4 * row + 1, node_before)
            tl.store(merges + 4 * row + 2, bits)
            tl.store(merges + 4 * row + 3, n_top + n_before)
            tl.debug_barrier()
            row += 1
            length -= 2
            top = tl.load(scratch + tl.where(length > 0, length - 1, N))  # live[0] begins a new chain
            before = tl.load(chain + length - 2, mask=length > 1, other=-1)
            tl.store(chain, top, mask=length == 0)
            length = tl.maximum(length, 1)
        else:
            tl.store(known + top, row)  # not before the minimum, for which all threads had to read what it was
            tl.store(chain + length, nearest, mask=length < n)
            before = top
            top = nearest
            length += 1
    return row


@triton.jit(do_not_specialize=["n_rows"])
def _rows_kernel(
    merges,  # (B, n_rows, 4) int32
    order,  # (B, n_rows) int32: merges by height
    place,  # (B, n_rows) int32 scratch
    counts,  # (B,)
    trees,  # (B, n_rows, 4) float64, out
    n_rows,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    lane = tl.arange(0, BLOCK)
    place += b * n_rows
    tl.store(place + tl.load(order + b * n_rows + lane, mask=lane < n_rows, other=0), lane, mask=lane < n_rows)
    tl.debug_barrier()
    rank = tl.load(place + lane, mask=lane < n_rows, other=0)
    write_rows(merges + b * n_rows * 4, rank, n, n_rows, trees + b * n_rows * 4, lane)


@triton.jit
def rank_of(merges, n, lane):
    """A small neuron's merges by height, of equals the earlier first: each one's place among the n - 1, (BLOCK,) int32.

    All pairs are compared, one merge with all at a time: at once they would take every register.
    """
    bits = tl.load(merges + 4 * lane + 2, mask=lane < n - 1, other=0x7F800000)
    rank = lane * 0
    for k in range(n - 1):
        other = tl.load(merges + 4 * k + 2)
        rank += ((other < bits) | ((other == bits) & (k < lane))).to(tl.int32)
    return rank


@triton.jit
def write_rows(merges, rank, n, n_rows, tree, lane):
    """Write one neuron's tree (n_rows, 4): merge m is row rank[m]; NaN from row n - 1 on."""
    used = lane < n - 1
    u = _renamed(tl.load(merges + 4 * lane, mask=used, other=0), rank, n)
    v = _renamed(tl.load(merges + 4 * lane + 1, mask=used, other=0), rank, n)
    height = tl.load(merges + 4 * lane + 2, mask=used, other=0).to(tl.float32, bitcast=True)
    size = tl.load(merges + 4 * lane + 3, mask=used, other=0)
    row = tree + 4 * tl.where(used, rank, lane)
    is_row = lane < n_rows
    tl.store(row, tl.where(used, tl.minimum(u, v).to(tl.float64), float("nan")), mask=is_row)
    tl.store(row + 1, tl.where(used, tl.maximum(u, v).to(tl.float64), float("nan")), mask=is_row)
    tl.store(row + 2, tl.where(used, height.to(tl.float64), float("nan")), mask=is_row)
    tl.store(row + 3, tl.where(used, size.to(tl.float64), float("nan")), mask=is_row)


@triton.jit
def _renamed(node, rank, n):
    """Return the tree's number of a node that the chain numbered."""
    made = (node >= n) & (node < 2 * n - 1)  # beyond where a merge never came
    return tl.where(made, n + tl.gather(rank, tl.where(made, node - n, 0), 0), node)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way in which the kernels are launched, for compiling ahead of time."""
    lengths = {"N": "i32", "stride": "i32:16"}
    chained = {"work": "*fp32", "counts": "*i32", "scratch": "*i32", "merges": "*i32", "failed": "*i32"}
    for method, N in (("average", 100), ("average", 1000), ("complete", 1000), ("single", 1000), ("average", 4096)):
        constants, options = one_program(N)
        yield _chain_kernel, chained | lengths, constants | {"METHOD": LINKAGES[method]}, options
    types = {"merges": "*i32", "order": "*i32", "place": "*i32", "counts": "*i32", "trees": "*fp64", "n_rows": "i32"}
    for n_rows in (100, 4096):
        yield _rows_kernel, types, *one_program(n_rows)
