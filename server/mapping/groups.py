"""Groups of a layer's clusters: the Sub-Cluster Component algorithm over the graph of their nearest neighbours.

The graph is exact, up to the precision of the device's products, so its recall is measured all the same.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.large.neighbours import graph_of, scc_of_graph
from polysem.kernels.tree import cut
from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.questions.clustering import threshold_schedule
from polysem.server.index.draws import draws

N_NEIGHBOURS = 25  # of a cluster, as of SCC's authors
CUT = 0.7  # distance of the last round whose sub-clusters are groups
N_CHECKED = 256  # clusters whose neighbours are found once more, in float64
SAME = 1e-6  # float32 distances of unit vectors are nearer than that


class Grouped(NamedTuple):
    """Groups of some of the C clusters, C' of them.

    order         (C',) int64: the clusters, group by group, the largest first, those nearest to the others first
    sizes         (G,) int64: clusters of each group, two or more
    similarities  (C',) float64: mean cosine with the group's others, in that order
    """

    order: Array
    sizes: Array
    similarities: DoubleArray


def grouped(unit: Tensor, distances: Tensor, columns: Tensor, at: float = CUT) -> Grouped:
    """Return the groups, given the graph of nearest neighbours.

    unit                (C, D) float32: unit embeddings of central examples
    distances, columns  (C, k), as `nearest_neighbours` has them
    at                  the threshold of the last round

    A cluster that no round merges is in no group. Of groups as large, the one with the lowest cluster comes first.
    O(k · C) a round.
    """
    return groups_at(unit, rounds(distances, columns, at), at)


def rounds(distances: Tensor, columns: Tensor, at: float) -> Tensor:
    """Return the tree of the rounds up to that threshold, (C - 1, 4) float64."""
    thresholds = [threshold for threshold in threshold_schedule("linear") if threshold <= at]
    edges = graph_of(distances, columns)
    return scc_of_graph(len(columns), edges, torch.tensor(thresholds, dtype=torch.float64))


def groups_at(unit: Tensor, linkage: Tensor, at: float) -> Grouped:
    """Return the groups of a tree of rounds, at a threshold that is not above its last."""
    labels = cut(linkage[None], torch.tensor([len(unit)]), at)[0].numpy()
    sizes = np.bincount(labels, minlength=0)
    by_size = np.argsort(-sizes, kind="stable")  # labels are in order of their lowest cluster
    by_size = by_size[sizes[by_size] > 1]
    number = np.full(len(sizes), -1)
    number[by_size] = np.arange(len(by_size))
    group = number[labels]
    members = np.flatnonzero(group >= 0)
    similarities = _similarities(unit[members], group[members], sizes[by_size])
    order = np.lexsort((members, -similarities, group[members]))
    return Grouped(members[order], sizes[by_size], similarities[order])


def _similarities(unit: Tensor, group: Array, sizes: Array) -> DoubleArray:
    """(C',) mean cosine of each with its group's others: ⟨u, sum of the group − u⟩ / (n − 1), to six digits."""
    exact, of = unit.double(), torch.from_numpy(group)
    sums = torch.zeros(len(sizes), unit.shape[1], dtype=torch.float64).index_add_(0, of, exact)
    own = exact.square().sum(1)
    found: DoubleArray = ((exact * sums[of]).sum(1) - own).numpy() / (sizes[group] - 1)
    return np.round(found, 6)


def recall(unit: Tensor, columns: Tensor) -> float:
    """Return the share of the nearest that the graph has, of N_CHECKED seeded clusters, by products in float64.

    Arguments as of `grouped`; of clusters that are as far as the last neighbour, each counts as it. NaN without any.
    """
    n, k = columns.shape
    if not k:
        return float("nan")
    rows = torch.from_numpy(np.unique(draws(np.arange(N_CHECKED), 0) % np.uint64(n)).astype(np.int64))
    exact = unit.double()
    distances = 1 - exact[rows] @ exact.T
    distances[torch.arange(len(rows)), rows] = torch.inf
    last = distances.kthvalue(k, dim=1).values[:, None]
    return float((distances.gather(1, columns[rows]) <= last + SAME).double().mean())
