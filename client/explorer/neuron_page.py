"""The page of a neuron: its drawing's data, its histogram, neurons near it, and clusters like one of its own."""

from typing import Any

from polysem.client import letters
from polysem.client.client import Client
from polysem.client.drawing import browser
from polysem.client.explorer import naming
from polysem.client.explorer.features import texts_of
from polysem.client.explorer.questions import View
from polysem.client.questions.counted import wholly_tested
from polysem.client.questions.statistics import Statistics
from polysem.proto.facts import IndexInfo
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import APPROXIMATE

N_SIMILAR = 20  # clusters, as on the paper's site
N_NEARBY = 5  # neurons that fire, beside one that does not
NEARBY = 20  # places on either side that they are looked for in


def data(client: Client, id_: NeuronId, view: View) -> dict[str, Any]:
    """Return the neuron as the page's script draws it."""
    neuron = client.cluster(id_, n_null=wholly_tested(None, id_), **view.clustering())[0]
    examples = client.examples(id_, **view.asked_of()) if len(neuron.labels) else []
    known = client.statistics(id_, **view.asked_of())[0]
    most = known.maximum_activation if view.side == "positive" else known.minimum_activation
    names = browser.names_of(client, [id_] if len(neuron.labels) else [], **view.clustering())
    drawn = browser.data(neuron, examples, neuron.silhouettes, most, names.get(id_, ()))
    return drawn | {"kept": naming.kept(client, id_, view)}


def histogram(known: Statistics, index: IndexInfo) -> dict[str, Any]:
    """Return the histogram as the page's script reads it."""
    negative = known.side == "negative"
    return {
        "side": known.side,
        "n_texts": index.n_contexts,
        "end": known.minimum_activation if negative else known.maximum_activation,
        "mean": known.mean_activation,
        "share": known.share_positive,
        "histogram": known.histogram.tolist(),
        "lowest": known.lowest_example,
        "highest": known.highest_example,
    }


def nearby(client: Client, id_: NeuronId, view: View, index: IndexInfo) -> list[str]:
    """Return neurons beside one without examples that have some."""
    last = min(index.width(id_.layer) - 1, id_.neuron + NEARBY)
    around = f"{id_.layer}.{max(0, id_.neuron - NEARBY)}-{last}"
    firing = [one.id for one in client.statistics(around, **view.asked_of()) if one.n_examples]
    nearest = sorted(firing, key=lambda other: abs(other.neuron - id_.neuron))[:N_NEARBY]
    return [str(other) for other in sorted(nearest)]


def similar(client: Client, view: View, id_: NeuronId, label: int, everywhere: bool) -> list[dict[str, Any]]:
    """Return clusters of other neurons like this one's, each with its central example."""
    found = list(client.similar(id_, label, every_layer=everywhere, limit=N_SIMILAR, **view.clustering()))
    others = list(dict.fromkeys(other.neuron for other in found))
    clustered = client.cluster(*others, n_null=0, **view.clustering()) if others else ()
    of = letters.of_clusters(clustered)
    numbers: dict[NeuronId, set[int]] = {}
    for other in found:
        numbers.setdefault(other.neuron, set()).add(other.central)
    texts = texts_of(client, view, numbers)
    return [
        {
            "neuron": str(other.neuron),
            "label": other.label,
            "letter": (letter := of[other.neuron, other.label]),
            "paint": browser.paint(letter),
            "size": other.size,
            "similarity": round(other.similarity, 4),
            "approximate": other.method in APPROXIMATE,
            "address": f"/neuron/{other.neuron}{view.query()}",
            "example": browser.example_data(texts[other.neuron, other.central]),
        }
        for other in found
    ]
