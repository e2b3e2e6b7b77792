"""A worker of a job on Ray: an actor that holds a model or an index, and makes shards with it.

Only what is imported late needs torch, so that the driver can name the class without loading it.
"""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from polysem.proto.errors import FailedPrecondition, PolysemError
from polysem.proto.facts import ModelInfo
from polysem.proto.work import shards
from polysem.server.corpus.documents import Corpus

BLOCK_BYTES = 32 << 20  # of what travels at once


class WorkerPayload(Protocol):
    """Contents that a worker is to hold; pickles.

    folders  that it is read from: their names, and where they lie for the driver
    """

    @property
    def folders(self) -> Mapping[str, Path]: ...

    def open(self, stack: ExitStack, folders: Mapping[str, Path]) -> tuple[Any, str]:
        """Yield what is held, from folders that are there, until the stack is left; and its device, cpu or cuda.

        Raises FailedPrecondition where it is not what the driver has.
        """

    def reaches(self) -> bool:
        """Whether what stages only name is the same here."""


@dataclass(frozen=True)
class ModelPayload:
    """The model for an index build. info, settings, fingerprint: of model and corpus, as the driver has them.

    latents  that it is read for, sent whole; none: its neurons
    """

    name: str
    device: str
    dtype: str
    info: ModelInfo
    settings: Mapping[str, Any]
    corpus: Corpus
    fingerprint: str
    latents: tuple[Any, ...] = ()

    @property
    def folders(self) -> Mapping[str, Path]:
        return _model_folder(self.name)

    def open(self, stack: ExitStack, folders: Mapping[str, Path]) -> tuple[Any, str]:
        from polysem.server.index.format import differing_setting
        from polysem.server.model.loading import load

        model = load(str(folders.get("model", self.name)), self.device, self.dtype)
        _check_same("model", self.name, self.info.sha256, model.info.sha256)
        if differing := differing_setting(self.settings, model.settings):
            raise FailedPrecondition(
                f"the model {self.name!r} has {differing} on the worker {socket.gethostname()}; give all machines the "
                "same one"
            )
        if self.latents:
            from polysem.server.model.latent_model import with_latents

            model = with_latents(model, self.latents)
        return model, model.device.type

    def reaches(self) -> bool:
        try:
            return self.corpus.fingerprint() == self.fingerprint
        except PolysemError:
            return False


@dataclass(frozen=True)
class IndexPayload:
    """An index and its model, for measurements. sha256: as the driver has it."""

    folder: Path
    sha256: str
    model: str
    dtype: str

    @property
    def folders(self) -> Mapping[str, Path]:
        return {"index": self.folder, **_model_folder(self.model)}

    def open(self, stack: ExitStack, folders: Mapping[str, Path]) -> tuple[Any, str]:
        from polysem.server.local_client import opened

        model = str(folders.get("model", self.model))
        client = stack.enter_context(opened(folders["index"], model=model, dtype=self.dtype))
        _check_same("index", str(self.folder), self.sha256, client.indexes()[0].sha256)
        return client, "cpu" if client.info().device == "cpu" else "cuda"

    def reaches(self) -> bool:
        return True


@dataclass(frozen=True)
class PairPayload(IndexPayload):
    """An index and its model as a pair, for tests that an index is to hold (`questions.holding`)."""

    device: str = "auto"

    def open(self, stack: ExitStack, folders: Mapping[str, Path]) -> tuple[Any, str]:
        from polysem.server.index.format import open_index
        from polysem.server.model.loading import load

        index = open_index(folders["index"])
        _check_same("index", str(self.folder), self.sha256, index.sha256)
        model = load(str(folders.get("model", self.model)), self.device, self.dtype)
        index.check_model(model.info, model.settings)
        return (model, index), model.device.type


def _model_folder(name: str) -> dict[str, Path]:
    folder = Path(os.path.expanduser(name))
    return {"model": folder.resolve()} if folder.is_dir() else {}


