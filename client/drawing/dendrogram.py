"""The one drawing of a dendrogram, whoever paints it: where leaves and merges stand, in which colour, and which texts
stand for a cluster.

A drawing has an axis of distances (0 at the leaves) and runs across the leaves; which of the two is horizontal, and how
wide, is the painter's affair.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from polysem.client.characters import named
from polysem.proto.arrays import DoubleArray, FloatArray, IntArray

if TYPE_CHECKING:
    from polysem.client.questions.cluster import Cluster
    from polysem.client.questions.clustering import Neuron
    from polysem.client.questions.examples import Example

ABOVE_THE_CUT = -1


@dataclass(frozen=True, eq=False)
class Layout:
    """A tree without crossings: n leaves in drawing order and M = max(n − 1, 0) merges.

    Every cluster is a run of neighbouring leaves, and of the two sides of a merge the one with the larger cluster
    comes first.

    leaves   (n,) int32: the example at each leaf
    merges   (M, 2) int32: the nodes joined, first the one drawn first; i < n is leaf i of the drawing, n + i merge i
    heights  (n + M,) float64: distance at which each node was joined; 0 for a leaf, never decreasing over the merges
    labels   (n + M,) int32: the feature cluster of each node; ABOVE_THE_CUT for a merge of several
    significant  (M,) bool: merges whose two sides are more than one cloud; none where that was not tested
    """

    leaves: IntArray
    merges: IntArray
    heights: DoubleArray
    labels: IntArray
    significant: npt.NDArray[np.bool_]

    def places(self, leaf_places: npt.ArrayLike | None = None) -> DoubleArray:
        """(n + M,) where each node stands across the leaves: a merge halfway between the two it joins.

        leaf_places  (n,) of the leaves, increasing; 0, 1, 2 … if None
        """
        n = len(self.leaves)
        places = np.empty(n + len(self.merges))
        places[:n] = np.arange(n) if leaf_places is None else leaf_places
        for i, (first, second) in enumerate(self.merges.tolist()):
            places[n + i] = (places[first] + places[second]) / 2
        return places

    def clusters(self) -> list[int]:
        """The labels in drawing order."""
        return list(dict.fromkeys(self.labels[: len(self.leaves)].tolist()))

    def pruned(self, examples: Iterable[int]) -> "Layout":
        """The same tree of these examples only: merges with nothing left on one side vanish."""
        n = len(self.leaves)
        kept = np.flatnonzero(np.isin(self.leaves, list(examples)))
        node = np.full(n + len(self.merges), -1, np.int32)  # its number in the pruned tree; -1: nothing left under it
        node[kept] = np.arange(len(kept))
        merges: list[tuple[int, int]] = []
        rows = kept.tolist()
        for i, (first, second) in enumerate(self.merges.tolist()):
            sides = (int(node[first]), int(node[second]))
            if min(sides) < 0:
                node[n + i] = max(sides)
            else:
                node[n + i] = len(kept) + len(merges)
                merges.append(sides)
                rows.append(n + i)
        of_merges = np.array(rows[len(kept) :], int) - n
        return Layout(
            self.leaves[kept],
            np.array(merges, np.int32).reshape(-1, 2),
            self.heights[rows],
            self.labels[rows],
            self.significant[of_merges],
        )


def layout(neuron: "Neuron") -> Layout:
    """The drawing of a neuron at its cut. O(n)."""
    tests = neuron.merge_tests
    significant = None if tests is None else tests[:, 1] > 0
    return arrange(neuron.linkage, neuron.labels, neuron.distance_threshold, significant)


def arrange(
    linkage: DoubleArray,
    labels: IntArray,
    distance_threshold: float,
    significant: npt.NDArray[np.bool_] | None = None,
) -> Layout:
    """The drawing of a SciPy linkage (M, 4) whose cut gave labels (n,); significant (M,): of its merges."""
    n, merges = len(labels), linkage[:, :2].astype(np.int32)
    heights = np.concatenate([np.zeros(n), linkage[:, 2]])
    node_labels = np.concatenate([labels, np.full(len(merges), ABOVE_THE_CUT)]).astype(np.int32)
    sizes = np.ones(n + len(merges), np.int64)
    largest = sizes.copy()  # cluster, or part of one, under each node
    earliest = np.arange(n + len(merges))  # example under each node
    for i, (a, b) in enumerate(merges.tolist()):
        node = n + i
        sizes[node] = sizes[a] + sizes[b]
        earliest[node] = min(earliest[a], earliest[b])
        below = heights[node] <= distance_threshold
        largest[node] = sizes[node] if below else max(largest[a], largest[b])
        if below:
            node_labels[node] = node_labels[a]
        if (-largest[b], -sizes[b], earliest[b]) < (-largest[a], -sizes[a], earliest[a]):
            merges[i] = b, a
    rank = _ranks(merges, sizes, n)
    leaves = np.empty(n, np.int32)
    leaves[rank] = np.arange(n)
    merges = np.where(merges < n, rank[np.minimum(merges, n - 1)], merges).astype(np.int32)
    node_labels[:n] = labels[leaves]
    none = np.zeros(len(merges), bool)
    return Layout(leaves, merges, heights, node_labels, none if significant is None else significant)


def _ranks(merges: IntArray, sizes: npt.NDArray[np.int64], n: int) -> IntArray:
    """(n,) place of each example in drawing order: from the root down, the second side begins where the first ends."""
    start = np.zeros(n + len(merges), np.int32)
    for i in range(len(merges) - 1, -1, -1):
        first, second = merges[i]
        start[first] = start[n + i]
        start[second] = start[n + i] + sizes[first]
    return start[:n]


# ---- What stands at the leaves


def representatives(cluster: "Cluster", order: Layout, examples: "Sequence[Example]", limit: int) -> list[int]:
    """At most `limit` members that show a cluster: its central example, then others from all over its branch.

    A cluster that fits is shown whole. In a larger one no text is shown twice, so fewer than `limit` may come.
    """
    inside = set(cluster.members.tolist()) - {cluster.central}
    members = [cluster.central, *(example for example in order.leaves.tolist() if example in inside)]
    if len(members) <= limit:
        return members
    distinct = list({examples[i].text: i for i in reversed(members)}.values())[::-1] if examples else members
    distinct = [cluster.central, *(i for i in distinct if i != cluster.central)]
    spread = np.linspace(1, len(distinct) - 1, max(limit - 1, 0)).round().astype(int).tolist()
    return list(dict.fromkeys([cluster.central, *(distinct[i] for i in spread if i < len(distinct))]))[: max(limit, 1)]


def key_tokens(examples: "Iterable[Example]") -> list[tuple[str, int]]:
    """The key tokens in words (`characters.named`), with how often each occurs; the commonest first."""
    return Counter(named(example.key_part) for example in examples).most_common()


def shades(example: "Example") -> FloatArray:
    """(T,) float32 in 0..1: each token's activation as a share of the example's strongest; 0 of the other sign."""
    activations = np.nan_to_num(example.activations) * (-1 if example.activation < 0 else 1)
    top = activations.max(initial=0.0)
    return np.clip(activations / top, 0, 1) if top > 0 else np.zeros_like(activations)
