"""All callers' work through one worker thread a device, joined where it is alike.

A request is refused at once where the queue, its key's cap or its key's quota is full. Each round takes one class
(interactive before bulk, which has a turn a second even so), of it the key that has been served the least cost, and of
its requests the one that has waited longest since it was last served. Every request with equal work joins it; together
they fill a batch of at most `max_batch_cost`, shared evenly by keys and then by requests: a small request rides along
with a large one. What batches took keeps the next bulk ones to about `bulk_batch_ms`, and interactive ones, while
several keys ask, to `shared_batch_ms`. A caller that leaves takes its remaining work with it. A caller that does not
read is passed over until it does.

Several devices hold a copy of the model each. A worker takes the next batch when it is done with one, so all of them
serve one queue and one fair share. A request's answers come in the order of its items, whichever batch ends first.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import Overloaded, QuotaExceeded
from polysem.proto.facts import Timing
from polysem.proto.wire import columns
from polysem.proto.wire.columns import AnyBatch
from polysem.server.questions import memory
from polysem.server.questions.engine import Work
from polysem.server.serving.callers import ANYONE, Caller, Class, Company, seconds_to_midnight
from polysem.server.serving.metrics import Metrics

MAX_UNREAD = 2  # answers that may wait for a caller
BULK_TURN_S = 1.0  # bulk work that waited so long gets one batch before interactive work
NEW_NS = 250_000_000  # a request is new for so long
MAX_LAG = 8  # batches that a key may catch up on those served meanwhile
RETRY_AFTER_S = (0.5, 5.0)  # least and most; gRPC's clients come back four times

Reason = Literal["full", "waited", "idle"]  # see Batcher._next_batch


class Served(NamedTuple):
    """The next items' answers, in the order asked."""

    batch: AnyBatch
    timing: Timing


class Worker(NamedTuple):
    """A device's thread: what it does first, and how it does a work, by its own copy of the model."""

    begin: Callable[[], None] | None = None
    copy: Callable[[Work], Work] = lambda work: work


@dataclass(eq=False)
class _Request:
    work: Work
    items: IntArray
    ends: Array  # (M + 1,): cost of the first m items together
    caller: Caller
    arrived_ns: int
    max_unread: int = MAX_UNREAD
    done: int = 0  # items taken into batches so far
    at_work: dict[int, Served | Exception | None] = field(default_factory=dict)  # by first item, in the items' order
    answers: asyncio.Queue[Served | Exception] = field(default_factory=asyncio.Queue)

    @property
    def ready(self) -> bool:
        return self.done < len(self.items) and self.answers.qsize() + len(self.at_work) < self.max_unread

    def answer(self, first: int, answer: Served | Exception) -> None:
        """Hand out what came of the batch from item `first` on, behind those before it."""
        self.at_work[first] = answer
        while self.at_work and (ready := next(iter(self.at_work.values()))) is not None:
            del self.at_work[next(iter(self.at_work))]
            self.answers.put_nowait(ready)

    @property
    def left(self) -> float:
        """Cost of the items not yet taken."""
        return float(self.ends[-1] - self.ends[self.done])

    def fitting(self, room: float) -> int:
        """Count how many of the next items cost at most `room` together."""
        return int(np.searchsorted(self.ends[self.done + 1 :], self.ends[self.done] + room, side="right"))

    def cost(self, n: int) -> float:
        """Return the cost of the next n items."""
        return float(self.ends[self.done + n] - self.ends[self.done])


class _Taken(NamedTuple):
    request: _Request
    first: int
    last: int
    cost: float


class _Batch(NamedTuple):
    parts: list[_Taken]
    reason: Reason
    limit: float

    @property
    def class_(self) -> Class:
        return self.parts[0].request.caller.class_

    @property
    def cost(self) -> float:
        return sum(part.cost for part in self.parts)


class _Shares:
    """Cost served to each key of a class: the next to serve is the one with the least.

    A key that comes, or comes back, begins level with those that are being served, so being away earns nothing.
    """

    def __init__(self, max_lag: float) -> None:
        self._served: dict[str, float] = {}
        self._level = 0.0  # of the last key chosen
        self._max_lag = max_lag

    def of(self, share: str) -> float:
        return max(self._served.get(share, 0.0), self._level - self._max_lag)

    def enter(self, share: str) -> None:
        """A key without requests has one."""
        if len(self._served) > 1000:
            self._served = {share: cost for share, cost in self._served.items() if cost > self._level - self._max_lag}
        self._served[share] = max(self.of(share), self._level)

    def choose(self, ready: list[_Request]) -> _Request:
        """Return the first request of the key that was served least; of equal keys the first."""
        lead = min(ready, key=lambda request: self.of(request.caller.share))
        self._level = max(self._level, self.of(lead.caller.share))
        return lead

    def charge(self, share: str, cost: float) -> None:
        self._served[share] = self.of(share) + cost


