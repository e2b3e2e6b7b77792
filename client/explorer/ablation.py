"""Effects of a cluster as its card says them: a sentence with the size of the sample and what controls do there, and
the tokens whose probability changes most.
"""

from collections.abc import Sequence
from typing import Any

from polysem.client import characters
from polysem.client.client import Client
from polysem.client.explorer.questions import View
from polysem.client.questions.ablation import Effect, MovedToken
from polysem.proto.neurons import NeuronId


def found(client: Client, view: View, id_: NeuronId, label: int) -> dict[str, Any]:
    """Return the answer as the page's script draws it. Cost: `Client.ablate` of one cluster with its defaults."""
    effects = list(client.ablate(id_, label, **view.clustering()))
    own = next(one for one in effects if one.ablated == "cluster")
    if own.divergence is None or not own.n_set:
        return {"words": "It fires at no token of its examples, so there is nothing to set.", "rows": [], "tokens": []}
    rows = [_row(one) for one in effects if one.ablated is not None and one.ablated != "control"]
    controls = [one for one in effects if one.ablated == "control" and one.divergence is not None]
    return {
        "words": _words(own, [one.divergence for one in controls if one.divergence is not None]),
        "rows": [*rows, *(_row(one) for one in controls)],
        "tokens": [_token(one) for one in (*own.likelier, *own.less_likely)],
    }


def _words(own: Effect, controls: Sequence[float]) -> str:
    n = f"{own.n_tokens} sampled token{'s' * (own.n_tokens != 1)}"
    error = "" if own.divergence_error is None else f" ± {own.divergence_error:.1g}"
    said = (
        f"Set to zero where this cluster fires, at {n}, it changes what the model predicts next by "
        f"{own.divergence:.2g}{error} nats (Kullback-Leibler divergence)"
    )
    if not controls:
        return f"{said}; there are no controls to compare it with."
    least, most = min(controls), max(controls)
    by = f"{least:.2g} to {most:.2g}" if len(controls) > 1 else f"{least:.2g}"
    beyond = own.divergence is not None and own.divergence > most
    verdict = "more than any of them" if beyond else "no more than they do: the contexts may explain it"
    return f"{said}. Control neurons that are as active there change it by {by}: {verdict}."


def _row(one: Effect) -> dict[str, Any]:
    what = {
        "cluster": "this cluster",
        "neuron": "the whole neuron",
        "other": "another of its clusters",
        "control": f"control {one.neuron}",
    }
    return {
        "what": what[one.ablated or "cluster"],
        "divergence": one.divergence,
        "error": one.divergence_error,
        "loss": one.loss_change,
        "n_set": one.n_set,
    }


def _token(one: MovedToken) -> dict[str, Any]:
    return {"token": characters.spaced(one.token), "before": one.before, "after": max(one.before + one.change, 0.0)}
