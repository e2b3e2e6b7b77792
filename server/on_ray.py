"""The shards of a job on the workers of a Ray cluster: a pull loop over `ray.wait`.

This process, the driver, alone writes the ledger and what comes of the job. A worker is an actor that holds what the
stages need (server/ray_worker.py). It is given a shard when it has given back another, so that memory is bounded on
both sides. A shard is tried three times, wherever; a worker that dies is replaced while the cluster has room.
"""

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polysem.proto.errors import FailedPrecondition, InvalidArgument, PolysemError, Unavailable
from polysem.proto.work import shards
from polysem.proto.work.shards import Ledger, Shard, Stage
from polysem.server.ray_worker import PIECE_BYTES, Begun, Held, Versions, Worker

AT_ONCE = 3  # shards of a worker: one is read, one packed, one on its way
TRIES = 3
WRITERS = 4
LOOK_S = 5.0  # how often the cluster's size is asked for
Tell = Callable[[str], None]


@dataclass(frozen=True)
class RayOptions:
    """How a job uses a cluster.

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


@contextmanager
def on_ray(held: Held, options: RayOptions, tell: Tell = lambda status: None) -> Iterator["OnRay"]:
    """Workers of a cluster that hold that, until it is left.

    Raises InvalidArgument, FailedPrecondition where Ray is not installed, Unavailable where there is no such cluster.
    """
    options.check()
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, options.address)
    try:
        crew = Crew(ray, held, options, tell)
        try:
            yield OnRay(ray, crew, options.shares, tell)
        finally:
            crew.dismiss()
    finally:
        if mine:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by itself, and warns of
    try:
        import ray
    except ModuleNotFoundError as error:
        raise FailedPrecondition("to run on a Ray cluster install Ray: pip install 'polysem[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    try:
        if address not in ("auto", "local"):  # Ray itself would try for five minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        where = "this machine is part of no Ray cluster" if address == "auto" else f"no Ray cluster is at {address!r}"
        why = "" if address == "auto" else f" ({_first_line(error)})"
        raise Unavailable(
            f"{where}{why}; start one with `ray start --head`, or give --ray-address local to use this machine alone"
        ) from error


class Crew:
    """The workers: started, sent what they lack, replaced.

    ready     those that can be given shards
    reaching  of them, those that reach the corpus themselves
    sharing   those that were seen to write into the folder of the shards
    changes   how often `ready` did
    """

    def __init__(self, ray: Any, held: Held, options: RayOptions, tell: Tell) -> None:
        self._ray, self._held, self._options, self._tell = ray, held, options, tell
        self._worker = ray.remote(Worker)
        self._run = uuid.uuid4().hex
        self._versions = Versions.here()
        self.ready: dict[Any, None] = {}  # in the order that they came
        self.reaching: set[Any] = set()
        self.sharing: set[Any] = set()
        self.changes = 0
        self._beginning: dict[Any, Any] = {}  # by reference to what `Worker.begin` returns
        self._sending: dict[Future[None], Any] = {}  # workers that lack folders
        self._sender = ThreadPoolExecutor(1)  # one at a time, so that a second worker of a machine finds them there
        self._dismissed = False
        self._device = ""
        self._n_failed = 0
        self._room = 0
        self._looked = -LOOK_S
        self._alone_since = time.monotonic()

    def gather(self, n: int) -> str:
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
        """Those that came within a second; workers that begin are seen to meanwhile."""
        if not (waiting := [*references, *self._beginning]):
            wait(self._sending, timeout=1.0)
            return []
        # Of many some together: a wait takes the longer the more there are, and workers have more to do meanwhile.
        done, _ = self._ray.wait(waiting, num_returns=1 + len(waiting) // 50, timeout=1.0)
        for reference in [reference for reference in done if reference in self._beginning]:
            done.remove(reference)
            self._begun(reference)
        return list(done)

    def staff(self) -> None:
        """Start workers where there is room. Raises Unavailable where there has been none for too long."""
        now = time.monotonic()
        if self.ready or self._sending:
            self._alone_since = now
            if not self.ready:
                self._tell(f"a worker is sent {' and '.join(self._held.folders)}")
        elif (alone := now - self._alone_since) > self._options.wait_s:
            raise Unavailable(self._nobody())
        elif alone > 1:
            self._tell(f"waiting for a worker, {alone:.0f} s of {self._options.wait_s:g}")
        if now - self._looked >= LOOK_S:
            self._looked, self._room = now, self._options.workers or self._count_room()
        for future in [future for future in self._sending if future.done()]:
            self._sent(future)
        while len(self.ready) + len(self._beginning) + len(self._sending) < self._room:
            self._begin(self._worker.options(**self._asked, max_concurrency=2).remote(self._run))

    @property
    def _asked(self) -> dict[str, float]:
        """Of the cluster for one worker. Without a GPU a CPU for each of its threads, as far as a machine has them."""
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
        reference = worker.begin.remote(self._held, self._versions, _n_threads())
        self._beginning[reference] = worker

    def _begun(self, reference: Any) -> None:
        """A worker has begun, or says why not. Raises PolysemError where it must not work."""
        worker = self._beginning.pop(reference)
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
            raise FailedPrecondition(f"workers cannot start: {_first_line(why)}") from error

    def _send(self, worker: Any) -> None:
        """In the sender's thread: the files of folders that it lacks, a piece at a time."""
        for name in self._ray.get(worker.lacking.remote(self._held)):  # by now: another of its machine may have them
            folder = self._held.folders[name]
            self._ray.get(worker.expect.remote(name))
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                file = path.relative_to(folder).as_posix()
                for piece in _pieces(path):
                    if self._dismissed:
                        return
                    self._ray.get(worker.receive.remote(name, folder.name, file, piece))
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


