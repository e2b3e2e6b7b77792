"""The workers of a Ray cluster: started, sent what they lack, replaced."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polysem.proto.errors import FailedPrecondition, InvalidArgument, PolysemError, Unavailable
from polysem.server.ray_cluster.worker import BLOCK_BYTES, Begun, Versions, Worker, WorkerPayload

TRIES = 3
LOOK_S = 5.0  # how often the cluster's size is asked for
Report = Callable[[str], None]


@dataclass(frozen=True)
class RayOptions:
    """Options of how a job uses a cluster.

    address  auto: the cluster that this machine is part of; local: one of this machine alone; or HOST:PORT
    gpus     of each worker, fractions allowed; None: 1 where the cluster has any, else 0
    workers  None: as many as the cluster has room for, now and later
    wait_s   how long there may be no worker at all
    shares   workers write shards themselves where they reach the driver's folder; else all goes through the driver
    """

    address: str = "auto"
    gpus: float | None = None
    workers: int | None = None
    wait_s: float = 300.0
    shares: bool = True

    def check(self) -> None:
        """Raise InvalidArgument for what cannot be."""
        if self.address.startswith("ray://"):
            raise InvalidArgument(
                f"the address {self.address!r} is of Ray's remote client, which carries no bulk work; run this command "
                "on the cluster, or with `ray job submit`",
                "ray_address",
            )
        if self.address not in ("auto", "local") and not self.address.rpartition(":")[2].isdecimal():
            raise InvalidArgument(
                f"the address {self.address!r} is neither auto nor local nor HOST:PORT", "ray_address"
            )
        if self.gpus is not None and not (self.gpus >= 0 and (self.gpus <= 1 or self.gpus == int(self.gpus))):
            raise InvalidArgument(f"a worker cannot have {self.gpus} GPUs; give 0 to 1, or a whole number", "ray_gpus")
        if self.workers is not None and self.workers < 1:
            raise InvalidArgument(f"{self.workers} workers can do nothing; give at least 1", "ray_workers")
        if not 0 < self.wait_s < float("inf"):
            raise InvalidArgument(f"ray_wait_s is {self.wait_s}; give more than 0 seconds", "ray_wait_s")


class WorkerPool:
    """The workers: started, sent what they lack, replaced.

    ready     those that can be given shards
    reaching  of them, those that reach the corpus themselves
    sharing   those that were seen to write into the folder of the shards
    changes   how often `ready` did
    """

    def __init__(self, ray: Any, held: WorkerPayload, options: RayOptions, report: Report) -> None:
        self._ray, self._held, self._options, self._report = ray, held, options, report
        self._worker = ray.remote(Worker)
        self._run = uuid.uuid4().hex
        self._versions = Versions.here()
        self.ready: dict[Any, None] = {}  # in the order that they came
        self.reaching: set[Any] = set()
        self.sharing: set[Any] = set()
        self.changes = 0
        self._arriving: dict[Any, Any] = {}  # by reference to what `Worker.arrive` returns
        self._arrived: set[Any] = set()  # those of them that have a process, and load what they are to hold
        self._beginning: dict[Any, Any] = {}  # by reference to what `Worker.begin` returns
        self._sending: dict[Future[None], Any] = {}  # workers that lack folders
        self._sender = ThreadPoolExecutor(1)  # one at a time, so that a second worker of a machine finds them there
        self._dismissed = False
        self._device = ""
        self._n_failed = 0
        self._room = 0
        self._looked = -LOOK_S
        self._alone_since = time.monotonic()

    def wait_for(self, n: int) -> str:
        """Wait until so many workers are ready; their device, cpu or cuda."""
        while True:
            self.staff()
            if len(self.ready) >= n:
                return self._device
            if self._beginning or self._sending:
                self.wait([])
            else:  # there is no room for so many
                time.sleep(1.0)

    def wait(self, references: list[Any]) -> list[Any]:
        """Return the answers that came within a second; workers that begin are seen to meanwhile."""
        if not (waiting := [*references, *self._arriving, *self._beginning]):
            wait(self._sending, timeout=1.0)
            return []
        # Of many some together: a wait takes the longer the more there are, and workers have more to do meanwhile.
        done, _ = self._ray.wait(waiting, num_returns=1 + len(waiting) // 50, timeout=1.0)
        for reference in [reference for reference in done if reference in self._arriving]:
            done.remove(reference)
            worker = self._arriving.pop(reference)
            with suppress(self._ray.exceptions.RayError):  # one that died is found by what it was to begin
                self._ray.get(reference)
                self._arrived.add(worker)
        for reference in [reference for reference in done if reference in self._beginning]:
            done.remove(reference)
            self._begun(reference)
        return list(done)

    def staff(self) -> None:
        """Start workers where there is room. Raises Unavailable where there has been none for too long."""
        now = time.monotonic()
        if self.ready or self._sending or self._arrived:
            self._alone_since = now
            if not self.ready:
                sent = f"a worker is sent {' and '.join(self._held.folders)}"
                self._report(sent if self._sending else "a worker loads what it needs")
        elif (alone := now - self._alone_since) > self._options.wait_s:
            raise Unavailable(self._nobody())
        elif alone > 1:
            self._report(f"waiting for a worker, {alone:.0f} s of {self._options.wait_s:g}")
        if now - self._looked >= LOOK_S:
            self._looked, self._room = now, self._options.workers or self._count_room()
        for future in [future for future in self._sending if future.done()]:
            self._sent(future)
        while len(self.ready) + len(self._beginning) + len(self._sending) < self._room:
            self._begin(self._worker.options(**self._asked, max_concurrency=2).remote(self._run))

    @property
    def _asked(self) -> dict[str, float]:
        """Resources of the cluster for one worker. Without a GPU a CPU for each thread, if a machine has as many."""
        gpus = self._options.gpus
        if gpus is None:
            gpus = 1 if self._ray.cluster_resources().get("GPU") else 0
        most = max(node["Resources"].get("CPU", 1) for node in self._ray.nodes() if node["Alive"])
        return {"num_cpus": 1 if gpus else min(_n_threads(), most), "num_gpus": gpus}

    def _count_room(self) -> int:
        """Workers that the cluster holds, at least one: it may be yet to come."""
        has, asked = self._ray.cluster_resources(), self._asked
        counts = [has.get("CPU", 0) // asked["num_cpus"]]
        if asked["num_gpus"]:
            counts.append(has.get("GPU", 0) // asked["num_gpus"])
        return max(int(min(counts)), 1)

    def _nobody(self) -> str:
        asked, has, free = self._asked, self._ray.cluster_resources(), self._ray.available_resources()
        gpus, cpus = (f"{has.get(kind, 0):g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("GPU", "CPU"))
        return (
            f"no worker came within {self._options.wait_s:g} s: each asks for {asked['num_gpus']:g} GPUs and "
            f"{asked['num_cpus']:g} CPUs, and the cluster has {gpus} and {cpus}; add machines, ask for less with "
            "--ray-gpus, or wait longer with --ray-wait-s; what is finished is kept"
        )

    def _begin(self, worker: Any) -> None:
        self._arriving[worker.arrive.remote()] = worker
        reference = worker.begin.remote(self._held, self._versions, _n_threads())
        self._beginning[reference] = worker

    def _begun(self, reference: Any) -> None:
        """A worker has begun, or says why not. Raises PolysemError where it must not work."""
        worker = self._beginning.pop(reference)
        self._arrived.discard(worker)
        self._arriving = {reference: other for reference, other in self._arriving.items() if other is not worker}
        try:
            answer: Begun = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._not_begun(worker, error)
            return
        if answer.lacks:
            self._sending[self._sender.submit(self._send, worker)] = worker
            return
        self._device = self._device or answer.device
        if answer.device != self._device:
            raise FailedPrecondition(
                f"some workers compute on {self._device} and others on {answer.device}, whose last digits differ; give "
                "all the same with --ray-gpus"
            )
        self._n_failed = 0
        self.ready[worker] = None
        self.changes += 1
        if answer.reaches:
            self.reaching.add(worker)

    def _not_begun(self, worker: Any, error: Exception) -> None:
        self._ray.kill(worker)
        why = cause(error)
        self._n_failed += 1
        if isinstance(why, PolysemError):
            raise why from None
        if self._n_failed >= TRIES and not self.ready:
            raise FailedPrecondition(f"workers cannot start: {first_line(why)}") from error

    def _send(self, worker: Any) -> None:
        """In the sender's thread: the files of folders that it lacks, a block at a time."""
        for name in self._ray.get(worker.lacking.remote(self._held)):  # by now: another of its machine may have them
            folder = self._held.folders[name]
            self._ray.get(worker.expect.remote(name))
            for path in _files(folder):
                file = path.relative_to(folder).as_posix()
                for block in _blocks(path):
                    if self._dismissed:
                        return
                    self._ray.get(worker.receive.remote(name, folder.name, file, block))
            self._ray.get(worker.received.remote(name))

    def _sent(self, future: Future[None]) -> None:
        worker = self._sending[future]
        try:
            future.result()
        except self._ray.exceptions.RayError as error:
            del self._sending[future]
            self._not_begun(worker, error)
        else:
            del self._sending[future]
            self._begin(worker)

    def lost(self, worker: Any) -> None:
        """It works no more; another takes its place while there is room."""
        if worker in self.ready:
            del self.ready[worker]
            self.changes += 1
            self._looked = -LOOK_S
            self._ray.kill(worker)

    def dismiss(self) -> None:
        """End all workers."""
        self._dismissed = True
        self._sender.shutdown(cancel_futures=True)
        leaving = [worker.leave.remote() for worker in (*self.ready, *self._sending.values())]
        with suppress(self._ray.exceptions.RayError):
            self._ray.wait(leaving, num_returns=len(leaving), timeout=10) if leaving else None
        for worker in (*self.ready, *self._beginning.values(), *self._sending.values()):
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(worker)


def cause(error: Exception) -> BaseException:
    """Return what went wrong in the worker, as far as Ray tells."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error


def first_line(error: BaseException) -> str:
    if isinstance(error, PolysemError):
        return error.message
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _files(folder: Path) -> list[Path]:
    """Return the folder's files, but for those of work that goes on in it: *.tmp/…"""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(at.suffix == ".tmp" for at in path.relative_to(folder).parents)
    )


def _blocks(path: Path) -> Iterator[Any]:
    """The file's bytes, some at a time; at least one block, so that an empty file is made too."""
    with path.open("rb") as file:
        block = file.read(BLOCK_BYTES)
        while True:
            yield np.frombuffer(block, np.uint8)
            if not (block := file.read(BLOCK_BYTES)):
                return


def _n_threads() -> int:
    """Return torch's number of threads, here and in every worker: the last digits of a product depend on it."""
    import torch

    return torch.get_num_threads()
