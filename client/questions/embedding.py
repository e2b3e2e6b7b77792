"""The embeddings themselves: `Client.embed`."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack

from polysem.client.calls import Call
from polysem.client.streams import Stream
from polysem.client.views import neuron_id
from polysem.proto.arrays import FloatArray
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.clustering import (
    Embedding,
    EmbeddingChoice,
    LayerNorm,
)
from polysem.proto.questions.embedding import EmbeddingBatch, EmbedQuery, encode_embed_query
from polysem.proto.wire import columns


class Embeddings(NamedTuple):
    """A neuron's embeddings (n, D) float32, in the order of its labels."""

    id: NeuronId
    embeddings: FloatArray


def embeddings_of(answer: Answer) -> list[Embeddings]:
    """The views of a batch of embeddings."""
    batch: EmbeddingBatch = answer.batch
    offsets = columns.offsets(batch)["example"]
    return [
        Embeddings(neuron_id(neuron), batch.embeddings[offsets[i] : offsets[i + 1]])
        for i, neuron in enumerate(batch.neurons)
    ]


class EmbeddingOptions(TypedDict, total=False):
    """Which embedding: see `Client.cluster`."""

    embedding: Embedding
    layer_norm: LayerNorm


def call(
    neurons: Sequence[NeuronLike], index: str | None, **options: Unpack[EmbeddingOptions]
) -> Call[Stream[Embeddings]]:
    query = EmbedQuery(parse_neurons(*neurons), index or "", EmbeddingChoice(**options))
    return Call("EmbedNeurons", encode_embed_query(query), EmbeddingBatch, embeddings_of, Stream)
