"""Features as pages list them: a cluster's letter, its size, what it fires at, and some lines of its examples."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from polysem.client.characters import named
from polysem.client.client import Client
from polysem.client.drawing import browser
from polysem.client.explorer.questions import View
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.proto.neurons import NeuronId

AT_ONCE = 8  # calls for texts
N_TOKENS = 12  # distinct key tokens of a cluster that are named: a title has three
Numbers = Mapping[NeuronId, Iterable[int]]
Texts = Mapping[tuple[NeuronId, int], Example]


def features(
    client: Client, view: View, wanted: Sequence[tuple[Neuron, Sequence[Cluster]]], n_lines: int
) -> list[list[dict[str, Any]]]:
    """Return the wanted clusters of each neuron as the pages' scripts read them, with n_lines texts each or fewer."""
    numbers = {
        neuron.id: sorted({number for cluster in clusters for number in _looked_at(neuron, cluster, n_lines)})
        for neuron, clusters in wanted
    }
    texts = texts_of(client, view, numbers)
    return [[_feature(neuron, cluster, texts, n_lines) for cluster in clusters] for neuron, clusters in wanted]


def plain(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster without its texts."""
    return {
        "letter": cluster.letter,
        "label": cluster.label,
        "paint": browser.paint(cluster.letter),
        "size": cluster.size,
    }


def _looked_at(neuron: Neuron, cluster: Cluster, n_lines: int) -> list[int]:
    """Return the examples whose texts are asked for: the central one, more than are shown, one of each key token."""
    others = [number for number, _ in _tokens(neuron, cluster)]
    spread = cluster.members[: 1 if n_lines < 2 else 4 * n_lines].tolist()
    return [cluster.central, *spread, *others]


def _tokens(neuron: Neuron, cluster: Cluster) -> list[tuple[int, int]]:
    """Return the first example of each key token, and how many have that token: the N_TOKENS commonest first."""
    if neuron.key_tokens is None:  # an older server
        return [(cluster.central, cluster.size)]
    _, first, counts = np.unique(neuron.key_tokens[cluster.members], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))[:N_TOKENS]
    return list(zip(cluster.members[first[order]].tolist(), counts[order].tolist(), strict=True))


def texts_of(client: Client, view: View, numbers: Numbers) -> Texts:
    """Return the texts of these examples of each neuron. Cost: a call a neuron, AT_ONCE of them at a time."""

    def of_neuron(id_: NeuronId) -> list[Example]:
        return list(client.examples(id_, examples=list(numbers[id_]), **view.asked_of()))

    with ThreadPoolExecutor(AT_ONCE) as calls:
        return {(one.neuron, one.example): one for found in calls.map(of_neuron, numbers) for one in found}


def _feature(neuron: Neuron, cluster: Cluster, texts: Texts, n_lines: int) -> dict[str, Any]:
    tokens: Counter[str] = Counter()
    for number, count in _tokens(neuron, cluster):
        tokens[named(texts[neuron.id, number].key_part)] += count
    return plain(cluster) | {
        "tokens": tokens.most_common(4),
        "lines": [line(texts[neuron.id, number]) for number in _lines(neuron, cluster, texts, n_lines)],
    }


def line(example: Example) -> dict[str, Any]:
    """Return an example as `Polysem.line` reads it."""
    return {"place": example.example, **browser.example_data(example)}


def _lines(neuron: Neuron, cluster: Cluster, texts: Texts, n_lines: int) -> list[int]:
    """Return the central example, then the strongest of those whose neighbourhood of the key token differs."""
    known = (n for n in cluster.members.tolist() if n != cluster.central and (neuron.id, n) in texts)
    order = [cluster.central, *sorted(known, key=lambda n: -abs(texts[neuron.id, n].activation))]
    seen: dict[tuple[str, ...], int] = {}
    for number in order:
        example = texts[neuron.id, number]
        seen.setdefault(tuple(example.tokens[max(0, example.key - 3) : example.key + 4]), number)
    return list(seen.values())[:n_lines]
