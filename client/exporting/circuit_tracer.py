"""Features as circuit-tracer reads them: a file a neuron, features/NAME/NUMBER.json, NUMBER by Cantor's pairing of
layer and neuron. A cluster takes the place of a quantile, so that its page shows clusters with their names and texts.

Fields as in circuit_tracer/frontend/feature_models.py of version 0.5. `histogram`, `quantile_values` and
`activation_frequency` count contexts by their highest activation, not tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from polysem.client.exporting.features import Feature, Group, Subject, dumped, number, numbers
from polysem.client.questions.examples import Example
from polysem.proto.arrays import Array


def files(features: Sequence[Feature], subject: Subject, piece: int) -> Iterator[tuple[str, bytes]]:
    name = subject.index.name if subject.side == "positive" else f"{subject.index.name}-negative"
    for feature in features:
        yield f"features/{name}/{paired(*feature.id)}.json", dumped(_model(feature, subject))


def paired(layer: int, neuron: int) -> int:
    """Cantor's pairing: one number for two."""
    return (layer + neuron) * (layer + neuron + 1) // 2 + neuron


def _model(feature: Feature, subject: Subject) -> dict[str, Any]:
    known, writes = feature.statistics, feature.effects
    return {
        "transcoder_id": f"{subject.model.id} {subject.units}",
        "index": paired(*feature.id),
        "examples_quantiles": [_quantile(group, feature) for group in feature.groups],
        "top_logits": [one.token for one in writes.likelier] if writes else [],
        "bottom_logits": [one.token for one in writes.less_likely] if writes else [],
        "act_min": 0.0,
        "act_max": number(abs(known.bin_edges[-1])),
        "quantile_values": percentiles(known.histogram, abs(known.bin_edges)),
        "histogram": known.histogram.tolist(),
        "activation_frequency": number(known.share_positive),
    }


def _quantile(group: Group, feature: Feature) -> dict[str, Any]:
    share = f"{len(group.examples)} of {feature.neuron.metrics.n_examples}"
    return {
        "quantile_name": f"{group.title} ({share})",
        "examples": [_example(example, feature.sign) for example in group.examples],
    }


def _example(example: Example, sign: int) -> dict[str, Any]:
    return {
        "tokens_acts_list": numbers(sign * example.activations),
        "train_token_ind": example.key,
        "is_repeated_datapoint": False,
        "tokens": list(example.tokens),
    }


def percentiles(counts: Array, edges: Array) -> list[float]:
    """The 1st to the 99th percentile of what is counted in (B,) bins between (B + 1,) edges, spread evenly in a bin."""
    if not counts.sum():
        return []
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return numbers(np.interp(np.arange(1, 100) / 100, below, edges))
