"""Single linkage on the graph of one neuron's nearest neighbours: an approximation of `trees.single_linkage`.

The minimum spanning forest of the graph, and where that falls apart the closest pairs of its parts: heights are never
below the exact tree's, and above them where the closest pair of two groups are not among each other's nearest.

With cuML the forest is cuML's own single linkage, which has no heights: each merge gets the shortest edge of our graph
between its two children. In leaf order a merge lies between two leaves that stand side by side, and an edge crosses
that merge which is the highest of those between its two ends, so all edges find theirs by one range maximum.
"""

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.large.embeddings import BLOCK, checked_unit
from polysem.kernels.large.libraries import Library, checked_library, cuml_children
from polysem.kernels.large.metrics import leaf_order
from polysem.kernels.large.neighbours import N_NEIGHBOURS, Edges, neighbour_graph
from polysem.kernels.large.trees import circles, components, joining_edges, linkage_of_edges


def single_linkage(unit: Tensor, k: int = N_NEIGHBOURS, library: Library | None = None) -> Tensor:
    """The single-linkage tree of the graph of the k nearest neighbours.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    k        at least 1; N - 1 where that is less, and then without cuML the tree is exact
    library  that searches, and with "cuml" makes the tree; None: `default_library` of the device
    returns  (N - 1, 4) float64, a SciPy linkage matrix as in `agglomerative.linkage`; (0, 4) of N = 0

    N² D multiply-adds, with cuML twice as many, and as many again for each round of joining parts. Raises as
    `nearest_neighbours` does.
    """
    unit, library = checked_unit(unit), checked_library(library, unit.device)
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    graph = neighbour_graph(unit, k, library)
    if library == "cuml":
        return _by_cuml(unit, k, graph)
    forest, label = _spanning_forest(len(unit), graph)
    edges = torch.stack([graph.low[forest], graph.high[forest]], 1)
    return linkage_of_edges(unit, torch.cat([edges, joining_edges(unit, label)]))


def _spanning_forest(n: int, graph: Edges) -> tuple[Tensor, Tensor]:
    """Which edges (F,) are the minimum spanning forest, and the lowest example of each one's part (N,)."""
    device = graph.low.device
    order = graph.distances.argsort(stable=True)  # of equals the first edge is the shorter
    low, high, n_edges = graph.low[order], graph.high[order], len(order)
    label, rank, chosen = torch.arange(n, device=device), torch.arange(n_edges, device=device), [order[:0]]
    while True:
        a, b = label[low], label[high]
        out = a != b
        if not out.any():
            return order[torch.cat(chosen)], label
        low, high, rank = low[out], high[out], rank[out]
        ends, edge = torch.cat([a[out], b[out]]), torch.cat([rank, rank])
        shortest = torch.full((n,), n_edges, device=device).scatter_reduce_(0, ends, edge, "amin")
        clusters = torch.nonzero(shortest < n_edges)[:, 0]
        other = torch.full((n_edges,), -1, device=device)
        other[rank] = a[out] + b[out]
        up = torch.arange(n, device=device)
        up[clusters] = other[shortest[clusters]] - clusters
        chosen.append(shortest[clusters][circles(up)[clusters] != clusters])
        label = components(up)[label]


def _by_cuml(unit: Tensor, k: int, graph: Edges) -> Tensor:
    zero = (unit == 0).all(1)
    zeros, others = torch.nonzero(zero)[:, 0], torch.nonzero(~zero)[:, 0]
    edges = torch.empty(0, 2, dtype=torch.int64, device=unit.device)
    if len(others) > 1:
        children = cuml_children(unit[others] if len(zeros) else unit, min(k, len(others) - 1))
        name = torch.full((len(unit),), -1, device=unit.device)
        name[others] = torch.arange(len(others), device=unit.device)
        inside = (name[graph.low] >= 0) & (name[graph.high] >= 0)
        ends = name[graph.low[inside]], name[graph.high[inside]]
        edges = others[_edges_of(unit[others], children, Edges(*ends, graph.distances[inside]))]
    if not len(zeros):
        return linkage_of_edges(unit, edges)
    joined = torch.cat([others[:1], zeros])  # a zero is at distance 1 from all
    star = torch.stack([joined[:1].expand(len(joined) - 1), joined[1:]], 1)
    return linkage_of_edges(unit, torch.cat([edges, star]), highest=1.0)


def _edges_of(unit: Tensor, children: Tensor, graph: Edges) -> Tensor:
    """(N - 1, 2) int64: the shortest edge between the children of each merge, or where none is, their closest pair."""
    n, device = len(unit), unit.device
    tree = children.cpu().numpy().astype(np.float64)
    order, start, size = leaf_order(tree)
    larger = np.concatenate([np.ones(n, np.int64), size])[tree.astype(np.int64)].max(1)
    leaf, row_after = torch.from_numpy(order).to(device), torch.empty(n - 1, dtype=torch.int64, device=device)
    row_after[torch.from_numpy(start + larger - 1).to(device)] = torch.arange(n - 1, device=device)
    place = torch.empty(n, dtype=torch.int64, device=device)
    place[leaf] = torch.arange(n, device=device)
    one, other = place[graph.low], place[graph.high]
    row = _range_maximum(row_after, torch.minimum(one, other), torch.maximum(one, other))
    by_distance = graph.distances.argsort(stable=True)
    rank = torch.empty_like(by_distance)
    rank[by_distance] = torch.arange(len(rank), device=device)
    shortest = torch.full((n - 1,), len(rank), device=device).scatter_reduce_(0, row, rank, "amin")
    edges = torch.empty(n - 1, 2, dtype=torch.int64, device=device)
    found = shortest < len(rank)
    chosen = by_distance[shortest[found]]
    edges[found] = torch.stack([graph.low[chosen], graph.high[chosen]], 1)
    for r in torch.nonzero(~found)[:, 0].tolist():  # joined because the graph fell apart
        a, b = leaf[start[r] : start[r] + larger[r]], leaf[start[r] + larger[r] : start[r] + size[r]]
        edges[r] = _closest_pair(unit, a, b)
    return edges


def _range_maximum(values: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """The maximum of values[begin:end] for each pair begin < end: two overlapping powers of two of a sparse table."""
    table = [values]
    while 2 ** len(table) <= len(values):
        half = 2 ** (len(table) - 1)
        table.append(torch.maximum(table[-1][:-half], table[-1][half:]))
    flat = torch.cat(table)
    starts = torch.tensor([0, *map(len, table)], device=values.device).cumsum(0)
    powers = 2 ** torch.arange(len(table), device=values.device)
    level = torch.searchsorted(powers, end - begin, right=True) - 1
    first = starts[level] + begin
    return torch.maximum(flat[first], flat[first + end - begin - powers[level]])


def _closest_pair(unit: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Which of the examples a and which of b; at most BLOCK products at once."""
    best = torch.full((), -torch.inf, device=unit.device)
    pair = torch.stack([a[0], b[0]])
    for part in torch.split(b, max(1, BLOCK // len(a))):
        similarity = (unit[part] @ unit[a].T).reshape(-1)
        place = similarity.argmax()
        found = torch.stack([a[place % len(a)], part[place // len(a)]])
        pair = torch.where(similarity[place] > best, found, pair)
        best = torch.maximum(best, similarity[place])
    return pair
