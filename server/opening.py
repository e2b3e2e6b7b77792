"""Opening of what a server serves: the indexes that its settings name and their model, or the demo's."""

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from polysem.kernels.large import libraries
from polysem.kernels.large.libraries import Library
from polysem.kernels.large.warm_up import warm_up as warm_up_large
from polysem.kernels.warm_up import warm_beside, warm_up
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.demo import indexes as demo_indexes
from polysem.server.index.format import Index, open_index
from polysem.server.indexing import selection
from polysem.server.indexing.builder import Progress
from polysem.server.model.devices import resolve_device
from polysem.server.model.loading import load
from polysem.server.model.model import Model
from polysem.server.questions.clustering import MAX_IN_MATRIX
from polysem.server.questions.engine import Engine, with_copy
from polysem.server.serving.batcher import Batcher, Worker
from polysem.server.serving.metrics import Metrics
from polysem.server.settings import Settings, devices_of

log = logging.getLogger(__name__)

MAX_BATCH_COST = {"cpu": 9.5e8, "cuda": 3e10}  # 50 ms on two cores; what a GPU needs to be busy
SHARED_BATCH_MS = 30.0  # a key's call waits for another's batch
QUEUED_BATCHES = 10_000  # that may wait, where the settings do not say


def open_engine(settings: Settings, progress: Progress = lambda stage, n, total: None, warm: bool = True) -> Engine:
    """The engine.

    warm  every kernel is compiled and what searches neighbours is imported before it is there, so that no caller waits
          for what another asked; else when it is first used

    Without indexes in the settings: the demo's, built if missing. Raises InvalidArgument where two indexes have one
    name, and what `open_index`, `measured.attach`, `models.load`, `Engine` and `named_library` raise.
    """
    devices = _devices(settings)
    library = named_library(settings, devices[0])  # before minutes go into the demo's index
    folders = [Path(os.path.expanduser(folder)) for folder in settings.index] or [demo_indexes.ensure(progress)]
    indexes = [open_index(folder) for folder in folders]
    names = [index.info.name for index in indexes]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InvalidArgument(f"two indexes are called {repeated!r}: requests name them by their folder's name")
    if settings.measurements:
        from polysem.server import measured  # it needs the client, which nothing else here does

        measured.attach(indexes, settings.measurements)
    name, split = settings.model or indexes[0].info.model_id, devices_of(settings.split_layers)
    with warm_beside() if warm and devices[0].type == "cpu" else nullcontext():
        model, *copies = (load(name, str(device), settings.dtype, split) for device in devices)
    library = library or automatic_library(model.device, indexes)
    engine = Engine(model, indexes, version("polysem"), library, copies, settings.units)
    if warm:
        _warm_up(engine, devices)
    return engine


def _warm_up(engine: Engine, devices: Sequence[torch.device]) -> None:
    for device in devices:
        with _on(device):
            warm_up(device, max(2, min(_most_examples(list(engine.indexes.values())), MAX_IN_MATRIX)))
            warm_up_large(device, engine.neighbour_library)
    selection.warm_up()  # an index job would keep callers waiting else


def _devices(settings: Settings) -> list[torch.device]:
    """The devices that get a copy of the model each. Raises InvalidArgument for what does not go together."""
    named = devices_of(settings.device)
    found = [resolve_device(name) for name in named]
    if len(set(found)) < len(found) or not found:
        raise InvalidArgument(f"device {settings.device!r}: name one, or several that differ", "device")
    if len(found) > 1 and len({device.type for device in found}) > 1:
        raise InvalidArgument(f"device {settings.device!r}: copies of a model stand on devices of one kind", "device")
    if len(found) > 1 and settings.split_layers is not None:
        raise InvalidArgument(
            f"device {settings.device!r} is for copies of the model, split_layers for one model on several devices; "
            "choose one of the two",
            "device",
        )
    if len(found) > 1 and settings.dtype == "tf32":
        raise InvalidArgument("tf32 is a switch of the whole process: with several devices choose float32", "dtype")
    return found


def _on(device: torch.device) -> AbstractContextManager[object]:
    """The device that a thread's kernels run on."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


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
        SHARED_BATCH_MS,
        metrics,
        [_worker(model) for model in (engine.model, *engine.copies)],
    )


def _worker(model: Model) -> Worker:
    """The worker of the model's device."""
    begin = None if model.device.type == "cpu" else partial(torch.cuda.set_device, model.device)
    return Worker(begin, partial(with_copy, model=model))
