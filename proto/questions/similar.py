"""Feature clusters of other neurons that are like a neuron's: FindSimilarClusters."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.checks import check_count, check_one_of
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, NeuronId, is_number
from polysem.proto.questions.clustering import (
    Clustering,
    EmbeddingChoice,
    check_choice,
    check_clustering,
    decode_clustering,
    encode_clustering,
)
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_side, encode_side, name_of
from polysem.v1 import neuron_service_pb2 as pb

Similarity = Literal["pre_mlp", "neuron"]
MAX_SIMILAR = 1000


@dataclass(frozen=True, slots=True)
class SimilarQuery:
    """clusters: labels of the neuron's feature clusters; empty: all. every_layer: else the neuron's own."""

    neuron: NeuronId
    index: str = ""
    clusters: tuple[int, ...] = ()
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    similarity: Similarity = "pre_mlp"
    every_layer: bool = False
    n_similar: int = 20
    side: Side = "positive"


@columnar(
    pb.FindSimilarClustersResponse,
    "cluster",
    Axis(
        "similar",
        ["similar_neurons", "similar_labels", "similar_centrals", "similar_sizes", "similarities", "similar_methods"],
        "n_similar",
    ),
    later=["methods", "similar_methods"],
)
@dataclass(frozen=True, eq=False)
class SimilarBatch:
    """B feature clusters of a neuron, each with its most similar clusters of other neurons, K in all.

    neurons, labels, centrals  (B, 2), (B,), (B,) int32: the clusters asked for
    n_similar                  (B,) int32
    similar_neurons            (K, 2) int32
    similar_labels, similar_centrals, similar_sizes  (K,) int32
    similarities               (K,) float64, −1..1: cosine of the central examples' embeddings, falling within each item
    methods, similar_methods   (B,), (K,) int32: how the trees were made, a place in METHODS plus 1; 0 and empty where
                               an older server answers
    """

    neurons: IntArray
    labels: IntArray
    centrals: IntArray
    n_similar: IntArray
    similar_neurons: IntArray
    similar_labels: IntArray
    similar_centrals: IntArray
    similar_sizes: IntArray
    similarities: DoubleArray
    methods: IntArray
    similar_methods: IntArray


def check_similar(query: SimilarQuery) -> None:
    """Raise InvalidArgument for what is no cluster's label, an unknown similarity, or too many clusters wanted."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    check_one_of(query.similarity, get_args(Similarity), "similarity")
    for label in query.clusters:
        if not is_number(label) or not 0 <= label <= MAX_INDEX:
            raise InvalidArgument(f"{label!r} is not a cluster: their labels are counted from 0", "clusters")
    check_count(query.n_similar, "n_similar", 1, MAX_SIMILAR)


_SIMILARITIES: dict[str, Any] = {"pre_mlp": pb.SIMILARITY_PRE_MLP, "neuron": pb.SIMILARITY_NEURON}


def encode_similar_query(query: SimilarQuery) -> pb.FindSimilarClustersRequest:
    """The request; raises InvalidArgument as check_similar does."""
    check_similar(query)
    return pb.FindSimilarClustersRequest(
        index=query.index,
        layer=query.neuron.layer,
        neuron=query.neuron.neuron,
        clusters=query.clusters,
        clustering=pb.Clustering(**encode_clustering(query.choice, query.clustering)),
        similarity=_SIMILARITIES[query.similarity],
        every_layer=query.every_layer,
        n_similar=query.n_similar,
        side=encode_side(query.side),
    )


def decode_similar_query(request: pb.FindSimilarClustersRequest) -> SimilarQuery:
    choice, clustering = decode_clustering(request.clustering)
    neuron = NeuronId(request.layer, request.neuron)
    query = SimilarQuery(
        neuron=neuron,
        index=request.index,
        clusters=tuple(request.clusters),
        choice=choice,
        clustering=clustering,
        similarity=name_of(request.similarity, _SIMILARITIES, "similarity"),
        every_layer=request.every_layer,
        n_similar=request.n_similar or SimilarQuery(neuron).n_similar,
        side=decode_side(request.side),
    )
    check_similar(query)
    return query
