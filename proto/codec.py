"""Between Python (types) and the wire (messages). This file and job_codec are the only ones that know both.

Answers are columnar (see columns). `encode_batch` cuts a batch into messages of at most 1 MiB between neurons; one
neuron larger than that goes out in pieces that `Joiner` puts together again. Encoding copies each array once and never
looks at single elements.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from polysem.proto import checks, columns, types
from polysem.proto.columns import AnyBatch, Batch
from polysem.proto.errors import Internal, InvalidArgument
from polysem.proto.neurons import NeuronId, NeuronRange
from polysem.proto.types import (
    ClusterBatch,
    Clustering,
    ClusterQuery,
    EmbeddingBatch,
    EmbeddingChoice,
    EmbedQuery,
    ExampleBatch,
    ExampleQuery,
    ExplainQuery,
    ExplanationBatch,
    ImportanceBatch,
    ImportanceQuery,
    IndexInfo,
    Limits,
    ListQuery,
    MetricRange,
    ModelInfo,
    NeuronPage,
    NeuronTable,
    Provenance,
    Selection,
    ServerInfo,
    SimilarBatch,
    SimilarQuery,
    StatisticsBatch,
    StatisticsQuery,
    Timing,
)
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import tensor_pb2

Array = npt.NDArray[Any]

# What a message holds beside its arrays: provenance (up to 1,024 thresholds, names), timing, shapes.
_OVERHEAD_BYTES = 32 << 10

# ---- Names on the wire. The first of each is what UNSPECIFIED means.

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
EMBEDDINGS: dict[str, Any] = {"neuron": pb.EMBEDDING_NEURON, "pre_mlp": pb.EMBEDDING_PRE_MLP}
LAYER_NORMS: dict[str, Any] = {"folded": pb.LAYER_NORM_FOLDED, "raw": pb.LAYER_NORM_RAW}
_SCHEDULES: dict[str, Any] = {
    "linear": pb.THRESHOLD_SCHEDULE_LINEAR,
    "geometric": pb.THRESHOLD_SCHEDULE_GEOMETRIC,
}
_SIMILARITIES: dict[str, Any] = {"pre_mlp": pb.SIMILARITY_PRE_MLP, "neuron": pb.SIMILARITY_NEURON}
_NEURON_METRICS: dict[str, Any] = {
    name: pb.NeuronMetric.Value(f"NEURON_METRIC_{name.upper()}") for name in types.NEURON_METRICS
}


def name_of(number: int, names: Mapping[str, int], field: str) -> Any:
    if number == 0:
        return next(iter(names))
    for name, known in names.items():
        if number == known:
            return name
    raise InvalidArgument(f"unknown {field} number {number}: this version knows {', '.join(names)}", field)


# ---- Questions


def encode_cluster_query(query: ClusterQuery) -> pb.ClusterNeuronsRequest:
    """The request; raises InvalidArgument as checks.check_clustering does."""
    checks.check_choice(query.choice)
    checks.check_clustering(query.clustering)
    return pb.ClusterNeuronsRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        silhouette_thresholds=query.clustering.silhouette_thresholds,
        **_encode_clustering(query.choice, query.clustering),
    )


def decode_cluster_query(request: pb.ClusterNeuronsRequest) -> ClusterQuery:
    """The query, checked; an algorithm's parameters that it does not use are set to their defaults."""
    choice, clustering = _decode_clustering(request)
    clustering = replace(clustering, silhouette_thresholds=tuple(request.silhouette_thresholds))
    checks.check_clustering(clustering)
    return ClusterQuery(decode_ranges(request.neurons), request.index, choice, clustering)


def _encode_clustering(choice: EmbeddingChoice, clustering: Clustering) -> dict[str, Any]:
    thresholds = clustering.thresholds
    return {
        "algorithm": ALGORITHMS[clustering.algorithm],
        "linkage": LINKAGES[clustering.linkage],
        "distance_threshold": clustering.distance_threshold,
        "thresholds": () if isinstance(thresholds, str) else thresholds,
        "threshold_schedule": _SCHEDULES[thresholds] if isinstance(thresholds, str) else None,
        "until_stable": clustering.until_stable,
        **_encode_choice(choice),
    }


