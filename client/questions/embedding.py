"""The embeddings themselves: `Client.embed`."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypedDict, Unpack

import numpy as np

from polysem.client import tables
from polysem.client.calls import Call
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id
from polysem.proto import checks
from polysem.proto.arrays import FloatArray
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.clustering import (
    Embedding,
    EmbeddingChoice,
    Frame,
    LayerNorm,
)
from polysem.proto.questions.embedding import EmbeddingBatch, EmbedQuery, encode_embed_query
from polysem.proto.sides import Side
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


def _by_example(batches: Sequence[EmbeddingBatch]) -> Columns:
    counts = tables.joined([batch.n_examples for batch in batches])
    return tables.neurons([np.repeat(batch.neurons, batch.n_examples, axis=0) for batch in batches]) | {
        "example": tables.within(counts),
        "embedding": tables.joined([batch.embeddings for batch in batches], (0, 1), np.float32),
    }


class EmbeddedNeurons(Stream[Embeddings]):
    """Neurons with their embeddings, in the order asked."""

    _noun = "neurons"
    _tables: ClassVar = {"example": _by_example}


class EmbeddingOptions(TypedDict, total=False):
    """Which embedding: see `Client.cluster`."""

    embedding: Embedding
    layer_norm: LayerNorm
    frame: Frame


def call(
    neurons: Sequence[NeuronLike], index: str | None, side: Side, **options: Unpack[EmbeddingOptions]
) -> Call[EmbeddedNeurons]:
    query = EmbedQuery(parse_neurons(*neurons), checks.index_name(index), EmbeddingChoice(**options), side)
    return Call("EmbedNeurons", encode_embed_query(query), EmbeddingBatch, embeddings_of, EmbeddedNeurons)
