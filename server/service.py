"""The gRPC service: decode, delegate, encode. Exceptions become codes in the interceptor."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
import numpy as np

from polysem.proto.facts import Limits, ServerInfo, Timing, encode_head, encode_indexes, encode_server_info
from polysem.proto.questions.clustering import MAX_THRESHOLDS, ClusterBatch, decode_cluster_query
from polysem.proto.questions.embedding import decode_embed_query
from polysem.proto.questions.examples import decode_example_query
from polysem.proto.questions.explain import decode_explain_query
from polysem.proto.questions.importance import decode_importance_query
from polysem.proto.questions.listing import decode_list_query, encode_neuron_page
from polysem.proto.questions.similar import decode_similar_query
from polysem.proto.questions.statistics import decode_statistics_query
from polysem.proto.wire import batches
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.server import callers, importance, interceptor
from polysem.server.arrays import Array
from polysem.server.batcher import Batcher
from polysem.server.callers import Caller
from polysem.server.engine import MAX_NEURONS_PER_REQUEST, Engine, ExplainPlan, Plan, device_name
from polysem.server.explaining import ExplainWork
from polysem.server.listing import page_of
from polysem.server.overview import Overviews
from polysem.server.similar import SimilarWork
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class NeuronService(pb_grpc.NeuronServiceServicer):
    """See proto/polysem/v1/neuron_service.proto."""

    def __init__(self, engine: Engine, batcher: Batcher, version: str) -> None:
        self._engine, self._batcher, self._version = engine, batcher, version
        self._overviews = Overviews(batcher)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        return encode_server_info(server_info(self._engine, self._batcher, self._version, callers.current.get()))

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context) -> pb.ListIndexesResponse:
        return encode_indexes([index.info for index in self._engine.indexes.values()])

    async def ClusterNeurons(
        self, request: pb.ClusterNeuronsRequest, context: Context
    ) -> AsyncIterator[pb.ClusterNeuronsResponse]:
        async for message in self._answer(self._engine.plan_cluster(decode_cluster_query(request))):
            yield message

    async def EmbedNeurons(
        self, request: pb.EmbedNeuronsRequest, context: Context
    ) -> AsyncIterator[pb.EmbedNeuronsResponse]:
        async for message in self._answer(self._engine.plan_embed(decode_embed_query(request))):
            yield message

    async def GetExamples(
        self, request: pb.GetExamplesRequest, context: Context
    ) -> AsyncIterator[pb.GetExamplesResponse]:
        async for message in self._answer(self._engine.plan_examples(decode_example_query(request))):
            yield message

    async def GetNeuronStatistics(
        self, request: pb.GetNeuronStatisticsRequest, context: Context
    ) -> AsyncIterator[pb.GetNeuronStatisticsResponse]:
        async for message in self._answer(self._engine.plan_statistics(decode_statistics_query(request))):
            yield message

    async def ListNeurons(self, request: pb.ListNeuronsRequest, context: Context) -> pb.ListNeuronsResponse:
        query = decode_list_query(request)
        work, neurons, provenance = self._engine.plan_list(query)
        overview = await self._overviews.get(work)
        page = await asyncio.to_thread(page_of, overview.table, work.index, neurons, query)
        timing = Timing(0, overview.compute_ns, len(overview.table.neurons))
        return encode_neuron_page(page, provenance, timing)

    async def FindSimilarClusters(
        self, request: pb.FindSimilarClustersRequest, context: Context
    ) -> AsyncIterator[pb.FindSimilarClustersResponse]:
        query = decode_similar_query(request)
        clustering, _, provenance = self._engine.plan_similar(query)
        overview = await self._overviews.get(clustering)
        work = SimilarWork(clustering, query.similarity, query.every_layer, query.n_similar, overview.clusters)
        async for message in self._answer(Plan(work, work.items(query.neuron, query.clusters), provenance)):
            yield message

    async def MeasureImportance(
        self, request: pb.MeasureImportanceRequest, context: Context
    ) -> AsyncIterator[pb.MeasureImportanceResponse]:
        plan = self._engine.plan_importance(decode_importance_query(request))
        async for message in self._answer(plan, partial(importance.whole, items=plan.items)):
            yield message

    async def ExplainText(
        self, request: pb.ExplainTextRequest, context: Context
    ) -> AsyncIterator[pb.ExplainTextResponse]:
        query = decode_explain_query(request)
        plan = await asyncio.to_thread(self._engine.plan_explain, query)
        work = ExplainWork(
            plan.clustering.model,
            plan.clustering.index,
            plan.ids,
            tuple((layer, neuron) for layer, neuron in plan.neurons.tolist()),
            query.choice,
            query.clustering,
            query.min_activation_fraction,
            query.n_strongest,
            await self._labels(plan),
        )
        async for message in self._answer(Plan(work, work.items(), plan.provenance)):
            yield message

    async def _labels(self, plan: ExplainPlan) -> list[Array]:
        """Of each neuron's dataset examples."""
        labels: list[Array] = []
        async for answer in self._batcher.stream(plan.clustering, plan.neurons, callers.current.get()):
            assert isinstance(answer.batch, ClusterBatch)
            labels += np.split(answer.batch.labels, np.cumsum(answer.batch.n_examples)[:-1])
        return labels

    async def _answer(
        self, plan: Plan, whole: Callable[[AsyncIterator[Any]], AsyncIterator[Any]] = lambda answers: answers
    ) -> AsyncIterator[Any]:
        """The plan's messages; `whole` makes what callers know of the batcher's answers."""
        interceptor.about(len(plan.items), float(plan.work.costs(plan.items).sum()))
        encoding = self._batcher.metrics.stage_seconds.labels("encode")
        async for batch, timing in whole(self._batcher.stream(plan.work, plan.items, callers.current.get())):
            spent, started = 0.0, time.perf_counter()
            for message in batches.encode_batch(batch, encode_head(plan.provenance, timing)):
                spent += time.perf_counter() - started
                yield message  # and the caller decodes it while the next is made
                started = time.perf_counter()
            encoding.observe(spent)


def server_info(engine: Engine, batcher: Batcher, version: str, caller: Caller) -> ServerInfo:
    model = engine.model
    limits = Limits(
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_neurons_per_request=MAX_NEURONS_PER_REQUEST,
        max_thresholds=MAX_THRESHOLDS,
        max_requests_in_flight=batcher.max_requests,
        max_batch_cost=batcher.max_batch_cost,
        max_queued_cost=batcher.max_queued_cost,
        max_wait_ms=batcher.max_wait_ms,
        bulk_batch_ms=batcher.bulk_batch_ms,
        max_requests_in_flight_of_key=caller.max_in_flight or 0,
        daily_cost_quota=caller.account.daily_quota or 0.0,
    )
    return ServerInfo(version, model.info, device_name(model.device), model.dtype, engine.default_index, limits)
