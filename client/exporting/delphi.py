"""Clusters as delphi's cache of latents: latents/MODULE/0_LAST.safetensors with locations, activations and tokens, and
a config.json beside it. A module is a layer, named as TransformerLens' hook of its neurons; a cluster is a latent.

Fields as in delphi/latents/cache.py and loader.py of version 0.1.3. Its loader takes the tokens of all modules from
the first file that it reads, so every file holds those of the whole export. neighbours/MODULE-co-occurrence.json gives
each latent the neuron's other clusters, nearest first, as [distance, latent]: delphi's "neighbours" then are examples
of the same neuron at which the cluster does not fire. explanations/MODULE_latentN.txt are the clusters' names, and
clusters.jsonl says which cluster each latent is.

A row of tokens is the text of an example, filled up with BOS to a multiple of 32, delphi's usual length of an example.
Only what is above 0 is listed, as of a sparse latent.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.client.cutting import Tree
from polysem.client.exporting.features import Feature, Group, Subject, dumped, numbers
from polysem.client.questions.examples import Example
from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition

WIDTH = 32  # tokens
NEIGHBOURS = "co-occurrence"  # the kind that its loader looks for unless it is told another
CLUSTERS = "clusters.jsonl"


class Latent(NamedTuple):
    """A latent: what clusters.jsonl says of it, its distance from each sister, and where it is active.

    sisters  (distance, cluster's letter), nearest first
    rows, positions, activations  (n,) each
    """

    about: dict[str, Any]
    sisters: Sequence[tuple[float, str]]
    rows: Array
    positions: Array
    activations: Array


def files(features: Sequence[Feature], subject: Subject, piece: int) -> Iterator[tuple[str, bytes]]:
    _safetensors()  # else only the last step would miss it
    yield f"{piece:05d}.json", dumped([_neuron(feature) for feature in features])


def _neuron(feature: Feature) -> dict[str, Any]:
    return {
        "layer": feature.id.layer,
        "neuron": str(feature.id),
        "groups": [_group(group, feature.sign) for group in feature.groups],
        "sisters": _sisters(feature),
    }


def _group(group: Group, sign: int) -> dict[str, Any]:
    return {
        "cluster": None if group.cluster is None else group.letter,
        "name": group.name.text if group.name else "",
        "examples": [_example(example, sign) for example in group.examples],
    }


def _example(example: Example, sign: int) -> dict[str, Any]:
    if not len(example.token_ids):
        raise FailedPrecondition(
            "the server is of an earlier version, which does not tell token ids; delphi needs them: update the server"
        )
    return {
        "example": example.example,
        "text": [example.context, example.position - example.key, len(example.tokens)],
        "tokens": example.token_ids.tolist(),
        "activations": numbers(sign * example.activations),
    }


def _sisters(feature: Feature) -> dict[str, list[tuple[float, str]]]:
    """Each cluster's sisters with the height of the tree at which they meet, nearest first."""
    members = {group.letter: int(group.cluster.members[0]) for group in feature.groups if group.cluster is not None}
    meet = heights(feature.neuron.tree, list(members.values()))
    letters = list(members)
    return {
        letter: sorted((float(meet[i, k]), other) for k, other in enumerate(letters) if k != i)
        for i, letter in enumerate(letters)
    }


def heights(tree: Tree, examples: Sequence[int]) -> Array:
    """(n, n) heights at which the tree joins each two of n examples (their cophenetic distance); 0 on the diagonal."""
    n_examples = len(tree.merges) + 1
    found = np.zeros((len(examples), len(examples)))
    below = {example: [i] for i, example in enumerate(examples)}  # of a node: which of them lie below
    for merge, (one, other) in enumerate(tree.merges.tolist()):
        left, right = below.pop(one, []), below.pop(other, [])
        found[np.ix_(left, right)] = found[np.ix_(right, left)] = tree.heights[merge]
        below[n_examples + merge] = left + right
    return found


def last(folder: Path, subject: Subject) -> Iterator[tuple[str, bytes]]:
    """All files, made of what was written for each piece. Memory: all tokens, and the latents of all layers."""
    layers: dict[int, list[Latent]] = {}
    texts: dict[tuple[int, ...], int] = {}  # context, first token and number of tokens; and its row
    tokens: list[Array] = []
    for path in sorted(folder.iterdir()):
        for neuron in json.loads(path.read_bytes()):
            found = layers.setdefault(neuron["layer"], [])
            for group in neuron["groups"]:
                for example in group["examples"]:
                    if (text := tuple(example["text"])) not in texts:
                        texts[text] = len(tokens)
                        tokens.append(np.array(example["tokens"], np.int32))
                if group["cluster"] is not None:
                    found.append(_latent(neuron, group, texts))
    rows = _rows(tokens, subject.bos_token_id or 0)
    lines = []
    for layer, latents in sorted(layers.items()):
        module = _module(subject, layer)
        numbers_ = {(one.about["neuron"], one.about["cluster"]): i for i, one in enumerate(latents)}
        if latents:
            yield f"latents/{module}/0_{len(latents) - 1}.safetensors", _tensors(latents, rows)
            yield f"latents/{module}/config.json", json.dumps(_config(subject, rows), indent=1).encode()
            yield f"neighbours/{module}-{NEIGHBOURS}.json", dumped({
                str(i): [(distance, numbers_[one.about["neuron"], letter]) for distance, letter in one.sisters]
                for i, one in enumerate(latents)
            })  # fmt: skip
        for i, one in enumerate(latents):
            lines.append(dumped({"module": module, "latent": i} | one.about))
            if name := one.about["name"]:
                yield f"explanations/{module}_latent{i}.txt", dumped(name)
    yield CLUSTERS, b"".join(line + b"\n" for line in lines)


def _module(subject: Subject, layer: int) -> str:
    """The name of a layer's module: the hook of its MLP neurons, or of what its encoder reads."""
    found = {encoder.layer: encoder.hook or f"blocks.{layer}.{encoder.point}" for encoder in subject.index.encoders}
    return found.get(layer, f"blocks.{layer}.mlp.hook_post")


def _latent(neuron: dict[str, Any], group: dict[str, Any], texts: dict[tuple[int, ...], int]) -> Latent:
    rows, positions, activations = [], [], []
    for example in group["examples"]:
        values = np.array(example["activations"], np.float32)
        (active,) = np.nonzero(values > 0)
        rows.append(np.full(len(active), texts[tuple(example["text"])]))
        positions.append(active)
        activations.append(values[active])
    about = {
        "neuron": neuron["neuron"],
        "cluster": group["cluster"],
        "name": group["name"],
        "examples": [example["example"] for example in group["examples"]],
    }
    sisters = [(distance, letter) for distance, letter in neuron["sisters"][group["cluster"]]]
    row, position, activation = (np.concatenate(parts) for parts in (rows, positions, activations))
    order = np.lexsort((position, row))  # as its windows want them
    return Latent(about, sisters, row[order], position[order], activation[order])


def _rows(tokens: Sequence[Array], pad: int) -> Array:
    """(R, T) int32, T a multiple of WIDTH."""
    longest = max(len(ids) for ids in tokens)
    rows = np.full((len(tokens), -(-longest // WIDTH) * WIDTH), pad, np.int32)
    for row, ids in zip(rows, tokens, strict=True):
        row[: len(ids)] = ids
    return rows


def _tensors(latents: Sequence[Latent], rows: Array) -> bytes:
    locations = [
        np.stack([one.rows, one.positions, np.full(len(one.rows), i)], axis=1) for i, one in enumerate(latents)
    ]
    made: bytes = _safetensors().save({
        "locations": np.concatenate(locations).astype(np.uint32),
        "activations": np.concatenate([one.activations for one in latents]),
        "tokens": rows,
    })  # fmt: skip
    return made


def _config(subject: Subject, rows: Array) -> dict[str, Any]:
    return {
        "dataset_repo": subject.index.corpus_id,
        "dataset_split": "train",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 1,
        "cache_ctx_len": rows.shape[1],
        "ctx_len": rows.shape[1],
        "n_tokens": rows.size,
        "n_splits": 1,
        "model_name": subject.model.id,
    }


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise FailedPrecondition("to write for delphi install safetensors: pip install safetensors") from error
    return safetensors.numpy
