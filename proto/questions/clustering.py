"""Clustering neurons: ClusterNeurons, and the clustering options that other questions share."""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.checks import check_one_of, number_of
from polysem.proto.errors import InvalidArgument, MixedMethodsWarning
from polysem.proto.neurons import NeuronRange, is_number
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side, name_of
from polysem.v1 import neuron_service_pb2 as pb

Algorithm = Literal["hac", "scc", "components"]
Linkage = Literal["average", "complete", "single"]
Embedding = Literal["neuron", "pre_mlp", "gate", "up", "permuted", "other"]
LayerNorm = Literal["folded", "raw"]
Frame = Literal["raw", "centred", "standardised", "own"]
ThresholdSchedule = Literal["linear", "geometric"]
Method = Literal["matrix", "linear", "neighbours", "neighbour_tree"]
Library = Literal["polysem", "cuml", "scikit-learn", "torch"]
DEFAULT_DISTANCE_THRESHOLD = 0.5
MAX_DISTANCE = 2.0
MAX_THRESHOLDS = 1024
MAX_SILHOUETTE_THRESHOLDS = 64
MAX_NEIGHBOURS = 1024
MAX_NULLS = 1999
LEVEL = 0.05  # of significance
LEAST_NULLS = 19  # with which a p-value can be that small
METHODS: tuple[Method, ...] = get_args(Method)
LIBRARIES: tuple[Library, ...] = get_args(Library)
APPROXIMATE: tuple[Method, ...] = ("neighbours", "neighbour_tree")
CONTROLS: tuple[Embedding, ...] = ("permuted", "other")
OF_GATES: tuple[Embedding, ...] = ("gate", "up")  # which only gated neurons have


EMBEDDING_WORDS: dict[str, str] = {
    "pre_mlp": "pre-MLP embeddings",
    "permuted": "neuron embeddings with permuted weights",
    "other": "neuron embeddings with another neuron's weights",
}


@dataclass(frozen=True, slots=True)
class EmbeddingChoice:
    """Which embedding of x̂ to compute; gate and up are of gated neurons.

    frame  what is subtracted, and what divides it, before cosines (docs/glossary.md)
    seed   of the CONTROLS: the order of permuted weights, and which other neuron's weights are taken
    """

    embedding: Embedding = "neuron"
    layer_norm: LayerNorm = "folded"
    frame: Frame = "raw"
    seed: int = 0

    @property
    def words(self) -> str:
        """The embedding's name for people."""
        return EMBEDDING_WORDS.get(self.embedding, f"{self.embedding} embeddings")

    @property
    def of_weights(self) -> bool:
        """Whether it is the neuron embedding's formula: with the neuron's weights, or with a control's."""
        return self.embedding in ("neuron", *CONTROLS)

    def seeded(self, seed: int) -> "EmbeddingChoice":
        """Return this choice with that seed if it is a control, else unchanged, so that equal work is equal."""
        return replace(self, seed=seed) if self.embedding in CONTROLS else self


@dataclass(frozen=True, slots=True)
class Clustering:
    """An algorithm with its parameters.

    linkage                of hac
    thresholds             of SCC's rounds, on distance, strictly increasing; a schedule's name stands for its numbers
    silhouette_thresholds  further cuts of which only the silhouette is wanted
    cut_silhouettes        the silhouette of the cut at each merge's height is wanted
    neighbours             of scc and single linkage: cluster the graph of so many nearest neighbours; None: exactly,
                           but scc above 20,000 examples on the graph of 25
    n_null                 rotations of each neuron's examples that its best silhouette is compared with; 0: no test
    neuron_only            test neither its merges nor how stable its clusters are, most of the cost of n_null
    seed                   of those rotations
    """

    algorithm: Algorithm = "hac"
    linkage: Linkage = "average"
    distance_threshold: float = DEFAULT_DISTANCE_THRESHOLD
    thresholds: tuple[float, ...] | ThresholdSchedule = "linear"
    until_stable: bool = False
    silhouette_thresholds: tuple[float, ...] = ()
    neighbours: int | None = None
    n_null: int = 0
    neuron_only: bool = False
    seed: int = 0
    cut_silhouettes: bool = False

    @property
    def words(self) -> str:
        """The algorithm's name for people."""
        name = {
            "hac": f"HAC, {self.linkage} linkage",
            "scc": "Sub-Cluster Component",
            "components": "connected components",
        }[self.algorithm]
        return name if self.neighbours is None else f"{name} of {self.neighbours} nearest neighbours"

    def canonical(self) -> "Clustering":
        """The same with what its algorithm does not use at the defaults, so that equal work is equal."""
        if self.algorithm == "scc":
            return replace(self, linkage="average")
        linkage = "single" if self.algorithm == "components" else self.linkage
        return replace(self, linkage=linkage, thresholds="linear", until_stable=False)


