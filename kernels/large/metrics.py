"""`metrics.tree_metrics` of one large neuron, without its distances."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.arrays import Array, Sizes, checked
from polysem.kernels.definitions import ClusterMetrics, NodeMetrics, TreeMetrics
from polysem.kernels.large.embeddings import (
    BLOCK,
    MAX_EXAMPLES,
    ROWS,
    SAME,
    checked_unit,
    on_grid,
    snapped,
)
from polysem.kernels.large.trees import (
    dots,
)
from polysem.kernels.parallel import compiled
from polysem.kernels.tree import is_tree


def tree_metrics(unit: Tensor, linkage: Tensor, labels: Tensor) -> TreeMetrics:
    """The metrics of one neuron's flat clustering and of every node of its tree, as `metrics.tree_metrics`.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    linkage  (N - 1, 4) float64, as every `linkage` here returns it
    labels   (N,) int32 within 0..N-1, in any numbering
    returns  `ClusterMetrics` of (1,) tensors and `NodeMetrics` of (1, N - 1) tensors, on the device of `unit`

    Central examples whose sums of distances differ by less than rounding count as equals: the lowest is taken.

    Memory: 16 · N · D bytes beside `unit`, and 64 MiB of similarities. Time: N² D / 2 multiply-adds in float32 for the
    greatest distance, N · n_clusters · D for the silhouette, and in float64, for the central examples, D for each
    member of each node: N log N of them in a balanced tree, N² / 2 where one cluster takes up the others one by one.
    Raises TypeError or ValueError for wrong dtypes, shapes and labels, for what is not a tree, and for rows whose
    length is neither 1 nor 0.
    """
    unit = checked_unit(unit)
    sizes: Sizes = {"N": len(unit), "N-1": max(len(unit) - 1, 0), "4": 4}
    linkage = checked("linkage", linkage, "N-1 4", sizes, (torch.float64,), unit.device)
    labels = checked("labels", labels, "N", sizes, (torch.int32,), unit.device).long()
    for i in torch.nonzero((labels < 0) | (labels >= len(unit)))[:1, 0].tolist():
        raise ValueError(f"labels[{i}] is {labels[i]}; expected 0..{len(unit) - 1} (N - 1)")
    if not is_tree(linkage.cpu().numpy(), len(unit)):
        raise ValueError(f"linkage is not a tree of {len(unit)} leaves with ascending heights")
    return TreeMetrics(_cluster_metrics(unit, labels), _node_metrics(unit, linkage))


def _cluster_metrics(unit: Tensor, labels: Tensor) -> ClusterMetrics:
    n = len(unit)
    exact, numbers = on_grid(unit), torch.full((6,), torch.nan, dtype=torch.float64)
    names, cluster, size = torch.unique(labels, return_inverse=True, return_counts=True)
    if n:
        numbers[5] = size.max().item() / n
    if n > 1:
        sums = torch.zeros(len(names), unit.shape[1], dtype=torch.float64, device=unit.device)
        sums.index_add_(0, cluster, exact)
        own = exact.square().sum(1)  # similarity of each to itself: 1, or 0 of a zero
        within = (sums.square().sum() - own.sum()).item()  # over ordered pairs
        total = (sums.sum(0).square().sum() - own.sum()).item()
        pairs, pairs_within = n * (n - 1), int((size * (size - 1)).sum())
        numbers[0] = _greatest_distance(unit, exact)
        numbers[1] = _mean(total, pairs)
        numbers[2] = _mean(within, pairs_within)
        numbers[3] = _mean(total - within, pairs - pairs_within)
        if 1 < len(names) < n:
            numbers[4] = _silhouette(unit, exact, sums, cluster, size, own)
    counts = torch.tensor([[n], [len(names)]], dtype=torch.int32, device=unit.device)
    return ClusterMetrics(*counts, *numbers[:, None].to(unit.device))


def _mean(similarity: float, pairs: int) -> float:
    distance = 1 - similarity / pairs if pairs else torch.nan
    return 0.0 if distance < SAME else min(distance, 2.0)


def _greatest_distance(unit: Tensor, exact: Tensor) -> float:
    """Found in float32, block by block above the diagonal; then that pair's own, in float64."""
    step = max(1, BLOCK // len(unit))
    least = torch.full((len(unit),), torch.inf, device=unit.device)
    other = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    for begin in range(0, len(unit), step):
        similarity = unit[begin : begin + step] @ unit[begin:].T
        similarity.fill_diagonal_(torch.inf)
        least[begin : begin + step], other[begin : begin + step] = similarity.min(1)
        other[begin : begin + step] += begin
    i = least.argmin()[None]
    return snapped(1 - dots(exact, i, exact, other[i])).item()


def _silhouette(unit: Tensor, exact: Tensor, sums: Tensor, cluster: Tensor, size: Tensor, own: Tensor) -> float:
    """scikit-learn's mean; the nearest other cluster is found in float32, its distance then computed in float64."""
    everyone = torch.arange(len(unit), device=unit.device)
    mean = (sums / size[:, None]).float()
    nearest = torch.empty_like(cluster)
    step = max(1, BLOCK // len(mean))
    for begin in range(0, len(unit), step):
        similarity = unit[begin : begin + step] @ mean.T
        similarity.scatter_(1, cluster[begin : begin + step, None], -torch.inf)
        nearest[begin : begin + step] = similarity.argmax(1)
    n_own = size[cluster]
    b = snapped(1 - dots(exact, everyone, sums, nearest) / size[nearest])
    a = snapped(1 - (dots(exact, everyone, sums, cluster) - own) / (n_own - 1).clamp(min=1))
    scale = torch.maximum(a, b)
    return (torch.where((n_own > 1) & (scale > 0), (b - a) / scale, 0.0).sum() / len(unit)).item()


SMALL = 32  # nodes of so few members are described by size, all at once
CHUNK = 64  # larger ones described by one product


def _node_metrics(unit: Tensor, linkage: Tensor) -> NodeMetrics:
    """In leaf order, the larger child first, a node and all the larger children below it begin at the same leaf.

    So the sums of such a path are prefix sums, and the members' similarities to them are one product a CHUNK.
    """
    n, device = len(unit), unit.device
    central = torch.full((max(n - 1, 0),), -1, dtype=torch.int64, device=device)
    mean = torch.full((max(n - 1, 0),), torch.nan, dtype=torch.float64, device=device)
    if n > 1:
        order, start, size = leaf_order(linkage.cpu().numpy())
        leaf, sums = torch.from_numpy(order).to(device), _prefix_sums(unit[order])
        for s in range(2, min(SMALL, n) + 1):
            for rows in np.array_split(found := np.flatnonzero(size == s), 1 + len(found) * s // ROWS):
                nodes, begin = (torch.from_numpy(x).to(device) for x in (rows, start[rows]))
                central[nodes], mean[nodes] = _describe_small(sums, leaf, begin, s)
        for rows in _paths(start, size):
            nodes, sizes = (torch.from_numpy(x).to(device) for x in (rows, size[rows]))
            central[nodes], mean[nodes] = _describe_path(sums, leaf, int(start[rows[0]]), sizes)
    return NodeMetrics(central.int()[None], mean[None])


@compiled
def leaf_order(tree: Array) -> tuple[Array, Array, Array]:
    """The leaves in order, and for each row of the tree where its node's begin and how many they are."""
    n = len(tree) + 1
    size = np.ones(2 * n - 1, np.int64)
    for row in range(n - 1):
        size[n + row] = size[int(tree[row, 0])] + size[int(tree[row, 1])]
    start = np.zeros(2 * n - 1, np.int64)
    for row in range(n - 2, -1, -1):
        u, v = int(tree[row, 0]), int(tree[row, 1])
        if size[u] < size[v]:
            u, v = v, u
        start[u] = start[n + row]
        start[v] = start[u] + size[u]
    order = np.empty(n, np.int64)
    for i in range(n):
        order[start[i]] = i
    return order, start[n:], size[n:]


def _paths(start: Array, size: Array) -> Iterator[Array]:
    """The rows of larger nodes that begin at one leaf, at most CHUNK at once, the largest of them first."""
    rows = np.flatnonzero(size > SMALL)
    rows = rows[np.lexsort((-size[rows], start[rows]))]
    begin = 0
    for end in range(1, len(rows) + 1):
        first, full = rows[begin], end - begin == CHUNK
        if full or end == len(rows) or start[rows[end]] != start[first] or 2 * size[rows[end]] < size[first]:
            yield rows[begin:end]
            begin = end


def _prefix_sums(unit: Tensor) -> Tensor:
    """(N + 1, D) float64: row p is the sum of the first p embeddings, exactly."""
    result = torch.zeros(len(unit) + 1, unit.shape[1], dtype=torch.float64, device=unit.device)
    for begin in range(0, len(unit), ROWS):
        target = result[begin + 1 : begin + 1 + ROWS]
        torch.cumsum(on_grid(unit[begin : begin + ROWS]), 0, out=target)
        target += result[begin]
    return result


def _describe_small(sums: Tensor, leaf: Tensor, begin: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Central example and mean distance of nodes of `size` leaves that begin at these."""
    place = begin[:, None] + torch.arange(size, device=begin.device)  # (nodes, size)
    members = sums[place + 1] - sums[place]
    total = sums[begin + size] - sums[begin]
    own = members.square().sum(2)
    score = (members * total[:, None]).sum(2) - own
    sizes = torch.full_like(begin, size)
    return _central(score.T, leaf[place].T, sizes), _mean_inside(total, own.sum(1), sizes)


def _describe_path(sums: Tensor, leaf: Tensor, start: int, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The same of nodes whose members are the first sizes[k] leaves from `start` on, sizes[0] the largest."""
    total = sums[start + sizes] - sums[start]  # (nodes, D)
    length = int(sizes[0])
    score = torch.empty(length, len(sizes), dtype=torch.float64, device=sums.device)
    own = torch.empty(length, dtype=torch.float64, device=sums.device)
    for begin in range(0, length, ROWS):
        rows = sums[start + begin : start + min(begin + ROWS, length) + 1]
        members = rows[1:] - rows[:-1]
        own[begin : begin + ROWS] = members.square().sum(1)
        torch.mm(members, total.T, out=score[begin : begin + ROWS])
    score -= own[:, None]
    score.masked_fill_(torch.arange(length, device=sums.device)[:, None] >= sizes, -torch.inf)
    return _central(score, leaf[start : start + length, None], sizes), _mean_inside(
        total, own.cumsum(0)[sizes - 1], sizes
    )


def _central(score: Tensor, leaf: Tensor, sizes: Tensor) -> Tensor:
    """score (members, nodes): the lowest example among those of the greatest, but for rounding."""
    enough = score.max(0).values - 1e-12 * sizes
    return torch.where(score >= enough, leaf, MAX_EXAMPLES).min(0).values


def _mean_inside(total: Tensor, own: Tensor, sizes: Tensor) -> Tensor:
    return snapped(1 - (total.square().sum(1) - own) / (sizes * (sizes - 1)))
