"""Which earlier tokens a key activation depends on: `Client.importance`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polysem.client import characters, tables
from polysem.client.calls import Call
from polysem.client.characters import Part
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id
from polysem.proto import checks
from polysem.proto.arrays import FloatArray
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.examples import example_numbers
from polysem.proto.questions.importance import ImportanceBatch, ImportanceQuery, encode_importance_query
from polysem.proto.sides import Side
from polysem.proto.wire import columns


@dataclass(frozen=True, eq=False)
class Importance:
    """Share of an example's key activation that is lost when a token up to the key token is masked.

    example      its number: where it stands in the neuron's labels
    activation   at the key token, nothing masked
    tokens       the texts before the key token, and it as the last; where it is a part of a character, the character
    importances  (len(tokens),) float32: 1 − a_masked / a; 1: all is lost, 0: nothing, negative: it grows
    parts_of     of each token: which of its character's tokens it is, and how many they are; (0, 0): an older server
    """

    neuron: NeuronId
    example: int
    activation: float
    tokens: Sequence[str]
    importances: FloatArray
    side: Side = "positive"
    parts_of: Sequence[tuple[int, int]] = ()

    @property
    def parts(self) -> list[Part]:
        """The tokens: the text of each, or the character of which it is a part."""
        return [characters.part(self.tokens, i, *of) for i, of in enumerate(self.parts_of)]

    @property
    def place(self) -> int:
        """`example`, as version 0.1.0 called it."""
        return self.example

    @property
    def relative(self) -> FloatArray:
        """(len(tokens),) float32 in 0..1: importances as shares of the key token's own, as the paper's site shows them.

        Zero everywhere where the key token's own is not positive.
        """
        own = self.importances[-1]
        return np.clip(self.importances / own, 0, 1) if own > 0 else np.zeros_like(self.importances)

    def __repr__(self) -> str:
        most = np.argsort(-self.importances[:-1], kind="stable")[:3]
        parts = self.parts
        named = ", ".join(f"{parts[i].text!r} {self.relative[i]:.2f}" for i in most)
        return f"<Importance {self.neuron} #{self.example} {self.tokens[-1]!r} after {named or 'nothing'}>"


def importances_of(answer: Answer) -> list[Importance]:
    """The views of an answer."""
    return importances_of_batch(answer.batch, answer.provenance.side)


def importances_of_batch(batch: ImportanceBatch, side: Side = "positive") -> list[Importance]:
    """The views of a batch of importances."""
    offsets = columns.offsets(batch)["token"]
    parts = list(zip(batch.part_numbers.tolist(), batch.part_counts.tolist(), strict=True))
    parts = parts or [(0, 0)] * len(batch.tokens)  # an older server does not say
    return [
        Importance(
            neuron=neuron_id(batch.neurons[i]),
            example=int(batch.places[i]),
            activation=float(batch.activations[i]),
            tokens=batch.tokens[offsets[i] : offsets[i + 1]],
            importances=batch.importances[offsets[i] : offsets[i + 1]],
            side=side,
            parts_of=parts[offsets[i] : offsets[i + 1]],
        )
        for i in range(len(batch.neurons))
    ]


def _by_token(batches: Sequence[ImportanceBatch]) -> Columns:
    counts = tables.joined([batch.n_tokens for batch in batches])
    found = [one for batch in batches for one in importances_of_batch(batch)]
    return tables.neurons([np.repeat(batch.neurons, batch.n_tokens, axis=0) for batch in batches]) | {
        "example": np.repeat(tables.joined([batch.places for batch in batches]), counts),
        "place": tables.within(counts),
        "token": tables.texts(batches, "tokens"),
        "character": [part.text for one in found for part in one.parts],
        "part": [part.fraction for one in found for part in one.parts],
        "importance": tables.joined([batch.importances for batch in batches], dtype=np.float32),
        "relative": tables.joined([one.relative for one in found], dtype=np.float32),
    }


class Importances(Stream[Importance]):
    """Dataset examples with the importance of their tokens. As a table: a row a token, the key token last."""

    _noun = "examples"
    _tables: ClassVar = {"token": _by_token}


def call(
    neurons: Sequence[NeuronLike],
    examples: Sequence[int] | int,
    tokens_before: int,
    mask_token: int | None,
    index: str | None,
    side: Side,
) -> Call[Importances]:
    query = ImportanceQuery(
        parse_neurons(*neurons), checks.index_name(index), example_numbers(examples), tokens_before, mask_token, side
    )
    return Call("MeasureImportance", encode_importance_query(query), ImportanceBatch, importances_of, Importances)