def _decode_clustering(message: Any) -> tuple[EmbeddingChoice, Clustering]:
    """Of a ClusterNeuronsRequest or a Clustering, which have the same fields."""
    algorithm = name_of(message.algorithm, ALGORITHMS, "algorithm")
    linkage = name_of(message.linkage, LINKAGES, "linkage")
    schedule = name_of(message.threshold_schedule, _SCHEDULES, "threshold_schedule")
    default = Clustering()
    clustering = Clustering(
        algorithm=algorithm,
        linkage={"hac": linkage, "scc": "average", "components": "single"}[algorithm],
        distance_threshold=(
            message.distance_threshold if message.HasField("distance_threshold") else default.distance_threshold
        ),
        thresholds=(tuple(message.thresholds) or schedule) if algorithm == "scc" else default.thresholds,
        until_stable=message.until_stable and algorithm == "scc",
    )
    checks.check_clustering(clustering)
    return _decode_choice(message), clustering


def encode_embed_query(query: EmbedQuery) -> pb.EmbedNeuronsRequest:
    checks.check_choice(query.choice)
    return pb.EmbedNeuronsRequest(
        index=query.index, neurons=encode_ranges(query.neurons), **_encode_choice(query.choice)
    )


def decode_embed_query(request: pb.EmbedNeuronsRequest) -> EmbedQuery:
    return EmbedQuery(decode_ranges(request.neurons), request.index, _decode_choice(request))


def encode_example_query(query: ExampleQuery) -> pb.GetExamplesRequest:
    checks.check_examples(query.examples)
    return pb.GetExamplesRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        examples=query.examples,
        whole_context=query.whole_context,
    )


def decode_example_query(request: pb.GetExamplesRequest) -> ExampleQuery:
    return ExampleQuery(decode_ranges(request.neurons), request.index, tuple(request.examples), request.whole_context)


def encode_statistics_query(query: StatisticsQuery) -> pb.GetNeuronStatisticsRequest:
    return pb.GetNeuronStatisticsRequest(index=query.index, neurons=encode_ranges(query.neurons))


def decode_statistics_query(request: pb.GetNeuronStatisticsRequest) -> StatisticsQuery:
    return StatisticsQuery(decode_ranges(request.neurons), request.index)


def encode_list_query(query: ListQuery) -> pb.ListNeuronsRequest:
    """The request; raises InvalidArgument as checks.check_list does."""
    checks.check_list(query)
    return pb.ListNeuronsRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        clustering=pb.Clustering(**_encode_clustering(query.choice, query.clustering)),
        sort_by=_NEURON_METRICS[query.sort_by] if query.sort_by else None,
        descending=query.descending,
        where=[
            pb.MetricRange(metric=_NEURON_METRICS[range_.metric], least=range_.least, most=range_.most)
            for range_ in query.where
        ],
        page_size=query.page_size,
        page_token=query.page_token,
        skip=query.skip,
    )


def decode_list_query(request: pb.ListNeuronsRequest) -> ListQuery:
    choice, clustering = _decode_clustering(request.clustering)
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
    )
    checks.check_list(query)
    return query


def _decode_metric_range(message: pb.MetricRange) -> MetricRange:
    if not message.metric:
        raise InvalidArgument("a range names no metric: say which it is of", "where")
    least, most = (getattr(message, end) if message.HasField(end) else None for end in ("least", "most"))
    return MetricRange(name_of(message.metric, _NEURON_METRICS, "where"), least, most)


def encode_similar_query(query: SimilarQuery) -> pb.FindSimilarClustersRequest:
    """The request; raises InvalidArgument as checks.check_similar does."""
    checks.check_similar(query)
    return pb.FindSimilarClustersRequest(
        index=query.index,
        layer=query.neuron.layer,
        neuron=query.neuron.neuron,
        clusters=query.clusters,
        clustering=pb.Clustering(**_encode_clustering(query.choice, query.clustering)),
        similarity=_SIMILARITIES[query.similarity],
        every_layer=query.every_layer,
        n_similar=query.n_similar,
    )


def decode_similar_query(request: pb.FindSimilarClustersRequest) -> SimilarQuery:
    choice, clustering = _decode_clustering(request.clustering)
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
    )
    checks.check_similar(query)
    return query


def encode_importance_query(query: ImportanceQuery) -> pb.MeasureImportanceRequest:
    """The request; raises InvalidArgument for what is no example, no number of tokens or no token."""
    checks.check_examples(query.examples)
    checks.check_count(query.tokens_before, "tokens_before", 0)
    if query.mask_token is not None:
        checks.check_count(query.mask_token, "mask_token", 0)
    return pb.MeasureImportanceRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        examples=query.examples,
        tokens_before=query.tokens_before,
        mask_token=query.mask_token,
    )