class Batcher:
    """Lives in one event loop, from `start` to `close`.

    max_batch_cost   n_examples² · d_model of one batch
    max_requests     with unfinished work, all callers together
    max_queued_cost  of work not yet begun; one request may exceed it where nothing else waits
    max_wait_ms      how long a batch that is not full waits for others to join
    bulk_batch_ms    what a bulk batch should take on the device
    shared_batch_ms  what an interactive one should take while several keys ask; None: they have no other limit
    workers          one a device
    """

    def __init__(
        self,
        max_batch_cost: float,
        max_requests: int,
        max_queued_cost: float = float("inf"),
        max_wait_ms: float = 0.0,
        bulk_batch_ms: float = 20.0,
        shared_batch_ms: float | None = None,
        metrics: Metrics | None = None,
        workers: Sequence[Worker] = (Worker(),),
    ) -> None:
        self.max_batch_cost = max_batch_cost
        self.max_requests = max_requests
        self.max_queued_cost = max_queued_cost
        self.max_wait_ms = max_wait_ms
        self.bulk_batch_ms = bulk_batch_ms
        self._shared_batch_ms = shared_batch_ms
        self.metrics = metrics or Metrics()
        self._requests: list[_Request] = []  # longest unserved first
        self._shares: dict[Class, _Shares] = {
            "interactive": _Shares(MAX_LAG * max_batch_cost),
            "bulk": _Shares(MAX_LAG * max_batch_cost),
        }
        self._bulk_served_ns = 0
        self._rate = max_batch_cost / 0.02  # cost done in a second, lately
        self._rates: dict[tuple[Class, type], float] = {}  # the same by their class and kind of work
        self._company = Company()
        self._wake = asyncio.Event()
        self._workers = workers
        self._threads = [
            ThreadPoolExecutor(1, "polysem-worker" if not i else f"polysem-worker-{i}", worker.begin)
            for i, worker in enumerate(workers)
        ]
        self.metrics.gauge("queued_requests", "Requests with unfinished work", "class", self._count)
        self.metrics.gauge("queued_cost", "Cost not yet begun", "class", self._queued_cost)
        self.metrics.gauge("oldest_seconds", "Age of the oldest request with unfinished work", "class", self._oldest_s)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._dispatchers = [asyncio.create_task(self._dispatch(i)) for i in range(len(self._workers))]

    async def close(self) -> None:
        """Stop after the batches at work; requests still waiting get no more answers."""
        for dispatcher in self._dispatchers:
            dispatcher.cancel()
        await asyncio.gather(*self._dispatchers, return_exceptions=True)
        for thread in self._threads:
            thread.shutdown()

    def between_batches(self, run: Callable[[], None], caller: Caller = ANYONE, cost: float = 0.0) -> None:
        """Run something else on the first worker's thread, once its batch is done; waits, so never in the event loop.

        Raises QuotaExceeded where the caller has not so much cost left today.
        """
        self._check_quota(caller, cost, 0.0)
        self._threads[0].submit(run).result()
        self._loop.call_soon_threadsafe(self._charge, caller, cost)

    async def stream(self, work: Work, items: IntArray, caller: Caller = ANYONE) -> AsyncIterator[Served]:
        """The answers to all items, in their order, as they are ready; raises Overloaded or QuotaExceeded at once."""
        ends = np.concatenate([[0.0], np.cumsum(work.costs(items))])
        most = MAX_UNREAD + len(self._workers) - 1  # one more for each that may be at work
        request = _Request(work, items, ends, caller, time.monotonic_ns(), most)
        self._company.met(caller.share)
        self._admit(request)
        self._requests.append(request)
        self._wake.set()
        delivered = 0
        try:
            while delivered < len(items):
                answer = await request.answers.get()
                self._wake.set()
                if isinstance(answer, Exception):
                    raise answer
                delivered += columns.n_items(answer.batch)
                yield answer
        finally:
            self._requests.remove(request)

    def computed_for(self) -> set[str]:
        """Return the shares that have an interactive request of which a caller waits for the first answers."""
        since_ns = time.monotonic_ns() - NEW_NS
        return {
            request.caller.share
            for request in self._requests
            if request.caller.class_ == "interactive" and request.arrived_ns > since_ns
        }

    # ---- Who may wait

    def _admit(self, request: _Request) -> None:
        caller = request.caller
        if len(self._requests) >= self.max_requests:
            raise self._refusal("requests", f"{self.max_requests} requests are being served already")
        queued = sum(other.left for other in self._requests)
        if queued > 0 and queued + request.left > self.max_queued_cost:
            raise self._refusal("cost", f"cost {queued:.3g} waits already, of {self.max_queued_cost:.3g} at most")
        own = [other for other in self._requests if other.caller.share == caller.share]
        in_flight = sum(other.caller.max_in_flight is not None for other in own)  # a job's do not count
        if caller.max_in_flight is not None and in_flight >= caller.max_in_flight:
            most = f"of {caller.max_in_flight} at most"
            raise self._refusal("key", f"your key has {in_flight} requests in flight, {most}")
        self._check_quota(caller, request.left, sum(other.left for other in own))
        if not any(other.caller.class_ == caller.class_ for other in own):
            self._shares[caller.class_].enter(caller.share)

    def _check_quota(self, caller: Caller, cost: float, queued: float) -> None:
        account = caller.account
        if account.daily_quota is None:
            return
        taken = account.spent() + queued
        if taken + cost > account.daily_quota:
            self.metrics.refusals.labels("quota").inc()
            if cost > account.daily_quota:
                raise QuotaExceeded(
                    f"your key may use cost {account.daily_quota:.3g} a day, and this request needs {cost:.3g}, which "
                    "never fits: ask for less at once",
                    seconds_to_midnight(),
                )
            raise QuotaExceeded(
                f"your key may use cost {account.daily_quota:.3g} a day, {taken:.3g} is taken, and this request "
                f"needs {cost:.3g}; ask for less, or come back after midnight UTC",
                seconds_to_midnight(),
            )

    def _refusal(self, reason: str, message: str) -> Overloaded:
        self.metrics.refusals.labels(reason).inc()
        least, most = RETRY_AFTER_S
        waiting_s = sum(other.left for other in self._requests) / max(self._rate * len(self._workers), 1.0)
        after_s = random.uniform(1.0, 1.5) * min(max(waiting_s / 4, least), most)  # spread: not all come at once
        return Overloaded(f"{message}; try again in {after_s:.1f} s", after_s)

    # ---- Which work is next

    def _next_batch(self) -> _Batch | None:
        """The batch to run next; its reason: full, all that is alike (idle), or that after `max_wait_ms` (waited)."""
        ready = [request for request in self._requests if request.ready]
        if not ready:
            return None
        class_ = self._next_class(ready)
        ready = [request for request in ready if request.caller.class_ == class_]
        lead = self._shares[class_].choose(ready)
        alike = [request for request in ready if request.work == lead.work]
        limit = self._limit(class_, lead.work)
        small = sum(request.left for request in alike if request.left <= limit)
        limit = min(limit + small, self.max_batch_cost)  # small ones ride along
        parts = _filled(alike, lead, limit)
        taken = {part.request: part.last for part in parts}
        full = any(taken.get(request, request.done) < len(request.items) for request in alike)
        return _Batch(parts, "full" if full else "waited" if self.max_wait_ms else "idle", limit)

    def _next_class(self, ready: list[_Request]) -> Class:
        classes = {request.caller.class_ for request in ready}
        if len(classes) == 1:
            return classes.pop()
        return "bulk" if time.monotonic_ns() - self._bulk_served_ns > BULK_TURN_S * 1e9 else "interactive"

    def _limit(self, class_: Class, work: Work) -> float:
        """Return what work of this kind costs in the time that a batch of the class may take, as far as is known."""
        ms = self.bulk_batch_ms if class_ == "bulk" else self._shared_batch_ms if self._company else None
        if ms is None:
            return self.max_batch_cost
        rate = self._rates.get((class_, type(work)))
        if rate is None:
            return self.max_batch_cost / 8
        return min(max(rate * ms / 1e3, self.max_batch_cost / 64), self.max_batch_cost)

    # ---- The workers

    async def _dispatch(self, worker: int) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._next_batch():
                if (wait_s := self._wait_s(batch)) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), wait_s)
                    self._wake.clear()
                    continue
                self._take(batch)
                await self._run(batch, worker)

    def _wait_s(self, batch: _Batch) -> float:
        """Return how long the batch may yet wait for others to join."""
        if batch.reason != "waited":
            return 0.0
        oldest_ns = min(part.request.arrived_ns for part in batch.parts)
        return self.max_wait_ms / 1e3 - (time.monotonic_ns() - oldest_ns) / 1e9

    def _take(self, batch: _Batch) -> None:
        now = time.monotonic_ns()
        for part in batch.parts:
            request, caller = part.request, part.request.caller
            if request.done == 0:
                self.metrics.wait_seconds.labels(batch.class_).observe((now - request.arrived_ns) / 1e9)
            request.done = part.last
            request.at_work[part.first] = None
            self._requests.remove(request)
            self._requests.append(request)
            self._charge(caller, part.cost)
        self.metrics.batches.labels(batch.class_, batch.reason).inc()
        self.metrics.batch_size.labels(batch.class_).observe(sum(part.last - part.first for part in batch.parts))
        self.metrics.batch_fill.labels(batch.class_).observe(min(batch.cost / batch.limit, 1.0))
        if batch.class_ == "bulk":
            self._bulk_served_ns = now

    def _charge(self, caller: Caller, cost: float) -> None:
        self._shares[caller.class_].charge(caller.share, cost)
        caller.account.charge(cost)
        self.metrics.cost.labels(caller.key, caller.class_).inc(cost)

    async def _run(self, batch: _Batch, worker: int) -> None:
        parts = batch.parts
        items = np.concatenate([part.request.items[part.first : part.last] for part in parts])
        work = self._workers[worker].copy(parts[0].request.work)
        started_ns = time.monotonic_ns()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._threads[worker], work.run, items)
        except Exception as error:
            await self._blame(batch, worker, error)
            return
        compute_ns = time.monotonic_ns() - started_ns
        self._learn(batch, compute_ns)
        first = 0
        for part in parts:
            last = first + part.last - part.first
            timing = Timing(started_ns - part.request.arrived_ns, compute_ns, len(items))
            part.request.answer(part.first, Served(columns.take(answers, first, last), timing))
            first = last

    def _learn(self, batch: _Batch, compute_ns: int) -> None:
        """Learn the cost done in a second; by class and kind of work, too, since the next ones' size follows from it.

        Of interactive ones only from those that are full: a single neuron's time says nothing of many.
        """
        self.metrics.stage_seconds.labels("compute").observe(compute_ns / 1e9)
        rate = batch.cost / max(compute_ns / 1e9, 1e-6)
        self._rate += 0.3 * (rate - self._rate)
        if batch.class_ == "bulk" or batch.reason == "full":
            kind = batch.class_, type(batch.parts[0].request.work)
            known = self._rates.get(kind, rate)
            self._rates[kind] = known + 0.3 * (rate - known)

    async def _blame(self, batch: _Batch, worker: int, error: Exception) -> None:
        """One request's fault must not fail the others: run each alone."""
        if len(batch.parts) == 1:
            request, first = batch.parts[0].request, batch.parts[0].first
            request.answer(first, memory.in_words(error) if memory.is_out_of_memory(error) else error)
            request.done = len(request.items)
            return
        for part in batch.parts:
            await self._run(batch._replace(parts=[part]), worker)

    # ---- What is waiting, read by the metrics' thread

    def _by_class(self) -> Mapping[Class, list[_Request]]:
        now = list(self._requests)
        classes: tuple[Class, ...] = ("interactive", "bulk")
        return {class_: [request for request in now if request.caller.class_ == class_] for class_ in classes}

    def _count(self) -> Mapping[str, float]:
        return {class_: len(requests) for class_, requests in self._by_class().items()}

    def _queued_cost(self) -> Mapping[str, float]:
        return {class_: sum(r.left for r in requests) for class_, requests in self._by_class().items()}

    def _oldest_s(self) -> Mapping[str, float]:
        now = time.monotonic_ns()
        return {
            class_: max(((now - r.arrived_ns) / 1e9 for r in requests), default=0.0)
            for class_, requests in self._by_class().items()
        }


