"""Reads Neuronpedia's exports: activations/*.jsonl.gz and explanations/*.jsonl.gz, a row an activation or explanation.

Fields as in neuronpedia_utils/db_models and export-data.py of its repository, which writes null where its database has
nothing. A row's layer begins with its number ("7-neurons"), `index` is the neuron's. Tokens are texts there; they
become ids by the model's tokenizer, where it splits their text alike or has each of them. SAEDashboard, which makes
most of Neuronpedia's rows, writes a token by its name in the vocabulary: such names are known, too. A row of other
tokens is left out, and counted. An explanation is of a neuron; where `polysem export` wrote it, of a cluster, whose
texts are those of a bin.
"""

import gzip
import json
import re
import zlib
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
UNKNOWN = "neuronpedia"  # author of one that names nobody
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
            ids, name = ids_of(_tokens(row)), _text(row, "dataIndex")
            if values.ndim != 1 or len(values) != len(row["tokens"]):
                raise ValueError(f"{len(values)} values for {len(row['tokens'])} tokens")
            if np.isnan(values).any():
                raise ValueError("one of its values is no number")
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
            neuron, text, author = _neuron(row, model, place), _text(row, "description").strip(), _text(row, "authorId")
            by_model = row.get("typeName") or row.get("explanationModelName") or author == "polysem"
            time = datetime.fromisoformat(row.get("createdAt") or EARLIEST)
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            author = _text(row, "explanationModelName") or author or UNKNOWN
            mine = _of_cluster(row, bins.get(neuron, {}))
        if text and neuron in bins:
            found.append(Explained(neuron, mine, text, "model" if by_model else "person", author, time))
    return found


def _text(row: dict[str, Any], name: str) -> str:
    """The field's text; "" where it is missing or null."""
    value = row.get(name)
    return "" if value is None else str(value)


def _tokens(row: dict[str, Any]) -> Sequence[str]:
    """Raises ValueError for what is no list of texts."""
    tokens = row["tokens"]
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("its tokens are no list of texts")
    return tokens


def _of_cluster(row: dict[str, Any], bins: dict[float, list[int]]) -> Sequence[int] | None:
    """The texts of the cluster that an exported explanation is of: the largest, A, has the highest bin; else None."""
    named = re.match(r"cluster ([A-Z]+),", _text(row, "notes"))
    if row.get("authorId") != "polysem" or not named:
        return None
    ends = sorted(bins, reverse=True)
    return next((bins[end] for rank, end in enumerate(ends) if letter(rank) == named[1]), None)


def _rows(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, and where it stands."""
    for path in files:
        try:
            data = path.read_bytes()
            lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
        except (OSError, EOFError, zlib.error) as error:
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
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
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
        ids = self._of_text(rest) or self._by_name(rest) or self._each(rest)
        return None if ids is None else np.array([*head, *ids], np.int32)

    def _of_text(self, tokens: Sequence[str]) -> list[int] | None:
        """Return the ids into which the tokenizer splits their text, where these are the tokens."""
        (ids,) = self._tokenizer.encode(["".join(tokens)])
        return ids if self._tokenizer.texts(ids) == tokens else None

    def _by_name(self, tokens: Sequence[str]) -> list[int] | None:
        """Return the ids that they name in the vocabulary, where these make a text of whole characters."""
        ids = [one for one in self._tokenizer.named(tokens) if one is not None]
        whole = len(ids) == len(tokens) and "\N{REPLACEMENT CHARACTER}" not in "".join(self._tokenizer.texts(ids))
        return ids if whole else None

    def _each(self, tokens: Sequence[str]) -> list[int] | None:
        """Return the id of each as a text of its own, where each has one."""
        ids = [one for one in map(self._one, tokens) if one is not None]
        return ids if len(ids) == len(tokens) else None

    def _one(self, token: str) -> int | None:
        if token not in self._alone:
            (ids,) = self._tokenizer.encode([token])
            self._alone[token] = ids[0] if len(ids) == 1 else None
        return self._alone[token]