@dataclass(frozen=True, slots=True)
class ClusterQuery:
    neurons: tuple[NeuronRange, ...]
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    side: Side = "positive"


def threshold_schedule(name: ThresholdSchedule) -> tuple[float, ...]:
    """The rounds of SCC that a schedule's name stands for: 50 distance thresholds, strictly increasing.

    linear     0.02, 0.04 … 1.0, each the nearest float to its decimal, so a cut at 0.5 is exactly round 25
    geometric  the authors' demo, 1 − geomspace(1.0, 0.1, 50)
    """
    if name == "linear":
        return tuple(r / 50 for r in range(1, 51))
    return (0.0, *(float(t) for t in 1.0 - np.geomspace(1.0, 0.1, 50)[1:]))


def _n_merges(batch: "ClusterBatch") -> IntArray:
    return np.maximum(batch.n_examples - 1, 0)


@columnar(
    pb.ClusterNeuronsResponse,
    "neuron",
    Axis("example", ["labels", "key_tokens", "stability"], "n_examples"),
    Axis(
        "merge",
        ["merges", "heights", "node_centrals", "node_mean_distances", "merge_tests", "cut_silhouettes"],
        _n_merges,
    ),
    later=[
        "libraries",
        "significance",
        "merge_tests",
        "key_tokens",
        "null_metrics",
        "stability",
        "prediction_strength",
        "cut_silhouettes",
    ],
)
@dataclass(frozen=True, eq=False)
class ClusterBatch:
    """Trees, labels and metrics of B neurons.

    neurons              (B, 2) int32: layer, index
    n_examples           (B,) int32
    labels               (E,) int32: feature cluster at the cut, numbered by first appearance in each neuron
    merges               (M, 2) int32: the nodes joined; i < n is example i, n + i is merge i
    heights              (M,) float64, 0..2: where they join
    node_centrals        (M,) int32: medoid of each merge's node
    node_mean_distances  (M,) float64, 0..2: mean over the node's pairs
    n_clusters           (B,) int32
    max_distance … largest_share  (B,) float64, NaN where undefined
    methods              (B,) int32: how the tree was made, a place in METHODS plus 1
    silhouettes          (B, C) float64: of the cuts at the C silhouette_thresholds asked for
    libraries            (B,) int32: what searched nearest neighbours, a place in LIBRARIES plus 1; 0: an older server
    significance         (B, 4) float64, (B, 0) where none was asked for or held: best silhouette, mean and deviation of
                         those of rotations, p-value
    merge_tests          (M, 2) float64, (M, 0) where none was asked for: each merge's p-value, NaN if not tested, and 1
                         where significant
    key_tokens           (E,) int32: id of each example's key token; empty from an older server
    null_metrics         (B, 4) float64, likewise as significance: n_clusters, intra, inter and silhouette of rotations
    stability            (E, 1) float64, (E, 0) where none was asked for: of each example's cluster, NaN of one
    prediction_strength  (B, 1) float64, likewise: at the significant number of clusters
    cut_silhouettes      (M, 1) float64, (M, 0) where not asked for: of the cut at each merge's height
    """

    neurons: IntArray
    n_examples: IntArray
    labels: IntArray
    merges: IntArray
    heights: DoubleArray
    node_centrals: IntArray
    node_mean_distances: DoubleArray
    n_clusters: IntArray
    max_distance: DoubleArray
    mean_distance: DoubleArray
    intra: DoubleArray
    inter: DoubleArray
    silhouette: DoubleArray
    largest_share: DoubleArray
    methods: IntArray
    silhouettes: DoubleArray
    libraries: IntArray
    significance: DoubleArray
    merge_tests: DoubleArray
    key_tokens: IntArray
    null_metrics: DoubleArray
    stability: DoubleArray
    prediction_strength: DoubleArray
    cut_silhouettes: DoubleArray


def library_number(library: Library | None) -> Any:
    """Its number on the wire; 0 of None."""
    return 0 if library is None else LIBRARIES.index(library) + 1


def library_of(number: int) -> Library | None:
    """The library of that number; None where a server does not say, or says one that is not known yet."""
    return LIBRARIES[number - 1] if 0 < number <= len(LIBRARIES) else None


def method_of(number: int) -> Method | None:
    """The method of that number; None where none is said, or one that is not known yet."""
    return METHODS[number - 1] if 0 < number <= len(METHODS) else None


def made_by(clustering: Clustering | None, method: Method) -> str:
    """Return how a tree was made, in words; also where the server chose nearest neighbours by itself. "" if none."""
    if clustering is None:
        return ""
    return clustering.words + " of nearest neighbours" * (method in APPROXIMATE and clustering.neighbours is None)


