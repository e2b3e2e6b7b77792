"""One large neuron: trees and metrics of up to 2¹⁸ examples, in memory that grows with N · D, never with N².

unit_embeddings  the embeddings, normalised
average_linkage  the average-linkage tree: rounds of reciprocal nearest pairs
scc_linkage      the rounds of SCC on the complete graph: `scc.linkage` without its distances
single_linkage   the single-linkage tree: Borůvka's rounds
tree_metrics     `metrics.tree_metrics` of one neuron, likewise

All rest on one identity: the mean cosine distance between clusters A and B is 1 − ⟨S_A, S_B⟩ / (|A| |B|), S the sum of
a cluster's unit embeddings. A zero embedding adds nothing, so it is at distance 1 from every other without being asked.
The nearest of many clusters are one product of float32 means, block by block; what is then decided or written down is
computed again from the sums, in float64.

A cluster's nearest stays nearest while others merge: the mean similarity to a union lies between those to its parts. So
two clusters that are each other's nearest merge in the tree whatever else does, and only a cluster that merged, or
whose nearest did, must look again. Until it has looked, its last similarity is an upper bound.

Unit embeddings are rounded to multiples of 2⁻³⁴: float64 sums of 2¹⁸ of them are exact, in whatever order they were
added, on any device.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.agglomerative import root
from polysem.kernels.arrays import Array, Sizes, checked
from polysem.kernels.metrics import ClusterMetrics, NodeMetrics, TreeMetrics
from polysem.kernels.parallel import compiled
from polysem.kernels.scc import LEFTOVER_HEIGHT, check_thresholds
from polysem.kernels.tree import is_tree

MAX_EXAMPLES = 2**18
GRID = 2.0**34
SAME = 2.0**-25  # distances below are 0, as in distances.py, where they are multiples of 2⁻²⁴
BLOCK = 2**24  # similarities at once: 64 MiB
ROWS = 4096  # embeddings at once, where they are gathered in float64


def unit_embeddings(rows: Tensor, weights: Tensor, offsets: Tensor | None = None) -> Tensor:
    """The embeddings e = x ⊙ weights + offsets of one neuron's examples (paper eq. 1 to 3), each of length 1.

    rows     (N, D) float16 or float32: x of each example
    weights  (D,) float32
    offsets  (D,) float32, or None for zeros
    returns  (N, D) float32; a zero embedding stays zero

    Raises TypeError or ValueError for wrong dtypes and shapes and where an embedding is NaN or infinite. O(N · D).
    """
    sizes: Sizes = {}
    rows = checked("rows", rows, "N D", sizes, (torch.float32, torch.float16), rows.device)
    weights = checked("weights", weights, "D", sizes, (torch.float32,), rows.device)
    if offsets is not None:
        offsets = checked("offsets", offsets, "D", sizes, (torch.float32,), rows.device)
    for name, vector in (("weights", weights), ("offsets", offsets)):
        if vector is not None:
            _raise_if_not_finite(name, vector)
    unit = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    for begin in range(0, len(rows), ROWS):
        block = rows[begin : begin + ROWS].float() * weights
        if offsets is not None:
            block += offsets
        squares = block.double().square_().sum(1)
        for i in torch.nonzero(~squares.isfinite())[:1, 0].tolist():
            _raise_if_not_finite("rows", rows, begin + i)
            raise ValueError(f"the embedding of example {begin + i} overflows float32")
        unit[begin : begin + ROWS] = block.double() * _inverse(squares.sqrt())[:, None]
    return unit


def _raise_if_not_finite(name: str, values: Tensor, row: int | None = None) -> None:
    for d in torch.nonzero(~(values if row is None else values[row]).isfinite())[:1, 0].tolist():
        place, value = (d, values[d]) if row is None else (f"{row}, {d}", values[row, d])
        raise ValueError(f"{name}[{place}] is {value.item()}; expected finite numbers")


def _inverse(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, 1 / lengths, 0.0)


def checked_unit(unit: Tensor) -> Tensor:
    """unit (N, D) float32, each row of length 1 or 0 and not too many of them."""
    unit = checked("unit", unit, "N D", {}, (torch.float32,), unit.device)
    if len(unit) > MAX_EXAMPLES:
        raise ValueError(f"unit has {len(unit)} rows; expected at most {MAX_EXAMPLES}")
    lengths = torch.linalg.vector_norm(unit, dim=1, dtype=torch.float64)
    for i in torch.nonzero(~((lengths == 0) | ((lengths - 1).abs() < 1e-3)))[:1, 0].tolist():
        raise ValueError(f"unit[{i}] has length {lengths[i].item():g}; expected 1, or 0 for a zero embedding")
    return unit


def checked_thresholds(thresholds: Tensor) -> list[float]:
    """thresholds (R,) float64 within [0, 2], strictly increasing, on whatever device."""
    device = thresholds.device if isinstance(thresholds, Tensor) else torch.device("cpu")
    thresholds = checked("thresholds", thresholds, "R", {}, (torch.float64,), device).cpu()
    check_thresholds(thresholds.numpy())
    taus: list[float] = thresholds.tolist()
    return taus


class Tree:
    """Rows of a linkage matrix as clusters merge; a cluster goes by the slot of its lowest example."""

    def __init__(self, n_examples: int, device: torch.device) -> None:
        self.node = torch.arange(n_examples, device=device)  # of each slot's cluster
        self.size = torch.ones_like(self.node)
        self.rows = [torch.empty(0, 4, dtype=torch.float64, device=device)]
        self.n_nodes = n_examples

    def absorb(self, absorbed: Tensor, into: Tensor, height: float | Tensor) -> None:
        """In the order given, each absorbed slot joins what its target slot has become: one row each, at `height`."""
        order = torch.argsort(into, stable=True)
        target, own = into[order], self.size[absorbed[order]]
        first = torch.ones_like(target, dtype=torch.bool)
        first[1:] = target[1:] != target[:-1]
        made = self.n_nodes + order
        partner = torch.where(first, self.node[target], made.roll(1))
        joined = self.node[absorbed[order]]
        added = own.cumsum(0)
        size = self.size[target] + added - torch.where(first, added - own, 0).cummax(0).values
        rows = torch.empty(len(order), 4, dtype=torch.float64, device=order.device)
        rows[order] = torch.stack(
            [torch.minimum(partner, joined), torch.maximum(partner, joined), size, size], 1
        ).double()
        rows[:, 2] = height
        self.rows.append(rows)
        self.n_nodes += len(order)
        last = first.roll(-1)
        self.node[target[last]], self.size[target[last]] = made[last], size[last]

    def linkage(self) -> Tensor:
        return torch.cat(self.rows)

    def sorted_linkage(self) -> Tensor:
        """The rows by height, those of one height in the order they were made, their nodes renamed."""
        rows = self.linkage()
        n_examples = len(rows) + 1
        order = torch.argsort(rows[:, 2], stable=True)
        name = torch.arange(n_examples + len(rows), device=rows.device)
        name[n_examples + order] = name[n_examples:].clone()
        rows = rows[order]
        rows[:, :2] = name[rows[:, :2].long()].sort(1).values.double()
        return rows


def components(up: Tensor) -> Tensor:
    """The lowest member of each element's component, where element i is joined to up[i]; all (m,) int64."""
    own = torch.arange(len(up), device=up.device)
    circle = _circles(up)  # each component has one
    lowest = torch.full_like(own, len(up)).scatter_reduce(0, circle, own, "amin")
    return lowest[circle]