def decode_importance_query(request: pb.MeasureImportanceRequest) -> ImportanceQuery:
    neurons = decode_ranges(request.neurons)
    default = ImportanceQuery(neurons)
    return ImportanceQuery(
        neurons=neurons,
        index=request.index,
        examples=tuple(request.examples),
        tokens_before=request.tokens_before if request.HasField("tokens_before") else default.tokens_before,
        mask_token=request.mask_token if request.HasField("mask_token") else None,
    )


def encode_explain_query(query: ExplainQuery) -> pb.ExplainTextRequest:
    """The request; raises InvalidArgument as checks.check_explain does."""
    checks.check_explain(query)
    return pb.ExplainTextRequest(
        index=query.index,
        text=query.text,
        neurons=encode_ranges(query.neurons),
        clustering=pb.Clustering(**_encode_clustering(query.choice, query.clustering)),
        min_activation_fraction=query.min_activation_fraction,
        n_strongest=query.n_strongest,
    )


def decode_explain_query(request: pb.ExplainTextRequest) -> ExplainQuery:
    choice, clustering = _decode_clustering(request.clustering)
    default = ExplainQuery(request.text)
    query = ExplainQuery(
        text=request.text,
        neurons=decode_ranges(request.neurons) if request.neurons else (),
        index=request.index,
        choice=choice,
        clustering=clustering,
        min_activation_fraction=(
            request.min_activation_fraction
            if request.HasField("min_activation_fraction")
            else default.min_activation_fraction
        ),
        n_strongest=request.n_strongest or default.n_strongest,
    )
    checks.check_explain(query)
    return query


def _encode_choice(choice: EmbeddingChoice) -> dict[str, Any]:
    return {"embedding": EMBEDDINGS[choice.embedding], "layer_norm": LAYER_NORMS[choice.layer_norm]}


def _decode_choice(message: Any) -> EmbeddingChoice:
    return EmbeddingChoice(
        name_of(message.embedding, EMBEDDINGS, "embedding"),
        name_of(message.layer_norm, LAYER_NORMS, "layer_norm"),
    )


def encode_ranges(ranges: Sequence[NeuronRange]) -> list[pb.NeuronRange]:
    return [pb.NeuronRange(layer=r.layer, first=r.first, last=r.last) for r in ranges]


def decode_ranges(messages: Sequence[pb.NeuronRange]) -> tuple[NeuronRange, ...]:
    if not messages:
        raise InvalidArgument("no neuron was named: give at least one range", "neurons")
    return tuple(_decode_range(message) for message in messages)


def _decode_range(message: pb.NeuronRange) -> NeuronRange:
    layer, first, last = (
        getattr(message, part) if message.HasField(part) else None for part in ("layer", "first", "last")
    )
    if (first is None) != (last is None) or (layer is None and first is not None):
        raise InvalidArgument("a range has first and last and a layer, or neither first nor last", "neurons")
    if first is not None and last is not None and last < first:
        raise InvalidArgument(f"the range {layer}.{first}-{last} runs backwards", "neurons")
    return NeuronRange(layer, first, last)


# ---- Facts


def encode_server_info(info: ServerInfo) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        version=info.version,
        model=pb.Model(**_fields(info.model)),
        device=info.device,
        dtype=info.dtype,
        default_index=info.default_index,
        limits=pb.Limits(**_fields(info.limits)),
    )


def decode_server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(
        version=message.version,
        model=ModelInfo(**_attributes(message.model, ModelInfo)),
        device=message.device,
        dtype=message.dtype,
        default_index=message.default_index,
        limits=Limits(**_attributes(message.limits, Limits)),
    )


def encode_indexes(indexes: Sequence[IndexInfo]) -> pb.ListIndexesResponse:
    return pb.ListIndexesResponse(
        indexes=[
            pb.Index(**_fields(index) | {"selection": pb.Selection(**_fields(index.selection))}) for index in indexes
        ]
    )


def decode_indexes(message: pb.ListIndexesResponse) -> list[IndexInfo]:
    return [
        IndexInfo(**_attributes(index, IndexInfo) | {"selection": Selection(**_attributes(index.selection, Selection))})
        for index in message.indexes
    ]


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _attributes(message: Any, type_: type) -> dict[str, Any]:
    return {name: getattr(message, name) for name in type_.__slots__}  # type: ignore[attr-defined]