def mixed_methods(n_approximate: int, n: int) -> str:
    """A sentence about n neurons whose trees were not all made alike; empty where they were."""
    if not 0 < n_approximate < n:
        return ""
    return (
        f"{n_approximate:,} of {n:,} neurons were clustered on graphs of nearest neighbours, the others by all "
        "distances: their numbers do not compare (see method)"
    )


def warn_of_mixed_methods(n_approximate: int, n: int) -> None:
    """Warn (MixedMethodsWarning) where n neurons' trees were not all made alike."""
    if sentence := mixed_methods(n_approximate, n):
        warnings.warn(sentence, MixedMethodsWarning, stacklevel=3)


def check_choice(choice: EmbeddingChoice) -> None:
    """Raise InvalidArgument for an unknown embedding, LayerNorm mode or frame."""
    check_one_of(choice.embedding, get_args(Embedding), "embedding")
    check_one_of(choice.layer_norm, get_args(LayerNorm), "layer_norm")
    check_one_of(choice.frame, get_args(Frame), "frame")
    _check_seed(choice.seed)


def check_clustering(clustering: Clustering) -> None:
    """Raise InvalidArgument for an unknown name, or a threshold that is not a number in its range."""
    check_one_of(clustering.algorithm, get_args(Algorithm), "algorithm")
    check_one_of(clustering.linkage, get_args(Linkage), "linkage")
    check_distance_threshold(clustering.distance_threshold)
    if isinstance(clustering.thresholds, str):
        check_one_of(clustering.thresholds, get_args(ThresholdSchedule), "thresholds")
    else:
        _check_thresholds(clustering.thresholds)
    if len(clustering.silhouette_thresholds) > MAX_SILHOUETTE_THRESHOLDS:
        n = len(clustering.silhouette_thresholds)
        raise InvalidArgument(
            f"silhouette_thresholds has {n} values; give at most {MAX_SILHOUETTE_THRESHOLDS}", "silhouette_thresholds"
        )
    if not is_number(clustering.n_null) or not 0 <= clustering.n_null <= MAX_NULLS:
        raise InvalidArgument(f"n_null is {clustering.n_null!r}; give 0 to {MAX_NULLS}", "n_null")
    if not isinstance(clustering.until_stable, int | np.bool_):
        raise InvalidArgument(f"until_stable is {clustering.until_stable!r}; give True or False", "until_stable")
    _check_seed(clustering.seed)
    for value in clustering.silhouette_thresholds:
        _in_range(value, "silhouette_thresholds")
    _check_neighbours(clustering)


def check_distance_threshold(value: float) -> None:
    """Raise InvalidArgument unless 0 <= value <= 2."""
    _in_range(value, "distance_threshold")


def _check_thresholds(thresholds: Sequence[float]) -> None:
    if not 1 <= len(thresholds) <= MAX_THRESHOLDS:
        raise InvalidArgument(
            f"thresholds has {len(thresholds)} values; give 1 to {MAX_THRESHOLDS}, or leave it out",
            "thresholds",
        )
    for value in thresholds:
        _in_range(value, "thresholds")
    for low, high in itertools.pairwise(thresholds):
        if high <= low:
            raise InvalidArgument(f"thresholds must increase strictly, but {high:g} follows {low:g}", "thresholds")


def _check_neighbours(clustering: Clustering) -> None:
    k = clustering.neighbours
    if k is None:
        return
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_NEIGHBOURS:
        raise InvalidArgument(
            f"neighbours is {k!r}; give a whole number from 1 to {MAX_NEIGHBOURS}, or leave it out", "neighbours"
        )
    if clustering.algorithm == "hac" and clustering.linkage != "single":
        raise InvalidArgument(
            f"neighbours is {k}, and HAC with {clustering.linkage} linkage needs all distances; leave it out, or ask "
            "for algorithm scc or for single linkage",
            "neighbours",
        )


def _check_seed(seed: int) -> None:
    if not is_number(seed) or not 0 <= seed < 1 << 63:
        raise InvalidArgument(f"seed is {seed!r}; give 0 to 2^63 - 1", "seed")


def _in_range(value: float, field: str) -> None:
    number = number_of(value)
    if not math.isfinite(number):
        raise InvalidArgument(f"{field} must be a number, not {value!r}", field)
    if not 0 <= number <= MAX_DISTANCE:
        raise InvalidArgument(f"{field} is {number:g}; a cosine distance lies between 0 and 2", field)


