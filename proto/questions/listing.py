"""Neurons filtered and sorted by their metrics, page by page: ListNeurons."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.checks import check_count, check_one_of, number_of
from polysem.proto.errors import Internal, InvalidArgument
from polysem.proto.facts import Provenance, Timing, decode_head, encode_head
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import (
    APPROXIMATE,
    LEVEL,
    METHODS,
    Clustering,
    EmbeddingChoice,
    check_choice,
    check_clustering,
    decode_clustering,
    encode_clustering,
)
from polysem.proto.questions.summary import (
    KIND_NUMBERS,
    NeuronKind,
    NeuronSummary,
    check_kinds,
    decode_summary,
    encode_summary,
)
from polysem.proto.sides import Side
from polysem.proto.wire.batches import Joiner
from polysem.proto.wire.columns import LAYOUTS, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side, name_of
from polysem.proto.wire.tensors import encode_tensor
from polysem.v1 import neuron_service_pb2 as pb

NeuronMetric = Literal[
    "n_examples",
    "n_clusters",
    "max_distance",
    "mean_distance",
    "intra",
    "inter",
    "silhouette",
    "largest_share",
    "second_share",
    "maximum_activation",
    "mean_activation",
    "share_positive",
    "best_silhouette",
    "p_value",
    "null_silhouette",
    "excess_silhouette",
    "q_value",
    "significant_clusters",
    "stability",
    "prediction_strength",
]
OF_CLUSTERS: tuple[NeuronMetric, ...] = ("significant_clusters", "stability", "prediction_strength")
OF_TESTS: tuple[NeuronMetric, ...] = ("p_value", "null_silhouette", "excess_silhouette", "q_value", *OF_CLUSTERS)
MAX_PAGE_SIZE = 4096
MAX_METRIC_RANGES = 64
NEURON_METRICS: tuple[NeuronMetric, ...] = get_args(NeuronMetric)
LEAST_EXAMPLES_OF_RARE = 20  # of a neuron with a common and a rare behaviour
LEAST_SHARE_OF_COMMON = 0.9  # the paper's Figure 3: about 50 to 1
LEAST_EXAMPLES_OF_MINORITY = 3  # outside the common cluster: fewer are outliers


@dataclass(frozen=True, slots=True)
class MetricRange:
    """least <= metric <= most; None: open."""

    metric: NeuronMetric
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """neurons: none stands for all. sort_by: None for layer and neuron. page_size: 1..MAX_PAGE_SIZE.

    kinds    of which a neuron must be one; none stands for all
    cell     layer and step of `NeuronSummary.clarity` that a neuron must be counted in; None: any, or none
    summary  whether the page comes with one
    """

    neurons: tuple[NeuronRange, ...] = ()
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    sort_by: NeuronMetric | None = None
    descending: bool = False
    where: tuple[MetricRange, ...] = ()
    page_size: int = 1000
    page_token: str = ""
    skip: int = 0
    side: Side = "positive"
    kinds: tuple[NeuronKind, ...] = ()
    cell: tuple[int, int] | None = None
    summary: bool = False


_LATER_NUMBERS = ("best_silhouette", *OF_TESTS)  # NaN from older servers


@columnar(pb.ListNeuronsResponse, "neuron", later=["methods", "kinds", *_LATER_NUMBERS])
@dataclass(frozen=True, eq=False)
class NeuronTable:
    """Metrics of B neurons, in the order asked.

    neurons                        (B, 2) int32
    n_examples, n_clusters         (B,) int32
    max_distance … share_positive  (B,) float64, NaN where undefined; second_share: of the second largest cluster
    rare                           (B,) int32: as `is_rare` says
    methods                        (B,) int32: how the tree was made, a place in METHODS plus 1; 0: left out, or an
                                   older server
    p_value … excess_silhouette    (B,) float64, NaN where the index holds no rotation test: its p-value, the mean of
                                   the rotations' best silhouettes, and by how much the neuron's own exceeds that
    best_silhouette                (B,) float64: over all cuts of its tree; NaN with fewer than 3 examples, where the
                                   tree was not made from all pairwise distances, and from an older server
    kinds                          (B,) int32, as `kinds_of` says
    q_value                        (B,) float64: Benjamini and Hochberg's, over all tested neurons of the index's side
    significant_clusters … prediction_strength
                                   (B,) float64, NaN where the index holds no tests of the neuron's clusters, and of
                                   another clustering; stability: the mean over clusters of two examples or more

    A neuron with examples but no clusters is too large for the linkage asked for, and was left out.
    """

    neurons: IntArray
    n_examples: IntArray
    n_clusters: IntArray
    max_distance: DoubleArray
    mean_distance: DoubleArray
    intra: DoubleArray
    inter: DoubleArray
    silhouette: DoubleArray
    largest_share: DoubleArray
    second_share: DoubleArray
    maximum_activation: DoubleArray
    mean_activation: DoubleArray
    share_positive: DoubleArray
    rare: IntArray
    methods: IntArray
    p_value: DoubleArray
    null_silhouette: DoubleArray
    excess_silhouette: DoubleArray
    best_silhouette: DoubleArray
    kinds: IntArray
    q_value: DoubleArray
    significant_clusters: DoubleArray
    stability: DoubleArray
    prediction_strength: DoubleArray

    @property
    def unclustered(self) -> npt.NDArray[np.bool_]:
        """(B,) whether it has examples that were not clustered."""
        left_out: npt.NDArray[np.bool_] = (self.n_examples > 0) & (self.n_clusters == 0)
        return left_out

    @property
    def approximate(self) -> npt.NDArray[np.bool_]:
        """(B,) whether its tree is of a graph of nearest neighbours."""
        return np.isin(self.methods, [METHODS.index(method) + 1 for method in APPROXIMATE])


@dataclass(frozen=True, slots=True)
class NeuronPage:
    """n_matching: neurons on all pages, n_approximate those of them. next_page_token: empty on the last.

    summary  where it was asked for
    """

    table: NeuronTable
    n_matching: int
    next_page_token: str
    n_approximate: int = 0
    summary: NeuronSummary | None = None


def is_rare(
    n_examples: npt.NDArray[Any],
    largest_share: DoubleArray,
    significant_clusters: npt.NDArray[Any] | None = None,
    p_value: DoubleArray | None = None,
) -> npt.NDArray[np.bool_]:
    """Whether neurons have a common and a rare behaviour, (B,).

    Of 20 examples or more at least 0.9 lie in one cluster and at least 3 do not; where it is known which merges are
    significant (0 or more significant_clusters; below 0 and NaN: not known), they tell at least two clusters apart, and
    where the neuron's p-value is known (not NaN), it is LEVEL or less.
    """
    minority = np.rint(n_examples * (1 - largest_share))
    rare: npt.NDArray[np.bool_] = (
        (n_examples >= LEAST_EXAMPLES_OF_RARE)
        & (largest_share >= LEAST_SHARE_OF_COMMON)
        & (minority >= LEAST_EXAMPLES_OF_MINORITY)
    )
    if significant_clusters is not None:
        rare &= ~((significant_clusters >= 0) & (significant_clusters < 2))
    if p_value is not None:
        rare &= ~(p_value > LEVEL)
    return rare


def check_list(query: ListQuery) -> None:
    """Raise InvalidArgument for an unknown metric or kind, a range that holds nothing, or a page of impossible size."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    if query.sort_by is not None:
        check_one_of(query.sort_by, NEURON_METRICS, "sort_by")
    if len(query.where) > MAX_METRIC_RANGES:
        raise InvalidArgument(f"where has {len(query.where)} ranges; give at most {MAX_METRIC_RANGES}", "where")
    for range_ in query.where:
        _check_metric_range(range_)
    check_count(query.page_size, "page_size", 1, MAX_PAGE_SIZE)
    check_count(query.skip, "skip", 0)
    check_kinds(query.kinds, query.cell)