def encode_provenance(provenance: Provenance) -> pb.Provenance:
    message = pb.Provenance(
        index=provenance.index,
        index_sha256=provenance.index_sha256,
        model_id=provenance.model_id,
        model_sha256=provenance.model_sha256,
        software_version=provenance.software_version,
        **_encode_choice(provenance.choice),
    )
    if (clustering := provenance.clustering) is not None:
        message.algorithm = ALGORITHMS[clustering.algorithm]
        message.linkage = LINKAGES[clustering.linkage]
        message.distance_threshold = clustering.distance_threshold
        if clustering.algorithm == "scc":
            thresholds = clustering.thresholds
            message.thresholds.extend(
                types.threshold_schedule(thresholds) if isinstance(thresholds, str) else thresholds
            )
            message.until_stable = clustering.until_stable
    return message


def decode_provenance(message: pb.Provenance) -> Provenance:
    clustering = None
    if message.algorithm:
        clustering = Clustering(
            algorithm=name_of(message.algorithm, ALGORITHMS, "algorithm"),
            linkage=name_of(message.linkage, LINKAGES, "linkage"),
            distance_threshold=message.distance_threshold,
            thresholds=tuple(message.thresholds) or "linear",
            until_stable=message.until_stable,
        )
    return Provenance(
        index=message.index,
        index_sha256=message.index_sha256,
        model_id=message.model_id,
        model_sha256=message.model_sha256,
        software_version=message.software_version,
        choice=_decode_choice(message),
        clustering=clustering,
    )


# ---- Tensors

_DATA_TYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_NUMBERS: dict[Any, Any] = {dtype: number for number, dtype in _DATA_TYPES.items()}


def encode_tensor(array: Array) -> tensor_pb2.Tensor:
    """A tensor of the same dtype and shape."""
    tensor = tensor_pb2.Tensor()
    _fill(tensor, array)
    return tensor


def _fill(tensor: tensor_pb2.Tensor, array: Array) -> None:
    """In its place in a message: protobuf copies a tensor that is put into one twice more."""
    if array.dtype not in _NUMBERS:
        array = array.astype(array.dtype.newbyteorder("<"))
    tensor.data_type = _NUMBERS[array.dtype]
    tensor.shape.extend(array.shape)
    tensor.data = array.tobytes()


def decode_tensor(tensor: tensor_pb2.Tensor) -> Array:
    """A read-only view of the message's bytes; raises Internal where they do not fit the shape."""
    dtype = _DATA_TYPES.get(tensor.data_type)
    if dtype is None:
        raise Internal(f"tensor of unknown data type {tensor.data_type}: the server is newer than this client")
    if min(tensor.shape, default=0) < 0 or len(tensor.data) != math.prod(tensor.shape) * dtype.itemsize:
        raise Internal(f"tensor of shape {list(tensor.shape)} came with {len(tensor.data)} bytes")
    return np.frombuffer(tensor.data, dtype).reshape(tuple(tensor.shape))


# ---- Answers


_MESSAGES: dict[type, Any] = {
    ClusterBatch: pb.ClusterNeuronsResponse,
    EmbeddingBatch: pb.EmbedNeuronsResponse,
    ExampleBatch: pb.GetExamplesResponse,
    StatisticsBatch: pb.GetNeuronStatisticsResponse,
    NeuronTable: pb.ListNeuronsResponse,
    SimilarBatch: pb.FindSimilarClustersResponse,
    ImportanceBatch: pb.MeasureImportanceResponse,
    ExplanationBatch: pb.ExplainTextResponse,
}


def _bytes_up_to(rows: Any, ends: Array) -> Array:
    """Bytes that a column's first `ends` rows take on the wire."""
    if isinstance(rows, np.ndarray):
        up_to: Array = ends * (rows.itemsize * math.prod(rows.shape[1:]))
    else:  # each with its tag and length
        up_to = columns.from_counts(np.array([len(text.encode()) + 6 for text in rows], np.int64))[ends]
    return up_to


