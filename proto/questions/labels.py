"""Names of feature clusters: LabelClusters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.neurons import NeuronRange
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
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb

LabelMethod = Literal["rule", "person", "model"]
LABEL_METHODS: tuple[LabelMethod, ...] = get_args(LabelMethod)
LEAST_SCORED = 8  # examples of a cluster whose name has a score
SCORES = ("scores", "null_scores", "neuron_scores", "precisions", "recalls")


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """Clusters of these neurons, in this clustering."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    side: Side = "positive"


@columnar(
    pb.LabelClustersResponse,
    "neuron",
    Axis("cluster", ["labels", "sizes", "texts", "methods", *SCORES], "n_clusters"),
)
@dataclass(frozen=True, eq=False)
class LabelBatch:
    """The names of B neurons' clusters, C in all, by label.

    neurons        (B, 2) int32
    n_clusters     (B,) int32
    labels, sizes  (C,) int32
    texts          C names
    methods        (C,) int32: a place in LABEL_METHODS plus 1
    scores         (C,) float64, 0..1: area under the ROC curve on held-out examples against negatives; like the others
                   NaN for a cluster of fewer than LEAST_SCORED, and where the index holds no negatives
    null_scores    (C,) of names of random groups of the neuron's examples, as large as the cluster
    neuron_scores  (C,) of the name of all the neuron's examples together
    precisions, recalls  (C,) of the name, on as many negatives as examples
    """

    neurons: IntArray
    n_clusters: IntArray
    labels: IntArray
    sizes: IntArray
    texts: Sequence[str] = field(repr=False)
    methods: IntArray
    scores: DoubleArray
    null_scores: DoubleArray
    neuron_scores: DoubleArray
    precisions: DoubleArray
    recalls: DoubleArray


def label_method_of(number: int) -> LabelMethod | None:
    """Return the method of that number; None for one that is not known yet."""
    return LABEL_METHODS[number - 1] if 0 < number <= len(LABEL_METHODS) else None


def encode_label_query(query: LabelQuery) -> Any:
    """Return the request; raises InvalidArgument as check_clustering does."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    return pb.LabelClustersRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        clustering=pb.Clustering(**encode_clustering(query.choice, query.clustering)),
        side=encode_side(query.side),
    )


def decode_label_query(request: pb.LabelClustersRequest) -> LabelQuery:
    choice, clustering = decode_clustering(request.clustering)
    return LabelQuery(decode_ranges(request.neurons), request.index, choice, clustering, decode_side(request.side))
