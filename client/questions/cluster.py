"""A feature cluster, as callers get it."""

from typing import NamedTuple

from polysem.proto.arrays import IntArray


class Cluster(NamedTuple):
    """A feature cluster.

    label          its number in the neuron's labels
    members        (size,) int32: its examples, by their numbers in the labels
    central        the member with the highest mean similarity to the others
    mean_distance  over its pairs; None of a single example
    stability      0..1: mean Jaccard index with the likest cluster of each bootstrap sample (Hennig 2007), 0.75 and
                   more is stable; None of a single example, which is no cluster, where not tested, and after `cut`
    letter         its name for people: A for the neuron's largest, then B, C, …; "·" for a single example
    """

    label: int
    members: IntArray
    central: int
    mean_distance: float | None
    stability: float | None = None
    letter: str = ""

    @property
    def size(self) -> int:
        """The number of members."""
        return len(self.members)
