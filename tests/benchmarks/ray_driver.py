"""How far one driver goes: its own work for 100,000 shards on 1,000 workers. The workers are simulated.

python tests/benchmarks/ray_driver.py [--workers 1000] [--shards 100000] [--seconds 37] [--token-bytes 1048576]
                                      [--result-bytes 0]

The executor, its ledger and its files are the real ones. Ray's place is taken by a clock that jumps: a worker takes so
many seconds for a shard (a fifth more or less, one in 200 three times as long), and what the driver spends goes by
on the clock, too. What calls into Ray cost is measured first, on a real cluster of this machine: a call with the
tokens of a shard, one with their place, each with its result, and a wait on as many references as 1,000 workers have;
it is added to the driver's.

Defaults: a model of 7 billion parameters scans 256 contexts of 2,048 tokens, the least that a shard has
(docs/beyond-one-machine.md); workers read them from, and write shards into, a folder that they share with the driver.
--result-bytes: so many come through the driver instead, and tokens are sent.
"""

import argparse
import heapq
import itertools
import os
import random
import resource
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from polysem.proto.work.shards import Ledger, Shard, Stage
from polysem.server.index.contexts import ContextRange
from polysem.server.ray_cluster import driver
from polysem.server.ray_cluster.driver import AT_ONCE, RayExecutor
from polysem.server.ray_cluster.pool import RayOptions, WorkerPool
from polysem.server.ray_cluster.worker import BLOCK_BYTES, Begun

PLACE = ContextRange(Path("/data/an-index.tmp/contexts"), 1_000_000, 1_000_256)


