"""One large neuron: trees of up to 2¹⁸ examples, in memory that grows with N · D, never with N².

average_linkage  the average-linkage tree: rounds of reciprocal nearest pairs
scc_linkage      the rounds of SCC on the complete graph: `scc.linkage` without its distances
single_linkage   the single-linkage tree: Borůvka's rounds

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

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.agglomerative import root
from polysem.kernels.arrays import Array, checked
from polysem.kernels.definitions import LEFTOVER_HEIGHT, check_thresholds
from polysem.kernels.large.embeddings import BLOCK, ROWS, checked_unit, on_grid, pair_distances, snapped
from polysem.kernels.parallel import compiled


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
    circle = circles(up)  # each component has one
    lowest = torch.full_like(own, len(up)).scatter_reduce(0, circle, own, "amin")
    return lowest[circle]


def circles(up: Tensor) -> Tensor:
    """The lowest element of the circle in which the way from each element ends."""
    jump, low = up, torch.arange(len(up), device=up.device)  # 2^k steps on, and the lowest of the 2^k elements met
    for _ in range(len(up).bit_length()):
        low, jump = torch.minimum(low, low[jump]), jump[jump]
    return low[jump]


class _Clusters:
    """Clusters as the sums of their unit embeddings; a column of the similarities is a cluster, or was one."""

    def __init__(self, unit: Tensor) -> None:
        self.sums = on_grid(unit)  # (N, D) float64, by slot
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
        return snapped(1 - dots(self.sums, a, self.sums, b) / (self.size[a] * self.size[b]))

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


def dots(x: Tensor, rows: Tensor, y: Tensor, others: Tensor) -> Tensor:
    """⟨x[rows[k]], y[others[k]]⟩ of each k, in float64."""
    result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    blocks = (torch.split(tensor, ROWS) for tensor in (rows, others, result))
    for a, b, target in zip(*blocks, strict=True):
        torch.sum(x[a] * y[b], 1, out=target)
    return result


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
    """Return for each row the lowest index of a row equal to it."""
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
    """Join what no round merged to the first of them."""
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
    """Return for each row the lowest other row equal to it, or -1; zeros are no twins."""
    lowest, own = _equals(unit), torch.arange(len(unit), device=unit.device)
    others = lowest != own
    second = torch.full_like(own, len(unit)).scatter_reduce(0, lowest[others], own[others], "amin")
    twin = torch.where(others, lowest, torch.where(second < len(unit), second, -1))
    return torch.where((unit == 0).all(1), -1, twin)


def single_linkage(unit: Tensor) -> Tensor:
    """The single-linkage tree of one neuron's examples.

    unit     (N, D) float32, as `unit_embeddings` returns it, N <= 2¹⁸
    returns  (N - 1, 4) float64, a SciPy linkage matrix as in `agglomerative.linkage`; (0, 4) of N = 0

    Borůvka's rounds (`joining_edges`). Memory: 64 MiB of similarities. Time: two to three times N² D multiply-adds on
    the data tried. Raises TypeError or ValueError for a wrong dtype or shape and for rows whose length is neither 1 nor
    0.
    """
    unit = checked_unit(unit)
    return linkage_of_edges(unit, joining_edges(unit, torch.arange(len(unit), device=unit.device)))


def joining_edges(unit: Tensor, label: Tensor) -> Tensor:
    """The edges (E, 2) int64 that a minimum spanning tree still lacks; `label` (N,) is the lowest example of each part.

    Borůvka's rounds: each cluster's shortest way out is an edge of the tree, and the clusters so joined are the next
    round's, half as many at most. An example's nearest outside its cluster stays so until that one is in it too; then
    its similarity is an upper bound, and it looks again only if its cluster knows no better way out.
    """
    ways, edges = _WaysOut(unit), [torch.empty(0, 2, dtype=torch.int64, device=unit.device)]
    while len(unit) and label.any():
        ways.look_again(label)
        clusters, u, v = ways.shortest(label)
        up = torch.arange(len(unit), device=unit.device)
        up[clusters] = label[v]
        needed = circles(up)[clusters] != clusters  # an edge less than clusters
        edges.append(torch.stack([u, v], 1)[needed])
        label = components(up)[label]
    return torch.cat(edges)


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
