"""Contents of another tool's files: texts as tokens, the neurons' key activations in them, and explanations."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import InvalidArgument
from polysem.proto.facts import ModelInfo
from polysem.proto.neurons import NeuronId
from polysem.server.index.contexts import Cut, token_dtype
from polysem.server.model.model import ModelDescription


class Explained(NamedTuple):
    """An explanation of a neuron, or of those of its texts that `texts` names.

    texts   numbers of texts; None: of all
    method  whether a person wrote it, or a model
    """

    neuron: NeuronId
    texts: Sequence[int] | None
    text: str
    method: Literal["person", "model"]
    author: str
    time: datetime


class Found(NamedTuple):
    """Contents of another tool's files.

    texts         token ids of each, BOS included where `bos` is set
    documents     a name of each
    bos           every text begins with the model's BOS
    neurons       (E, 2) int32 layer and number
    contexts      (E,) int32: which text; a neuron has each text once
    positions     (E,) int32: where it is strongest in it, BOS apart
    activations   (E,) float32: how strongly
    explanations  of these neurons
    left_out      what could not be used, by reason, and how often
    """

    texts: Sequence[Array]
    documents: Sequence[str]
    bos: bool
    neurons: Array
    contexts: Array
    positions: Array
    activations: Array
    explanations: Sequence[Explained]
    left_out: dict[str, int]

    @property
    def sha256(self) -> str:
        """The hash of the texts and the activations."""
        digest = hashlib.sha256()
        for array in (*self.texts, self.neurons, self.contexts, self.positions, self.activations):
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        for name in self.documents:
            digest.update(name.encode() + b"\0")
        return digest.hexdigest()

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the neurons."""
        return tuple(np.unique(self.neurons[:, 0]).tolist())

    def strongest(self, n: int) -> "Found":
        """Keep at most n texts of each neuron, those in which it is strongest; tie: the first."""
        order = np.lexsort((self.contexts, -self.activations, self.neurons[:, 1], self.neurons[:, 0]))
        _, first = np.unique(self.neurons[order], axis=0, return_index=True)
        rank = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
        kept = np.sort(order[rank < n])
        some = {name: getattr(self, name)[kept] for name in ("neurons", "contexts", "positions", "activations")}
        return self._replace(**some)

    def cut(self, n_tokens: int) -> Cut:
        """The texts as the contexts of an index, a document each."""
        names = [name.encode() for name in self.documents]
        lengths = [len(text) for text in self.texts]
        return Cut(
            np.concatenate(self.texts).astype(token_dtype(n_tokens)),
            np.cumsum([0, *lengths]),
            np.arange(len(lengths), dtype=np.int32),
            np.zeros(len(lengths), np.int32),
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([0, *map(len, names)]),
        )


class Texts:
    """Texts that are met again and again, each kept once. Equal texts of two documents are two."""

    def __init__(self, model: ModelDescription) -> None:
        self._model = model
        self._numbers: dict[tuple[str, bytes], int] = {}
        self.texts: list[Array] = []
        self.documents: list[str] = []

    def number(self, ids: Array, document: str) -> int:
        """The number of a text of a document, "" where it has no name; raises InvalidArgument where the model cannot
        read it."""
        key = document, np.asarray(ids, np.int32).tobytes()
        if key not in self._numbers:
            self._check(ids)
            self._numbers[key] = len(self.texts)
            self.texts.append(np.frombuffer(key[1], np.int32))
            self.documents.append(document or f"text {len(self.texts)}")
        return self._numbers[key]

    def _check(self, ids: Array) -> None:
        info, n_tokens = self._model.info, self._model.tokenizer.n_tokens
        if len(ids) > info.context_length:
            raise InvalidArgument(
                f"a text has {len(ids):,} tokens, and {info.id!r} reads {info.context_length:,} at once: the "
                "activations come from another model"
            )
        if int(ids.max(initial=0)) >= n_tokens:
            raise InvalidArgument(
                f"a text has token {int(ids.max())}, and {info.id!r} has tokens 0 to {n_tokens - 1}: the activations "
                "come from another model"
            )

    @property
    def bos(self) -> bool:
        """Whether every text begins with the model's BOS."""
        bos = self._model.tokenizer.bos_id
        return bos is not None and bool(self.texts) and all(len(ids) and ids[0] == bos for ids in self.texts)


def check_neuron(neuron: NeuronId, info: ModelInfo, where: str) -> NeuronId:
    """Return the neuron; raise InvalidArgument where the model has no such one."""
    if not (0 <= neuron.layer < info.n_layers and 0 <= neuron.neuron < info.n_neurons_per_layer):
        raise InvalidArgument(
            f"{where} names neuron {neuron}, and {info.id!r} has {info.n_layers} layers of "
            f"{info.n_neurons_per_layer:,} neurons; only MLP neurons of this very model can be imported"
        )
    return neuron


def columns(rows: Iterable[tuple[NeuronId, int, int, float]]) -> dict[str, Any]:
    """Neurons, contexts, positions and activations of rows (neuron, text, position, activation).

    Of a neuron's rows of one text the strongest counts, of equals the first in the text.
    """
    best: dict[tuple[NeuronId, int], tuple[float, int]] = {}
    for neuron, context, position, activation in rows:
        found = (activation, -position)
        if (neuron, context) not in best or found > best[neuron, context]:
            best[neuron, context] = found
    keys = sorted(best)
    return {
        "neurons": np.array([tuple(neuron) for neuron, _ in keys], np.int32).reshape(-1, 2),
        "contexts": np.array([context for _, context in keys], np.int32),
        "positions": np.array([-best[key][1] for key in keys], np.int32),
        "activations": np.array([best[key][0] for key in keys], np.float32),
    }