class OnRay:
    """The executor (`polysem.proto.work.shards.Executor`).

    device  kind of the workers', cpu or cuda; asking waits for the first
    """

    def __init__(self, ray: Any, crew: Crew, shares: bool, tell: Tell) -> None:
        self._ray, self._crew, self._shares, self._tell = ray, crew, shares, tell

    @property
    def device(self) -> str:
        return self.gather(1)

    def gather(self, n: int) -> str:
        """Wait until so many workers are ready; their device."""
        return self._crew.gather(n)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What a worker answers of what it holds; waits for the first, and asks another where that dies."""
        while True:
            self.gather(1)
            worker = next(iter(self._crew.ready))
            try:
                return self._ray.get(worker.answer.remote(question))
            except self._ray.exceptions.RayActorError:
                self._crew.lost(worker)

    def finish(self, ledger: Ledger, stage: Stage) -> None:
        """Make what is not done yet; all that can be is, and then FailedPrecondition names what failed three times.

        Raises Unavailable where no worker came for too long, PolysemError where one must not work (another version,
        model or index).
        """
        pull = _Pull(self._ray, self._crew, ledger, stage, self._tell)
        if not pull.todo:
            return
        # seen by workers that share the folder
        mark = pull.todo[0].path.with_name(f"reached-{uuid.uuid4().hex}").absolute()
        if self._shares:
            mark.touch()
        try:
            pull.run(mark)
        finally:
            mark.unlink(missing_ok=True)


class _Pull:
    """One stage: what is to do, who is at it, what came back."""

    def __init__(self, ray: Any, crew: Crew, ledger: Ledger, stage: Stage, tell: Tell) -> None:
        self._ray, self._crew, self._ledger, self._stage, self._tell = ray, crew, ledger, stage, tell
        # worker, shard and share of the worker's room, by reference to what `Worker.make` returns
        self._busy: dict[Any, tuple[Any, Shard, int]] = {}
        self._loads: dict[Any, int] = {}  # of AT_ONCE, what each worker has
        self._with_room: dict[Any, None] = {}  # workers that have not AT_ONCE, in the order that they came
        self._changes = -1
        self._saving: dict[Future[None], Shard] = {}
        self._tries: dict[Shard, int] = {}
        self._failed: dict[Shard, str] = {}
        self._n_done = 0
        self.todo: deque[Shard] = deque()
        for shard in stage.shards:
            if ledger.has(shard):
                self._done(shard)
            else:
                self.todo.append(shard)

    def run(self, mark: Path) -> None:
        self._compute, self._mark = self._ray.put(self._stage.compute), mark
        with ThreadPoolExecutor(WRITERS) as self._writers:
            while self.todo or self._busy or self._saving:
                self._step()
        if self._failed:
            raise FailedPrecondition(self._told_failed())

    def _step(self) -> None:
        self._stage.advance(0)  # whoever is told may have had enough
        self._crew.staff()
        self._hand_out()
        for reference in self._crew.wait(list(self._busy)):
            self._back(reference)
        self._saved()

    def _hand_out(self) -> None:
        """Give shards to workers that have room, evenly; one that failed before goes alone, and takes none with it."""
        if self._changes != self._crew.changes:
            self._changes = self._crew.changes
            self._with_room = {w: None for w in self._crew.ready if self._loads.get(w, 0) < AT_ONCE}
        for load in range(AT_ONCE):
            for worker in list(self._with_room):
                if not self.todo:
                    return
                share = AT_ONCE if self.todo[0] in self._tries else 1
                if self._loads.get(worker, 0) == load <= AT_ONCE - share:
                    shard = self.todo.popleft()
                    taken = self._taken(worker, shard)
                    reference = worker.make.remote(self._compute, taken, shard.path.absolute(), self._mark)
                    self._busy[reference] = worker, shard, share
                    self._loads[worker] = load + share
                    if load + share == AT_ONCE:
                        del self._with_room[worker]

    def _taken(self, worker: Any, shard: Shard) -> Any:
        reaching = self._crew.sharing if self._stage.beside else self._crew.reaching
        take = self._stage.take if worker in reaching else self._stage.instead
        return (take or self._stage.take)(shard)

    def _back(self, reference: Any) -> None:
        worker, shard, share = self._busy.pop(reference)
        self._loads[worker] -= share
        if worker in self._crew.ready:
            self._with_room[worker] = None
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._crew.sharing.discard(worker)
            if isinstance(error, self._ray.exceptions.RayActorError):
                self._crew.lost(worker)
            self._again(shard, error)
            return
        if isinstance(result, str):
            self._crew.sharing.add(worker)
        self._saving[self._writers.submit(self._save, shard, result)] = shard
        if len(self._saving) >= 2 * WRITERS:
            wait(self._saving, return_when="FIRST_COMPLETED")

    def _save(self, shard: Shard, result: Any) -> None:
        """In a writer's thread: the shard's file, whole."""
        if isinstance(result, str):
            shard.path.with_name(result).rename(shard.path)
            return
        with shards.whole(shard.path) as file:
            for piece in result:
                file.write(self._ray.get(piece))

    def _saved(self) -> None:
        """Record the shards whose files are there, in one go: a commit waits for the disk."""
        if self._saving and not self._busy and not self.todo:
            wait(self._saving, return_when="FIRST_COMPLETED")
        saved = []
        for future in [future for future in self._saving if future.done()]:
            shard = self._saving.pop(future)
            try:
                future.result()
            except self._ray.exceptions.RayError as error:  # its pieces are lost with a machine
                self._again(shard, error)
            else:
                saved.append(shard)
        if saved:
            self._ledger.record(*saved)
        for shard in saved:
            self._done(shard)

    def _done(self, shard: Shard) -> None:
        self._n_done += 1
        self._stage.advance(self._stage.size(shard))
        self._say()

    def _again(self, shard: Shard, error: Exception) -> None:
        """Try the shard again, unless it failed too often."""
        self._tries[shard] = self._tries.get(shard, 0) + 1
        if self._tries[shard] < TRIES:
            self.todo.append(shard)
        else:
            self._failed[shard] = _first_line(cause(error))
        self._say()

    def _say(self) -> None:
        n_tries = sum(self._tries.values())
        self._tell(
            f"{self._n_done:,}/{len(self._stage.shards):,} shards, workers: {len(self._crew.ready):,}"
            + (f", failed tries: {n_tries:,}" if n_tries else "")
        )

    def _told_failed(self) -> str:
        named = "; ".join(
            f"{shard.first:,} to {shard.last - 1:,} ({error})" for shard, error in list(self._failed.items())[:5]
        )
        return (
            f"{len(self._failed):,} of {len(self._stage.shards):,} shards failed {TRIES} times each: {named}"
            f"{'; …' if len(self._failed) > 5 else ''}. The others are finished and kept, and the same command tries "
            "these again"
        )


def cause(error: Exception) -> BaseException:
    """What went wrong in the worker, as far as Ray tells."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error


def _first_line(error: BaseException) -> str:
    if isinstance(error, PolysemError):
        return error.message
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _pieces(path: Path) -> Iterator[Any]:
    """The file's bytes, some at a time; at least one piece, so that an empty file is made too."""
    with path.open("rb") as file:
        piece = file.read(PIECE_BYTES)
        while True:
            yield np.frombuffer(piece, np.uint8)
            if not (piece := file.read(PIECE_BYTES)):
                return


def _n_threads() -> int:
    """Of torch, here and in every worker: the last digits of a product depend on it."""
    import torch

    return torch.get_num_threads()
