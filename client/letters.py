"""Names of a neuron's clusters for people: A for the largest, then B, C, … Z, AA, AB. The wire has labels instead.

A single example is no feature, so it has no letter: its name is "·".
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import NotFound
from polysem.proto.neurons import NeuronId

if TYPE_CHECKING:
    from polysem.client.questions.clustering import Neuron

SINGLE = "·"


def letter(rank: int) -> str:
    """Return the name of the cluster with so many clusters before it: 0 is A, 25 is Z, 26 is AA."""
    text, left = "", rank + 1
    while left:
        left, digit = divmod(left - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


def letter_of(rank: int, size: int) -> str:
    """Return the name of a cluster of `size` examples with `rank` clusters before it."""
    return letter(rank) if size > 1 else SINGLE


def ranks(sizes: Array) -> IntArray:
    """Return (C,) int32: how many clusters come before each, given (C,) sizes by label; of equals the lower label."""
    places = np.empty(len(sizes), np.int32)
    places[np.argsort(-np.asarray(sizes), kind="stable")] = np.arange(len(sizes))
    return places


def letters(sizes: Array) -> list[str]:
    """Return the name of each cluster, given (C,) sizes by label."""
    return [letter_of(rank, size) for rank, size in zip(ranks(sizes).tolist(), np.asarray(sizes).tolist(), strict=True)]


def of_clusters(neurons: "Iterable[Neuron]") -> dict[tuple[NeuronId, int], str]:
    """Return the name of each of the neurons' clusters, by neuron and label."""
    return {(neuron.id, cluster.label): cluster.letter for neuron in neurons for cluster in neuron.clusters}


def label_of(neuron: "Neuron", letter: str) -> int:
    """Return the label of the neuron's cluster with this letter, in either case. Raises NotFound."""
    found = {cluster.letter: cluster.label for cluster in neuron.clusters if cluster.size > 1}
    if (name := letter.upper()) not in found:
        has = f"A to {list(found)[-1]}" if len(found) > 1 else "A alone" if found else "no cluster of several examples"
        cut = f"cut at {neuron.distance_threshold:g} it has {has}"
        raise NotFound(f"{neuron.provenance.unit} {neuron.id} has no cluster {name}: {cut}")
    return found[name]


def of_examples(labels: Array, n_examples: Sequence[int]) -> list[str]:
    """Return the name of each example's cluster: (E,) labels of neurons one after the other, n_examples of each."""
    found: list[str] = []
    start = 0
    for n in n_examples:
        mine = labels[start : start + n]
        names = letters(np.bincount(mine)) if n else []
        found += [names[label] for label in mine.tolist()]
        start += n
    return found