def _check_same(noun: str, name: str, wanted: str, found: str) -> None:
    if found != wanted:
        raise FailedPrecondition(
            f"the worker on {socket.gethostname()} has another {noun} at {name!r} (sha256 {found[:12]}…, here "
            f"{wanted[:12]}…); give all machines the same one"
        )


class Versions(NamedTuple):
    """Facts that driver and workers must agree in."""

    software: str
    index_format: int

    @staticmethod
    def here() -> "Versions":
        from polysem.server.index.format import FORMAT

        return Versions(version("polysem"), FORMAT)


class Begun(NamedTuple):
    """Facts that a worker says once it has begun.

    lacks    names of folders that must be sent before it can open its payload
    device   cpu or cuda
    reaches  as `WorkerPayload` says
    """

    lacks: tuple[str, ...]
    device: str = ""
    reaches: bool = False


class Worker:
    """The actor. Two of its threads make shards: one reads while the other packs what it read.

    run  names the folder for what is sent
    """

    def __init__(self, run: str) -> None:
        self._sent = Path(tempfile.gettempdir()) / f"polysem-{run}"
        self._reading, self._stack = Lock(), ExitStack()
        self._held: Any = None

    def arrive(self) -> None:
        """Nothing: that it returns says that there is a process, however long `begin` takes."""

    def begin(self, held: WorkerPayload, versions: Versions, n_threads: int) -> Begun:
        """Open what is to be held, unless folders are lacking. Raises FailedPrecondition where versions differ."""
        if versions != (here := Versions.here()):
            raise FailedPrecondition(
                f"the worker on {socket.gethostname()} runs Polysem {here.software} with index format "
                f"{here.index_format}, and the driver {versions.software} with {versions.index_format}; install one "
                "version everywhere"
            )
        if lacks := self.lacking(held):
            return Begun(lacks)
        os.environ["OMP_NUM_THREADS"] = str(n_threads)  # torch reads it when it is loaded, where it is needed at all
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(n_threads)
        folders = {name: self._place(name, folder) for name, folder in held.folders.items()}
        self._held, device = held.open(self._stack, folders)
        return Begun((), device, held.reaches())

    def lacking(self, held: WorkerPayload) -> tuple[str, ...]:
        """Names of folders that are neither where the driver has them nor sent."""
        return tuple(name for name, folder in held.folders.items() if not self._place(name, folder).is_dir())

    def _place(self, name: str, folder: Path) -> Path:
        """Return where the folder lies here: where the driver has it, or where it was sent."""
        sent = self._sent / name / folder.name
        return sent if sent.is_dir() or not folder.is_dir() else folder

    def expect(self, name: str) -> None:
        """A folder is to come; what is left of one that broke off goes."""
        shutil.rmtree(self._sent / f"{name}.partial", ignore_errors=True)

    def receive(self, name: str, folder: str, file: str, data: npt.NDArray[np.uint8]) -> None:
        """Append a block to a file of a folder that was lacking."""
        path = self._sent / f"{name}.partial" / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as out:
            out.write(data.tobytes())

    def received(self, name: str) -> None:
        """All of the folder is there."""
        (self._sent / f"{name}.partial").rename(self._sent / name)

    def answer(self, question: Callable[[Any], Any]) -> Any:
        """Return what the question makes of what is held."""
        return question(self._held)

    def make(self, compute: shards.Compute, taken: Any, path: Path, mark: Path) -> Any:
        """Make a shard: into a file beside its place, where this machine sees the driver's mark there, and returns the
        file's name; else returns references to its blocks."""
        with self._reading:
            arrays = compute(self._held, taken, lambda n: None)
        packed = shards.packed(arrays())
        if mark.exists():
            place = path.with_name(f"{path.name}.{os.getpid()}-{socket.gethostname()}")
            with shards.whole(place) as file:
                file.write(packed)
            return place.name
        import ray

        data = np.frombuffer(packed, np.uint8)
        return [ray.put(data[begin : begin + BLOCK_BYTES]) for begin in range(0, len(data), BLOCK_BYTES)]

    def leave(self) -> None:
        """Let go of what is held and remove what was sent."""
        self._stack.close()
        shutil.rmtree(self._sent, ignore_errors=True)
