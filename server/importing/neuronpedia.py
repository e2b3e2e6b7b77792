"""Reads Neuronpedia's exports: activations/*.jsonl.gz and explanations/*.jsonl.gz, a row an activation or explanation.

Fields as in neuronpedia_utils/db_models of its repository. A row's layer begins with its number ("7-neurons"), `index`
is the neuron's. Tokens are texts there; they become ids by the model's tokenizer, where it splits their text alike or
has each of them. A row of other tokens is left out, and counted. An explanation is of a neuron; where `polysem export`
wrote it, of a cluster, whose texts are those of a bin.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from polysem.client.letters import letter
from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, PolysemError
from polysem.proto.neurons import NeuronId
from polysem.server.importing.found import Explained, Found, Texts, check_neuron, columns
from polysem.server.model.model import ModelDescription

EARLIEST = "2023-01-01T00:00:00Z"  # of an explanation without a time
NO_TOKENS = "texts with tokens that the model does not have"
NOT_POSITIVE = "texts in which the activations are not above 0"


def read(folder: Path, model: ModelDescription) -> Found:
    """Return what the export holds. Raises NotFound where there is none; FailedPrecondition for a row that cannot be
    read; InvalidArgument for neurons that the model does not have, and where it has the tokens of no text."""
    files = sorted(path for path in folder.rglob("*.jsonl*") if path.parent.name == "activations")
    if not files:
        raise NotFound(f"{str(folder)!r} has no activations/*.jsonl.gz, so it is no export of Neuronpedia")
    texts, left_out = Texts(model), Counter[str]()
    ids_of = _Ids(model)
    rows: list[tuple[NeuronId, int, int, float]] = []
    bins: dict[NeuronId, dict[float, list[int]]] = {}
    for place, row in _rows(files):
        with _told(place):
            neuron = _neuron(row, model, place)
            values = np.array(row["values"], np.float32)
            ids, name = ids_of(row["tokens"]), str(row.get("dataIndex") or "")
            if len(values) != len(row["tokens"]):
                raise ValueError(f"{len(values)} values for {len(row['tokens'])} tokens")
            of_bin = bins.setdefault(neuron, {}).setdefault(float(row.get("binMax") or 0), [])
        if ids is None:
            left_out[NO_TOKENS] += 1
            continue
        skipped = int(len(ids) > 0 and ids[0] == model.tokenizer.bos_id)
        if not len(values) > skipped or not (highest := float(values[skipped:].max())) > 0:
            left_out[NOT_POSITIVE] += 1
            continue
        number = texts.number(ids, name)
        rows.append((neuron, number, skipped + int(values[skipped:].argmax()), highest))
        of_bin.append(number)
    if not rows and left_out[NO_TOKENS]:
        raise InvalidArgument(
            f"{model.info.id!r} has the tokens of none of the {left_out[NO_TOKENS]:,} texts in {str(folder)!r}: the "
            "activations come from another model"
        )
    found = Found(texts.texts, texts.documents, texts.bos, **columns(rows), explanations=(), left_out=dict(left_out))
    return found._replace(explanations=_explanations(folder, model, bins))


def _explanations(
    folder: Path, model: ModelDescription, bins: dict[NeuronId, dict[float, list[int]]]
) -> list[Explained]:
    """bins: the texts of each bin of each neuron, by its upper end."""
    files = sorted(path for path in folder.rglob("*.jsonl*") if path.parent.name == "explanations")
    found = []
    for place, row in _rows(files):
        with _told(place):
            neuron, text = _neuron(row, model, place), str(row["description"]).strip()
            by_model = row.get("typeName") or row.get("explanationModelName") or row["authorId"] == "polysem"
            time = datetime.fromisoformat(row.get("createdAt") or EARLIEST)
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            author = str(row.get("explanationModelName") or row["authorId"])
        if text and neuron in bins:
            mine = _of_cluster(row, bins[neuron])
            found.append(Explained(neuron, mine, text, "model" if by_model else "person", author, time))
    return found


def _of_cluster(row: dict[str, Any], bins: dict[float, list[int]]) -> Sequence[int] | None:
    """The texts of the cluster that an exported explanation is of: the largest, A, has the highest bin; else None."""
    named = re.match(r"cluster ([A-Z]+),", str(row.get("notes") or ""))
    if row["authorId"] != "polysem" or not named:
        return None
    ends = sorted(bins, reverse=True)
    return next((bins[end] for rank, end in enumerate(ends) if letter(rank) == named[1]), None)


def _rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, and where it stands."""
    for path in files:
        try:
            data = path.read_bytes()
            lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
        except (OSError, EOFError) as error:
            raise FailedPrecondition(f"cannot read {str(path)!r} ({error}); copy it again") from error
        for i, line in enumerate(lines, 1):
            place = f"{path.name}, line {i},"
            if line.strip():
                with _told(place):
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("it is no object")
                yield place, row


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Say where a row cannot be read."""
    try:
        yield
    except PolysemError:
        raise
    except KeyError as error:
        raise FailedPrecondition(f"{place} has no {error.args[0]}, which a row of Neuronpedia has") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise FailedPrecondition(f"{place} is no row of Neuronpedia: {error}") from error


def _neuron(row: dict[str, Any], model: ModelDescription, place: str) -> NeuronId:
    neuron = NeuronId(int(str(row["layer"]).split("-")[0]), int(row["index"]))
    return check_neuron(neuron, model.info, f"{place} layer {row['layer']!r},")


class _Ids:
    """Token ids of a text given as the texts of its tokens."""

    def __init__(self, model: ModelDescription) -> None:
        self._tokenizer = model.tokenizer
        bos = self._tokenizer.bos_id
        self._bos = None if bos is None else self._tokenizer.alone([bos])[0]
        self._alone: dict[str, int | None] = {}

    def __call__(self, tokens: Sequence[str]) -> Array | None:
        """(T,) ids; None where the model has no such tokens. A text may begin with BOS, by its name."""
        head = [self._tokenizer.bos_id] if tokens and tokens[0] == self._bos else []
        rest = list(tokens[len(head) :])
        (ids,) = self._tokenizer.encode(["".join(rest)])
        if len(ids) != len(rest) or self._tokenizer.texts(ids) != rest:
            each = [self._one(token) for token in rest]
            if None in each:
                return None
            ids = [one for one in each if one is not None]
        return np.array([*head, *ids], np.int32)

    def _one(self, token: str) -> int | None:
        if token not in self._alone:
            (ids,) = self._tokenizer.encode([token])
            self._alone[token] = ids[0] if len(ids) == 1 else None
        return self._alone[token]
