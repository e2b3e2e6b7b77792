"""Your own text as the page of it shows it: the neurons that fire in it, and what the corpus has of their features."""

from collections.abc import Sequence
from typing import Any

from polysem.client import characters
from polysem.client.client import Client
from polysem.client.explorer.features import features, plain
from polysem.client.explorer.questions import View
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.explain import ExplainedToken, Firing
from polysem.client.questions.search import hardest
from polysem.proto.neurons import NeuronId

N_STRONGEST = 5  # neurons at each token
N_LISTED = 10  # neurons where none was named: those that fire hardest anywhere
N_WITH_TEXTS = 12  # neurons whose features come with texts of the corpus
N_LINES = 2  # of a feature


def read(client: Client, view: View, text: str, asked: Sequence[str]) -> dict[str, Any]:
    """Return what the page's script draws. Raises what the server raises.

    asked  neurons, as people write them; none: the N_LISTED that fire hardest anywhere in the text
    """
    strongest = list(client.explain(text, n_strongest=N_STRONGEST, **view.clustering()))
    ids = list(asked) or [str(id_) for id_ in hardest(strongest)[:N_LISTED]]
    tokens = list(client.explain(text, *ids, **view.clustering())) if ids else []
    neurons = [firing.neuron for firing in tokens[0].firings] if tokens else []
    hit = {id_: {token.firings[i].cluster for token in tokens} - {None} for i, id_ in enumerate(neurons)}
    firing_in = [id_ for id_ in neurons if hit[id_]]
    clustered = client.cluster(*firing_in, n_null=0, **view.clustering()) if firing_in else ()
    found = _features(client, view, [(n, [c for c in n.clusters if c.label in hit[n.id]]) for n in clustered])
    most = client.statistics(*neurons, **view.asked_of()) if neurons else ()
    return {
        "named": bool(asked),
        "tokens": _tokens(strongest),
        "neurons": [
            {
                "id": str(id_),
                "most": known.maximum_activation if view.side == "positive" else known.minimum_activation,
                "features": found.get(id_, []),
                **_firings([token.firings[i] for token in tokens]),
            }
            for i, (id_, known) in enumerate(zip(neurons, most, strict=True))
        ],
        "strongest": [
            [[str(firing.neuron), round(firing.share or 0.0, 4)] for firing in token.firings] for token in strongest
        ],
    }


def _features(
    client: Client, view: View, wanted: Sequence[tuple[Neuron, list[Cluster]]]
) -> dict[NeuronId, list[dict[str, Any]]]:
    """Return the features that tokens fall in, largest first; of the first N_WITH_TEXTS neurons with their texts."""
    told, others = wanted[:N_WITH_TEXTS], wanted[N_WITH_TEXTS:]
    with_texts = zip((neuron for neuron, _ in told), features(client, view, told, N_LINES), strict=True)
    return {neuron.id: found for neuron, found in with_texts} | {
        neuron.id: [plain(cluster) for cluster in clusters] for neuron, clusters in others
    }


def _firings(firings: Sequence[Firing]) -> dict[str, Any]:
    """Return a neuron at each token, as columns. clusters: None where it does not fire, −1 near none."""
    return {
        "activations": [round(firing.activation, 4) for firing in firings],
        "shares": [round(firing.share or 0.0, 4) for firing in firings],
        "clusters": [
            None if not firing.fires else -1 if firing.cluster is None else firing.cluster for firing in firings
        ],
        "distances": [None if firing.distance is None else round(firing.distance, 4) for firing in firings],
    }


def _tokens(tokens: Sequence[ExplainedToken]) -> list[dict[str, str]]:
    """Return each token as it is shown, with the text's line breaks, and its name in words.

    Of a character of several tokens the text stands at the last; the others have their place among them (1/3).
    """
    texts = [token.text for token in tokens]
    parts = [characters.part(texts, i, *token.part_of) for i, token in enumerate(tokens)]
    return [
        {"text": _shown(token.text, part), "part": part.fraction if part.number < part.of else "",
         "name": characters.named(part)}
        for token, part in zip(tokens, parts, strict=True)
    ]  # fmt: skip


def _shown(text: str, part: characters.Part) -> str:
    if part.of < 2 and characters.is_unseen(text):
        return characters.displayed(part)
    return "⏎\n".join(characters.visible(line) for line in text.split("\n"))
