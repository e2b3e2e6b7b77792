"""One very large neuron: trees from nearest neighbours, with cuML and CuPy on a GPU, scikit-learn and SciPy on the CPU.

nearest_neighbours  the k nearest of each example
scc_linkage         SCC on the graph of nearest neighbours, as its authors' code has it
single_linkage      the single-linkage tree

All calls of cuML and CuPy are here, and have twins: `Modules` names both, and the tensor's device chooses. What the
libraries find is then measured by ourselves, in torch, alike on both: distances are ½ |u − v|² of unit embeddings, 0 of
equal ones, the same both ways, and rounded to multiples of 2⁻²⁴ as in distances.py, so that sums of them are exact.

Euclidean distance orders unit embeddings as cosine does, and is what both libraries search blockwise: scikit-learn's
"cosine" took half as long again and several times the memory (N = 20,000), cuML's single linkage of nearest neighbours
knows no other. A zero embedding is at distance 1 from every other, which no point in space is; the libraries never see
one.

What cuML 26.10 does not give: single linkage has `children_` but no heights, so each merge's closest pair is found
again here. What CuPy 14 does not: its `connected_components` asks for pylibcugraph; `large.components` needs nothing.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from polysem.kernels.arrays import Array
from polysem.kernels.dispatch import on_gpu
from polysem.kernels.large.embeddings import BLOCK, checked_unit, pair_distances
from polysem.kernels.large.metrics import leaf_order
from polysem.kernels.large.trees import Tree, absorb_leftovers, checked_thresholds, components, linkage_of_edges

N_NEIGHBOURS = 25  # the authors' choice


class Modules(NamedTuple):
    """One library, twice."""

    xp: Any  # numpy | cupy
    sparse: Any  # scipy.sparse | cupyx.scipy.sparse
    neighbors: Any  # sklearn.neighbors | cuml.neighbors
    cluster: Any  # sklearn.cluster | cuml.cluster


def modules_of(tensor: Tensor) -> Modules:
    """Those of the tensor's device; ModuleNotFoundError says what to install."""
    try:
        if on_gpu(tensor):
            import cuml.cluster
            import cuml.neighbors
            import cupy
            import cupyx.scipy.sparse

            return Modules(cupy, cupyx.scipy.sparse, cuml.neighbors, cuml.cluster)
        import scipy.sparse
        import sklearn.cluster
        import sklearn.neighbors
    except ModuleNotFoundError as missing:
        extras = "server,cuda" if on_gpu(tensor) else "server"
        advice = f"{missing.name} is not installed, which large neurons need: pip install 'polysem[{extras}]'"
        raise ModuleNotFoundError(advice, name=missing.name) from missing
    return Modules(np, scipy.sparse, sklearn.neighbors, sklearn.cluster)