def _check_metric_range(range_: MetricRange) -> None:
    metric, least, most = range_.metric, range_.least, range_.most
    check_one_of(metric, NEURON_METRICS, "where")
    for end in (least, most):
        if end is not None and math.isnan(number_of(end)):
            raise InvalidArgument(f"an end of {metric} must be a number, not {end!r}", "where")
    if least is not None and most is not None and most < least:
        raise InvalidArgument(f"no {metric} is at least {least:g} and at most {most:g}; swap the two", "where")


_NEURON_METRICS: dict[str, Any] = {
    name: pb.NeuronMetric.Value(f"NEURON_METRIC_{name.upper()}") for name in NEURON_METRICS
}


def encode_list_query(query: ListQuery) -> pb.ListNeuronsRequest:
    """The request; raises InvalidArgument as check_list does."""
    check_list(query)
    return pb.ListNeuronsRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        clustering=pb.Clustering(**encode_clustering(query.choice, query.clustering)),
        sort_by=_NEURON_METRICS[query.sort_by] if query.sort_by else None,
        descending=query.descending,
        where=[
            pb.MetricRange(metric=_NEURON_METRICS[range_.metric], least=range_.least, most=range_.most)
            for range_ in query.where
        ],
        page_size=query.page_size,
        page_token=query.page_token,
        skip=query.skip,
        side=encode_side(query.side),
        kinds=[KIND_NUMBERS[kind] for kind in query.kinds],
        cell=None if query.cell is None else pb.ClarityCell(layer=query.cell[0], step=query.cell[1]),
        summary=query.summary,
    )


