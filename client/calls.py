"""The calls both clients make: which RPC, with which message, and how to read its answer."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import grpc

from polysem.proto import checks
from polysem.proto.errors import ForeignIndex, InvalidArgument
from polysem.proto.facts import Answer, Provenance, decode_head
from polysem.proto.neurons import NeuronLike, parse_neuron, parse_neurons
from polysem.proto.questions.clustering import (
    Algorithm,
    ClusterBatch,
    Clustering,
    ClusterQuery,
    Embedding,
    EmbeddingChoice,
    LayerNorm,
    Linkage,
    encode_cluster_query,
)
from polysem.proto.questions.embedding import EmbeddingBatch, EmbedQuery, encode_embed_query
from polysem.proto.questions.examples import ExampleBatch, ExampleQuery, encode_example_query
from polysem.proto.questions.explain import ExplainQuery, ExplanationBatch, encode_explain_query
from polysem.proto.questions.importance import ImportanceBatch, ImportanceQuery, encode_importance_query
from polysem.proto.questions.listing import ListQuery, MetricRange, decode_neuron_page, encode_list_query
from polysem.proto.questions.similar import SimilarBatch, Similarity, SimilarQuery, encode_similar_query
from polysem.proto.questions.statistics import StatisticsBatch, StatisticsQuery, encode_statistics_query
from polysem.proto.wire import batches, columns
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES

DEFAULT_TARGET = "127.0.0.1:50051"
MAX_RESUMED = 3  # times that one answer is asked for again where it was cut off
MAX_COUNTED = 100_000  # neurons of a range, for a progress bar
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
    """Messages in, answers out, for one streaming call, which may be made again where it was cut off.

    gRPC itself repeats a call only until its first message comes. Answers come in a fixed order with the same bytes
    from every server of an index, so the repeated call's are passed over as far as they were given out already.
    """

    def __init__(self, call: StreamCall, timeout_s: float | None) -> None:
        self._type = call.type_
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._joiner: batches.Joiner[Any] = batches.Joiner(call.type_)
        self._provenance: Provenance | None = None
        self._begun = False  # a message has come
        self._given = 0  # items given out
        self._passing = 0  # items yet to be passed over
        self._resumed = 0

    @property
    def timeout_s(self) -> float | None:
        """What is left of the time given."""
        return None if self._ends is None else max(self._ends - time.monotonic(), 0.0)

    def resumes(self, error: grpc.RpcError) -> bool:
        """Whether the call is to be made again after this."""
        if not self._begun or self._resumed == MAX_RESUMED or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return False
        self._joiner = batches.Joiner(self._type)
        self._begun, self._passing, self._resumed = False, self._given, self._resumed + 1
        return True

    def add(self, message: Any) -> Answer | None:
        """The batch that the message completes, if it does; raises ForeignIndex where a call resumed elsewhere."""
        self._begun = True
        batch = self._joiner.add(message)
        if batch is None:
            return None
        provenance, timing = decode_head(message)
        first = self._provenance = self._provenance or provenance
        if (first.index_sha256, first.model_sha256) != (provenance.index_sha256, provenance.model_sha256):
            raise ForeignIndex("the server that took over has another index or model; ask again")
        n = columns.n_items(batch)
        passed = min(self._passing, n)
        self._passing -= passed
        self._given += n - passed
        if passed and passed == n:
            return None
        return Answer(columns.take(batch, passed, n) if passed else batch, provenance, timing)


class Pages:
    """A listing page by page: what to ask next, until the last page or the limit."""

    def __init__(self, query: ListQuery, limit: int | None) -> None:
        encode_list_query(query)  # tells what is wrong with it
        if limit is not None:
            checks.check_count(limit, "limit", 1)
        self._query: ListQuery | None = query
        self._left = limit

    def next(self) -> Any:
        """The request for the next page; None where there is no more to ask."""
        if self._query is None:
            return None
        if self._left is not None:
            self._query = replace(self._query, page_size=min(self._left, self._query.page_size))
        return encode_list_query(self._query)

    def add(self, message: Any) -> Answer:
        page, provenance, timing = decode_neuron_page(message)
        if self._left is not None:
            self._left -= len(page.table.neurons)
        if self._query is not None:
            more = page.next_page_token and self._left != 0
            self._query = replace(self._query, page_token=page.next_page_token, skip=0) if more else None
        return Answer(page.table, provenance, timing, page.n_matching)


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
    choice, clustering = _clustering(
        algorithm, linkage, embedding, layer_norm, distance_threshold, thresholds, until_stable
    )
    clustering = replace(clustering, silhouette_thresholds=tuple(silhouette_thresholds))
    query = ClusterQuery(parse_neurons(*neurons), index or "", choice, clustering)
    return StreamCall("ClusterNeurons", encode_cluster_query(query), ClusterBatch)


def _clustering(
    algorithm: Algorithm,
    linkage: Linkage,
    embedding: Embedding,
    layer_norm: LayerNorm,
    distance_threshold: float,
    thresholds: Sequence[float] | Literal["linear", "geometric"] | None,
    until_stable: bool,
) -> tuple[EmbeddingChoice, Clustering]:
    return (
        EmbeddingChoice(embedding, layer_norm),
        Clustering(algorithm, linkage, distance_threshold, _thresholds(thresholds), until_stable),
    )


def _thresholds(thresholds: Any) -> Any:
    if thresholds is None:
        return "linear"
    if isinstance(thresholds, str):
        return thresholds
    try:
        return tuple(float(value) for value in thresholds)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"thresholds must be numbers, not {thresholds!r}", "thresholds") from error


def n_named(neurons: Sequence[NeuronLike]) -> int | None:
    """How many neurons are named, each once; None where only the server knows how large a layer is."""
    named: set[tuple[int, int]] = set()
    for layer, first, last in parse_neurons(*neurons):
        if layer is None or first is None or last is None or last - first > MAX_COUNTED:
            return None
        named |= {(layer, index) for index in range(first, last + 1)}
    return len(named)


def embed(neurons: Sequence[NeuronLike], embedding: Embedding, layer_norm: LayerNorm, index: str | None) -> StreamCall:
    query = EmbedQuery(parse_neurons(*neurons), index or "", EmbeddingChoice(embedding, layer_norm))
    return StreamCall("EmbedNeurons", encode_embed_query(query), EmbeddingBatch)


def examples(
    neurons: Sequence[NeuronLike], places: Sequence[int], whole_context: bool, index: str | None
) -> StreamCall:
    query = ExampleQuery(parse_neurons(*neurons), index or "", tuple(places), whole_context)
    return StreamCall("GetExamples", encode_example_query(query), ExampleBatch)


def statistics(neurons: Sequence[NeuronLike], index: str | None) -> StreamCall:
    query = StatisticsQuery(parse_neurons(*neurons), index or "")
    return StreamCall("GetNeuronStatistics", encode_statistics_query(query), StatisticsBatch)


def neurons(
    neurons: Sequence[NeuronLike],
    sort_by: str | None,
    where: Mapping[Any, tuple[float | None, float | None]],
    limit: int | None,
    skip: int,
    index: str | None,
    **clustering: Any,
) -> Pages:
    choice, how = _clustering(**clustering)
    query = ListQuery(
        neurons=parse_neurons(*neurons) if neurons else (),
        index=index or "",
        choice=choice,
        clustering=how,
        sort_by=(sort_by or "").removeprefix("-") or None,  # type: ignore[arg-type]
        descending=(sort_by or "").startswith("-"),
        where=tuple(_metric_range(metric, ends) for metric, ends in where.items()),
        skip=skip,
    )
    return Pages(query, limit)


def _metric_range(metric: Any, ends: Any) -> MetricRange:
    try:
        least, most = ends
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"where {metric}: give its least and its most, as (25, None), not {ends!r}", "where"
        ) from error
    return MetricRange(metric, least, most)


def similar(
    neuron: NeuronLike,
    clusters: int | Sequence[int] | None,
    similarity: Similarity,
    every_layer: bool,
    limit: int,
    index: str | None,
    **clustering: Any,
) -> StreamCall:
    choice, how = _clustering(**clustering)
    query = SimilarQuery(
        neuron=parse_neuron(neuron),
        index=index or "",
        clusters=() if clusters is None else tuple(clusters) if isinstance(clusters, Sequence) else (clusters,),
        choice=choice,
        clustering=how,
        similarity=similarity,
        every_layer=every_layer,
        n_similar=limit,
    )
    return StreamCall("FindSimilarClusters", encode_similar_query(query), SimilarBatch)


def importance(
    neurons: Sequence[NeuronLike],
    places: Sequence[int],
    tokens_before: int,
    mask_token: int | None,
    index: str | None,
) -> StreamCall:
    query = ImportanceQuery(parse_neurons(*neurons), index or "", tuple(places), tokens_before, mask_token)
    return StreamCall("MeasureImportance", encode_importance_query(query), ImportanceBatch)


def explain(
    text: str,
    neurons: Sequence[NeuronLike],
    min_activation_fraction: float,
    n_strongest: int,
    index: str | None,
    **clustering: Any,
) -> StreamCall:
    choice, how = _clustering(**clustering)
    query = ExplainQuery(
        text=text,
        neurons=parse_neurons(*neurons) if neurons else (),
        index=index or "",
        choice=choice,
        clustering=how,
        min_activation_fraction=min_activation_fraction,
        n_strongest=n_strongest,
    )
    return StreamCall("ExplainText", encode_explain_query(query), ExplanationBatch)
