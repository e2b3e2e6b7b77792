"""Metrics on a GPU, neuron by neuron in one batch. For what is meant see `polysem.kernels.metrics`.

cluster_metrics      Triton, a program per neuron and COLS examples: adds up the rows of each cluster's members and
                     keeps, for every example, the sum to its own cluster and the least mean to another. O(n²)
tree_metrics         that, and for the nodes Triton, SPLIT programs a neuron: in leaf order every node is a range, so an
                     example's sums of distances to all its nodes are differences of prefix sums of its row; each node,
                     a lane, keeps the least and their total. O(n²), whatever the tree's shape

Sums of distances are exact in float64 and divided once, as in the CPU half, so all results equal its to the byte, but
for the silhouette, which adds quotients. These are added as multiples of 2⁻⁴⁴, so in any order alike, and their mean is
off by 2⁻⁴⁵ at most. Scratch is O(B·N).

Tried and dropped: twice or four times as many programs a neuron, two or eight warps each; all within a tenth of each
other (H200).
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import ClusterMetrics, NodeMetrics, TreeMetrics
from polysem.kernels.gpu import copies
from polysem.kernels.gpu.blocks import Options, one_program
from polysem.kernels.gpu.tree import check_trees, rows_of

COLS, UNROLL = 128, 4  # examples a program, rows in flight
SPLIT = 8  # leaves p, p + SPLIT, … are one program's
UNIT = tl.constexpr(2.0**-44)  # of scores: an int64 holds 2¹⁸ of them
TO_WHOLE = tl.constexpr(1.5 * 2.0**52)  # added and taken away: the nearest whole number


def cluster_metrics(distances: Tensor, labels: Tensor, n_examples: Tensor) -> ClusterMetrics:
    """Compute `polysem.kernels.metrics.cluster_metrics` for tensors of one device."""
    sizes: Sizes = {}
    device = distances.device
    matrix = checked("distances", distances, "B N N", sizes, (torch.float32,), device)
    clusters = checked("labels", labels, "B N", sizes, (torch.int32,), device)
    counts = checked_counts(n_examples, sizes, device)
    counts = copies.check(matrix, _check_labels(clusters, counts))
    return _cluster_metrics(matrix, *_sized(clusters, counts), counts)


def tree_metrics(distances: Tensor, linkage: Tensor, labels: Tensor, n_examples: Tensor) -> TreeMetrics:
    """Compute `polysem.kernels.metrics.tree_metrics` for tensors of one device."""
    sizes: Sizes = {"4": 4}
    device = distances.device
    matrix = checked("distances", distances, "B N N", sizes, (torch.float32,), device)
    sizes["N-1"] = max(sizes["N"] - 1, 0)
    trees = checked("linkage", linkage, "B N-1 4", sizes, (torch.float64,), device)
    counts = checked_counts(n_examples, sizes, device)
    clusters = checked("labels", labels, "B N", sizes, (torch.int32,), device)
    counts = copies.check(matrix, check_trees(trees, _check_labels(clusters, counts)))
    label, size = _sized(clusters, counts)
    nodes = _node_metrics(matrix, trees, label, size, counts)
    return TreeMetrics(_cluster_metrics(matrix, label, size, counts), nodes)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"distances": "*fp32", "counts": "*i32", "order": "*i32", "N": "i32"}
    clusters = {"labels": "*i32", "sizes": "*i32", "sums": "*fp64"}
    yield _clusters_kernel, types | clusters, *_clusters_options()
    nodes = {"begins": "*i32", "ends": "*i32", "least": "*fp64", "central": "*i32", "totals": "*fp64"}
    for block in (128, 1024, 2048):
        yield _nodes_kernel, types | nodes, *_nodes_options(block)
    ordering = {"trees": "*fp64", "counts": "*i32", "scratch": "*i32", "orders": "*i32", "begins": "*i32"}
    summary = {"sums": "*fp64", "labels": "*i32", "sizes": "*i32", "counts": "*i32", "numbers": "*fp64"}
    for N in (100, 1000, 4096):
        yield _order_kernel, ordering | {"ends": "*i32", "N": "i32"}, *one_program(N)
        yield _summary_kernel, summary | {"n_clusters": "*i32", "N": "i32"}, *one_program(N)


def _check_labels(labels: Tensor, counts: Tensor) -> Tensor:
    """The counts to go on with."""
    N = labels.shape[1]
    outside = _used(counts, N) & ((labels < 0) | (labels >= N))

    def explain() -> None:
        b, i = outside.nonzero()[0].tolist()
        raise ValueError(f"labels[{b}, {i}] is {labels[b, i]}; expected 0..{N - 1} (N - 1)")

    faults.check(outside, explain)
    return faults.sound(counts, outside.any(1))


def _used(counts: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=counts.device) < counts[:, None]


def _sized(labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's label, and each label's number of examples, as (B, N+1) int32.

    There is one slot more, so that nothing here is ever empty. It and the padding have label N.
    """
    B, N = labels.shape
    label = torch.full((B, N + 1), N, dtype=torch.int32, device=labels.device)
    label[:, :N] = labels.where(_used(counts, N), N)
    return label, torch.zeros_like(label).scatter_add_(1, label.long(), torch.ones_like(label))