def decode_list_query(request: pb.ListNeuronsRequest) -> ListQuery:
    choice, clustering = decode_clustering(request.clustering)
    query = ListQuery(
        neurons=decode_ranges(request.neurons) if request.neurons else (),
        index=request.index,
        choice=choice,
        clustering=clustering,
        sort_by=name_of(request.sort_by, _NEURON_METRICS, "sort_by") if request.sort_by else None,
        descending=request.descending,
        where=tuple(_decode_metric_range(range_) for range_ in request.where),
        page_size=request.page_size or ListQuery().page_size,
        page_token=request.page_token,
        skip=request.skip,
        side=decode_side(request.side),
        kinds=tuple(_decode_kind(number) for number in request.kinds),
        cell=(request.cell.layer, request.cell.step) if request.HasField("cell") else None,
        summary=request.summary,
    )
    check_list(query)
    return query


def _decode_metric_range(message: pb.MetricRange) -> MetricRange:
    if not message.metric:
        raise InvalidArgument("a range names no metric: say which it is of", "where")
    least, most = (getattr(message, end) if message.HasField(end) else None for end in ("least", "most"))
    return MetricRange(name_of(message.metric, _NEURON_METRICS, "where"), least, most)


def _decode_kind(number: int) -> NeuronKind:
    if not number:
        raise InvalidArgument("a kind is unspecified: leave it out to have neurons of any kind", "kinds")
    kind: NeuronKind = name_of(number, KIND_NUMBERS, "kinds")
    return kind


def encode_neuron_page(page: NeuronPage, provenance: Provenance, timing: Timing) -> pb.ListNeuronsResponse:
    """One message: a page of MAX_PAGE_SIZE neurons takes 0.7 of what fits."""
    columns_: dict[str, Any] = {name: encode_tensor(getattr(page.table, name)) for name in LAYOUTS[NeuronTable].axes}
    return pb.ListNeuronsResponse(
        **encode_head(provenance, timing),
        **columns_,
        n_matching=page.n_matching,
        next_page_token=page.next_page_token,
        n_approximate=page.n_approximate,
        summary=None if page.summary is None else encode_summary(page.summary),
    )


def decode_neuron_page(message: pb.ListNeuronsResponse) -> tuple[NeuronPage, Provenance, Timing]:
    table = Joiner(NeuronTable).add(message)
    if table is None:
        raise Internal("a page of neurons came in pieces: the server is newer than this client")
    unsaid = [name for name in _LATER_NUMBERS if getattr(table, name).dtype.kind != "f"]
    table = replace(table, **dict.fromkeys(unsaid, np.full(len(table.neurons), np.nan)))
    summary = decode_summary(message.summary) if message.HasField("summary") else None
    page = NeuronPage(table, message.n_matching, message.next_page_token, message.n_approximate, summary)
    return page, *decode_head(message)
