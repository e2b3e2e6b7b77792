"""Similar clusters of other neurons: `Client.similar`."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Unpack

import numpy as np

from polysem.client import tables
from polysem.client.calls import Call
from polysem.client.questions.options import ClusteringOptions, read_options
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id
from polysem.proto import checks
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neuron
from polysem.proto.questions.clustering import (
    APPROXIMATE,
    Method,
    method_of,
    mixed_methods,
    warn_of_mixed_methods,
)
from polysem.proto.questions.similar import SimilarBatch, Similarity, SimilarQuery, encode_similar_query
from polysem.proto.sides import Side


class SimilarCluster(NamedTuple):
    """A feature cluster of another neuron.

    to          label of the cluster that it is similar to
    neuron      whose it is
    label       its number in that neuron's labels, at the same cut
    central     the number of its central example
    size        its examples
    similarity  −1..1: cosine of the two central examples' embeddings
    method      how the tree was made that it is cut from, as of Neuron; clusters of exact and approximate trees do not
                compare. None: an older server
    """

    to: int
    neuron: NeuronId
    label: int
    central: int
    size: int
    similarity: float
    method: Method | None = None


def similar_of(answer: Answer) -> list[SimilarCluster]:
    """The clusters found, those of each cluster asked for together. Warns as `Similar` says."""
    batch: SimilarBatch = answer.batch
    numbers = _methods(batch)
    warn_of_mixed_methods(*_n_approximate([batch]))
    return [
        SimilarCluster(to, neuron_id(neuron), label, central, size, similarity, method_of(method))
        for to, neuron, label, central, size, similarity, method in zip(
            np.repeat(batch.labels, batch.n_similar).tolist(),
            batch.similar_neurons,
            batch.similar_labels.tolist(),
            batch.similar_centrals.tolist(),
            batch.similar_sizes.tolist(),
            batch.similarities.tolist(),
            numbers,
            strict=True,
        )
    ]


def _methods(batch: SimilarBatch) -> list[int]:
    """(K,) numbers of the methods; an older server does not say."""
    return batch.similar_methods.tolist() or [0] * len(batch.similarities)


def _n_approximate(batches: Sequence[SimilarBatch]) -> tuple[int, int]:
    """Neurons asked about and found whose trees are approximations, and all of them."""
    methods: dict[NeuronId, Method | None] = {}
    for batch in batches:
        for neurons, numbers in ((batch.neurons, batch.methods.tolist()), (batch.similar_neurons, _methods(batch))):
            methods |= zip(map(neuron_id, neurons), map(method_of, numbers), strict=True)
    return sum(method in APPROXIMATE for method in methods.values()), len(methods)


def _by_cluster(batches: Sequence[SimilarBatch]) -> Columns:
    names = {
        "similar_labels": np.int32,
        "similar_centrals": np.int32,
        "similar_sizes": np.int32,
        "similarities": np.float64,
    }
    of = tables.columns_of(batches, names)
    return {
        "to": tables.joined([np.repeat(batch.labels, batch.n_similar) for batch in batches]),
        **tables.neurons([batch.similar_neurons for batch in batches]),
        "label": of["similar_labels"],
        "central": of["similar_centrals"],
        "size": of["similar_sizes"],
        "similarity": of["similarities"],
        "method": [method_of(number) for batch in batches for number in _methods(batch)],
    }


class Similar(Stream[SimilarCluster]):
    """Similar clusters, those of each cluster asked for together.

    Warns (MixedMethodsWarning) where clusters of exact and approximate trees stand together.
    """

    _noun = "clusters"
    _tables: ClassVar = {"cluster": _by_cluster}

    @property
    def mixed(self) -> str:
        """A sentence where clusters of exact and approximate trees stand together; empty where they do not."""
        self._has(-1)
        return mixed_methods(*_n_approximate([answer.batch for answer in self._read]))


def call(
    neuron: NeuronLike,
    clusters: int | Sequence[int] | None,
    similarity: Similarity,
    every_layer: bool,
    limit: int,
    index: str | None,
    side: Side,
    **options: Unpack[ClusteringOptions],
) -> Call[Similar]:
    choice, clustering = read_options(**options)
    query = SimilarQuery(
        neuron=parse_neuron(neuron),
        index=checks.index_name(index),
        clusters=() if clusters is None else checks.whole_numbers(clusters, "clusters", "a cluster"),
        choice=choice,
        clustering=clustering,
        similarity=similarity,
        every_layer=every_layer,
        n_similar=limit,
        side=side,
    )
    return Call("FindSimilarClusters", encode_similar_query(query), SimilarBatch, similar_of, Similar)
