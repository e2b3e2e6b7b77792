"""Features as Neuronpedia imports them: MODEL/LAYER-SET/ with release.jsonl, model.jsonl, sourceset.jsonl,
source.jsonl and batches of features, activations and explanations as gzipped lines.

Fields as in neuronpedia_utils/db_models of Neuronpedia's repository; those that an index cannot tell keep its defaults.
A cluster takes the place of a bin of activations. Its page sorts bins by `binMax` and writes a line above each; so
each cluster has a `binMax` of its own, a little above all activations shown, the largest cluster the highest. `binMin`
is the cluster's lowest activation, `binContains` its share of the examples. Each cluster's name is an explanation.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from polysem.client.exporting.features import Feature, Group, Subject, dumped, number, numbers, zipped_lines
from polysem.client.questions.examples import Example
from polysem.proto.arrays import DoubleArray

SET = "polysem-neurons"
CREATOR = "polysem"
STEP = 1e-3  # of the neuron's maximum, between two clusters' binMax


def _about(subject: Subject, layer: int) -> Iterator[tuple[str, bytes]]:
    """The rows that the batches of a layer belong to."""
    folder, model, set_ = _folder(subject, layer), _model(subject), _set(subject)
    yield f"{folder}/release.jsonl", dumped({
        "name": SET,
        "description": f"Feature clusters of {subject.units}, by Polysem",
        "creatorName": CREATOR,
        "creatorId": CREATOR,
    }) + b"\n"  # fmt: skip
    yield f"{folder}/model.jsonl", dumped({
        "id": model,
        "instruct": False,
        "creatorId": CREATOR,
        "displayNameShort": model,
        "displayName": model,
        "layers": subject.model.n_layers,
        "neuronsPerLayer": subject.index.n_neurons_per_layer,
        "dimension": subject.model.d_model,
    }) + b"\n"  # fmt: skip
    yield f"{folder}/sourceset.jsonl", dumped({
        "modelId": model,
        "name": set_,
        "creatorId": CREATOR,
        "creatorName": CREATOR,
        "releaseName": SET,
        "description": f"{subject.units}, {subject.side} side, their feature clusters as bins",
        "type": subject.units.lower().replace(" ", "-"),
    }) + b"\n"  # fmt: skip
    yield f"{folder}/source.jsonl", dumped({
        "modelId": model,
        "setName": set_,
        "id": f"{layer}-{set_}",
        "creatorId": CREATOR,
        "dataset": subject.index.corpus_id,
        "num_prompts": subject.index.n_contexts,
        "num_tokens_in_prompt": subject.index.context_length,
        "notes": f"Polysem {subject.version}; {subject.question}; index {subject.index.sha256}"
        + (f"; licence of the texts: {subject.licence}" if subject.licence else ""),
    }) + b"\n"  # fmt: skip


def files(features: Sequence[Feature], subject: Subject, piece: int) -> Iterator[tuple[str, bytes]]:
    for layer, mine in groupby(features, lambda feature: feature.id.layer):
        yield from _about(subject, layer)
        found, folder = list(mine), _folder(subject, layer)
        rows = {
            "features": [_feature(one, subject) for one in found],
            "activations": [row for one in found for row in _activations(one, subject)],
            "explanations": [row for one in found for row in _explanations(one, subject)],
        }
        for kind, lines in rows.items():
            yield f"{folder}/{kind}/batch-{piece}.jsonl.gz", zipped_lines(lines)


def _model(subject: Subject) -> str:
    """Its id without folders: `gpt2`, not a path."""
    return subject.model.id.rstrip("/").rpartition("/")[2]


def _set(subject: Subject) -> str:
    return SET if subject.side == "positive" else f"{SET}-negative"


def _folder(subject: Subject, layer: int) -> str:
    return f"{_model(subject)}/{layer}-{_set(subject)}"


def _where(feature: Feature, subject: Subject) -> dict[str, Any]:
    layer, index = feature.id
    return {"modelId": _model(subject), "layer": f"{layer}-{_set(subject)}", "index": str(index)}


def _feature(feature: Feature, subject: Subject) -> dict[str, Any]:
    known, writes = feature.statistics, feature.effects
    row = _where(feature, subject) | {
        "creatorId": CREATOR,
        "maxActApprox": number(abs(known.bin_edges[-1])),
        "hookName": f"blocks.{feature.id.layer}.mlp.hook_post",
        "freq_hist_data_bar_heights": known.histogram.tolist(),
        "freq_hist_data_bar_values": _middles(abs(known.bin_edges)),
        "sourceSetName": _set(subject),
    }
    if writes is not None:
        row |= {
            "pos_str": [one.token for one in writes.likelier],
            "pos_values": [number(one.effect) for one in writes.likelier],
            "neg_str": [one.token for one in writes.less_likely],
            "neg_values": [number(one.effect) for one in writes.less_likely],
            "logits_hist_data_bar_heights": writes.histogram.tolist(),
            "logits_hist_data_bar_values": _middles(writes.bin_edges),
        }
    return row


def _middles(edges: DoubleArray) -> list[float]:
    return numbers((edges[1:] + edges[:-1]) / 2)


def _activations(feature: Feature, subject: Subject) -> Iterator[dict[str, Any]]:
    top = max(float((feature.sign * one.activations).max()) for group in feature.groups for one in group.examples)
    for rank, group in enumerate(reversed(feature.groups)):
        bin_ = {
            "binMin": number(min(feature.sign * one.activation for one in group.examples)),
            "binMax": number(top + abs(top) * STEP * (1 + rank)),
            "binContains": number(len(group.examples) / feature.neuron.metrics.n_examples),
        }
        for example in group.examples:
            yield _activation(example, feature, subject) | bin_


def _activation(example: Example, feature: Feature, subject: Subject) -> dict[str, Any]:
    values = numbers(feature.sign * example.activations)
    highest = max(values)
    return {
        "id": _id(subject, feature.id, example.example),
        "tokens": list(example.tokens),
        **_where(feature, subject),
        "maxValue": highest,
        "maxValueTokenIndex": values.index(highest),
        "minValue": min(values),
        "values": values,
        "creatorId": CREATOR,
        "dataSource": subject.index.corpus_id,
        "dataIndex": example.document,
        "qualifyingTokenIndex": example.key,
    }


def _explanations(feature: Feature, subject: Subject) -> Iterator[dict[str, Any]]:
    for group in feature.groups:
        if group.cluster is not None and group.name is not None and group.name.text:
            scores = "" if group.name.score is None else f", score {group.name.score:.2f}"
            null = "" if group.name.null_score is None else f" where chance gives {group.name.null_score:.2f}"
            yield {
                "id": _id(subject, feature.id, f"cluster {_members(group)}"),
                **_where(feature, subject),
                "description": group.name.text,
                "authorId": CREATOR,
                "notes": f"cluster {group.letter}, {len(group.examples)} of {feature.neuron.metrics.n_examples} "
                f"examples, named by {group.name.method or 'an unknown method'}{scores}{null}",
            }


def _members(group: Group) -> str:
    return ",".join(str(one.example) for one in sorted(group.examples, key=lambda one: one.example))


def _id(subject: Subject, *parts: object) -> str:
    """25 characters as Neuronpedia's ids have, the same for the same thing."""
    return f"c{hashlib.sha256(repr((subject.index.sha256, subject.side, *parts)).encode()).hexdigest()[:24]}"