ALGORITHMS: dict[str, Any] = {
    "hac": pb.ALGORITHM_HAC,
    "scc": pb.ALGORITHM_SCC,
    "components": pb.ALGORITHM_COMPONENTS,
}
LINKAGES: dict[str, Any] = {
    "average": pb.LINKAGE_AVERAGE,
    "complete": pb.LINKAGE_COMPLETE,
    "single": pb.LINKAGE_SINGLE,
}
EMBEDDINGS: dict[str, Any] = {
    "neuron": pb.EMBEDDING_NEURON,
    "pre_mlp": pb.EMBEDDING_PRE_MLP,
    "gate": pb.EMBEDDING_GATE,
    "up": pb.EMBEDDING_UP,
    "permuted": pb.EMBEDDING_PERMUTED,
    "other": pb.EMBEDDING_OTHER,
}
LAYER_NORMS: dict[str, Any] = {"folded": pb.LAYER_NORM_FOLDED, "raw": pb.LAYER_NORM_RAW}
FRAMES: dict[str, Any] = {
    "raw": pb.FRAME_RAW,
    "centred": pb.FRAME_CENTRED,
    "standardised": pb.FRAME_STANDARDISED,
    "own": pb.FRAME_OWN,
}
_SCHEDULES: dict[str, Any] = {
    "linear": pb.THRESHOLD_SCHEDULE_LINEAR,
    "geometric": pb.THRESHOLD_SCHEDULE_GEOMETRIC,
}


def encode_cluster_query(query: ClusterQuery) -> pb.ClusterNeuronsRequest:
    """The request; raises InvalidArgument as check_clustering does."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    return pb.ClusterNeuronsRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        silhouette_thresholds=query.clustering.silhouette_thresholds,
        n_null=query.clustering.n_null,
        neuron_only=query.clustering.neuron_only,
        seed=query.choice.seed or query.clustering.seed,
        cut_silhouettes=query.clustering.cut_silhouettes,
        side=encode_side(query.side),
        **encode_clustering(query.choice, query.clustering),
    )


def decode_cluster_query(request: pb.ClusterNeuronsRequest) -> ClusterQuery:
    """The query, checked; an algorithm's parameters that it does not use are set to their defaults."""
    choice, clustering = decode_clustering(request)
    clustering = replace(
        clustering,
        silhouette_thresholds=tuple(request.silhouette_thresholds),
        n_null=request.n_null,
        neuron_only=request.neuron_only and request.n_null > 0,
        seed=request.seed if request.n_null else 0,
        cut_silhouettes=request.cut_silhouettes,
    )
    check_clustering(clustering)
    choice = choice.seeded(request.seed)
    check_choice(choice)
    return ClusterQuery(decode_ranges(request.neurons), request.index, choice, clustering, decode_side(request.side))


def encode_clustering(choice: EmbeddingChoice, clustering: Clustering) -> dict[str, Any]:
    thresholds = clustering.thresholds
    return {
        "algorithm": ALGORITHMS[clustering.algorithm],
        "linkage": LINKAGES[clustering.linkage],
        "distance_threshold": clustering.distance_threshold,
        "thresholds": () if isinstance(thresholds, str) else thresholds,
        "threshold_schedule": _SCHEDULES[thresholds] if isinstance(thresholds, str) else None,
        "until_stable": clustering.until_stable,
        "neighbours": clustering.neighbours,
        **encode_choice(choice),
    }


def decode_clustering(message: Any) -> tuple[EmbeddingChoice, Clustering]:
    """Decode a ClusterNeuronsRequest or a Clustering, which have the same fields."""
    schedule = name_of(message.threshold_schedule, _SCHEDULES, "threshold_schedule")
    given = message.HasField("distance_threshold")
    clustering = Clustering(
        algorithm=name_of(message.algorithm, ALGORITHMS, "algorithm"),
        linkage=name_of(message.linkage, LINKAGES, "linkage"),
        distance_threshold=message.distance_threshold if given else DEFAULT_DISTANCE_THRESHOLD,
        thresholds=tuple(message.thresholds) or schedule,
        until_stable=message.until_stable,
        neighbours=message.neighbours if message.HasField("neighbours") else None,
    ).canonical()
    check_clustering(clustering)
    return decode_choice(message), clustering


def encode_choice(choice: EmbeddingChoice) -> dict[str, Any]:
    return {
        "embedding": EMBEDDINGS[choice.embedding],
        "layer_norm": LAYER_NORMS[choice.layer_norm],
        "frame": FRAMES[choice.frame],
    }


def decode_choice(message: Any) -> EmbeddingChoice:
    return EmbeddingChoice(
        name_of(message.embedding, EMBEDDINGS, "embedding"),
        name_of(message.layer_norm, LAYER_NORMS, "layer_norm"),
        name_of(message.frame, FRAMES, "frame"),
    )
