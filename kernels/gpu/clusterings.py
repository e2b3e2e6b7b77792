"""Tree, cut and metrics of neurons of up to LARGEST examples in one launch, on a GPU.

    _clusterings_kernel  the stages of agglomerative.py or scc.py, tree.py and metrics.py in turn, by their own device
                         functions: so their bytes, and no algorithm stands twice

One stage after the other, a batch's distances, copies and trees go through the GPU's memory again and again, and some
20 launches wait for each other. Here a program takes one neuron after the other through all stages, in scratch of its
own that it uses again for the next; there are as many programs as have theirs in the L2 cache together. So memory sees
each distance once, and each result. What is read again at once, a row of the tree or of the distances, is in the L1
cache of the program's multiprocessor.

Scratch of a program: 4 N² bytes for what HAC merges in, 8 N² for SCC, and 108 N at most for the rest.

Occupancy by the compiler's figures: average linkage has one warp of 165 registers a thread on sm_90 and 255 on sm_80,
none spilled, 1 KiB of shared memory. The 65,536 registers of a multiprocessor hold 12 and 8 such programs; RESIDENT
is 8. SCC has four warps of 168 registers, 40 and 48 bytes spilled, 2 KiB: three programs.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import clusterings as stages
from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts, raise_if_outside
from polysem.kernels.definitions import (
    LEFTOVER_HEIGHT,
    LINKAGES,
    Clusterings,
    ClusterMetrics,
    Linkage,
    NodeMetrics,
    TreeMetrics,
    check_linkage,
)
from polysem.kernels.gpu import agglomerative, scc
from polysem.kernels.gpu.agglomerative import merge_all, rank_of, write_rows
from polysem.kernels.gpu.blocks import LARGEST, NO_FUSION, Options, n_programs
from polysem.kernels.gpu.copies import LINE, copy_tile
from polysem.kernels.gpu.metrics import cluster_sums, leaf_order, node_sums, quotient, write_summary
from polysem.kernels.gpu.scc import checked_thresholds, merge_rounds
from polysem.kernels.gpu.tree import cut_tree, thresholds_of

SCC = tl.constexpr(3)  # beside the numbers of LINKAGES
INTEGERS = tl.constexpr(23)  # of scratch, an example


def hac_clusterings(
    distances: Tensor, n_examples: Tensor, distance_threshold: float | Tensor, method: Linkage = "average"
) -> Clusterings:
    """Compute `polysem.kernels.clusterings.hac_clusterings`."""
    check_linkage(method)
    if distances.ndim == 3 and distances.shape[1] > LARGEST:
        trees = agglomerative.linkage(distances, n_examples, method)
        return stages.measured(distances, trees, n_examples, distance_threshold)
    none = distances.new_empty(0, dtype=torch.float64)
    return _in_one_launch(distances, n_examples, distance_threshold, LINKAGES[method], none, False)


def scc_clusterings(
    distances: Tensor,
    n_examples: Tensor,
    distance_threshold: float | Tensor,
    thresholds: Tensor,
    until_stable: bool = False,
) -> Clusterings:
    """Compute `polysem.kernels.clusterings.scc_clusterings`."""
    if distances.ndim == 3 and distances.shape[1] > LARGEST:
        trees = scc.linkage(distances, n_examples, thresholds, until_stable)
        return stages.measured(distances, trees, n_examples, distance_threshold)
    taus = checked_thresholds(checked("thresholds", thresholds, "R", {}, (torch.float64,), distances.device))
    return _in_one_launch(distances, n_examples, distance_threshold, SCC.value, taus, until_stable)


def _in_one_launch(
    distances: Tensor, n_examples: Tensor, cut: float | Tensor, method: int, taus: Tensor, until_stable: bool
) -> Clusterings:
    sizes: Sizes = {}
    device = distances.device
    matrix = checked("distances", distances, "B N N", sizes, (torch.float32,), device)
    counts = checked_counts(n_examples, sizes, device)
    B, N = sizes["B"], sizes["N"]
    cuts = thresholds_of(cut, B, device)
    trees = matrix.new_empty((B, max(N - 1, 0), 4), dtype=torch.float64)
    labels, wrong = counts.new_empty((B, N)), torch.zeros_like(counts)
    numbers, n_clusters = trees.new_empty((B, 6)), torch.zeros_like(counts)
    nodes = NodeMetrics(counts.new_empty(trees.shape[:2]), trees.new_empty(trees.shape[:2]))
    if B:
        stride = triton.cdiv(max(N, 1), LINE) * LINE
        dtype = torch.float64 if method == SCC.value else torch.float32
        programs = n_programs(device, B, N * stride * dtype.itemsize)
        work = matrix.new_empty((programs, N, stride), dtype=dtype)
        reals, integers = trees.new_empty((programs, 2 * N)), counts.new_empty((programs, INTEGERS.value * N))
        arrays = matrix, counts, cuts, taus, work, reals, integers, trees, labels, numbers, n_clusters, *nodes, wrong
        constants, options = _options(method, until_stable)
        with torch.cuda.device_of(matrix):
            _clusterings_kernel[(programs,)](*arrays, B, N, stride, len(taus), **constants, **options)
    bad = wrong > 0
    faults.check(bad, lambda: raise_if_outside(bad.cpu().numpy(), matrix.cpu().numpy(), counts.cpu().numpy()))
    clusters = ClusterMetrics(faults.sound(counts, bad), n_clusters, *numbers.unbind(1))
    return Clusterings(trees, labels, TreeMetrics(clusters, nodes))


def _options(method: int, until_stable: bool) -> Options:
    n_warps = 4 if method == SCC.value else 1
    constants = {"METHOD": method, "UNTIL_STABLE": until_stable, "LEFTOVER": LEFTOVER_HEIGHT}
    return constants | {"BLOCK": LARGEST, "ROWS": n_warps, "UNROLL": 4}, {"num_warps": n_warps, **NO_FUSION}


@triton.jit(do_not_specialize=["B", "N", "n_taus"])
def _clusterings_kernel(
    distances,  # (B, N, N) float32
    counts,  # (B,) int32
    cuts,  # (B,) float64
    taus,  # (n_taus,) float64: thresholds of SCC's rounds
    work,  # (P, N, stride) float32, float64 for SCC
    reals,  # (P, 2, N) float64 scratch
    integers,  # (P, INTEGERS, N) int32 scratch
    trees,  # (B, N - 1, 4) float64, out
    labels,  # (B, N) int32, out
    numbers,  # (B, 6) float64, out
    n_clusters,  # (B,) int32, out
    central,  # (B, N - 1) int32, out
    means,  # (B, N - 1) float64, out
    wrong,  # (B,) int32, out: 1 where distances are not in 0..2, or not symmetric
    B,
    N,
    stride,
    n_taus,
    METHOD: tl.constexpr,
    UNTIL_STABLE: tl.constexpr,
    LEFTOVER: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    work += program * N * stride
    reals += program * 2 * N
    integers += program * INTEGERS * N
    order = integers + 20 * N  # behind what the stages use
    label = integers + 21 * N
    sizes = integers + 22 * N
    lane = tl.arange(0, BLOCK)
    for at in range(tl.program_id(0), B, tl.num_programs(0)):
        b = program * 0 + at  # in 64 bits
        d = distances + b * N * N
        tree = trees + b * (N - 1) * 4
        n = tl.load(counts + b)
        made = _make_tree(
            d, work, reals, integers, tree, taus, n_taus, n, N, stride, lane,
            METHOD, UNTIL_STABLE, LEFTOVER, BLOCK, ROWS,
        )  # fmt: skip
        tl.store(wrong + b, (made < n).to(tl.int32))
        n = made
        used = lane < n
        mine = cut_tree(tree, tl.load(cuts + b), integers, n, N, lane, BLOCK)
        place, begin, end = leaf_order(tree, integers + 4 * N, n, N, lane, BLOCK)
        tl.store(labels + b * N + lane, mine, mask=lane < N)
        tl.store(label + lane, mine, mask=lane < N)
        tl.store(order + place, lane, mask=used)
        tl.store(sizes + lane, 0, mask=lane < N)
        tl.debug_barrier()
        tl.atomic_add(sizes + mine, 1, mask=used)
        tl.debug_barrier()
        own, nearest_other, total, largest = cluster_sums(d, order, label, sizes, lane, used, n, N, UNROLL)
        size = tl.load(sizes + lane, mask=lane < N, other=0)
        n_own = tl.load(sizes + mine, mask=used, other=0)
        write_summary(own, nearest_other, total, largest, n_own, size, n, used, numbers + b * 6, n_clusters + b)
        _, who, total = node_sums(d, order, begin, end, 0, n, N, lane, 1)
        in_node = (end - begin).to(tl.float64)
        row = b * (N - 1) + lane
        tl.store(central + row, tl.where(lane < n - 1, who, -1), mask=lane < N - 1)
        tl.store(means + row, quotient(total, in_node * (in_node - 1.0), lane < n - 1), mask=lane < N - 1)
        tl.debug_barrier()  # before the next neuron takes the scratch


@triton.jit
def _make_tree(
    d, work, reals, integers, tree, taus, n_taus, n, N, stride, lane,
    METHOD: tl.constexpr, UNTIL_STABLE: tl.constexpr, LEFTOVER: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write one neuron's tree; its number of examples, 0 where something is wrong with its distances."""
    outside = tl.zeros([ROWS, BLOCK], tl.int32)
    for first in range(0, n, ROWS):
        rows = first + tl.arange(0, ROWS)
        outside |= copy_tile(d, work, rows[:, None], lane[None, :], n, N, stride, True, True)
    n = tl.where(tl.max(tl.max(outside, 1), 0) > 0, 0, n)
    tl.debug_barrier()
    if METHOD == SCC:
        for column in tl.static_range(4):
            tl.store(tree + 4 * lane + column, float("nan"), mask=lane < N - 1)
        tl.debug_barrier()
        merge_rounds(
            work, reals, integers, tree, taus, n_taus, n, N, stride, UNTIL_STABLE, LEFTOVER, BLOCK, ROWS, BLOCK
        )
    else:
        merges = integers + 7 * N
        n = tl.where(merge_all(work, integers, merges, n, N, stride, METHOD, BLOCK) < n - 1, 0, n)
        tl.debug_barrier()
        write_rows(merges, rank_of(merges, n, lane), n, N - 1, tree, lane)
    tl.debug_barrier()
    return n


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    before = {"distances": "*fp32", "counts": "*i32", "cuts": "*fp64", "taus": "*fp64"}
    after = {"reals": "*fp64", "integers": "*i32", "trees": "*fp64", "labels": "*i32", "numbers": "*fp64"}
    after |= {"n_clusters": "*i32", "central": "*i32", "means": "*fp64", "wrong": "*i32"}
    after |= {"B": "i32", "N": "i32", "stride": "i32:16", "n_taus": "i32"}
    for method in (*LINKAGES.values(), SCC.value):
        work = {"work": "*fp64" if method == SCC.value else "*fp32"}
        yield _clusterings_kernel, before | work | after, *_options(method, False)
