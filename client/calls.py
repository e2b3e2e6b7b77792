"""The calls both clients make: which RPC, with which message, and how to read its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polysem.client.results import Answer
from polysem.proto import codec
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronLike, parse_neurons
from polysem.proto.types import (
    MAX_MESSAGE_BYTES,
    Algorithm,
    ClusterBatch,
    Clustering,
    ClusterQuery,
    Embedding,
    EmbeddingBatch,
    EmbeddingChoice,
    EmbedQuery,
    ExampleBatch,
    ExampleQuery,
    LayerNorm,
    Linkage,
)

DEFAULT_TARGET = "127.0.0.1:50051"
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 60_000),  # the server allows a ping every 30 s
    ("grpc.keepalive_timeout_ms", 20_000),
)
CLOSED = "this client is closed; read all that you want of its answers before, inside `with`"


@dataclass(frozen=True)
class StreamCall:
    """A streaming RPC of NeuronService; `type_` is the batch that it answers with."""

    method: str
    request: Any
    type_: type[Any]

    def __post_init__(self) -> None:
        if self.request.ByteSize() > MAX_MESSAGE_BYTES:
            raise InvalidArgument(
                f"the question has {self.request.ByteSize()} bytes, a server reads {MAX_MESSAGE_BYTES}; "
                "name ranges instead of single neurons, or ask in parts",
                "neurons",
            )


class Assembler:
    """Messages in, answers out, for one streaming call."""

    def __init__(self, call: StreamCall) -> None:
        self._joiner: codec.Joiner[Any] = codec.Joiner(call.type_)

    def add(self, message: Any) -> Answer | None:
        joined = self._joiner.add(message)
        return None if joined is None else Answer(*joined)


def cluster(
    neurons: Sequence[NeuronLike],
    algorithm: Algorithm,
    linkage: Linkage,
    embedding: Embedding,
    layer_norm: LayerNorm,
    distance_threshold: float,
    thresholds: Sequence[float] | Literal["linear", "geometric"] | None,
    until_stable: bool,
    index: str | None,
    silhouette_thresholds: Sequence[float] = (),
) -> StreamCall:
    query = ClusterQuery(
        parse_neurons(*neurons),
        index or "",
        EmbeddingChoice(embedding, layer_norm),
        Clustering(
            algorithm, linkage, distance_threshold, _thresholds(thresholds), until_stable, tuple(silhouette_thresholds)
        ),
    )
    return StreamCall("ClusterNeurons", codec.encode_cluster_query(query), ClusterBatch)


def _thresholds(thresholds: Any) -> Any:
    if thresholds is None:
        return "linear"
    if isinstance(thresholds, str):
        return thresholds
    try:
        return tuple(float(value) for value in thresholds)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"thresholds must be numbers, not {thresholds!r}", "thresholds") from error


def embed(neurons: Sequence[NeuronLike], embedding: Embedding, layer_norm: LayerNorm, index: str | None) -> StreamCall:
    query = EmbedQuery(parse_neurons(*neurons), index or "", EmbeddingChoice(embedding, layer_norm))
    return StreamCall("EmbedNeurons", codec.encode_embed_query(query), EmbeddingBatch)


def examples(
    neurons: Sequence[NeuronLike], places: Sequence[int], whole_context: bool, index: str | None
) -> StreamCall:
    query = ExampleQuery(parse_neurons(*neurons), index or "", tuple(places), whole_context)
    return StreamCall("GetExamples", codec.encode_example_query(query), ExampleBatch)
