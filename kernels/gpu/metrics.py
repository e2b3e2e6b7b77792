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
from polysem.kernels.gpu.tree import check_trees, rows_of

COLS, UNROLL = 128, 4  # examples a program, rows in flight
SPLIT = 8  # leaves p, p + SPLIT, … are one program's
SCORE_UNIT = 2.0**-44  # an int64 holds 2¹⁸ scores

Options = tuple[dict[str, Any], dict[str, Any]]  # constants, and how to launch


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
    N = matrix.shape[1]
    own, nearest_other, total, largest = _sums_by_cluster(matrix, label, size, counts)
    members = size.long().where(torch.arange(N + 1, device=size.device) < N, 0)
    n_clusters, n = (members > 0).sum(1), counts.double()
    pairs, pairs_within = n * (n - 1.0), (members * (members - 1)).sum(1).double()
    within, between = own.sum(1), (total - own).sum(1)
    scores = _scores(own, nearest_other, size.gather(1, label.long()))
    return ClusterMetrics(
        counts,
        n_clusters.int(),
        _only(n > 1, largest.amax(1)),
        _only(n > 1, total.sum(1) / pairs),
        _only(pairs_within > 0, within / pairs_within),
        _only(pairs_within < pairs, between / (pairs - pairs_within)),
        _only((n_clusters > 1) & (n_clusters < n), scores / n),
        _only(n > 0, members.amax(1) / n),
    )


def _only(condition: Tensor, values: Tensor) -> Tensor:
    return values.where(condition, float("nan"))


def _scores(own: Tensor, nearest_other: Tensor, n_own: Tensor) -> Tensor:
    """The sum of each neuron's silhouette scores, in any order alike."""
    a = own / (n_own - 1).clamp(min=1)
    scale = torch.maximum(a, nearest_other)
    scores = ((nearest_other - a) / scale).where((n_own > 1) & (scale > 0) & (scale < float("inf")), 0.0)
    return (scores / SCORE_UNIT).round().long().sum(1).double() * SCORE_UNIT


