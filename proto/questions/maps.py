"""Maps of a layer's feature clusters, in groups of similar ones: MapClusters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.checks import check_count
from polysem.proto.sides import Side
from polysem.proto.wire import columns
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_side, encode_side
from polysem.v1 import neuron_service_pb2 as pb

OF_GROUPS = ("groups", "texts", "scores", "null_scores", "sizes")
OF_CLUSTERS = ("neurons", "labels", "ranks", "n_examples", "centrals", "similarities")


@dataclass(frozen=True, slots=True)
class MapQuery:
    """Layers, none: all of the index; groups of each by number, none: all."""

    layers: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    index: str = ""
    side: Side = "positive"


def _n_clusters_listed(batch: "MapBatch") -> Any:
    """(L,) clusters of each layer's listed groups."""
    ends = columns.from_counts(batch.sizes)[columns.from_counts(batch.n_listed)]
    return ends[1:] - ends[:-1]


@columnar(
    pb.MapClustersResponse,
    "layer",
    Axis("group", OF_GROUPS, "n_listed"),
    Axis("cluster", OF_CLUSTERS, _n_clusters_listed),
)
@dataclass(frozen=True, eq=False)
class MapBatch:
    """L layers with G of their groups, which have C clusters.

    layers               (L,) int32
    n_clusters           (L,) int32: clusters of two examples or more
    n_grouped, n_groups  (L,) int32: those of them in a group, and groups
    recalls              (L,) float64, 0..1: of the neighbour graph, on a seeded sample
    n_listed             (L,) int32: groups here
    groups, sizes        (G,) int32: number of a group in its layer, and its clusters
    texts                G names
    scores, null_scores  (G,) float64, 0..1: of the name, and of names of random groups; NaN below 8 clusters
    neurons, labels      (C,) int32: a cluster's neuron in the layer, and its label
    ranks, n_examples    (C,) int32: clusters of its neuron that are larger, and its examples
    centrals             (C,) int32: number of its central example
    similarities         (C,) float64: mean cosine of that with those of the group's others
    """

    layers: IntArray
    n_clusters: IntArray
    n_grouped: IntArray
    n_groups: IntArray
    recalls: DoubleArray
    n_listed: IntArray
    groups: IntArray
    texts: Sequence[str] = field(repr=False)
    scores: DoubleArray
    null_scores: DoubleArray
    sizes: IntArray
    neurons: IntArray
    labels: IntArray
    ranks: IntArray
    n_examples: IntArray
    centrals: IntArray
    similarities: DoubleArray


def encode_map_query(query: MapQuery) -> Any:
    """Return the request. Raises InvalidArgument for what is no layer or group."""
    for layer in query.layers:
        check_count(layer, "layers", 0)
    for group in query.groups:
        check_count(group, "groups", 0)
    return pb.MapClustersRequest(
        index=query.index, layers=query.layers, groups=query.groups, side=encode_side(query.side)
    )


def decode_map_query(request: pb.MapClustersRequest) -> MapQuery:
    return MapQuery(
        tuple(dict.fromkeys(request.layers)),
        tuple(dict.fromkeys(request.groups)),
        request.index,
        decode_side(request.side),
    )
