"""One large neuron on the graph of its nearest neighbours, which one of three libraries finds (`libraries`).

nearest_neighbours  the k nearest of each example
nearest_of          the same of some examples only
neighbour_graph     the edges between them
scc_linkage         SCC on that graph, as its authors' code has it

What a library finds is measured again by ourselves, in torch, alike for all: distances are ½ |u − v|² of unit
embeddings, 0 of equal ones, the same both ways, and rounded to multiples of 2⁻²⁴ as in distances.py, so that sums of
them are exact. A library is asked for a few more than k and the nearest of them are kept: its float32 products order
distances that differ by less than 1e-7 by chance. A zero embedding is at distance 1 from every other, which no point in
space is; the libraries never see one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from polysem.kernels.large.embeddings import BLOCK, checked_unit, pair_distances
from polysem.kernels.large.libraries import Cells, Library, checked_library, search, sums
from polysem.kernels.large.trees import Tree, absorb_leftovers, checked_thresholds, components

N_NEIGHBOURS = 25  # the authors' choice
SPARE = 8  # neighbours beyond k that a library is asked for


def nearest_neighbours(unit: Tensor, k: int, library: Library | None = None) -> tuple[Tensor, Tensor]:
    """The k nearest other examples of each.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    k        0..N-1
    library  that searches; None: `default_library` of the device
    returns  distances (N, k) float32, multiples of 2⁻²⁴ in [0, 2], never decreasing along a row, and columns (N, k)
             int64, on a tie the lowest first; among more than k + SPARE equals the library chooses

    N² D multiply-adds. Raises TypeError or ValueError for a wrong dtype, shape or k, for rows whose length is neither 1
    nor 0 and for a library that does not run on the device, ModuleNotFoundError where it is not installed.
    """
    unit, library = checked_unit(unit), checked_library(library, unit.device)
    n = len(unit)
    if not 0 <= k <= max(n - 1, 0):
        raise ValueError(f"k is {k}; expected 0..{max(n - 1, 0)} (N - 1)")
    zero = (unit == 0).all(1)
    zeros, others = torch.nonzero(zero)[:, 0], torch.nonzero(~zero)[:, 0]
    candidates = torch.empty(n, min(k + 1 + SPARE, n) if k else 0, dtype=torch.int64, device=unit.device)
    if k and len(others):
        candidates[others] = _candidates(unit, others, zeros, candidates.shape[1], library)
    if k and len(zeros):
        candidates[zeros] = torch.arange(candidates.shape[1], device=unit.device)
    return _nearest(unit, torch.arange(n, device=unit.device), candidates, k)


def nearest_of(unit: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other examples of these, by torch: the rows that `nearest_neighbours` has of them.

    unit     (N, D) float32, rows of length 1 or 0, which is not checked
    rows     (R,) int64
    k        0..N-1
    returns  (R, k) each, as there

    R N D multiply-adds, and 64 MiB of similarities.
    """
    candidates = torch.empty(len(rows), min(k + 1 + SPARE, len(unit)), dtype=torch.int64, device=unit.device)
    step = max(1, BLOCK // max(len(unit), 1))
    for some, found in zip(torch.split(rows, step), torch.split(candidates, step), strict=True):
        found[:] = (unit[some] @ unit.T).topk(candidates.shape[1], sorted=False).indices
    return _nearest(unit, rows, candidates, k)


def _candidates(unit: Tensor, others: Tensor, zeros: Tensor, k: int, library: Library) -> Tensor:
    """Among k of these are the nearest of `others`, which are not zero: of each other, and zeros."""
    found = search(unit[others] if len(zeros) else unit, min(k, len(others)), library)
    if not len(zeros):
        return found
    found = torch.cat([others[found], zeros[:k].expand(len(others), -1)], 1)
    distances, columns = _measured(unit, others, found)
    return columns.gather(1, distances.argsort(dim=1, stable=True)[:, :k])


def _nearest(unit: Tensor, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of each row's candidates but itself."""
    distances, columns = _measured(unit, rows, candidates)
    distances = distances.masked_fill(columns == rows[:, None], torch.inf)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    return distances.gather(1, order), columns.gather(1, order)


def _measured(unit: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of rows (R,) from columns (R, C), and the columns, both in ascending order of column."""
    columns = columns.sort(1).values
    return pair_distances(unit, rows, columns), columns


class Edges(NamedTuple):
    """Pairs of examples low < high, each once: (E,) int64; distances (E,) float32."""

    low: Tensor
    high: Tensor
    distances: Tensor


def neighbour_graph(unit: Tensor, k: int, library: Library | None = None) -> Edges:
    """An edge wherever one example is among the k nearest of the other, k at most N - 1.

    Arguments, cost and errors are those of `nearest_neighbours`.
    """
    return graph_of(*nearest_neighbours(unit, min(k, max(len(unit) - 1, 0)), library))


def graph_of(distances: Tensor, columns: Tensor) -> Edges:
    """The graph of what `nearest_neighbours` found."""
    n = len(columns)
    rows = torch.arange(n, device=columns.device)[:, None].expand_as(columns)
    pairs = torch.minimum(rows, columns) * n + torch.maximum(rows, columns)
    pairs, edge = torch.unique(pairs, return_inverse=True)
    measured = torch.empty(len(pairs), device=columns.device)
    measured[edge.reshape(-1)] = distances.reshape(-1)  # the same from both ends
    return Edges(pairs // max(n, 1), pairs % max(n, 1), measured)


def scc_linkage(
    unit: Tensor,
    thresholds: Tensor,
    k: int = N_NEIGHBOURS,
    until_stable: bool = False,
    library: Library | None = None,
) -> Tensor:
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
    library       that searches; None: `default_library` of the device
    returns       (N - 1, 4) float64, rows as in `scc.linkage`, whose tree this is with k = N - 1; (0, 4) of N = 0

    An edge of negative similarity is an edge like others, and so is one of similarity 0. Sub-clusters that share none
    never pick each other, at whatever threshold. N² D multiply-adds for the neighbours, k · N for each pass. Raises as
    `nearest_neighbours` does, and for thresholds and k that are not as above.
    """
    checked_thresholds(thresholds)
    unit, library = checked_unit(unit), checked_library(library, unit.device)
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    return scc_of_graph(len(unit), neighbour_graph(unit, k, library), thresholds, until_stable, library)


def scc_of_graph(
    n: int, edges: Edges, thresholds: Tensor, until_stable: bool = False, library: Library = "torch"
) -> Tensor:
    """The rounds of `scc_linkage` on the graph of n examples; k · N for each pass."""
    taus = checked_thresholds(thresholds)
    tree, graph = Tree(n, edges.low.device), _Graph(n, edges, library)
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

    def __init__(self, n: int, edges: Edges, library: Library) -> None:
        self.library = library
        self.slot = torch.arange(n, device=edges.low.device)  # of each sub-cluster: its first example
        self.size = torch.ones(n, dtype=torch.float64, device=edges.low.device)
        similarity = 1 - edges.distances.double()
        both = [edges.low, edges.high], [edges.high, edges.low], [similarity, similarity]
        self.cells = Cells(*map(torch.cat, both))

    def columns(self) -> Tensor:
        return torch.arange(len(self.slot), device=self.slot.device)

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Find each sub-cluster's first nearest one, and its distance; itself, at `inf`, where it has no edge."""
        rows, columns, total = self.cells
        score = total / (self.size[rows] * self.size[columns])
        best = torch.full_like(self.size, -torch.inf).scatter_reduce_(0, rows, score, "amax")
        is_best = score == best[rows]
        nearest = torch.full_like(self.slot, len(self.slot))
        nearest.scatter_reduce_(0, rows[is_best], columns[is_best], "amin")
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
        rows, columns = name[self.cells.rows], name[self.cells.columns]
        between = rows != columns
        cells = Cells(rows[between], columns[between], self.cells.values[between])
        self.cells = sums(cells, len(self.slot), self.library)
