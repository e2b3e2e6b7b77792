"""The pages of search and of lists: clusters as rows, with their names, why they are there, and two lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from polysem.client import characters, letters
from polysem.client.client import Client
from polysem.client.drawing import browser
from polysem.client.explorer.features import features
from polysem.client.explorer.questions import View, whole_number
from polysem.client.found import why
from polysem.client.lists import MAX_IN_LINK, ClusterList, Listed
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.proto.errors import InvalidArgument, NotFound
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import DEFAULT_DISTANCE_THRESHOLD
from polysem.proto.questions.search import FOUND_BY, LEAST, MAX_COUNTED, FoundCluster, SearchAnswer

N_LINES = 2
SIZES = (2, 3, 5, 10, 20)  # least examples that may be chosen
Asked = Mapping[str, Any]


def asked(parameters: Mapping[str, str]) -> Asked:
    """Return what an address asks for, as arguments of `Client.search`, q beside. Raises InvalidArgument."""
    by = parameters.get("found_by", "")
    if by not in ("", *FOUND_BY):
        raise InvalidArgument(f"found_by is one of {', '.join(FOUND_BY)}, not {by[:40]!r}", "found_by")
    return {
        "q": parameters.get("q", "").strip(),
        "found_by": by or None,
        "layer": whole_number(parameters, "layer"),
        "least_size": max(whole_number(parameters, "least_size") or LEAST, LEAST),
        "cursor": parameters.get("cursor", ""),
    }


def found(client: Client, view: View, wanted: Asked) -> dict[str, Any]:
    """Return an answer as the page's script reads it. Cost: a call, and one for the texts of each cluster's neuron."""
    how = {name: value for name, value in wanted.items() if name != "q"}
    answer = client.search(wanted["q"], wait=False, **how, **view.asked_of())
    return {
        "rows": _rows(client, view, answer),
        "counts": {by: f"{n:,}{'+' * (n >= MAX_COUNTED)}" for by, n in answer.counts.items()},
        "layers": {layer: f"{n:,}" for layer, n in answer.layers.items()},
        "cursor": answer.cursor,
        "stopped": answer.stopped,
        "n_done": answer.n_done,
        "n_to_do": answer.n_to_do,
    }


def _rows(client: Client, view: View, answer: SearchAnswer) -> list[dict[str, Any]]:
    texts = _texts(client, view, answer.clusters)
    usual = View(side=view.side, index=view.index)  # the clustering that is searched
    return [
        row(Listed(one.neuron, letters.letter(one.rank)), usual, one.size, one.name)
        | {
            "why": why(one).replace("%", "\u202f%"),
            "lines": [browser.example_data(texts[one.neuron, n]) | {"place": n} for n in one.examples],
        }
        for one in answer.clusters
    ]


def row(one: Listed, view: View, size: int, name: str) -> dict[str, Any]:
    return {
        "neuron": str(one.neuron),
        "written": str(one),
        "address": f"/neuron/{one.neuron}/{one.letter}{view.query()}",
        "letter": one.letter,
        "paint": browser.paint(one.letter),
        "size": size,
        "name": characters.visible(name),
    }


def _texts(client: Client, view: View, clusters: Sequence[FoundCluster]) -> dict[tuple[NeuronId, int], Example]:
    """The examples that are shown. A call asks for the same numbers of all its neurons, so one a neuron."""
    numbers: dict[NeuronId, set[int]] = {}
    for one in clusters:
        numbers.setdefault(one.neuron, set()).update(one.examples)
    return {
        (example.neuron, example.example): example
        for neuron, of in numbers.items()
        for example in client.examples(neuron, examples=sorted(of), **view.asked_of())
    }


# ---- Lists


def listed(client: Client, view: View, text: str) -> dict[str, Any]:
    """Return a list's clusters as the page's script reads them. Raises InvalidArgument for more than 50."""
    clusters = ClusterList.of(text)
    if len(clusters) > MAX_IN_LINK:
        raise InvalidArgument(
            f"an address holds {MAX_IN_LINK} clusters, not {len(clusters)}; open the list as a file", "c"
        )
    rows: dict[Listed, dict[str, Any]] = {}
    for cut in dict.fromkeys(one.distance_threshold for one in clusters):
        at = View(side=view.side, index=view.index, distance_threshold=cut)
        here = [one for one in clusters if one.distance_threshold == cut]
        rows |= _listed_at(client, at, here)
    return {"rows": [rows[one] for one in clusters]}


def _listed_at(client: Client, view: View, here: Sequence[Listed]) -> dict[Listed, dict[str, Any]]:
    ids = list(dict.fromkeys(one.neuron for one in here))
    neurons: dict[NeuronId, Neuron] = {one.id: one for one in client.cluster(*ids, n_null=0, **view.clustering())}
    names = {(label.neuron, label.cluster): label.text for label in client.labels(*ids, **view.clustering())}
    wanted: list[tuple[Listed, Cluster | None]] = []
    for one in here:
        try:
            label = letters.label_of(neurons[one.neuron], one.letter)
        except NotFound:
            wanted.append((one, None))
        else:
            wanted.append((one, next(c for c in neurons[one.neuron].clusters if c.label == label)))
    there = [(neurons[one.neuron], [cluster]) for one, cluster in wanted if cluster is not None]
    texts = iter(features(client, view, there, N_LINES))
    found_: dict[Listed, dict[str, Any]] = {}
    for one, cluster in wanted:
        if cluster is None:
            gone = {"why": "no such cluster at this cut", "lines": []}
            found_[one] = row(one, view, 0, "") | gone
            continue
        (feature,) = next(texts)
        name = names.get((one.neuron, cluster.label), "")
        why = "" if one.distance_threshold == DEFAULT_DISTANCE_THRESHOLD else f"cut at {one.distance_threshold:g}"
        found_[one] = row(one, view, cluster.size, name) | {"why": why, "lines": feature["lines"]}
    return found_


def choices(layers: Sequence[int], wanted: Asked, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the facets offer: found by and layer, with their counts in an answer, and least size."""
    counts, in_layers = data.get("counts", {}), data.get("layers", {})
    words = {"key": "key token", "name": "name", "text": "texts"}
    return {
        "found_by": [(by, words[by], counts.get(by, "")) for by in FOUND_BY],
        "layers": [(layer, in_layers.get(layer, "")) for layer in layers],
        "sizes": SIZES,
        "wanted": wanted,
    }
