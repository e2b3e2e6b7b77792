"""The client for asyncio: the methods of `Client`, to be awaited."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import grpc

from polysem.client import calls, connection
from polysem.client.calls import StreamCall
from polysem.client.jobs import AsyncJobs
from polysem.client.results import (
    Embeddings,
    Example,
    ExplainedToken,
    Importance,
    ListedNeuron,
    Neuron,
    SimilarCluster,
    Statistics,
    embeddings_of,
    examples_of,
    explained_of,
    importances_of,
    listed_of,
    neurons_of,
    similar_of,
    statistics_of,
)
from polysem.client.streams import AsyncStream, Clusters, Listing, Stream
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Answer, IndexInfo, ServerInfo, decode_indexes, decode_server_info
from polysem.proto.neurons import NeuronLike
from polysem.proto.questions.clustering import Algorithm, Embedding, LayerNorm, Linkage
from polysem.proto.questions.listing import NeuronMetric
from polysem.proto.questions.similar import Similarity
from polysem.proto.wire import status
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


class AsyncClient:
    """As `Client`, whose docstrings hold here; use it in `async with`. Make it inside a running event loop."""

    def __init__(
        self,
        target: str | Sequence[str] = calls.DEFAULT_TARGET,
        *,
        timeout_s: float | None = None,
        token: str | None = None,
        tls: bool | str | Path = False,
        bulk: bool = False,
    ) -> None:
        self.target = connection.named(target)
        self._timeout_s = timeout_s
        self._channel = connection.aio_channel(self.target, token, tls, bulk)
        self._open_stub: Any = pb_grpc.NeuronServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._jobs = AsyncJobs(job_pb_grpc.JobServiceStub(self._channel), self.target, timeout_s)  # type: ignore[no-untyped-call]

    async def info(self) -> ServerInfo:
        try:
            return decode_server_info(await self._ask("GetServerInfo", pb.GetServerInfoRequest()))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    async def serving(self, timeout_s: float = 5.0) -> bool:
        _ = self._stub  # not closed
        check: Any = self._channel.unary_unary(connection.HEALTH_CHECK)
        try:
            return bool(await check(b"", timeout=timeout_s) == connection.SERVING)
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    async def indexes(self) -> list[IndexInfo]:
        try:
            return decode_indexes(await self._ask("ListIndexes", pb.ListIndexesRequest()))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    @property
    def jobs(self) -> AsyncJobs:
        _ = self._stub  # not closed
        return self._jobs

    def cluster(
        self,
        *neurons: NeuronLike,
        algorithm: Algorithm = "hac",
        linkage: Linkage = "average",
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        distance_threshold: float = 0.5,
        thresholds: Sequence[float] | Literal["linear", "geometric"] | None = None,
        until_stable: bool = False,
        index: str | None = None,
    ) -> AsyncStream[Neuron, Clusters]:
        call = calls.cluster(
            neurons, algorithm, linkage, embedding, layer_norm, distance_threshold, thresholds, until_stable, index
        )
        view = partial(neurons_of, fetch_examples=None)
        return AsyncStream(self._answers(call), partial(Clusters, view=view), view)

    def embed(
        self,
        *neurons: NeuronLike,
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        index: str | None = None,
    ) -> AsyncStream[Embeddings, Stream[Embeddings]]:
        call = calls.embed(neurons, embedding, layer_norm, index)
        return AsyncStream(self._answers(call), partial(Stream, view=embeddings_of), embeddings_of)

    def examples(
        self,
        *neurons: NeuronLike,
        places: Sequence[int] = (),
        whole_context: bool = False,
        index: str | None = None,
    ) -> AsyncStream[Example, Stream[Example]]:
        call = calls.examples(neurons, places, whole_context, index)
        return AsyncStream(self._answers(call), partial(Stream, view=examples_of), examples_of)

    def statistics(self, *neurons: NeuronLike, index: str | None = None) -> AsyncStream[Statistics, Stream[Statistics]]:
        call = calls.statistics(neurons, index)
        return AsyncStream(self._answers(call), partial(Stream, view=statistics_of), statistics_of)

    def neurons(
        self,
        *neurons: NeuronLike,
        sort_by: str | None = None,
        where: Mapping[NeuronMetric, tuple[float | None, float | None]] | None = None,
        limit: int | None = None,
        skip: int = 0,
        algorithm: Algorithm = "hac",
        linkage: Linkage = "average",
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        distance_threshold: float = 0.5,
        thresholds: Sequence[float] | Literal["linear", "geometric"] | None = None,
        until_stable: bool = False,
        index: str | None = None,
    ) -> AsyncStream[ListedNeuron, Listing]:
        pages = calls.neurons(
            neurons,
            sort_by,
            where or {},
            limit,
            skip,
            index,
            algorithm=algorithm,
            linkage=linkage,
            embedding=embedding,
            layer_norm=layer_norm,
            distance_threshold=distance_threshold,
            thresholds=thresholds,
            until_stable=until_stable,
        )
        return AsyncStream(self._pages(pages), partial(Listing, view=listed_of), listed_of)

    def similar(
        self,
        neuron: NeuronLike,
        cluster: int | Sequence[int] | None = None,
        *,
        similarity: Similarity = "pre_mlp",
        every_layer: bool = False,
        limit: int = 20,
        algorithm: Algorithm = "hac",
        linkage: Linkage = "average",
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        distance_threshold: float = 0.5,
        thresholds: Sequence[float] | Literal["linear", "geometric"] | None = None,
        until_stable: bool = False,
        index: str | None = None,
    ) -> AsyncStream[SimilarCluster, Stream[SimilarCluster]]:
        call = calls.similar(
            neuron,
            cluster,
            similarity,
            every_layer,
            limit,
            index,
            algorithm=algorithm,
            linkage=linkage,
            embedding=embedding,
            layer_norm=layer_norm,
            distance_threshold=distance_threshold,
            thresholds=thresholds,
            until_stable=until_stable,
        )
        return AsyncStream(self._answers(call), partial(Stream, view=similar_of), similar_of)

    def importance(
        self,
        *neurons: NeuronLike,
        places: Sequence[int] = (),
        tokens_before: int = 20,
        mask_token: int | None = None,
        index: str | None = None,
    ) -> AsyncStream[Importance, Stream[Importance]]:
        call = calls.importance(neurons, places, tokens_before, mask_token, index)
        return AsyncStream(self._answers(call), partial(Stream, view=importances_of), importances_of)

    def explain(
        self,
        text: str,
        *neurons: NeuronLike,
        min_activation_fraction: float = 0.25,
        n_strongest: int = 5,
        algorithm: Algorithm = "hac",
        linkage: Linkage = "average",
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        distance_threshold: float = 0.5,
        thresholds: Sequence[float] | Literal["linear", "geometric"] | None = None,
        until_stable: bool = False,
        index: str | None = None,
    ) -> AsyncStream[ExplainedToken, Stream[ExplainedToken]]:
        call = calls.explain(
            text,
            neurons,
            min_activation_fraction,
            n_strongest,
            index,
            algorithm=algorithm,
            linkage=linkage,
            embedding=embedding,
            layer_norm=layer_norm,
            distance_threshold=distance_threshold,
            thresholds=thresholds,
            until_stable=until_stable,
        )
        return AsyncStream(self._answers(call), partial(Stream, view=explained_of), explained_of)

    async def _answers(self, call: StreamCall) -> AsyncIterator[Answer]:
        assembler = calls.Assembler(call, self._timeout_s)
        while True:
            try:
                messages = getattr(self._stub, call.method)(call.request, timeout=assembler.timeout_s)
                noted = False
                async for message in messages:
                    if not noted:
                        connection.note_attempts(self.target, await messages.initial_metadata())
                        noted = True
                    if (answer := assembler.add(message)) is not None:
                        yield answer
                return
            except grpc.aio.AioRpcError as error:
                if not assembler.resumes(error):
                    raise status.from_rpc_error(error, self.target) from None
                connection.note_resumed(self.target)

    async def _pages(self, pages: calls.Pages) -> AsyncIterator[Answer]:
        try:
            while (request := pages.next()) is not None:
                yield pages.add(await self._ask("ListNeurons", request))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    async def _ask(self, method: str, request: Any) -> Any:
        return await connection.aio_ask(getattr(self._stub, method), request, self.target, self._timeout_s)

    @property
    def _stub(self) -> Any:
        if self._open_stub is None:
            raise FailedPrecondition(calls.CLOSED)
        return self._open_stub

    async def close(self) -> None:
        self._open_stub = None
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.target!r})"