def _sums_by_cluster(matrix: Tensor, label: Tensor, size: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    """Return per example: distances' sum inside its cluster, least mean to another, sum, largest; 0 in padding.

    returns  four (B, N+1) float64
    """
    B, N = matrix.shape[:2]
    sums = torch.zeros((B, 4, N + 1), dtype=torch.float64, device=matrix.device)
    if matrix.numel():
        arrays = matrix, counts, label.argsort(dim=1).int(), label, size, sums
        constants, options = _clusters_options()
        with torch.cuda.device_of(matrix):
            _clusters_kernel[(B, triton.cdiv(N, COLS))](*arrays, N, **constants, **options)
    return sums.unbind(1)


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
    distances += b * N * N
    order += b * (N + 1)
    labels += b * (N + 1)
    sizes += b * (N + 1)
    label = tl.load(labels + column, mask=used, other=-1)
    own = tl.zeros((COLS,), tl.float64)
    total = tl.zeros((COLS,), tl.float64)
    nearest_other = tl.full((COLS,), float("inf"), tl.float64)
    largest = tl.zeros((COLS,), tl.float32)
    begin = 0
    while begin < n:
        cluster = tl.load(labels + tl.load(order + begin))
        size = tl.load(sizes + cluster)
        end = begin + size
        to_cluster = tl.zeros((COLS,), tl.float64)
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
    sums += b * 4 * (N + 1) + column
    tl.store(sums, own, mask=used)
    tl.store(sums + (N + 1), nearest_other, mask=used)
    tl.store(sums + 2 * (N + 1), total, mask=used)
    tl.store(sums + 3 * (N + 1), largest.to(tl.float64), mask=used)


def _node_metrics(matrix: Tensor, trees: Tensor, label: Tensor, size: Tensor, counts: Tensor) -> NodeMetrics:
    B, N = matrix.shape[:2]
    if N < 2:
        return NodeMetrics(counts.new_empty(B, 0), trees.new_empty(B, 0))
    rows, _ = rows_of(trees, counts)
    order, begin, end = _leaf_order(trees, counts)
    _check_cut(label, size, order, begin, end)
    least, central, totals = _sums_in_nodes(matrix, order.int(), begin.int(), end.int(), counts)
    central = central.where(least == least.amin(1, keepdim=True), N).amin(1)  # of equals the lowest
    in_node = (end - begin).double()
    mean = totals.sum(1) / (in_node * (in_node - 1.0))
    return NodeMetrics(central.where(rows, -1), _only(rows, mean))


def _leaf_order(trees: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The examples in an order in which every node is a range, and where each row's node begins and ends in it.

    Walk around the tree: into a node, around its first child, around its second, out of it. An example's place follows
    from how many are still to come, counted from every stop by pointer jumping.

    returns  (B, N), (B, N-1), (B, N-1) int64; 0 in padding
    """
    B, N = len(trees), trees.shape[1] + 1
    rows, node = rows_of(trees, counts)
    out, home = 2 * N - 1, 4 * N - 2  # stop k is into node k, stop out + k out of it; home follows nothing
    u, v = trees[..., :2].where(rows[..., None], 0.0).long().unbind(2)
    example = torch.arange(N, device=trees.device).expand(B, N)
    used = example < counts[:, None]
    following = torch.arange(home + 1, device=trees.device).repeat(B, 1)
    following.scatter_(1, example.where(used, home), (example + out).where(used, home))
    for stop, its_next in ((node, u), (u + out, v), (v + out, node + out)):
        following.scatter_(1, stop.where(rows, home), its_next.where(rows, home))
    to_come = torch.zeros_like(following)
    to_come[:, :N] = used
    for _ in range(home.bit_length()):
        to_come += to_come.gather(1, following)
        following = following.gather(1, following)
    place = counts[:, None] - to_come
    order = example.new_zeros(B, N + 1).scatter_(1, place[:, :N].where(used, N), example.where(used, 0))[:, :N]
    begin, end = (place.gather(1, stop.where(rows, home)).where(rows, 0) for stop in (node, node + out))
    return order, begin, end


def _check_cut(label: Tensor, size: Tensor, order: Tensor, begin: Tensor, end: Tensor) -> None:
    """Raise unless each cluster of two or more is a node."""
    label = label.long()
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
    distances += b * N * N
    order += b * N
    lane = tl.arange(0, BLOCK)  # of leaves in a row's sums, of nodes in all else
    is_node = lane < N - 1
    leaf = tl.load(order + lane, mask=lane < n, other=0)
    begin = tl.load(begins + b * (N - 1) + lane, mask=is_node, other=0)
    end = tl.load(ends + b * (N - 1) + lane, mask=is_node, other=0)
    before = tl.maximum(begin - 1, 0)
    last = tl.maximum(end - 1, 0)
    least_sum = tl.full((BLOCK,), float("inf"), tl.float64)
    who = tl.zeros((BLOCK,), tl.int32) + N
    total = tl.zeros((BLOCK,), tl.float64)
    for p in range(tl.program_id(1), n, SPLIT):
        i = tl.load(order + p)
        row = tl.load(distances + i * N + leaf, mask=lane < n, other=0.0)
        up_to = tl.cumsum(row.to(tl.float64), 0)
        inside = tl.gather(up_to, last, 0) - tl.where(begin > 0, tl.gather(up_to, before, 0), 0.0)
        member = (begin <= p) & (p < end)
        better = member & ((inside < least_sum) | ((inside == least_sum) & (i < who)))
        least_sum = tl.where(better, inside, least_sum)
        who = tl.where(better, i, who)
        total += tl.where(member, inside, 0.0)
    place = (b * SPLIT + tl.program_id(1)) * (N - 1) + lane
    tl.store(least + place, least_sum, mask=is_node)
    tl.store(central + place, who, mask=is_node)
    tl.store(totals + place, total, mask=is_node)
