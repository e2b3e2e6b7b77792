"""What `polysem index` and `polysem measure` do on a Ray cluster, up to the work itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from polysem.client import Client
from polysem.proto.facts import IndexInfo, ServerInfo
from polysem.server import model as models
from polysem.server.corpus import Corpus
from polysem.server.demo import indexes as demo_indexes
from polysem.server.index import Index, open_index
from polysem.server.model import Described
from polysem.server.on_ray import OnRay, RayOptions, Tell, on_ray
from polysem.server.ray_worker import HeldIndex, HeldModel


@contextmanager
def building(
    described: Described, corpus: Corpus, device: str, options: RayOptions, tell: Tell = lambda status: None
) -> Iterator[tuple[Described, OnRay]]:
    """The model as the workers have it, and the executor, for `indexing.build`.

    corpus  that will be read; from its own path where workers find it there, too
    device  of the workers: auto, cpu, cuda

    Raises what `on_ray` does, and what the workers' `models.load` does.
    """
    corpus.anchor()
    held = HeldModel(described.info.id, device, described.dtype, described.info, corpus, corpus.fingerprint())
    with on_ray(held, options, tell) as executor:
        yield Described(described.info, described.tokenizer, described.dtype, torch.device(executor.device)), executor


def describe(name: str, dtype: str) -> Described:
    """The model of that name, to be read elsewhere. Raises what `models.load` does."""
    model = models.load(name, "cpu")
    return Described(model.info, model.tokenizer, dtype, model.device)


class Told:
    """What `Measuring` asks of a client, as a worker answered it."""

    target = "the workers"

    def __init__(self, info: ServerInfo, indexes: list[IndexInfo]) -> None:
        self._info, self._indexes = info, indexes

    def info(self) -> ServerInfo:
        return self._info

    def indexes(self) -> list[IndexInfo]:
        return self._indexes


@contextmanager
def measuring(folder: Path | None, options: dict[str, Any], tell: Tell) -> Iterator[tuple[Any, OnRay]]:
    """What `Measuring` takes for a client, and the executor of its `run`. None: the demo's index.

    Raises what `on_ray` does, and what `open_index` does.
    """
    index = open_index(demo_indexes.ensure() if folder is None else folder)
    with on_ray(held_index(index), RayOptions(**options), tell) as executor:
        yield told(executor), executor


def held_index(index: Index, model: Described | None = None) -> HeldIndex:
    """What workers hold to measure the index with the model; None: with the one that the index names, in float32."""
    name, dtype = (index.info.model_id, "float32") if model is None else (model.info.id, model.dtype)
    return HeldIndex(index.folder.resolve(), index.info.sha256, name, dtype)


def told(executor: OnRay) -> Told:
    """What the first worker says of its index."""
    return Told(*executor.ask(_ask))


def _ask(client: Client) -> tuple[ServerInfo, list[IndexInfo]]:
    return client.info(), client.indexes()
