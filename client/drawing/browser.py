"""The one drawing of a neuron for browsers: the data it needs, and the scripts and style that draw it.

cut.js cuts the tree itself, so a dragged threshold asks nobody. Where leaves stand is `dendrogram.layout`'s choice,
as everywhere; the order stays while the cut moves.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polysem.client import characters, cutting, letters
from polysem.client.drawing import dendrogram
from polysem.proto.errors import Unsupported
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import LEVEL
from polysem.proto.questions.listing import LEAST_EXAMPLES_OF_MINORITY, LEAST_EXAMPLES_OF_RARE, LEAST_SHARE_OF_COMMON

if TYPE_CHECKING:
    from polysem.client.client import Client
    from polysem.client.questions.clustering import Neuron
    from polysem.client.questions.examples import Example
    from polysem.client.questions.labels import Label
    from polysem.client.questions.logit_effects import LogitEffects, OutputToken

FOLDER = Path(__file__).parent
SCRIPTS = ("cut.js", "parts.js", "tree.js", "neuron.js", "effects.js")  # each builds on those before


def data(
    neuron: "Neuron",
    examples: "Sequence[Example] | None",
    silhouettes: "Sequence[tuple[float, float | None]]" = (),
    most: float | None = None,
    names: "Sequence[Label]" = (),
) -> dict[str, Any]:
    """A neuron as `Polysem.show` reads it, ready for JSON.

    examples     in the order of its labels; None where the texts cannot be had
    silhouettes  of further cuts, as `Neuron.silhouettes` has them; none: the profile of cuts is not drawn
    most         what tokens are shaded by: the neuron's strongest activation; None: that of the examples
    names        of its clusters at its cut
    """
    m, tree = neuron.metrics, neuron.tree
    return {
        "neuron": str(neuron.id),
        "unit": neuron.provenance.unit,
        "n": len(neuron.labels),
        "distance_threshold": neuron.distance_threshold,
        "merges": tree.merges.tolist(),
        "heights": tree.heights.tolist(),
        "centrals": tree.centrals.tolist(),
        "mean_distances": tree.mean_distances.tolist(),
        "leaves": dendrogram.layout(neuron).leaves.tolist() if len(neuron.labels) else [],
        "rare": {
            "least_examples": LEAST_EXAMPLES_OF_RARE,
            "common_share": LEAST_SHARE_OF_COMMON,
            "least_minority": LEAST_EXAMPLES_OF_MINORITY,
        },
        "baselines": neuron.baselines._asdict(),
        "mean_distance": m.mean_distance,
        "max_distance": m.max_distance,
        "silhouette": m.silhouette,
        "silhouettes": [list(step) for step in silhouettes],
        "most": most,
        "note": note(neuron),
        "tested": _tested(neuron),
        "names": _names(neuron, names),
        "examples": None if examples is None else [example_data(example) for example in examples],
    }


def names_of(client: "Client", neurons: "Sequence[NeuronId]", **options: Any) -> "dict[NeuronId, list[Label]]":
    """The names of the neurons' clusters; none where there are no neurons, or the server is older and knows none.

    options  how they are clustered, as of `Client.cluster`
    """
    found: dict[NeuronId, list[Label]] = {}
    try:
        for label in client.labels(*neurons, **options) if neurons else ():
            found.setdefault(label.neuron, []).append(label)
    except Unsupported:
        return {}
    return found


def _names(neuron: "Neuron", names: "Sequence[Label]") -> dict[int, list[Any]]:
    """Names with scores and null scores by the tree's nodes, so that a cluster keeps its name while it is there."""
    tops = cutting.top_nodes(neuron.tree, len(neuron.labels), neuron.distance_threshold)
    return {
        tops[one.cluster]: [characters.visible(one.text), one.score, one.null_score] for one in names if one.size > 1
    }


def paint(letter: str) -> str:
    """The class that has the colour of a cluster of this letter, as cut.js names it."""
    if letter == letters.SINGLE:
        return "ps-single"
    return f"ps-{letter}" if len(letter) == 1 and letter <= "L" else "ps-beyond"


def _tested(neuron: "Neuron") -> dict[str, Any] | None:
    """The rotation test: its numbers, the significant merges, and the cut they suggest; None where not tested.

    Where the neuron alone was tested, n_clusters, cut and prediction_strength are None.
    """
    found, tests = neuron.significance, neuron.merge_tests
    if found is None:
        return None
    significant = found.p_value <= LEVEL
    return {
        "p_value": found.p_value,
        "best_silhouette": found.best_silhouette,
        "null_mean": found.null_mean,
        "merges": [] if tests is None else (tests[:, 1] > 0).nonzero()[0].tolist(),
        "n_clusters": neuron.significant_clusters,
        "cut": neuron.significant_cut,
        "prediction_strength": neuron.prediction_strength,
        "stability": {cluster.label: cluster.stability for cluster in neuron.clusters},
        "verdict": neuron.verdict,
        "significant": significant,
        "several": significant if neuron.significant_clusters is None else neuron.significant_clusters > 1,
    }


def example_data(example: "Example") -> dict[str, Any]:
    """An example: its texts as they are, for downloads; `shown` visible and harmless, where that is another text."""
    shown, name = characters.shown(example.tokens, example.key, example.key_part), characters.visible(example.document)
    return {
        "document": example.document,
        "shown_document": None if name == example.document else name,
        "position": example.position,
        "activation": round(example.activation, 4),
        "key": example.key,
        "key_token": example.key_part.text,
        "key_part": example.key_part.fraction,
        "key_name": characters.named(example.key_part),
        "tokens": list(example.tokens),
        "shown": None if shown == list(example.tokens) else shown,
        "activations": [round(float(a), 3) for a in example.activations],
    }


def effects_data(effects: "LogitEffects") -> dict[str, Any]:
    """Return logit effects as `Polysem.logitEffects` reads them, ready for JSON."""
    return {
        "side": effects.side,
        "likelier": [_output(token) for token in effects.likelier],
        "less_likely": [_output(token) for token in effects.less_likely],
        "skewness": effects.skewness,
        "kurtosis": effects.kurtosis,
        "histogram": effects.histogram.tolist(),
        "n_tokens": int(effects.histogram.sum()),
    }


def _output(token: "OutputToken") -> dict[str, Any]:
    return token._asdict() | {"shown": characters.spaced(token.token), "effect": round(token.effect, 4)}


def note(neuron: "Neuron") -> str:
    """Say in words how the tree was made."""
    p = neuron.provenance
    embedding = p.choice.words
    frame = "" if p.choice.frame == "raw" else f", frame {p.choice.frame}"
    side = ", negative side" * (p.side == "negative")
    if not neuron.made_by:
        return f"{embedding}, LayerNorm {p.choice.layer_norm}{frame}{side}"
    return f"{neuron.made_by} · {embedding}, LayerNorm {p.choice.layer_norm}{frame} · index {p.index}{side}"


@cache
def script() -> str:
    return "".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS)


@cache
def style() -> str:
    return (FOLDER / "neuron.css").read_text("utf-8")


def json_in_html(value: Any) -> str:
    """JSON that may stand inside a <script> element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
