"""The shards of a job on the workers of a Ray cluster: a pull loop over `ray.wait`.

This process, the driver, alone writes the ledger and what comes of the job. A worker is an actor that holds what the
stages need (worker.py). It is given a shard when it has given back another, so that memory is bounded on both sides. A
shard is tried three times, wherever; a worker that dies is replaced while the cluster has room (pool.py).
"""

import os
import socket
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition, Unavailable
from polysem.proto.work import shards
from polysem.proto.work.shards import Ledger, Shard, Stage
from polysem.server.ray_cluster.pool import (
    TRIES,
    RayOptions,
    Report,
    WorkerPool,
    cause,
    first_line,
)
from polysem.server.ray_cluster.worker import WorkerPayload

AT_ONCE = 3  # shards of a worker: one is read, one packed, one on its way
WRITERS = 4


@contextmanager
def ray_executor(
    held: WorkerPayload, options: RayOptions, report: Report = lambda status: None
) -> Iterator["RayExecutor"]:
    """Workers of a cluster that hold that, until it is left.

    Raises InvalidArgument, FailedPrecondition where Ray is not installed, Unavailable where there is no such cluster.
    """
    options.check()
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, options.address)
    try:
        pool = WorkerPool(ray, held, options, report)
        try:
            yield RayExecutor(ray, pool, options.shares, report)
        finally:
            pool.dismiss()
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
        why = "" if address == "auto" else f" ({first_line(error)})"
        raise Unavailable(
            f"{where}{why}; start one with `ray start --head`, or give --ray-address local to use this machine alone"
        ) from error


class RayExecutor:
    """The executor (`polysem.proto.work.shards.Executor`).

    device  kind of the workers', cpu or cuda; asking waits for the first
    """

    def __init__(self, ray: Any, pool: WorkerPool, shares: bool, report: Report) -> None:
        self._ray, self._pool, self._shares, self._report = ray, pool, shares, report

    @property
    def device(self) -> str:
        return self.wait_for(1)

    def wait_for(self, n: int) -> str:
        """Wait until so many workers are ready; their device."""
        return self._pool.wait_for(n)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """Return what a worker answers of what it holds; waits for the first, and asks another where that dies."""
        while True:
            self.wait_for(1)
            worker = next(iter(self._pool.ready))
            try:
                return self._ray.get(worker.answer.remote(question))
            except self._ray.exceptions.RayActorError:
                self._pool.lost(worker)

    def finish(self, ledger: Ledger, stage: Stage) -> None:
        """Make what is not done yet; all that can be is, and then FailedPrecondition names what failed three times.

        Raises Unavailable where no worker came for too long, PolysemError where one must not work (another version,
        model or index).
        """
        run = _StageRun(self._ray, self._pool, ledger, stage, self._report)
        if not run.todo:
            return
        # seen by workers that share the folder
        mark = run.todo[0].path.with_name(f"reached-{uuid.uuid4().hex}").absolute()
        if self._shares:
            mark.touch()
        try:
            run.run(mark)
        finally:
            mark.unlink(missing_ok=True)


class _StageRun:
    """One stage: what is to do, who is at it, what came back."""

    def __init__(self, ray: Any, pool: WorkerPool, ledger: Ledger, stage: Stage, report: Report) -> None:
        self._ray, self._pool, self._ledger, self._stage, self._report = ray, pool, ledger, stage, report
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
            raise FailedPrecondition(self._failures())

    def _step(self) -> None:
        self._stage.advance(0)  # whoever is told may have had enough
        self._pool.staff()
        self._hand_out()
        for reference in self._pool.wait(list(self._busy)):
            self._back(reference)
        self._saved()

    def _hand_out(self) -> None:
        """Give shards to workers that have room, evenly; one that failed before goes alone, and takes none with it."""
        if self._changes != self._pool.changes:
            self._changes = self._pool.changes
            self._with_room = {w: None for w in self._pool.ready if self._loads.get(w, 0) < AT_ONCE}
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
        reaching = self._pool.sharing if self._stage.beside else self._pool.reaching
        take = self._stage.take if worker in reaching else self._stage.instead
        return (take or self._stage.take)(shard)

    def _back(self, reference: Any) -> None:
        worker, shard, share = self._busy.pop(reference)
        self._loads[worker] -= share
        if worker in self._pool.ready:
            self._with_room[worker] = None
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._pool.sharing.discard(worker)
            if isinstance(error, self._ray.exceptions.RayActorError):
                self._pool.lost(worker)
            self._again(shard, error)
            return
        if isinstance(result, str):
            self._pool.sharing.add(worker)
        self._saving[self._writers.submit(self._save, shard, result)] = shard
        if len(self._saving) >= 2 * WRITERS:
            wait(self._saving, return_when="FIRST_COMPLETED")

    def _save(self, shard: Shard, result: Any) -> None:
        """In a writer's thread: the shard's file, whole."""
        if isinstance(result, str):
            shard.path.with_name(result).rename(shard.path)
            return
        with shards.whole(shard.path) as file:
            for block in result:
                file.write(self._ray.get(block))

    def _saved(self) -> None:
        """Record the shards whose files are there, in one go: a commit waits for the disk."""
        if self._saving and not self._busy and not self.todo:
            wait(self._saving, return_when="FIRST_COMPLETED")
        saved = []
        for future in [future for future in self._saving if future.done()]:
            shard = self._saving.pop(future)
            try:
                future.result()
            except self._ray.exceptions.RayError as error:  # its blocks are lost with a machine
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
            self._failed[shard] = first_line(cause(error))
        self._say()

    def _say(self) -> None:
        n_tries = sum(self._tries.values())
        self._report(
            f"{self._n_done:,}/{len(self._stage.shards):,} shards, workers: {len(self._pool.ready):,}"
            + (f", failed tries: {n_tries:,}" if n_tries else "")
        )

    def _failures(self) -> str:
        named = "; ".join(
            f"{shard.first:,} to {shard.last - 1:,} ({error})" for shard, error in list(self._failed.items())[:5]
        )
        return (
            f"{len(self._failed):,} of {len(self._stage.shards):,} shards failed {TRIES} times each: {named}"
            f"{'; …' if len(self._failed) > 5 else ''}. The others are finished and kept, and the same command tries "
            "these again"
        )