def _circles(up: Tensor) -> Tensor:
    """The lowest element of the circle in which the way from each element ends."""
    jump, low = up, torch.arange(len(up), device=up.device)  # 2^k steps on, and the lowest of the 2^k elements met
    for _ in range(len(up).bit_length()):
        low, jump = torch.minimum(low, low[jump]), jump[jump]
    return low[jump]


class _Clusters:
    """Clusters as the sums of their unit embeddings; a column of the similarities is a cluster, or was one."""

    def __init__(self, unit: Tensor) -> None:
        self.sums = _on_grid(unit)  # (N, D) float64, by slot
        self.size = torch.ones(len(unit), dtype=torch.float64, device=unit.device)  # by slot
        self.slot = torch.arange(len(unit), device=unit.device)  # of each column
        self.mean = unit.clone()  # (columns, D) float32
        self.dead = torch.zeros_like(self.slot, dtype=torch.bool)
        self.n_dead = 0

    @property
    def n_live(self) -> int:
        return len(self.slot) - self.n_dead

    def columns(self) -> Tensor:
        return torch.arange(len(self.slot), device=self.slot.device)

    def nearest(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The greatest mean similarity of each of these to another cluster, and the first column that has it."""
        best = torch.empty(len(columns), dtype=torch.float32, device=columns.device)
        where = torch.empty_like(columns)
        dead = torch.nonzero(self.dead)[:, 0] if self.n_dead else None
        step = max(1, BLOCK // max(len(self.mean), 1))
        for begin in range(0, len(columns), step):
            own = columns[begin : begin + step]
            similarity = self.mean[own] @ self.mean.T
            similarity.scatter_(1, own[:, None], -torch.inf)
            if dead is not None:
                similarity.index_fill_(1, dead, -torch.inf)
            found = similarity.argmax(1, keepdim=True)
            best[begin : begin + step] = similarity.gather(1, found)[:, 0]
            where[begin : begin + step] = found[:, 0]
        return best, where

    def distance(self, u: Tensor, v: Tensor) -> Tensor:
        """The mean distance between the clusters of columns u and v, pair by pair, float64."""
        a, b = self.slot[u], self.slot[v]
        return _snapped(1 - _dots(self.sums, a, self.sums, b) / (self.size[a] * self.size[b]))

    def unite(self, absorbed: Tensor, into: Tensor) -> None:
        """Add the clusters of columns `absorbed` to those of columns `into`."""
        a, b = self.slot[absorbed], self.slot[into]
        for rows, targets in zip(torch.split(a, ROWS), torch.split(b, ROWS), strict=True):
            self.sums.index_add_(0, targets, self.sums[rows])
        self.size.index_add_(0, b, self.size[a])
        for columns in torch.split(into, ROWS):
            slots = self.slot[columns]
            self.mean[columns] = (self.sums[slots] / self.size[slots, None]).float()
        self.dead[absorbed] = True
        self.n_dead += len(absorbed)

    def compact(self) -> tuple[Tensor, Tensor]:
        """Let dead columns go. Which of the old columns stay, and what the old columns are called now."""
        keep = torch.nonzero(~self.dead)[:, 0]
        name = (~self.dead).cumsum(0) - 1
        self.slot, self.mean = self.slot[keep], self.mean[keep]
        self.dead = torch.zeros_like(self.slot, dtype=torch.bool)
        self.n_dead = 0
        return keep, name


def _on_grid(unit: Tensor) -> Tensor:
    """The same, (N, D) float64, of length 1 to the last bits and then rounded to multiples of 2⁻³⁴."""
    result = torch.empty(unit.shape, dtype=torch.float64, device=unit.device)
    for rows, target in zip(torch.split(unit, ROWS), torch.split(result, ROWS), strict=True):
        exact = rows.double()
        torch.round(exact * (_inverse(exact.square().sum(1).sqrt()) * GRID)[:, None], out=target)
        target /= GRID
    return result


def _dots(x: Tensor, rows: Tensor, y: Tensor, others: Tensor) -> Tensor:
    """⟨x[rows[k]], y[others[k]]⟩ of each k, in float64."""
    result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    blocks = (torch.split(tensor, ROWS) for tensor in (rows, others, result))
    for a, b, target in zip(*blocks, strict=True):
        torch.sum(x[a] * y[b], 1, out=target)
    return result


def _snapped(distance: Tensor) -> Tensor:
    return torch.where(distance < SAME, 0.0, distance).clamp_(max=2.0)


def average_linkage(unit: Tensor) -> Tensor:
    """The average-linkage tree of one neuron's examples.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    returns  (N - 1, 4) float64, a SciPy linkage matrix as in `agglomerative.linkage`; (0, 4) of N = 0

    Heights are within 1e-5 of SciPy's where distances are distinct; with ties this is one of the valid trees. Each
    round merges pairs that are each other's nearest, then lets the most promising of the clusters that must look again
    do so, a few for each merge.

    Memory: 16 · N · D bytes beside `unit`, and 64 MiB of similarities. Time: of the order of N² D multiply-adds, three
    times that on the data tried; where all examples crowd around one, whose merge makes all of them look again, a
    round finds one pair, and N rounds read all means each. Raises TypeError or ValueError for a wrong dtype or shape
    and for rows whose length is neither 1 nor 0.
    """
    unit = checked_unit(unit)
    tree, clusters = Tree(len(unit), unit.device), _Clusters(unit)
    height = torch.zeros(len(unit), dtype=torch.float64, device=unit.device)  # by slot: of its cluster's last merge
    if len(unit) > 1:
        _unite_equals(unit, tree, clusters, height)
        _unite_nearest(tree, clusters, height)
    return tree.sorted_linkage()


def _equals(unit: Tensor) -> Tensor:
    """Of each row, the lowest index of a row equal to it."""
    group = torch.unique(unit, dim=0, return_inverse=True)[1]
    own = torch.arange(len(unit), device=unit.device)
    lowest = torch.full_like(own, len(unit)).scatter_reduce(0, group, own, "amin")
    return lowest[group]


def _unite_equals(unit: Tensor, tree: Tree, clusters: _Clusters, height: Tensor) -> None:
    """Equal embeddings first, at height 0: a round would merge one pair of them. Zeros are at 1 from one another."""
    lowest = _equals(unit)
    absorbed = torch.nonzero(lowest != clusters.columns())[:, 0]
    if not len(absorbed):
        return
    into = lowest[absorbed]
    zero = (unit[into] == 0).all(1)
    height[into[zero]] = 1.0
    tree.absorb(absorbed, into, height[into])
    clusters.unite(absorbed, into)
    clusters.compact()


FEWEST, PER_MERGE = 16, 4  # how many look again in a round: at least, and for each merge


def _unite_nearest(tree: Tree, clusters: _Clusters, height: Tensor) -> None:
    bound, nearest = clusters.nearest(clusters.columns())  # a stale one's bound is not reached by any similarity of it
    stale = torch.zeros_like(clusters.dead)
    budget = FEWEST
    while clusters.n_live > 1:
        u, v = _reciprocal(nearest, stale)
        if not len(u) and _look_again(clusters, bound, nearest, stale, budget):
            budget *= 2
            continue
        if not len(u):  # rounding made a circle of three or more
            u = bound.argmax()[None]
            u, v = torch.minimum(u, nearest[u]), torch.maximum(u, nearest[u])
        slots = clusters.slot[u], clusters.slot[v]
        # rounding may put a mean one unit below its children's: a tree never descends
        heights = torch.maximum(clusters.distance(u, v), torch.maximum(height[slots[0]], height[slots[1]]))
        height[slots[0]] = heights
        tree.absorb(slots[1], slots[0], heights)
        clusters.unite(v, u)
        merged = torch.zeros_like(stale)
        merged[u] = merged[v] = True
        stale |= merged | merged[nearest]
        bound[v], nearest[v], stale[v] = -torch.inf, v, False
        if clusters.n_dead * 8 > len(stale):
            keep, name = clusters.compact()
            bound, nearest, stale = bound[keep], name[nearest[keep]], stale[keep]
        budget = max(FEWEST, PER_MERGE * len(u))
        _look_again(clusters, bound, nearest, stale, budget)


def _reciprocal(nearest: Tensor, stale: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs u < v of columns that are known to be each other's nearest."""
    own = torch.arange(len(nearest), device=nearest.device)
    mutual = (own < nearest) & (nearest[nearest] == own) & ~stale & ~stale[nearest]
    u = torch.nonzero(mutual)[:, 0]
    return u, nearest[u]


def _look_again(clusters: _Clusters, bound: Tensor, nearest: Tensor, stale: Tensor, budget: int) -> bool:
    """The stale columns of the highest bounds find their nearest; False if there are none."""
    columns = torch.nonzero(stale)[:, 0]
    if not len(columns) or clusters.n_live < 2:
        return False
    if len(columns) > budget:
        columns = columns[bound[columns].topk(budget).indices]
    bound[columns], nearest[columns] = clusters.nearest(columns)
    stale[columns] = False
    return True


def scc_linkage(unit: Tensor, thresholds: Tensor, until_stable: bool = False) -> Tensor:
    """The rounds of SCC on the complete graph of one neuron's examples: `scc.linkage` without its distances.

    unit          (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    thresholds    (R,) float64 within [0, 2], strictly increasing
    until_stable  repeat each round until nothing merges at its threshold, instead of one pass
    returns       (N - 1, 4) float64, rows as in `scc.linkage`; (0, 4) of N = 0

    The same tree as there where distances are distinct, by 1e-6 and also from the thresholds. Memory: 16 · N · D bytes
    beside `unit`, and 64 MiB of similarities. Time: N² D multiply-adds for the first pass, less for each later one that
    merges anything. Raises TypeError or ValueError as `scc.linkage` does, and for rows whose length is neither 1 nor 0.
    """
    taus, unit = checked_thresholds(thresholds), checked_unit(unit)
    tree = Tree(len(unit), unit.device)
    rounds = _Rounds(unit)
    r = 0
    while len(rounds.nearest) > 1 and r < len(taus):
        closest = rounds.look_again()
        while r < len(taus) and taus[r] < closest:
            r += 1
        if r < len(taus):
            rounds.merge(tree, taus[r])
            r += 0 if until_stable else 1
    absorb_leftovers(tree, rounds.clusters.slot)
    return tree.linkage()


def absorb_leftovers(tree: Tree, slots: Tensor) -> None:
    """What no round merged joins the first of them."""
    tree.absorb(slots[1:], slots[:1].expand(max(len(slots) - 1, 0)), LEFTOVER_HEIGHT)


class _Rounds:
    """The passes of SCC: every cluster's nearest, and who must look for it again."""

    def __init__(self, unit: Tensor) -> None:
        self.clusters = _Clusters(unit)
        self.twin = _twins(unit)
        self.nearest = torch.full_like(self.twin, -1)  # -1: look again
        self.distance = torch.zeros(len(unit), dtype=torch.float64, device=unit.device)

    def look_again(self) -> float:
        """The least distance between two clusters, once all know their nearest."""
        columns = torch.nonzero(self.nearest < 0)[:, 0]
        found = self.clusters.nearest(columns)[1]
        if len(self.twin):  # the first time, when products of equal rows may differ in their last bits
            found = torch.where(self.twin >= 0, self.twin, found)
            self.twin = self.twin[:0]
        self.nearest[columns] = found
        self.distance[columns] = self.clusters.distance(columns, found)
        return self.distance.min().item()

    def merge(self, tree: Tree, tau: float) -> None:
        """One pass: connected components of the edges within the threshold merge."""
        own = self.clusters.columns()
        root = components(torch.where(self.distance <= tau, self.nearest, own))
        absorbed = torch.nonzero(root != own)[:, 0]
        into = root[absorbed]
        tree.absorb(self.clusters.slot[absorbed], self.clusters.slot[into], tau)
        self.clusters.unite(absorbed, into)
        merged = torch.zeros_like(self.clusters.dead)
        merged[absorbed] = merged[into] = True
        again = merged | merged[self.nearest]
        keep, name = self.clusters.compact()
        self.distance = self.distance[keep]
        self.nearest = torch.where(again, -1, name[self.nearest])[keep]


def _twins(unit: Tensor) -> Tensor:
    """Of each row, the lowest other row equal to it, or -1; zeros are no twins."""
    lowest, own = _equals(unit), torch.arange(len(unit), device=unit.device)
    others = lowest != own
    second = torch.full_like(own, len(unit)).scatter_reduce(0, lowest[others], own[others], "amin")
    twin = torch.where(others, lowest, torch.where(second < len(unit), second, -1))
    return torch.where((unit == 0).all(1), -1, twin)


def single_linkage(unit: Tensor) -> Tensor:
    """The single-linkage tree of one neuron's examples.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    returns  (N - 1, 4) float64, a SciPy linkage matrix as in `agglomerative.linkage`; (0, 4) of N = 0

    Borůvka's rounds: each cluster's shortest way out is an edge of the tree, and the clusters so joined are the next
    round's, half as many at most. An example's nearest outside its cluster stays so until that one is in it too; then
    its similarity is an upper bound, and it looks again only if its cluster knows no better way out.

    Memory: 64 MiB of similarities. Time: two to three times N² D multiply-adds on the data tried. Raises TypeError or
    ValueError for a wrong dtype or shape and for rows whose length is neither 1 nor 0.
    """
    unit = checked_unit(unit)
    label = torch.arange(len(unit), device=unit.device)
    ways, edges = _WaysOut(unit), [torch.empty(0, 2, dtype=torch.int64, device=unit.device)]
    while len(unit) and label.any():
        ways.look_again(label)
        clusters, u, v = ways.shortest(label)
        up = torch.arange(len(unit), device=unit.device)
        up[clusters] = label[v]
        needed = _circles(up)[clusters] != clusters  # an edge less than clusters
        edges.append(torch.stack([u, v], 1)[needed])
        label = components(up)[label]
    return linkage_of_edges(unit, torch.cat(edges))


class _WaysOut:
    """The nearest example outside its own cluster of each, or, where it was taken in, a bound on the similarity."""

    def __init__(self, unit: Tensor) -> None:
        self.unit = unit
        self.bound = torch.full((len(unit),), torch.inf, device=unit.device)
        self.nearest = torch.arange(len(unit), device=unit.device)

    def look_again(self, label: Tensor) -> None:
        """Until no bound is above the best way out that its cluster knows."""
        while True:
            stale = label[self.nearest] == label
            best = _greatest(torch.where(stale, -torch.inf, self.bound), label)
            rows = torch.nonzero(stale & (self.bound > best[label]))[:, 0]
            if not len(rows):
                return
            if len(rows) < len(label):  # the most promising first: they may save the others the search
                rows = rows[self.bound[rows].topk(min(len(rows), FEWEST_WAYS + len(rows) // 8)).indices]
            self._search(rows, label)

    def _search(self, rows: Tensor, label: Tensor) -> None:
        for own in torch.split(rows, max(1, BLOCK // len(label))):
            similarity = self.unit[own] @ self.unit.T
            similarity.masked_fill_(label[own, None] == label, -torch.inf)
            found = similarity.argmax(1, keepdim=True)
            self.nearest[own], self.bound[own] = found[:, 0], similarity.gather(1, found)[:, 0]

    def shortest(self, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each cluster, and the shortest way out of it, from u to v."""
        own = torch.arange(len(label), device=label.device)
        bound = torch.where(label[self.nearest] == label, -torch.inf, self.bound)
        best = bound == _greatest(bound, label)[label]
        first = torch.full_like(own, len(label)).scatter_reduce(0, label[best], own[best], "amin")
        clusters = torch.nonzero(first < len(label))[:, 0]
        return clusters, first[clusters], self.nearest[first[clusters]]


FEWEST_WAYS = 256


def _greatest(values: Tensor, label: Tensor) -> Tensor:
    return torch.full_like(values, -torch.inf).scatter_reduce(0, label, values, "amax")


def pair_distances(unit: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """½ |unit[u] − unit[v]|² pair by pair, 1 where either is zero; float32 multiples of 2⁻²⁴, the same both ways."""
    result = torch.empty(len(u), dtype=torch.float32, device=unit.device)
    zero = (unit == 0).all(1)
    for begin in range(0, len(u), ROWS):
        a, b = u[begin : begin + ROWS], v[begin : begin + ROWS]
        distance = (unit[a] - unit[b]).square_().sum(1) * 0.5
        distance.masked_fill_(zero[a] | zero[b], 1.0)
        result[begin : begin + ROWS] = torch.round(distance * 2**24) * 2**-24
    return result.clamp_(max=2.0)


def linkage_of_edges(unit: Tensor, edges: Tensor, highest: float = 2.0) -> Tensor:
    """The single-linkage matrix of a spanning tree (N - 1, 2) int64, its merges at most as high as that."""
    distances = pair_distances(unit, edges[:, 0], edges[:, 1]).double().clamp(max=highest)
    heights, order = distances.sort(stable=True)
    rows = _label(edges[order].cpu().numpy(), heights.cpu().numpy())
    return torch.from_numpy(rows).to(unit.device)


@compiled
def _label(edges: Array, heights: Array) -> Array:
    n = len(edges) + 1
    up = np.arange(2 * n - 1)
    size = np.ones(2 * n - 1)
    rows = np.empty((n - 1, 4))
    for row in range(n - 1):
        u, v = root(up, edges[row, 0]), root(up, edges[row, 1])
        up[u] = up[v] = n + row
        size[n + row] = size[u] + size[v]
        rows[row, 0], rows[row, 1] = min(u, v), max(u, v)
        rows[row, 2], rows[row, 3] = heights[row], size[n + row]
    return rows


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
    exact, numbers = _on_grid(unit), torch.full((6,), torch.nan, dtype=torch.float64)
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
    return _snapped(1 - _dots(exact, i, exact, other[i])).item()


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
    b = _snapped(1 - _dots(exact, everyone, sums, nearest) / size[nearest])
    a = _snapped(1 - (_dots(exact, everyone, sums, cluster) - own) / (n_own - 1).clamp(min=1))
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
        torch.cumsum(_on_grid(unit[begin : begin + ROWS]), 0, out=target)
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
    return _snapped(1 - (total.square().sum(1) - own) / (sizes * (sizes - 1)))
