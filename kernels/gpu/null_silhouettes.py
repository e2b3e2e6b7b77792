"""The best silhouettes of rotations on a GPU.

    _nulls_kernel  up to LARGEST examples: a program takes one null after the other from the neuron's turned inner
                   products to the best silhouette, by the device functions of products.py, rotations.py,
                   agglomerative.py and silhouettes.py, in scratch of its own: 12 N² bytes, and 112 N for the rest
    _step_by_step  more examples: those files' kernels one after the other

Both add the same products in the same order, span by span: in the interpreter a neuron gives the same bytes whichever
it is. Within a span tensor cores may add in another order, since here eight warps share a tile, not four.

Occupancy by the compiler's figures (average linkage): 255 registers a thread, 16 bytes spilled on sm_90 and 48 on
sm_80, 48 and 32 KiB of shared memory. Eight warps of such threads fill the 65,536 registers of a multiprocessor: it has
one program.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import LINKAGES, Linkage, check_linkage
from polysem.kernels.gpu.agglomerative import linkage, merge_all, rank_of, write_rows
from polysem.kernels.gpu.blocks import LARGEST, NO_FUSION, n_programs
from polysem.kernels.gpu.copies import LINE
from polysem.kernels.gpu.products import SHAPE, product_tile
from polysem.kernels.gpu.rotations import distance_tile, drawn, rotated_distances, turned_products
from polysem.kernels.gpu.silhouettes import UNIT, cut_silhouettes, score_merges
from polysem.kernels.rotations import check_nulls
from polysem.kernels.silhouettes import best_of_cuts

ROOM = 1 << 30  # bytes of null distances at a time, or of all that nulls are made of
INTEGERS = tl.constexpr(18)  # of scratch, an example
CONSTANTS = {"BLOCK": LARGEST, "ROWS": 8, "TILE": SHAPE["TILE"], "DEPTH": SHAPE["BLOCK"]}
OPTIONS = {"num_warps": 8, **NO_FUSION}  # four spill more of the products than a few registers


def null_silhouettes(
    products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0, method: Linkage = "average"
) -> Tensor:
    """Compute `polysem.kernels.null_silhouettes.null_silhouettes`; memory: 1 GiB, or one null where that is more."""
    check_nulls(first, last, seed)
    check_linkage(method)
    sizes: Sizes = {}
    gram = checked("products", products, "B N N", sizes, (torch.float32,), products.device)
    counts = checked_counts(n_examples, sizes, gram.device)
    of_nulls = _in_one_launch if gram.shape[1] <= LARGEST else _step_by_step
    return of_nulls(gram, counts, first, last, seed, method)


def _step_by_step(gram: Tensor, counts: Tensor, first: int, last: int, seed: int, method: Linkage) -> Tensor:
    B, N = gram.shape[:2]
    at_once = ROOM // (4 * max(N, 1) ** 2)
    n_nulls = max(1, min(last - first, at_once))
    n_neurons = max(1, at_once // n_nulls)
    result = gram.new_empty((B, last - first), dtype=torch.float64)
    for b in range(0, B, n_neurons):
        mine = counts[b : b + n_neurons]
        for r in range(first, last, n_nulls):
            end = min(r + n_nulls, last)
            d = rotated_distances(gram[b : b + n_neurons], mine, r, end, seed).flatten(0, 1)
            repeated = mine.repeat_interleave(end - r)
            best = best_of_cuts(cut_silhouettes(d, linkage(d, repeated, method), repeated), repeated)
            result[b : b + n_neurons, r - first : end - first] = best.view(len(mine), end - r)
    return result


def _in_one_launch(gram: Tensor, counts: Tensor, first: int, last: int, seed: int, method: Linkage) -> Tensor:
    B, N = gram.shape[:2]
    n_nulls = last - first
    result = gram.new_empty((B, n_nulls), dtype=torch.float64)
    n_neurons = max(1, ROOM // (16 * max(N, 1) ** 2 + 12 * N * n_nulls))
    for b in range(0, B, n_neurons):
        part = slice(b, b + n_neurons)
        _launch(gram[part], counts[part], first, last, seed, LINKAGES[method], result[part])
    return result


def _launch(gram: Tensor, counts: Tensor, first: int, last: int, seed: int, method: int, result: Tensor) -> None:
    """Fill result (B, last - first)."""
    N = gram.shape[1]
    stride = triton.cdiv(max(N, 1), LINE) * LINE
    n_units = result.numel()
    programs = n_programs(gram.device, n_units, 12 * N * stride)
    turn, order = drawn(counts, N, first, last, seed)
    wide = result.new_empty((programs, 3 * N * stride // 2))
    integers = counts.new_empty((programs, INTEGERS.value * N))
    trees, scores = result.new_empty((programs, 4 * N)), counts.new_empty((programs, N), dtype=torch.int64)
    of_neurons = turn, order.int(), turned_products(gram, turn, counts), counts
    scratch = wide.view(torch.float32), wide, integers, trees, scores
    numbers = n_units, last - first, N, stride
    with torch.cuda.device_of(gram):
        _nulls_kernel[(programs,)](*of_neurons, *scratch, result, *numbers, METHOD=method, **CONSTANTS, **OPTIONS)


@triton.jit(do_not_specialize=["n_units", "n_nulls", "N"])
def _nulls_kernel(
    turns,  # (B, N, N) float32: Q
    orders,  # (B, n_nulls, N) int32
    turned,  # (B, N, N) float32: Q G Qᵀ
    counts,  # (B,) int32
    singles,  # (P, 3, N, stride) float32 scratch
    doubles,  # the same memory as float64
    integers,  # (P, INTEGERS, N) int32 scratch
    trees,  # (P, N, 4) float64 scratch
    scores,  # (P, N) int64 scratch
    best,  # (B, n_nulls) float64, out
    n_units,
    n_nulls,
    N,
    stride,
    METHOD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    size = N * stride
    singles += program * 3 * size
    sums = doubles + (program * 3 + 1) * size // 2  # over the last two of the three
    integers += program * INTEGERS * N
    merges = integers + 7 * N  # behind the chain's scratch
    children = integers + 11 * N  # behind the merges
    tree = trees + program * 4 * N
    scores += program * N
    lane = tl.arange(0, BLOCK)
    for at in range(tl.program_id(0), n_units, tl.num_programs(0)):
        unit = program * 0 + at  # in 64 bits
        b = unit // n_nulls
        n = tl.load(counts + b)
        order = tl.load(orders + unit * N + lane, mask=lane < n, other=0)
        of_neuron = turns + b * N * N, turned + b * N * N
        _rotate(*of_neuron, order, singles, sums, n, N, stride, lane, ROWS, TILE, DEPTH)
        merge_all(singles, integers, merges, n, N, stride, METHOD, BLOCK)
        tl.debug_barrier()
        write_rows(merges, rank_of(merges, n, lane), n, n - 1, tree, lane)
        tl.debug_barrier()
        for side in tl.static_range(2):
            child = tl.load(tree + 4 * lane + side, mask=lane < n - 1, other=0.0)
            tl.store(children + 2 * lane + side, child.to(tl.int32), mask=lane < n - 1)
        tl.debug_barrier()
        score_merges(sums, children, integers + 13 * N, scores, lane, n, N, stride, BLOCK)
        tl.debug_barrier()
        tl.store(best + unit, _best(tree, scores, n, lane))
        tl.debug_barrier()  # before the next null takes the scratch


@triton.jit
def _rotate(
    turn, turned, order, singles, sums, n, N, stride, lane,
    ROWS: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write one null's distances, `inf` on the diagonal: into the first of singles, and in float64 over the others."""
    left = singles
    product = left + N * stride
    rotated = product + N * stride
    for first in range(0, n, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (lane < n)[None, :]
        entry = tl.load(turn + order[None, :] * N + row[:, None], mask=inside)
        tl.store(left + row[:, None] * stride + lane[None, :], entry, mask=inside)
    tl.debug_barrier()
    _multiply(left, stride, turned, N, product, n, stride, TILE, DEPTH)
    tl.debug_barrier()
    _multiply(product, stride, left, stride, rotated, n, stride, TILE, DEPTH)
    tl.debug_barrier()
    for first in range(0, n, ROWS):
        row = first + tl.arange(0, ROWS)
        distance = tl.where(row[:, None] == lane[None, :], float("inf"), distance_tile(rotated, row, lane, n, stride))
        inside = (row < n)[:, None] & (lane < n)[None, :]
        tl.store(left + row[:, None] * stride + lane[None, :], distance, mask=inside)
    tl.debug_barrier()
    for first in range(0, n, ROWS):
        place = (first + tl.arange(0, ROWS))[:, None] * stride + lane[None, :]
        inside = (first + tl.arange(0, ROWS) < n)[:, None] & (lane < n)[None, :]
        tl.store(sums + place, tl.load(left + place, mask=inside, other=0.0).to(tl.float64), mask=inside)
    tl.debug_barrier()


@triton.jit
def _multiply(a, a_stride, b, b_stride, result, n, stride, TILE: tl.constexpr, DEPTH: tl.constexpr):
    """Write a · bᵀ, all n × n."""
    for first in range(0, n, TILE):
        i = first + tl.arange(0, TILE)
        for second in range(0, n, TILE):
            j = second + tl.arange(0, TILE)
            total = product_tile(a, a_stride, b, b_stride, i, j, n, n, n, TILE, DEPTH)
            tl.store(result + i[:, None] * stride + j[None, :], total, mask=(i < n)[:, None] & (j < n)[None, :])


@triton.jit
def _best(tree, scores, n, lane):
    """The best silhouette of a tree's cuts into two clusters or more: 0 where none separates, NaN below 3 examples."""
    is_cut = lane < n - 2
    height = tl.load(tree + 4 * lane + 2, mask=is_cut, other=0.0)
    is_cut &= height < tl.load(tree + 4 * lane + 6, mask=is_cut, other=0.0)
    units = tl.load(scores + lane, mask=is_cut, other=0)
    lowest = tl.full(lane.shape, -(2**62), tl.int64)
    most = tl.max(tl.where(is_cut, units, lowest), 0)
    found = tl.sum(is_cut.to(tl.int32), 0) > 0
    best = tl.where(found, most.to(tl.float64) * UNIT / tl.maximum(n, 1).to(tl.float64), 0.0)
    return tl.where(n > 2, best, float("nan"))


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"turns": "*fp32", "orders": "*i32", "turned": "*fp32", "counts": "*i32", "singles": "*fp32"}
    types |= {"doubles": "*fp64", "integers": "*i32", "trees": "*fp64", "scores": "*i64", "best": "*fp64"}
    types |= {"n_units": "i32", "n_nulls": "i32", "N": "i32", "stride": "i32:16"}
    for method in LINKAGES.values():
        yield _nulls_kernel, types, CONSTANTS | {"METHOD": method}, OPTIONS