class SimulatedRay:
    """What the executor asks of Ray, on a clock that jumps. spent: CPU seconds in here, which are not the driver's."""

    def __init__(self, n_workers: int, seconds: float, result_bytes: int) -> None:
        self._n_workers, self._seconds, self._result_bytes = n_workers, seconds, result_bytes
        self._random = random.Random(0)
        self._numbers = itertools.count()
        self._running: list[tuple[float, int]] = []  # when each reference is ready
        self._ready: set[int] = set()
        self._results: dict[int, Any] = {}
        self._loaded = np.zeros(BLOCK_BYTES, np.uint8)
        self._jumped = 0.0
        self.spent = 0.0
        self.n_waits = 0
        error = type("RayError", (Exception,), {})
        self.exceptions = SimpleNamespace(RayError=error, RayActorError=type("RayActorError", (error,), {}))

    def now(self) -> float:
        """Seconds on the clock: what was jumped over, and what the driver's own work took."""
        return self._jumped + time.perf_counter() - self.spent

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self._n_workers, "CPU": self._n_workers}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1}}]

    def remote(self, _class: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: SimulatedWorker(self)))

    def put(self, value: Any) -> Any:
        return value

    def kill(self, worker: Any) -> None:
        pass

    def begin(self, seconds: float, result: Any) -> int:
        number = next(self._numbers)
        self._results[number] = result
        heapq.heappush(self._running, (self.now() + seconds, number))
        return number

    def shard_seconds(self) -> float:
        return self._seconds * self._random.uniform(0.8, 1.2) * (3 if self._random.random() < 0.005 else 1)

    def shard_result(self, path: Path) -> Any:
        if not self._result_bytes:
            return f"{path.name}.made"
        n = -(-self._result_bytes // BLOCK_BYTES)
        return [("block", self._result_bytes // n)] * n

    def wait(self, references: list[int], num_returns: int = 1, timeout: float | None = None) -> Any:
        start = time.perf_counter()
        self.n_waits += 1
        if timeout and len(self._ready) < num_returns:
            due = heapq.nsmallest(num_returns - len(self._ready), self._running)
            until = due[-1][0] if len(due) == num_returns - len(self._ready) else float("inf")
            self._jumped += max(min(until - self.now(), timeout), 0)
        while self._running and self._running[0][0] <= self.now():
            self._ready.add(heapq.heappop(self._running)[1])
        done = list(itertools.islice((r for r in references if r in self._ready), num_returns))
        rest = [r for r in references if r not in self._ready]
        self.spent += time.perf_counter() - start
        return done, rest

    def get(self, reference: Any) -> Any:
        if isinstance(reference, tuple):
            return self._loaded[: reference[1]]
        self._ready.discard(reference)
        return self._results.pop(reference)


class SimulatedWorker:
    """Makes a shard's file at once and says so when its time has come; one shard after another."""

    def __init__(self, ray: SimulatedRay) -> None:
        self._ray, self._free_at = ray, 0.0
        self.begin = SimpleNamespace(remote=lambda *_: ray.begin(20.0, Begun((), "cuda")))
        self.arrive = SimpleNamespace(remote=lambda: ray.begin(0.0, None))
        self.leave = SimpleNamespace(remote=lambda: ray.begin(0.0, None))
        self.make = SimpleNamespace(remote=self._make)

    def _make(self, compute: Any, taken: Any, path: Path, mark: Path) -> int:
        start = time.perf_counter()
        result = self._ray.shard_result(path)
        if isinstance(result, str):
            path.with_name(result).touch()
        now = self._ray.now()
        self._free_at = max(self._free_at, now) + self._ray.shard_seconds()
        reference = self._ray.begin(self._free_at - now, result)
        self._ray.spent += time.perf_counter() - start
        return reference


class Nothing:
    @property
    def folders(self) -> dict[str, Path]:
        return {}

    def open(self, stack: ExitStack, folders: Any) -> tuple[Any, str]:
        return None, "cpu"

    def reaches(self) -> bool:
        return False


def calls_into_ray(n_references: int, token_bytes: int) -> tuple[float, float, float]:
    """CPU seconds of a call with tokens, of one with their place, and of a wait on so many references."""
    import ray

    class Echo:
        def make(self, taken: Any) -> str:
            return "a name"

        def sleep(self) -> None:
            time.sleep(3600)

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    try:
        actor, sleeper = (ray.remote(Echo).options(num_cpus=0).remote() for _ in range(2))
        tokens, calls, n = np.zeros(token_bytes, np.uint8), [], 300
        for take in (tokens.copy, lambda: PLACE):
            ray.get(actor.make.remote(take()))
            start = time.process_time()
            for _ in range(n):
                ray.get(actor.make.remote(take()))
            calls.append((time.process_time() - start) / n)
        pending = [sleeper.sleep.remote() for _ in range(n_references)]
        waits = []
        for _ in range(20):
            start = time.process_time()
            ray.wait(pending, num_returns=len(pending), timeout=0)
            waits.append(time.process_time() - start)
        return *calls, statistics.median(waits)
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=37.0)
    parser.add_argument("--token-bytes", type=int, default=1 << 20)
    parser.add_argument("--result-bytes", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    sent_s, named_s, wait_s = calls_into_ray(arguments.workers * AT_ONCE, arguments.token_bytes)
    print(f"Ray: {sent_s * 1e3:.2f} ms of CPU a call with tokens and its result, {named_s * 1e3:.2f} with their place, "
          f"{wait_s * 1e3:.1f} a wait on all references")  # fmt: skip
    ray = SimulatedRay(arguments.workers, arguments.seconds, arguments.result_bytes)
    driver.time = SimpleNamespace(monotonic=ray.now)  # type: ignore[attr-defined]
    tokens = np.zeros(arguments.token_bytes, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        shards = [Shard(i, i + 1, Path(folder) / f"scan-{i:09d}.npz") for i in range(arguments.shards)]
        n_sent = 0

        def send(shard: Shard) -> Any:
            nonlocal n_sent
            n_sent += 1
            return tokens.copy()

        stage = Stage(shards, lambda shard: PLACE, None, lambda n: None, lambda shard: 1, send, True)  # type: ignore[arg-type]
        ledger = Ledger(Path(folder))
        pool = WorkerPool(ray, Nothing(), RayOptions(gpus=1), lambda status: None)
        before, began = resource.getrusage(resource.RUSAGE_SELF), ray.now()
        RayExecutor(ray, pool, True, lambda status: None).finish(ledger, stage)
        run_s = ray.now() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        ledger.close()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - ray.spent
    ideal_s = arguments.shards * arguments.seconds / arguments.workers
    calls_s = n_sent * sent_s + (arguments.shards - n_sent) * named_s + ray.n_waits * wait_s
    print(f"run on the clock: {run_s:,.0f} s, {ideal_s / run_s:.0%} of the workers' time used")
    print(f"driver: {cpu_s:,.0f} s of CPU of its own ({cpu_s / arguments.shards * 1e3:.2f} ms a shard)")
    print(f"calls into Ray, from what one costs: {calls_s:,.0f} s ({n_sent:,} with tokens; {ray.n_waits:,} waits)")
    print(f"both together: {(cpu_s + calls_s) / run_s:.1%} of the run; memory grew by "
          f"{(after.ru_maxrss - before.ru_maxrss) / 1024:,.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