def nearest_neighbours(unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other examples of each.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    k        0..N-1
    returns  distances (N, k) float32, multiples of 2⁻²⁴ in [0, 2], never decreasing along a row, and columns (N, k)
             int64, on a tie the lowest first; which of equals is the last to be counted in is the library's choice

    N² D multiply-adds. Raises TypeError or ValueError for a wrong dtype, shape or k and for rows whose length is
    neither 1 nor 0, ModuleNotFoundError where the device's libraries are not installed.
    """
    unit = checked_unit(unit)
    n = len(unit)
    if not 0 <= k <= max(n - 1, 0):
        raise ValueError(f"k is {k}; expected 0..{max(n - 1, 0)} (N - 1)")
    columns = torch.empty(n, k, dtype=torch.int64, device=unit.device)
    zero = (unit == 0).all(1)
    zeros, others = torch.nonzero(zero)[:, 0], torch.nonzero(~zero)[:, 0]
    if k and len(zeros):
        columns[zeros] = _lowest_others(zeros, k)
        columns[others] = _with_zeros(unit, others, zeros, k)
    elif k:
        columns[:] = _search(unit, k)
    columns = columns.sort(1).values
    everyone = torch.arange(n, device=unit.device)[:, None].expand(n, k)
    distances = pair_distances(unit, everyone.reshape(-1), columns.reshape(-1)).reshape(n, k)
    distances, order = distances.sort(dim=1, stable=True)
    return distances, columns.gather(1, order)


def _search(unit: Tensor, k: int) -> Tensor:
    modules = modules_of(unit)
    model = modules.neighbors.NearestNeighbors(n_neighbors=k, metric="euclidean", algorithm="brute")
    found = model.fit(modules.xp.from_dlpack(unit)).kneighbors(return_distance=False)
    return from_dlpack(found).long()


def _lowest_others(own: Tensor, k: int) -> Tensor:
    """Of each, the lowest k examples but itself."""
    columns = torch.arange(k, device=own.device).expand(len(own), k)
    return columns + (columns >= own[:, None])


def _with_zeros(unit: Tensor, others: Tensor, zeros: Tensor, k: int) -> Tensor:
    """The nearest of `others` among themselves and the zeros, which are at distance 1."""
    n_found = min(k, len(others) - 1)
    columns = zeros[:k].expand(len(others), -1)
    distances = torch.ones(columns.shape, dtype=torch.float32, device=unit.device)
    if n_found > 0:
        found = others[_search(unit[others], n_found)]
        measured = pair_distances(unit, others[:, None].expand_as(found).reshape(-1), found.reshape(-1))
        columns = torch.cat([found, columns], 1)
        distances = torch.cat([measured.reshape(found.shape), distances], 1)
    return columns.gather(1, distances.argsort(dim=1, stable=True)[:, :k])


def scc_linkage(unit: Tensor, thresholds: Tensor, k: int = N_NEIGHBOURS, until_stable: bool = False) -> Tensor:
    """The rounds of SCC on the graph of one neuron's nearest neighbours, as one tree.

    The graph keeps an edge wherever one example is among the k nearest of the other, with their cosine similarity. Two
    sub-clusters U and V that share an edge are at distance 1 − (sum of the kept edges between them) / (|U| |V|): a pair
    without an edge counts as similarity 0. Round r: every sub-cluster picks the nearest of those it shares an edge with
    (tie: lowest index, that of its first example); the pick counts if it is within thresholds[r]; connected components
    merge.

    unit          (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    thresholds    (R,) float64 within [0, 2], strictly increasing
    k             at least 1; N - 1 where that is less
    until_stable  repeat each round until nothing merges at its threshold, instead of one pass
    returns       (N - 1, 4) float64, rows as in `scc.linkage`, whose tree this is with k = N - 1; (0, 4) of N = 0

    An edge of negative similarity is an edge like others, and so is one of similarity 0. Sub-clusters that share none
    never pick each other, at whatever threshold. N² D multiply-adds for the neighbours, k · N for each pass. Raises as
    `nearest_neighbours` does, and for thresholds and k that are not as above.
    """
    taus, unit = checked_thresholds(thresholds), checked_unit(unit)
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    tree, graph = Tree(len(unit), unit.device), _Graph(unit, min(k, max(len(unit) - 1, 0)))
    r = 0
    while len(graph.slot) > 1 and r < len(taus):
        nearest, distance = graph.nearest()
        closest = distance.min().item()
        while r < len(taus) and taus[r] < closest:
            r += 1
        if r < len(taus):
            graph.merge(tree, torch.where(distance <= taus[r], nearest, graph.columns()), taus[r])
            r += 0 if until_stable else 1
    absorb_leftovers(tree, graph.slot)
    return tree.linkage()


class _Graph:
    """Sub-clusters, and between them the sums of the similarities of kept edges, each edge in both directions."""

    def __init__(self, unit: Tensor, k: int) -> None:
        n = len(unit)
        self.modules = modules_of(unit)
        self.slot = torch.arange(n, device=unit.device)  # of each sub-cluster: its first example
        self.size = torch.ones(n, dtype=torch.float64, device=unit.device)
        distances, columns = nearest_neighbours(unit, k)
        u, v = self.slot[:, None].expand_as(columns).reshape(-1), columns.reshape(-1)
        pairs, edge = torch.unique(torch.minimum(u, v) * n + torch.maximum(u, v), return_inverse=True)
        similarity = torch.full_like(pairs, -torch.inf, dtype=torch.float64)
        similarity.scatter_reduce_(0, edge, 1 - distances.reshape(-1).double(), "amax")
        low, high = pairs // max(n, 1), pairs % max(n, 1)
        self.rows, self.cols = torch.cat([low, high]), torch.cat([high, low])
        self.sums = torch.cat([similarity, similarity])

    def columns(self) -> Tensor:
        return torch.arange(len(self.slot), device=self.slot.device)

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Of each sub-cluster the first of the nearest, and its distance; itself, at `inf`, where it has no edge."""
        score = self.sums / (self.size[self.rows] * self.size[self.cols])
        best = torch.full_like(self.size, -torch.inf).scatter_reduce_(0, self.rows, score, "amax")
        is_best = score == best[self.rows]
        nearest = torch.full_like(self.slot, len(self.slot))
        nearest.scatter_reduce_(0, self.rows[is_best], self.cols[is_best], "amin")
        return torch.where(nearest < len(self.slot), nearest, self.columns()), 1 - best

    def merge(self, tree: Tree, up: Tensor, tau: float) -> None:
        """Connected components of the picks merge, and so do the edges between them (the sums Pᵀ A P)."""
        first = components(up)
        own = self.columns()
        absorbed = torch.nonzero(first != own)[:, 0]
        tree.absorb(self.slot[absorbed], self.slot[first[absorbed]], tau)
        self.size.index_add_(0, first[absorbed], self.size[absorbed])
        keep = first == own
        name = (keep.cumsum(0) - 1)[first]  # of each in the next round
        self.slot, self.size = self.slot[keep], self.size[keep]
        rows, cols = name[self.rows], name[self.cols]
        between = rows != cols
        self._add_up(rows[between], cols[between], self.sums[between])

    def _add_up(self, rows: Tensor, cols: Tensor, sums: Tensor) -> None:
        """One edge for all between the same two; the libraries keep one whose sum is 0."""
        xp, m = self.modules.xp, len(self.slot)
        data, row, col = (xp.from_dlpack(x) for x in (sums, rows.int(), cols.int()))
        matrix = self.modules.sparse.coo_matrix((data, (row, col)), shape=(m, m)).tocsr().tocoo()
        self.rows, self.cols = from_dlpack(matrix.row).long(), from_dlpack(matrix.col).long()
        self.sums = from_dlpack(matrix.data)


def single_linkage(unit: Tensor) -> Tensor:
    """The single-linkage tree of one neuron's examples on cosine distance.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    returns  (N - 1, 4) float64, a SciPy linkage matrix as in `agglomerative.linkage`; (0, 4) of N = 0

    On the CPU scikit-learn's minimum spanning tree, exact: N² D / 2 multiply-adds on one core, 8 · N · D bytes. On a
    GPU cuML's, of the graph of its log2(N) + 15 nearest neighbours, joined where that falls apart: never below the
    exact tree's heights, and above them where the closest pair of two groups are not among each other's neighbours.
    There the closest pairs cost N² D / 2 multiply-adds, in one product a merge. Raises as `nearest_neighbours` does.
    """
    unit = checked_unit(unit)
    zero = (unit == 0).all(1)
    zeros, others = torch.nonzero(zero)[:, 0], torch.nonzero(~zero)[:, 0]
    edges = _spanning_tree(unit[others] if len(zeros) else unit)
    if len(zeros):  # at distance 1 from all
        joined = torch.cat([others[:1], zeros])
        star = torch.stack([joined[:1].expand(len(joined) - 1), joined[1:]], 1)
        return linkage_of_edges(unit, torch.cat([others[edges], star]), highest=1.0)
    return linkage_of_edges(unit, edges)


def _spanning_tree(unit: Tensor) -> Tensor:
    """(N - 1, 2) int64: the closest examples of the two clusters of each merge of the library's tree."""
    if len(unit) < 2:
        return torch.empty(0, 2, dtype=torch.int64, device=unit.device)
    modules = modules_of(unit)
    options = {} if on_gpu(unit) else {"compute_full_tree": True}  # cuML knows no part of a tree
    model = modules.cluster.AgglomerativeClustering(metric="euclidean", linkage="single", **options)
    children = from_dlpack(model.fit(modules.xp.from_dlpack(unit)).children_).cpu().numpy()
    return _closest_pairs(unit, children.astype(np.float64))


def _closest_pairs(unit: Tensor, children: Array) -> Tensor:
    """The closest examples of the two children of each row; in leaf order the two are side by side."""
    order, start, size = leaf_order(children)
    larger = np.concatenate([np.ones(len(order), np.int64), size])[children.astype(np.int64)].max(1)
    leaf = torch.from_numpy(order).to(unit.device)
    unit = unit[leaf]
    pairs = torch.empty(len(children), 2, dtype=torch.int64, device=unit.device)
    for row, (begin, middle, end) in enumerate(zip(start, start + larger, start + size, strict=True)):
        _closest_pair(unit[begin:middle], unit[middle:end], pairs[row])
        pairs[row, 0] += begin
        pairs[row, 1] += middle
    return leaf[pairs]


def _closest_pair(a: Tensor, b: Tensor, pair: Tensor) -> None:
    """Which of a and which of b, at most BLOCK products at once; b is the smaller."""
    best = torch.full((), -torch.inf, device=a.device)
    for begin in range(0, len(b), step := max(1, BLOCK // len(a))):
        similarity = (b[begin : begin + step] @ a.T).reshape(-1)
        place = similarity.argmax()
        found = torch.stack([place % len(a), begin + place // len(a)])
        pair[:] = torch.where(similarity[place] > best, found, pair)
        best = torch.maximum(best, similarity[place])
