"""Sessions of `polysem index` and `polysem measure` on a Ray cluster, up to the work itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch

from polysem.proto.clusterer import Clusterer
from polysem.proto.facts import Answer, IndexInfo, ServerInfo
from polysem.proto.questions.clustering import ClusterQuery
from polysem.server.corpus.documents import Corpus
from polysem.server.demo import indexes as demo_indexes
from polysem.server.index.format import Index, open_index
from polysem.server.model.loading import load
from polysem.server.model.model import ModelDescription
from polysem.server.ray_cluster.driver import RayExecutor, ray_executor
from polysem.server.ray_cluster.pool import RayOptions, Report
from polysem.server.ray_cluster.worker import IndexPayload, ModelPayload, PairPayload


@contextmanager
def building(
    described: ModelDescription, corpus: Corpus, device: str, options: RayOptions, report: Report = lambda status: None
) -> Iterator[tuple[ModelDescription, RayExecutor]]:
    """The model as the workers have it, and the executor, for `indexing.build`.

    corpus  that will be read; from its own path where workers find it there, too
    device  of the workers: auto, cpu, cuda

    Raises what `ray_executor` does, and what the workers' `models.load` does.
    """
    corpus.anchor()
    held = ModelPayload(
        described.info.id,
        device,
        described.dtype,
        described.info,
        described.settings,
        corpus,
        corpus.fingerprint(),
        tuple(described.latents),
    )
    with ray_executor(held, options, report) as executor:
        place = torch.device(executor.device)
        yield (
            ModelDescription(
                described.info,
                described.tokenizer,
                described.dtype,
                place,
                described.settings,
                described.latents,
                described.units,
            ),
            executor,
        )


def describe(name: str, dtype: str) -> ModelDescription:
    """The model of that name, to be read elsewhere. Raises what `models.load` does."""
    model = load(name, "cpu")
    return ModelDescription(model.info, model.tokenizer, dtype, model.device, model.settings)


@contextmanager
def holding(
    described: ModelDescription, index: Index, device: str, options: RayOptions, report: Report = lambda status: None
) -> Iterator[RayExecutor]:
    """The executor of `questions.holding.hold`: its workers hold the model and the index. device: of the workers.

    Raises what `ray_executor` does, and what the workers' `models.load` and `open_index` do.
    """
    held = PairPayload(index.folder.resolve(), index.sha256, described.info.id, described.dtype, device)
    with ray_executor(held, options, report) as executor:
        yield executor


class RemoteClient:
    """The workers of a cluster as a `Clusterer`: whichever answers has the same index."""

    target = "the workers"

    def __init__(self, executor: RayExecutor) -> None:
        self._executor = executor

    def info(self) -> ServerInfo:
        found: ServerInfo = self._executor.ask(methodcaller("info"))
        return found

    def indexes(self) -> list[IndexInfo]:
        found: list[IndexInfo] = self._executor.ask(methodcaller("indexes"))
        return found

    def clusters(self, query: ClusterQuery) -> Iterator[Answer]:
        """All of one worker at once: the bulk work is the executor's."""
        yield from self._executor.ask(partial(_all_clusters, query))


def _all_clusters(query: ClusterQuery, held: Clusterer) -> list[Answer]:
    return list(held.clusters(query))


@contextmanager
def measuring(folder: Path | None, options: dict[str, Any], report: Report) -> Iterator[tuple[Clusterer, RayExecutor]]:
    """The workers as a `Clusterer`, and as the executor of `Measuring.run`. None: the demo's index.

    Raises what `ray_executor` does, and what `open_index` does.
    """
    index = open_index(demo_indexes.ensure() if folder is None else folder)
    with ray_executor(index_payload(index), RayOptions(**options), report) as executor:
        yield RemoteClient(executor), executor


def index_payload(index: Index, model: ModelDescription | None = None) -> IndexPayload:
    """Return what workers hold to measure the index with the model; None: the index's own, in float32."""
    name, dtype = (index.info.model_id, "float32") if model is None else (model.info.id, model.dtype)
    return IndexPayload(index.folder.resolve(), index.info.sha256, name, dtype)
