"""The gRPC service: decode, delegate, encode. Exceptions become codes in the interceptor."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import PermissionDenied
from polysem.proto.facts import Timing, encode_head, encode_indexes, encode_server_info
from polysem.proto.questions.ablation import decode_ablate_query
from polysem.proto.questions.clustering import ClusterBatch, decode_cluster_query
from polysem.proto.questions.embedding import decode_embed_query
from polysem.proto.questions.examples import decode_example_query
from polysem.proto.questions.explain import decode_explain_query
from polysem.proto.questions.importance import decode_importance_query
from polysem.proto.questions.kept_names import decode_name_query, decode_names
from polysem.proto.questions.labels import decode_label_query
from polysem.proto.questions.listing import decode_list_query, encode_neuron_page
from polysem.proto.questions.logit_effects import decode_logit_effects_query
from polysem.proto.questions.maps import decode_map_query
from polysem.proto.questions.search import decode_search_query, encode_search_answer
from polysem.proto.questions.similar import decode_similar_query
from polysem.proto.questions.statistics import decode_statistics_query
from polysem.proto.wire import batches
from polysem.server.questions import (
    ablation,
    clustering,
    effects,
    embedding,
    examples,
    explain,
    importance,
    kept_names,
    labels,
    listing,
    logit_effects,
    maps,
    search,
    similar,
    statistics,
)
from polysem.server.questions.clustering import ClusterWork
from polysem.server.questions.engine import Engine, Plan
from polysem.server.serving import callers, interceptor
from polysem.server.serving.aside import Aside
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.info import server_info
from polysem.server.serving.maps import Maps
from polysem.server.serving.search_files import SearchFiles
from polysem.server.serving.whole_index import WholeIndexes
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class NeuronService(pb_grpc.NeuronServiceServicer):
    """See proto/polysem/v1/neuron_service.proto."""

    def __init__(self, engine: Engine, batcher: Batcher, search_files: SearchFiles, state: Path | None = None) -> None:
        self._engine, self._batcher = engine, batcher
        self._search_files = search_files
        self._whole_indexes = WholeIndexes(batcher)
        self._maps = Maps(batcher, self._whole_indexes, state)
        self._aside = Aside()

    @property
    def _seen(self) -> Engine:
        """With the indexes that the caller may name."""
        return self._engine.seen_by(callers.current.get().scope)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        return encode_server_info(server_info(self._engine, self._batcher, callers.current.get()))

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context) -> pb.ListIndexesResponse:
        return encode_indexes([index.facts for index in self._seen.indexes.values()])

    async def ClusterNeurons(
        self, request: pb.ClusterNeuronsRequest, context: Context
    ) -> AsyncIterator[pb.ClusterNeuronsResponse]:
        plan = await self._aside.made(request, lambda: clustering.plan(self._seen, decode_cluster_query(request)))
        async for message in self._answer(plan):
            yield message

    async def EmbedNeurons(
        self, request: pb.EmbedNeuronsRequest, context: Context
    ) -> AsyncIterator[pb.EmbedNeuronsResponse]:
        plan = await self._aside.made(request, lambda: embedding.plan(self._seen, decode_embed_query(request)))
        async for message in self._answer(plan):
            yield message

    async def GetExamples(
        self, request: pb.GetExamplesRequest, context: Context
    ) -> AsyncIterator[pb.GetExamplesResponse]:
        plan = await self._aside.made(request, lambda: examples.plan(self._seen, decode_example_query(request)), True)
        async for message in self._answer(plan):
            yield message

    async def GetNeuronStatistics(
        self, request: pb.GetNeuronStatisticsRequest, context: Context
    ) -> AsyncIterator[pb.GetNeuronStatisticsResponse]:
        plan = await self._aside.made(request, lambda: statistics.plan(self._seen, decode_statistics_query(request)))
        async for message in self._answer(plan):
            yield message

    async def GetLogitEffects(
        self, request: pb.GetLogitEffectsRequest, context: Context
    ) -> AsyncIterator[pb.GetLogitEffectsResponse]:
        query = decode_logit_effects_query(request)
        async for message in self._answer(await asyncio.to_thread(logit_effects.plan, self._seen, query)):
            yield message

    async def ListNeurons(self, request: pb.ListNeuronsRequest, context: Context) -> pb.ListNeuronsResponse:
        plan = await self._aside.made(request, lambda: listing.plan(self._seen, decode_list_query(request)))
        found = await self._whole_indexes.get(plan.clustering)
        page = await asyncio.to_thread(plan.page, found.table)
        return encode_neuron_page(page, plan.provenance, Timing(0, found.compute_ns, len(found.table.neurons)))

    async def FindSimilarClusters(
        self, request: pb.FindSimilarClustersRequest, context: Context
    ) -> AsyncIterator[pb.FindSimilarClustersResponse]:
        asked = await self._aside.made(request, lambda: similar.plan(self._seen, decode_similar_query(request)))
        found = await self._whole_indexes.get(asked.clustering)
        async for message in self._answer(asked.plan(found.clusters)):
            yield message

    async def MeasureImportance(
        self, request: pb.MeasureImportanceRequest, context: Context
    ) -> AsyncIterator[pb.MeasureImportanceResponse]:
        plan = await self._aside.made(
            request, lambda: importance.plan(self._seen, decode_importance_query(request)), True
        )
        async for message in self._answer(plan, partial(importance.whole, items=plan.items)):
            yield message

    async def LabelClusters(
        self, request: pb.LabelClustersRequest, context: Context
    ) -> AsyncIterator[pb.LabelClustersResponse]:
        async for message in self._answer(labels.plan(self._seen, decode_label_query(request))):
            yield message

    async def KeepNames(self, request: pb.KeepNamesRequest, context: Context) -> pb.KeepNamesResponse:
        caller = callers.current.get()
        if not caller.may_name:
            raise PermissionDenied("this key may not name clusters; ask whoever runs the server for one that may")
        names = await self._aside.made(request, lambda: decode_names(request))
        others = caller.admin or not caller.key
        n = await asyncio.to_thread(kept_names.keep, self._seen, request.index, names, caller.owner, others)
        return pb.KeepNamesResponse(n_changed=n)

    async def ListNames(self, request: pb.ListNamesRequest, context: Context) -> AsyncIterator[pb.ListNamesResponse]:
        plan = await self._aside.made(request, lambda: kept_names.plan(self._seen, decode_name_query(request)))
        head = encode_head(plan.provenance, Timing(0, 0, 0))
        pages = plan.batches()
        while (batch := await asyncio.to_thread(next, pages, None)) is not None:
            for message in batches.encode_batch(batch, head):
                yield message

    async def SearchClusters(self, request: pb.SearchClustersRequest, context: Context) -> pb.SearchClustersResponse:
        asked = search.plan(self._seen, decode_search_query(request))
        found: pb.SearchClustersResponse = encode_search_answer(await self._search_files.answer(asked))
        return found

    async def MapClusters(
        self, request: pb.MapClustersRequest, context: Context
    ) -> AsyncIterator[pb.MapClustersResponse]:
        asked = await self._aside.made(request, lambda: maps.plan(self._seen, decode_map_query(request)))
        head = encode_head(asked.provenance, Timing(0, 0, 0))
        for layer in asked.layers:
            found = await self._maps.get(asked.clustering, layer)
            for message in batches.encode_batch(await asyncio.to_thread(asked.batch, layer, found), head):
                yield message

    async def AblateClusters(
        self, request: pb.AblateClustersRequest, context: Context
    ) -> AsyncIterator[pb.AblateClustersResponse]:
        asked = await self._aside.made(request, lambda: ablation.plan(self._seen, decode_ablate_query(request)), True)
        (labels,) = await self._labels(asked.clustering, asked.neurons)
        sampled = await asyncio.to_thread(asked.sampled, labels)
        first = sampled.activities()
        served = self._batcher.stream(first.work, first.items, callers.current.get())
        activities: list[Any] = [answer.batch async for answer in served]
        work = await asyncio.to_thread(sampled.work, activities)
        plan = Plan(work, work.items(), sampled.provenance)
        async for message in self._answer(plan, partial(effects.whole, work=work)):
            yield message

    async def ExplainText(
        self, request: pb.ExplainTextRequest, context: Context
    ) -> AsyncIterator[pb.ExplainTextResponse]:
        asked = await self._aside.made(request, lambda: explain.plan(self._seen, decode_explain_query(request)), True)
        async for message in self._answer(asked.plan(await self._labels(asked.clustering, asked.neurons))):
            yield message

    async def _labels(self, work: ClusterWork, neurons: IntArray) -> list[Array]:
        """Return the cluster labels of each neuron's dataset examples."""
        found: list[Array] = []
        async for answer in self._batcher.stream(work, neurons, callers.current.get()):
            assert isinstance(answer.batch, ClusterBatch)
            found += np.split(answer.batch.labels, np.cumsum(answer.batch.n_examples)[:-1])
        return found

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