def encode_batch(
    batch: AnyBatch,
    provenance: Provenance,
    timing: Timing,
    max_bytes: int = types.MAX_MESSAGE_BYTES,
) -> Iterator[Any]:
    """The batch as messages of at most max_bytes, in order."""
    offsets = columns.offsets(batch)
    head = _head(provenance, timing)
    budget = max_bytes - _OVERHEAD_BYTES
    sizes = _item_bytes(batch, offsets)
    for first, last in _runs(sizes, budget):
        rows = columns.rows(batch, offsets, first, last)
        pieces = [rows] if sizes[first:last].sum() <= budget else list(_pieces(rows, budget))
        for i, piece in enumerate(pieces):
            message = _MESSAGES[type(batch)](**head, continues=i < len(pieces) - 1)
            for name, part in piece.items():
                if isinstance(part, np.ndarray):
                    _fill(getattr(message, name), part)
                else:
                    getattr(message, name).extend(part)
            yield message


def _head(provenance: Provenance, timing: Timing) -> dict[str, Any]:
    return {
        "provenance": encode_provenance(provenance),
        "timing": pb.Timing(queue_ns=timing.queue_ns, compute_ns=timing.compute_ns, batch_size=timing.batch_size),
    }


def encode_neuron_page(page: NeuronPage, provenance: Provenance, timing: Timing) -> pb.ListNeuronsResponse:
    """One message: a page of MAX_PAGE_SIZE neurons takes a third of what fits."""
    columns_: dict[str, Any] = {name: encode_tensor(getattr(page.table, name)) for name in columns.AXES[NeuronTable]}
    return pb.ListNeuronsResponse(
        **_head(provenance, timing), **columns_, n_matching=page.n_matching, next_page_token=page.next_page_token
    )


def decode_neuron_page(message: pb.ListNeuronsResponse) -> tuple[NeuronPage, Provenance, Timing]:
    joined = Joiner(NeuronTable).add(message)
    if joined is None:
        raise Internal("a page of neurons came in pieces: the server is newer than this client")
    table, provenance, timing = joined
    return NeuronPage(table, message.n_matching, message.next_page_token), provenance, timing


def _item_bytes(batch: AnyBatch, offsets: dict[str, columns.Offsets]) -> Array:
    """Bytes that each item of the batch takes on the wire."""
    ends = np.zeros(len(batch.neurons) + 1, np.int64)
    for name, axis in columns.AXES[type(batch)].items():
        ends += _bytes_up_to(getattr(batch, name), offsets[axis])
    return np.diff(ends)


def _runs(sizes: Array, budget: int) -> Iterator[tuple[int, int]]:
    """Cut items into runs of at most budget bytes, or of one item."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + budget, side="right")), first + 1)
        yield first, last
        first = last


def _pieces(rows: dict[str, Any], budget: int) -> Iterator[dict[str, Any]]:
    """Cut one item's columns into pieces of at most budget bytes, between rows (a row is far smaller than that)."""
    piece: dict[str, Any] = {}
    room = budget
    for name, values in rows.items():
        ends = _bytes_up_to(values, np.arange(len(values) + 1))
        first = 0
        while True:
            last = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
            piece[name] = values[first:last]
            room -= int(ends[last] - ends[first])
            if last == len(values):
                break
            if ends[last + 1] - ends[last] > budget:
                raise Internal(f"a row of {name} does not fit in a message: {ends[last + 1] - ends[last]} bytes")
            yield piece
            piece, room, first = {}, budget, last
    yield piece


class Joiner(Generic[Batch]):
    """Put the messages of a stream together again.

    `add` returns (batch, provenance, timing) once the last piece of a batch is there, else None.
    """

    def __init__(self, type_: type[Batch]) -> None:
        self._type: type[Batch] = type_
        self._pieces: list[Any] = []

    def add(self, message: Any) -> tuple[Batch, Provenance, Timing] | None:
        self._pieces.append(message)
        if message.continues:
            return None
        pieces, self._pieces = self._pieces, []
        joined = {name: _join(name, pieces) for name in columns.AXES[self._type]}
        timing = Timing(message.timing.queue_ns, message.timing.compute_ns, message.timing.batch_size)
        return self._type(**joined), decode_provenance(message.provenance), timing


def _join(name: str, messages: Sequence[Any]) -> Any:
    if name in columns.TEXTS:
        return [text for message in messages for text in getattr(message, name)]
    parts = [decode_tensor(getattr(message, name)) for message in messages if message.HasField(name)]
    if not parts:
        raise Internal(f"the server sent no {name}: it is older than this client")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
