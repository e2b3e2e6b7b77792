"""The embeddings themselves: EmbedNeurons."""

from dataclasses import dataclass

from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import (
    EmbeddingChoice,
    check_choice,
    decode_choice,
    encode_choice,
)
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class EmbedQuery:
    neurons: tuple[NeuronRange, ...]
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    side: Side = "positive"


@columnar(
    pb.EmbedNeuronsResponse,
    "neuron",
    Axis("example", ["embeddings"], "n_examples"),
)
@dataclass(frozen=True, eq=False)
class EmbeddingBatch:
    """neurons (B, 2) int32, n_examples (B,) int32, embeddings (E, D) float32."""

    neurons: IntArray
    n_examples: IntArray
    embeddings: FloatArray


def encode_embed_query(query: EmbedQuery) -> pb.EmbedNeuronsRequest:
    check_choice(query.choice)
    return pb.EmbedNeuronsRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        side=encode_side(query.side),
        **encode_choice(query.choice),
    )


def decode_embed_query(request: pb.EmbedNeuronsRequest) -> EmbedQuery:
    choice, side = decode_choice(request), decode_side(request.side)
    return EmbedQuery(decode_ranges(request.neurons), request.index, choice, side)