def _cluster_metrics(matrix: Tensor, label: Tensor, size: Tensor, counts: Tensor) -> ClusterMetrics:
    B, N = matrix.shape[:2]
    sums = _sums_by_cluster(matrix, label, size, counts)
    numbers, n_clusters = sums.new_empty((B, 6)), torch.empty_like(counts)
    if B:
        constants, options = one_program(N + 1)
        with torch.cuda.device_of(matrix):
            _summary_kernel[(B,)](sums, label, size, counts, numbers, n_clusters, N, **constants, **options)
    return ClusterMetrics(counts, n_clusters, *numbers.unbind(1))


@triton.jit(do_not_specialize=["N"])
def _summary_kernel(
    sums,  # (B, 4, N+1)
    labels,  # (B, N+1)
    sizes,  # (B, N+1): how many have that label
    counts,  # (B,)
    numbers,  # (B, 6) float64, out
    n_clusters,  # (B,) int32, out
    N,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    lane = tl.arange(0, BLOCK)
    sums += b * 4 * (N + 1) + lane
    own = tl.load(sums, mask=lane < n, other=0.0)
    nearest_other = tl.load(sums + (N + 1), mask=lane < n, other=0.0)
    total = tl.load(sums + 2 * (N + 1), mask=lane < n, other=0.0)
    largest = tl.load(sums + 3 * (N + 1), mask=lane < n, other=0.0)
    size = tl.load(sizes + b * (N + 1) + lane, mask=lane < N, other=0)
    n_own = tl.load(sizes + b * (N + 1) + tl.load(labels + b * (N + 1) + lane, mask=lane < n, other=0))
    write_summary(own, nearest_other, total, largest, n_own, size, n, lane < n, numbers + b * 6, n_clusters + b)


@triton.jit
def write_summary(own, nearest_other, total, largest, n_own, size, n, used, numbers, n_clusters):
    """Write one neuron's metrics, in the order of `ClusterMetrics` from max_distance on; see `_sums_by_cluster`.

    n_own  of each example, how many its cluster has
    size   of each label
    """
    count = n.to(tl.float64)
    pairs = count * (count - 1.0)
    within_pairs = tl.sum(size.to(tl.int64) * (size - 1), 0).to(tl.float64)
    between_pairs = pairs - within_pairs
    k = tl.sum((size > 0).to(tl.int32), 0)
    within = tl.sum(own, 0)
    everything = tl.sum(total, 0)
    tl.store(n_clusters, k)
    tl.store(numbers, tl.where(n > 1, tl.max(largest, 0).to(tl.float64), float("nan")))
    tl.store(numbers + 1, quotient(everything, pairs, n > 1))
    tl.store(numbers + 2, quotient(within, within_pairs, within_pairs > 0.0))
    tl.store(numbers + 3, quotient(everything - within, between_pairs, between_pairs > 0.0))
    units = tl.sum(score_units(own, nearest_other, n_own, used), 0)
    tl.store(numbers + 4, quotient(units.to(tl.float64) * UNIT, count, (k > 1) & (k < n)))
    tl.store(numbers + 5, quotient(tl.max(size, 0).to(tl.float64), count, n > 0))


@triton.jit
def quotient(a, b, condition):
    """a / b where it is defined, else NaN."""
    return tl.where(condition, a / tl.where(condition, b, 1.0), float("nan"))


@triton.jit
def score_units(own, nearest_other, n_own, used):
    """Each example's silhouette score in units of UNIT, int64, to the nearest, of two to the even one."""
    a = own / tl.maximum(n_own - 1, 1).to(tl.float64)
    scale = tl.maximum(a, nearest_other)
    scored = used & (n_own > 1) & (scale > 0.0) & (scale < float("inf"))
    score = tl.where(scored, nearest_other - a, 0.0) / tl.where(scored, scale, 1.0)
    return ((score / UNIT + TO_WHOLE) - TO_WHOLE).to(tl.int64)


def _sums_by_cluster(matrix: Tensor, label: Tensor, size: Tensor, counts: Tensor) -> Tensor:
    """Return per example: distances' sum inside its cluster, least mean to another, sum, largest; 0 in padding.

    returns  (B, 4, N+1) float64
    """
    B, N = matrix.shape[:2]
    sums = torch.zeros((B, 4, N + 1), dtype=torch.float64, device=matrix.device)
    if matrix.numel():
        arrays = matrix, counts, label.argsort(dim=1).int(), label, size, sums
        constants, options = _clusters_options()
        with torch.cuda.device_of(matrix):
            _clusters_kernel[(B, triton.cdiv(N, COLS))](*arrays, N, **constants, **options)
    return sums


def _clusters_options() -> Options:
    return {"COLS": COLS, "UNROLL": UNROLL}, {"num_warps": COLS // 32, "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["N"])
def _clusters_kernel(
    distances,  # (B, N, N)
    counts,  # (B,)
    order,  # (B, N+1): examples by label
    labels,  # (B, N+1)
    sizes,  # (B, N+1): how many have that label
    sums,  # (B, 4, N+1)
    N,
    COLS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    used = column < n
    of_labels = order + b * (N + 1), labels + b * (N + 1), sizes + b * (N + 1)
    own, nearest_other, total, largest = cluster_sums(distances + b * N * N, *of_labels, column, used, n, N, UNROLL)
    sums += b * 4 * (N + 1) + column
    tl.store(sums, own, mask=used)
    tl.store(sums + (N + 1), nearest_other, mask=used)
    tl.store(sums + 2 * (N + 1), total, mask=used)
    tl.store(sums + 3 * (N + 1), largest.to(tl.float64), mask=used)


@triton.jit
def cluster_sums(distances, order, labels, sizes, column, used, n, N, UNROLL: tl.constexpr):
    """Sum as `_sums_by_cluster` does, for one neuron's examples `column`.

    distances (N, N), order (n,) with clusters together, labels (n,), sizes by label
    """
    label = tl.load(labels + column, mask=used, other=-1)
    own = tl.zeros(column.shape, tl.float64)
    total = tl.zeros(column.shape, tl.float64)
    nearest_other = tl.full(column.shape, float("inf"), tl.float64)
    largest = tl.zeros(column.shape, tl.float32)
    begin = 0
    while begin < n:
        cluster = tl.load(labels + tl.load(order + begin))
        size = tl.load(sizes + cluster)
        end = begin + size
        to_cluster = tl.zeros(column.shape, tl.float64)
        for p in range(begin, end, UNROLL):
            for k in tl.static_range(UNROLL):
                i = tl.load(order + p + k, mask=p + k < end, other=0)
                width = tl.where(p + k < end, n, 0)
                row = tl.load(distances + i * N + column, mask=column < width, other=0.0)
                to_cluster += row.to(tl.float64)
                largest = tl.maximum(largest, row)
        total += to_cluster
        own = tl.where(label == cluster, to_cluster, own)
        mean = to_cluster / size.to(tl.float64)
        nearest_other = tl.where((label != cluster) & (mean < nearest_other), mean, nearest_other)
        begin = end
    return own, nearest_other, total, largest


def _node_metrics(matrix: Tensor, trees: Tensor, label: Tensor, size: Tensor, counts: Tensor) -> NodeMetrics:
    B, N = matrix.shape[:2]
    if N < 2:
        return NodeMetrics(counts.new_empty(B, 0), trees.new_empty(B, 0))
    rows, _ = rows_of(trees, counts)
    order, begin, end = _leaf_order(trees, counts)
    _check_cut(label, size, order, begin, end)
    least, central, totals = _sums_in_nodes(matrix, order, begin, end, counts)
    central = central.where(least == least.amin(1, keepdim=True), N).amin(1)  # of equals the lowest
    in_node = (end - begin).double()
    mean = totals.sum(1) / (in_node * (in_node - 1.0))
    return NodeMetrics(central.where(rows, -1), mean.where(rows, torch.nan))


def _leaf_order(trees: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The examples in an order in which every node is a range, and where each row's node begins and ends in it.

    returns  (B, N), (B, N-1), (B, N-1) int32; 0 in padding
    """
    B, N = len(trees), trees.shape[1] + 1
    order, begins, ends = counts.new_empty(B, N), counts.new_empty(B, N - 1), counts.new_empty(B, N - 1)
    if B:
        constants, options = one_program(N)
        arrays = trees, counts, counts.new_empty((B, 4 * N)), order, begins, ends
        with torch.cuda.device_of(trees):
            _order_kernel[(B,)](*arrays, N, **constants, **options)
    return order, begins, ends


@triton.jit(do_not_specialize=["N"])
def _order_kernel(
    trees,  # (B, N-1, 4) float64
    counts,  # (B,)
    scratch,  # (B, 4 N) int32
    orders,  # (B, N), out
    begins,  # (B, N-1), out
    ends,  # (B, N-1), out
    N,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    lane = tl.arange(0, BLOCK)
    tree, order = trees + b * (N - 1) * 4, orders + b * N
    place, begin, end = leaf_order(tree, scratch + b * 4 * N, n, N, lane, BLOCK)
    tl.store(order + lane, 0, mask=lane < N)
    tl.debug_barrier()
    tl.store(order + place, lane, mask=lane < n)
    tl.store(begins + b * (N - 1) + lane, begin, mask=lane < N - 1)
    tl.store(ends + b * (N - 1) + lane, end, mask=lane < N - 1)


@triton.jit
def leaf_order(tree, scratch, n, N, lane, BLOCK: tl.constexpr):
    """Each example's place in an order in which every node is a range, and where each row's node begins and ends in it.

    Walk around the tree: into a node, around its first child, around its second, out of it. An example's place follows
    from how many are still to come, counted from every stop by pointer jumping.

    tree     (N - 1, 4) float64 of one neuron
    scratch  (4 N) int32
    returns  three (BLOCK,) int32; 0 in padding
    """
    out = 2 * N - 1  # stop k is into node k, stop out + k out of it; home follows nothing
    home = 4 * N - 2
    stop = tl.arange(0, 4 * BLOCK)
    is_row = lane < n - 1
    tl.store(scratch + stop, tl.where(stop < n, stop + out, home), mask=stop <= home)
    tl.debug_barrier()
    u = tl.load(tree + 4 * lane, mask=is_row, other=0.0).to(tl.int32)
    v = tl.load(tree + 4 * lane + 1, mask=is_row, other=0.0).to(tl.int32)
    tl.store(scratch + n + lane, u, mask=is_row)
    tl.store(scratch + out + u, v, mask=is_row)
    tl.store(scratch + out + v, out + n + lane, mask=is_row)
    tl.debug_barrier()
    following = tl.load(scratch + stop, mask=stop <= home, other=0)
    to_come = (stop < n).to(tl.int32)
    steps = 1
    while steps < 4 * BLOCK:
        to_come += tl.gather(to_come, following, 0)
        following = tl.gather(following, following, 0)
        steps *= 2
    node = tl.where(is_row, n + lane, 0)
    place = tl.where(lane < n, n - tl.gather(to_come, lane, 0), 0)
    begin = tl.where(is_row, n - tl.gather(to_come, node, 0), 0)
    end = tl.where(is_row, n - tl.gather(to_come, out + node, 0), 0)
    return place, begin, end


def _check_cut(label: Tensor, size: Tensor, order: Tensor, begin: Tensor, end: Tensor) -> None:
    """Raise unless each cluster of two or more is a node."""
    label, order, begin, end = label.long(), order.long(), begin.long(), end.long()
    in_order = label.gather(1, order)
    changes = torch.zeros_like(in_order)
    changes[:, 1:] = (in_order[:, 1:] != in_order[:, :-1]).cumsum(1)
    one_label = changes.gather(1, begin) == changes.gather(1, (end - 1).clamp(min=0))
    n_own = size.gather(1, label)
    complete = end - begin == n_own.gather(1, order).gather(1, begin)
    in_clusters = (end - begin).where(one_label & complete, 0).sum(1)
    N = order.shape[1]
    bad = in_clusters != ((label < N) & (n_own > 1)).sum(1)

    def explain() -> None:
        b = int(bad.nonzero()[0])
        raise ValueError(f"labels[{b}] is no cut of linkage[{b}]")

    faults.check(bad, explain)


def _sums_in_nodes(
    matrix: Tensor, order: Tensor, begin: Tensor, end: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """In each node, and for the SPLIT parts of the examples: the least sum of an example's distances to the node, the
    lowest example that has it, and the total of all those sums. Each (B, SPLIT, N-1)."""
    B, N = matrix.shape[:2]
    least = torch.empty((B, SPLIT, N - 1), dtype=torch.float64, device=matrix.device)
    results = least, torch.empty_like(least, dtype=torch.int32), torch.empty_like(least)
    constants, options = _nodes_options(max(triton.next_power_of_2(N), 128))
    with torch.cuda.device_of(matrix):
        _nodes_kernel[(B, SPLIT)](matrix, counts, order, begin, end, *results, N, **constants, **options)
    return results


def _nodes_options(block: int) -> Options:
    constants = {"BLOCK": block, "SPLIT": SPLIT}
    return constants, {"num_warps": min(max(block // 256, 4), 16), "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["N"])
def _nodes_kernel(
    distances,  # (B, N, N)
    counts,  # (B,)
    order,  # (B, N)
    begins,  # (B, N-1)
    ends,  # (B, N-1)
    least,  # (B, SPLIT, N-1)
    central,  # (B, SPLIT, N-1)
    totals,  # (B, SPLIT, N-1)
    N,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    lane = tl.arange(0, BLOCK)
    is_node = lane < N - 1
    begin = tl.load(begins + b * (N - 1) + lane, mask=is_node, other=0)
    end = tl.load(ends + b * (N - 1) + lane, mask=is_node, other=0)
    part = tl.program_id(1)
    least_sum, who, total = node_sums(distances + b * N * N, order + b * N, begin, end, part, n, N, lane, SPLIT)
    place = (b * SPLIT + tl.program_id(1)) * (N - 1) + lane
    tl.store(least + place, least_sum, mask=is_node)
    tl.store(central + place, who, mask=is_node)
    tl.store(totals + place, total, mask=is_node)


@triton.jit
def node_sums(distances, order, begin, end, part, n, N, lane, SPLIT: tl.constexpr):
    """Sum as `_sums_in_nodes` does, for one neuron and its examples at places part, part + SPLIT, ….

    distances (N, N), order (N,); lane counts leaves in a row's sums, nodes in all else
    """
    leaf = tl.load(order + lane, mask=lane < n, other=0)
    before = tl.maximum(begin - 1, 0)
    last = tl.maximum(end - 1, 0)
    least_sum = tl.full(lane.shape, float("inf"), tl.float64)
    who = lane * 0 + N
    total = tl.zeros(lane.shape, tl.float64)
    for p in range(part, n, SPLIT):
        i = tl.load(order + p)
        row = tl.load(distances + i * N + leaf, mask=lane < n, other=0.0)
        up_to = tl.cumsum(row.to(tl.float64), 0)
        inside = tl.gather(up_to, last, 0) - tl.where(begin > 0, tl.gather(up_to, before, 0), 0.0)
        member = (begin <= p) & (p < end)
        better = member & ((inside < least_sum) | ((inside == least_sum) & (i < who)))
        least_sum = tl.where(better, inside, least_sum)
        who = tl.where(better, i, who)
        total += tl.where(member, inside, 0.0)
    return least_sum, who, total
