"""Reads delphi's cache of latents where the latents are MLP neurons, or clusters of them as `polysem export` writes.

Fields as in delphi/latents/cache.py and loader.py of version 0.1.3: MODULE/FIRST_LAST.safetensors with locations (text,
position, latent − FIRST), activations and tokens. A module's layer is the first number in its name, a latent the neuron
with its number; clusters.jsonl beside the cache says otherwise. A row ends where only BOS, its padding, follows.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound
from polysem.proto.neurons import NeuronId, parse_neuron
from polysem.server.importing.found import Explained, Found, Texts, check_neuron, columns
from polysem.server.model.model import ModelDescription

CLUSTERS = "clusters.jsonl"
UNPARSED = "Explanation could not be parsed."  # what delphi writes where it found none


class _Rows(NamedTuple):
    """Return where a latent is strongest in each text of a file: text, position and activation (n,) each."""

    texts: Array
    positions: Array
    activations: Array


def read(folder: Path, model: ModelDescription) -> Found:
    """Return what the cache holds. Raises NotFound where there is none; FailedPrecondition for a damaged one;
    InvalidArgument for latents that the model has no neurons for, and texts that it cannot read."""
    cache = folder / "latents" if (folder / "latents").is_dir() else folder
    modules = sorted(path.parent for path in cache.glob("*/config.json"))
    if not modules:
        raise NotFound(
            f"{str(folder)!r} has no folder with a config.json and .safetensors files, so it is no cache of delphi"
        )
    known, texts = _clusters(cache.parent / CLUSTERS), Texts(model)
    rows: list[tuple[NeuronId, int, int, float]] = []
    explanations = []
    for module in modules:
        for latent, found in _latents(module, texts, model):
            neuron = _neuron(module.name, latent, known, model)
            rows += [(neuron, *row) for row in zip(*(column.tolist() for column in found), strict=True)]
            path = cache.parent / "explanations" / f"{module.name}_latent{latent}.txt"
            if text := _explanation(path):
                mine = found.texts.tolist() if (module.name, latent) in known else None
                time = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
                explanations.append(Explained(neuron, mine, text, "model", "delphi", time))
    return Found(texts.texts, texts.documents, texts.bos, **columns(rows), explanations=explanations, left_out={})


def _latents(module: Path, texts: Texts, model: ModelDescription) -> Iterator[tuple[int, _Rows]]:
    """Each latent of a module, and where it is strongest in each text. BOS, where a text begins with it, counts not."""
    bos = model.tokenizer.bos_id
    for path in sorted(module.glob("*.safetensors")):
        first, data = _file(path)
        if not len(data["locations"]):
            continue
        locations, activations, tokens = data["locations"].astype(np.int64), data["activations"], data["tokens"]
        row, position, latent = locations.T
        lengths = _lengths(tokens, bos)
        starts = tokens[row, 0] == bos
        kept = (activations > 0) & ~(starts & (position == 0)) & (position < lengths[row])
        row, position, latent, activations = (column[kept] for column in (row, position, latent, activations))
        numbers = {int(one): texts.number(tokens[one, : lengths[one]], f"row {one}") for one in np.unique(row)}
        order = np.lexsort((position, -activations, row, latent))
        pairs = np.stack([latent, row], axis=1)[order]
        _, strongest = np.unique(pairs, axis=0, return_index=True)
        best = order[strongest]
        of_row = np.array([numbers[one] for one in row[best].tolist()], np.int64)
        for one in np.unique(latent[best]).tolist():
            mine = latent[best] == one
            yield first + one, _Rows(of_row[mine], position[best][mine], activations[best][mine].astype(np.float32))


def _file(path: Path) -> tuple[int, dict[str, Array]]:
    """The first latent and the arrays of a file."""
    try:
        first = int(path.stem.split("_")[0])
        data = load_file(path)
        locations, activations, tokens = (data[name] for name in ("locations", "activations", "tokens"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FailedPrecondition(
            f"cannot read {str(path)!r} ({error}); delphi writes FIRST_LAST.safetensors with locations, activations "
            "and tokens (save_tokens)"
        ) from error
    n = len(activations)
    if locations.shape != (n, 3) or tokens.ndim != 2 or (n and (locations.max(0)[:2] >= tokens.shape).any()):
        raise FailedPrecondition(
            f"{str(path)!r} has locations {locations.shape}, {n} activations and tokens {tokens.shape}, which do not "
            "fit together: it is damaged"
        )
    return first, data


def _lengths(tokens: Array, bos: int | None) -> Array:
    """(R,) tokens of each row without the BOS that fill it up at its end."""
    lengths: Array = ((tokens != (-1 if bos is None else bos)) * np.arange(1, tokens.shape[1] + 1)).max(1, initial=0)
    return lengths


def _clusters(path: Path) -> dict[tuple[str, int], NeuronId]:
    """The neuron of each module and latent, as an export of clusters says; empty where there is none."""
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        return {(one["module"], one["latent"]): parse_neuron(one["neuron"]) for one in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(f"cannot read {str(path)!r} ({error}); export the clusters anew") from error


def _neuron(module: str, latent: int, known: dict[tuple[str, int], NeuronId], model: ModelDescription) -> NeuronId:
    if not (neuron := known.get((module, latent))):
        if not (layer := re.search(r"\d+", module)):
            raise InvalidArgument(
                f"the module {module!r} names no layer; name it after a layer's MLP, such as blocks.7.mlp.hook_post"
            )
        neuron = NeuronId(int(layer[0]), latent)
    return check_neuron(neuron, model.info, f"module {module!r}, latent {latent},")


def _explanation(path: Path) -> str:
    """The text of an explanation; empty where there is none."""
    if not path.is_file():
        return ""
    try:
        text: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"cannot read the explanation {str(path)!r} ({error}); remove or fix it") from error
    return text.strip() if isinstance(text, str) and text != UNPARSED else ""
