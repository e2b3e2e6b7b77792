"""Texts of dataset examples: GetExamples."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.checks import whole_numbers
from polysem.proto.neurons import NeuronRange
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class ExampleQuery:
    """examples: numbers in each neuron's labels; empty: all. whole_context: else the tokens around the key token."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    examples: tuple[int, ...] = ()
    whole_context: bool = False
    side: Side = "positive"


@columnar(
    pb.GetExamplesResponse,
    "example",
    Axis("token", ["tokens", "token_activations", "token_ids"], "n_tokens"),
    later=["part_numbers", "part_counts", "token_ids"],
)
@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """Texts of E dataset examples, T tokens in all.

    neurons            (E, 2) int32
    places             (E,) int32: number of the example in the neuron's labels
    documents          E names
    contexts           (E,) int32: number of the context in the index
    positions          (E,) int32: key token's place in its context (BOS is 0)
    activations        (E,) float32: at the key token
    n_tokens           (E,) int32: tokens sent of each example
    keys               (E,) int32: the key token's place among them
    tokens             T texts
    token_activations  (T,) float32
    part_numbers       (E,) int32: which of a character's tokens the key token is, from 1; 0: an older server
    part_counts        (E,) int32: how many they are
    token_ids          (T,) int32; none: an older server
    """

    neurons: IntArray
    places: IntArray
    documents: Sequence[str] = field(repr=False)
    contexts: IntArray
    positions: IntArray
    activations: FloatArray
    n_tokens: IntArray
    keys: IntArray
    tokens: Sequence[str] = field(repr=False)
    token_activations: FloatArray
    part_numbers: IntArray
    part_counts: IntArray
    token_ids: IntArray


def example_numbers(examples: object) -> tuple[int, ...]:
    """The numbers of examples that the caller named. Raises InvalidArgument for what is none."""
    return whole_numbers(examples, "examples", "an example")


def encode_example_query(query: ExampleQuery) -> pb.GetExamplesRequest:
    return pb.GetExamplesRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        examples=example_numbers(query.examples),
        whole_context=query.whole_context,
        side=encode_side(query.side),
    )


def decode_example_query(request: pb.GetExamplesRequest) -> ExampleQuery:
    return ExampleQuery(
        neurons=decode_ranges(request.neurons),
        index=request.index,
        examples=tuple(request.examples),
        whole_context=request.whole_context,
        side=decode_side(request.side),
    )
