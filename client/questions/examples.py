"""Texts of dataset examples: `Client.examples`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from polysem.client import characters, tables
from polysem.client.calls import Call
from polysem.client.characters import Part
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id
from polysem.proto import checks
from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.examples import ExampleBatch, ExampleQuery, encode_example_query, example_numbers
from polysem.proto.sides import Side
from polysem.proto.wire import columns


@dataclass(frozen=True, eq=False)
class Example:
    """A dataset example: a context in which the neuron fires strongly.

    example      its number: where it stands in the neuron's labels
    document     the corpus's name of its text
    context      its number in the index
    position     the key token's place in the context (BOS is 0)
    activation   of the neuron at the key token, after the activation function
    tokens       the text around the key token, token by token; joined they are the text
    activations  (len(tokens),) float32
    key          the key token's place in `tokens`; a character of several tokens stands at its last
    key_of       which of its character's tokens the key token is, and how many they are; (0, 0): an older server
    token_ids    (len(tokens),) int32: the model's ids of the tokens; (0,): an older server
    """

    neuron: NeuronId
    example: int
    document: str
    context: int
    position: int
    activation: float
    tokens: Sequence[str]
    activations: FloatArray
    key: int
    side: Side = "positive"
    key_of: tuple[int, int] = (0, 0)
    token_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def place(self) -> int:
        """`example`, as version 0.1.0 called it."""
        return self.example

    @property
    def text(self) -> str:
        """The tokens, joined."""
        return "".join(self.tokens)

    @property
    def key_part(self) -> Part:
        """The key token: its text, or the character of which it is a part."""
        return characters.part(self.tokens, self.key, *self.key_of)

    def __repr__(self) -> str:
        found = self.key_part
        texts = characters.moved(self.tokens, self.key, found)
        key = texts[self.key] if found.of < 2 else characters.named(found)
        before, after = ("".join(texts[side]) for side in (slice(self.key), slice(self.key + 1, None)))
        return f"<Example {self.neuron} #{self.example} {self.activation:.2f} {f'{before}[[{key}]]{after}'!r}>"


def examples_of(answer: Answer) -> list[Example]:
    """The views of an answer."""
    return examples_of_batch(answer.batch, answer.provenance.side)


def examples_of_batch(batch: ExampleBatch, side: Side = "positive") -> list[Example]:
    """The views of a batch of examples."""
    offsets = columns.offsets(batch)["token"]
    return [
        Example(
            neuron=neuron_id(batch.neurons[i]),
            example=int(batch.places[i]),
            document=batch.documents[i],
            context=int(batch.contexts[i]),
            position=int(batch.positions[i]),
            activation=float(batch.activations[i]),
            tokens=batch.tokens[offsets[i] : offsets[i + 1]],
            activations=batch.token_activations[offsets[i] : offsets[i + 1]],
            key=int(batch.keys[i]),
            side=side,
            key_of=(int(batch.part_numbers[i]), int(batch.part_counts[i])),
            token_ids=batch.token_ids[offsets[i] : offsets[i + 1]],
        )
        for i in range(len(batch.neurons))
    ]


def _by_example(batches: Sequence[ExampleBatch]) -> Columns:
    examples = [example for batch in batches for example in examples_of_batch(batch)]
    return tables.neurons([batch.neurons for batch in batches]) | {
        "example": tables.joined([batch.places for batch in batches]),
        "document": tables.texts(batches, "documents"),
        "context": tables.joined([batch.contexts for batch in batches]),
        "position": tables.joined([batch.positions for batch in batches]),
        "activation": tables.joined([batch.activations for batch in batches], dtype=np.float32),
        "key_token": [example.key_part.text for example in examples],
        "key_part": [example.key_part.fraction for example in examples],
        "text": [example.text for example in examples],
    }


def _by_token(batches: Sequence[ExampleBatch]) -> Columns:
    counts = tables.joined([batch.n_tokens for batch in batches])
    keys = tables.joined([batch.keys for batch in batches])
    place = tables.within(counts)
    return tables.neurons([np.repeat(batch.neurons, batch.n_tokens, axis=0) for batch in batches]) | {
        "example": np.repeat(tables.joined([batch.places for batch in batches]), counts),
        "place": place,
        "token": tables.texts(batches, "tokens"),
        "activation": tables.joined([batch.token_activations for batch in batches], dtype=np.float32),
        "is_key": place == np.repeat(keys, counts),
    }


class Examples(Stream[Example]):
    """Dataset examples, those of each neuron in the order of its labels."""

    _noun = "examples"
    _tables: ClassVar = {"example": _by_example, "token": _by_token}


def call(
    neurons: Sequence[NeuronLike], examples: Sequence[int] | int, whole_context: bool, index: str | None, side: Side
) -> Call[Examples]:
    query = ExampleQuery(
        parse_neurons(*neurons), checks.index_name(index), example_numbers(examples), whole_context, side
    )
    return Call("GetExamples", encode_example_query(query), ExampleBatch, examples_of, Examples)