def _filled(alike: list[_Request], lead: _Request, limit: float) -> list[_Taken]:
    """The next items of the requests, at most `limit` together, shared evenly by keys; the lead's first in any case."""
    by_share: dict[str, list[_Request]] = {}
    for request in alike:
        by_share.setdefault(request.caller.share, []).append(request)
    groups = sorted(by_share.values(), key=lambda group: sum(request.left for request in group))
    reserved = lead.cost(1)  # however large one item is, it must be done
    room = limit - reserved
    parts: list[_Taken] = []
    for i, group in enumerate(groups):
        if lead in group:
            room += reserved
        dealt = _dealt(group, lead, room / (len(groups) - i))
        room -= sum(part.cost for part in dealt)
        parts += dealt
    return parts


def _dealt(group: list[_Request], lead: _Request, room: float) -> list[_Taken]:
    """The same within one key's requests."""
    reserved = lead.cost(1) if lead in group else 0.0
    room -= reserved
    parts: list[_Taken] = []
    for i, request in enumerate(sorted(group, key=lambda request: len(request.items) - request.done)):
        if request is lead:  # what small ones leave goes to large ones
            room += reserved
        n = request.fitting(room / (len(group) - i))
        if request is lead:
            n = max(n, 1)
        if n:
            parts.append(_Taken(request, request.done, request.done + n, request.cost(n)))
            room -= parts[-1].cost
    return parts
