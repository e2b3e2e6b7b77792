"""Opening of what a server serves: the indexes that its settings name and their model, or the demo's."""

import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from polysem.kernels.large import libraries
from polysem.kernels.large.libraries import Library
from polysem.kernels.large.warm_up import warm_up as warm_up_large
from polysem.kernels.warm_up import warm_up
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.demo import indexes as demo_indexes
from polysem.server.index.format import Index, open_index
from polysem.server.indexing import selection
from polysem.server.indexing.builder import Progress
from polysem.server.model.devices import resolve_device
from polysem.server.model.loading import load
from polysem.server.questions.clustering import MAX_IN_MATRIX
from polysem.server.questions.engine import Engine
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.metrics import Metrics
from polysem.server.settings import Settings, devices_of

log = logging.getLogger(__name__)

MAX_BATCH_COST = {"cpu": 9.5e8, "cuda": 3e10}  # 50 ms on two cores; what a GPU needs to be busy
QUEUED_BATCHES = 10_000  # that may wait, where the settings do not say


def open_engine(settings: Settings, progress: Progress = lambda stage, n, total: None) -> Engine:
    """The engine, warmed up: every kernel is compiled, and what searches neighbours is imported.

    Without indexes in the settings: the demo's, built if missing. Raises InvalidArgument where two indexes have one
    name, and what `open_index`, `measured.attach`, `models.load`, `Engine` and `named_library` raise.
    """
    library = named_library(settings, resolve_device(settings.device))  # before minutes go into the demo's index
    folders = [Path(os.path.expanduser(folder)) for folder in settings.index] or [demo_indexes.ensure(progress)]
    indexes = [open_index(folder) for folder in folders]
    names = [index.info.name for index in indexes]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InvalidArgument(f"two indexes are called {repeated!r}: requests name them by their folder's name")
    if settings.measurements:
        from polysem.server import measured  # it needs the client, which nothing else here does

        measured.attach(indexes, settings.measurements)
    model = load(
        settings.model or indexes[0].info.model_id, settings.device, settings.dtype, devices_of(settings.split_layers)
    )
    engine = Engine(model, indexes, version("polysem"), library or automatic_library(model.device, indexes))
    warm_up(model.device, max(2, min(_most_examples(indexes), MAX_IN_MATRIX)))
    warm_up_large(model.device, engine.neighbour_library)
    selection.warm_up()  # an index job would keep callers waiting else
    return engine


def _most_examples(indexes: Sequence[Index]) -> int:
    """The largest number of examples of a neuron, on any side."""
    return max(int(index.of(side).n_examples.max(initial=0)) for index in indexes for side in index.info.sides)


def named_library(settings: Settings, device: torch.device) -> Library | None:
    """Import and return what searches nearest neighbours by the settings; None where they leave it open.

    Raises InvalidArgument for one that does not run on the device, FailedPrecondition where it cannot be imported.
    """
    if settings.neighbour_library == "auto":
        return None
    try:
        library = libraries.checked_library(settings.neighbour_library, device)
        libraries.load(library)
    except ValueError as error:
        raise InvalidArgument(f"setting neighbour_library: {error}", "neighbour_library") from error
    except Exception as error:
        raise FailedPrecondition(f"setting neighbour_library: {error}") from error
    return library


def automatic_library(device: torch.device, indexes: Sequence[Index]) -> Library:
    """The default for the device, imported, where an index has large neurons; torch elsewhere and where it fails.

    Cost: for cuML 10 to 22 s and 1.1 GB of memory.
    """
    large = _most_examples(indexes) > MAX_IN_MATRIX
    library = libraries.default_library(device) if large else "torch"
    try:
        libraries.load(library)
    except Exception as error:  # of a driver that does not fit, for one
        log.warning("%s cannot be imported, so torch searches nearest neighbours: %s", library, error)
        return "torch"
    return library


def open_batcher(settings: Settings, engine: Engine, metrics: Metrics | None = None) -> Batcher:
    """The batcher of the engine's work, with the limits of the settings; not started."""
    max_batch_cost = settings.max_batch_cost or MAX_BATCH_COST[engine.model.device.type]
    return Batcher(
        max_batch_cost,
        settings.max_requests_in_flight,
        settings.max_queued_cost or QUEUED_BATCHES * max(max_batch_cost, MAX_BATCH_COST["cpu"]),
        settings.max_wait_ms,
        settings.bulk_batch_ms,
        metrics,
    )
