"""All callers' work through one worker thread, joined where it is alike.

Each round takes the request that has waited longest since it was last served, adds every request with equal work, and
fills a batch of at most `max_batch_cost`, shared evenly: a small request rides along with a large one and never waits
for more than a batch. A caller that leaves takes its remaining work with it. A caller that does not read is passed over
until it does.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from polysem.proto import columns
from polysem.proto.columns import AnyBatch
from polysem.proto.errors import Overloaded
from polysem.proto.types import IntArray, Timing
from polysem.server.arrays import Array
from polysem.server.engine import Work

MAX_UNREAD = 2  # answers that may wait for a caller


class Answer(NamedTuple):
    """The next items' answers, in the order asked."""

    batch: AnyBatch
    timing: Timing


@dataclass(eq=False)
class _Request:
    work: Work
    items: IntArray
    costs: Array  # (M,)
    arrived_ns: int
    done: int = 0  # items taken into batches so far
    answers: asyncio.Queue[Answer | Exception] = field(default_factory=asyncio.Queue)

    @property
    def ready(self) -> bool:
        return self.done < len(self.items) and self.answers.qsize() < MAX_UNREAD

    def fitting(self, room: float) -> int:
        """How many of the next items cost at most `room` together."""
        return int(np.searchsorted(np.cumsum(self.costs[self.done :]), room, side="right"))


class _Part(NamedTuple):
    request: _Request
    first: int
    last: int


class Batcher:
    """Lives in one event loop, from `start` to `close`."""

    def __init__(self, max_batch_cost: float, max_requests: int) -> None:
        self.max_batch_cost = max_batch_cost
        self.max_requests = max_requests
        self._requests: list[_Request] = []  # longest unserved first
        self._wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="polysem-worker")

    def start(self) -> None:
        self._dispatcher = asyncio.create_task(self._dispatch())

    async def close(self) -> None:
        """Stop after the batch at work; requests still waiting get no more answers."""
        self._dispatcher.cancel()
        await asyncio.gather(self._dispatcher, return_exceptions=True)
        self._worker.shutdown()

    def between_batches(self, run: Callable[[], None]) -> None:
        """Run something else on the worker thread once the batch at work is done; waits, so never in the event loop."""
        self._worker.submit(run).result()

    async def stream(self, work: Work, items: IntArray) -> AsyncIterator[Answer]:
        """The answers to all items, in their order, as they are ready; raises Overloaded where too many wait."""
        if len(self._requests) >= self.max_requests:
            raise Overloaded(f"{self.max_requests} requests are being served already; try again in a second", 1.0)
        request = _Request(work, items, work.costs(items), time.monotonic_ns())
        self._requests.append(request)
        self._wake.set()
        delivered = 0
        try:
            while delivered < len(items):
                answer = await request.answers.get()
                self._wake.set()
                if isinstance(answer, Exception):
                    raise answer
                delivered += len(answer.batch.neurons)
                yield answer
        finally:
            self._requests.remove(request)

    async def _dispatch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while parts := self._next_batch():
                await self._run(parts)

    def _next_batch(self) -> list[_Part]:
        lead = next((request for request in self._requests if request.ready), None)
        if lead is None:
            return []
        alike = [request for request in self._requests if request.ready and request.work == lead.work]
        alike.sort(key=lambda request: len(request.items) - request.done)  # what small ones leave goes to large ones
        parts: list[_Part] = []
        reserved = float(lead.costs[lead.done])  # however large one item is, it must be done
        room = self.max_batch_cost - reserved
        for i, request in enumerate(alike):
            if request is lead:
                room += reserved
            n = request.fitting(room / (len(alike) - i))
            if request is lead:
                n = max(n, 1)
            if n:
                parts.append(_Part(request, request.done, request.done + n))
                room -= float(request.costs[request.done : request.done + n].sum())
        for part in parts:
            part.request.done = part.last
            self._requests.remove(part.request)
            self._requests.append(part.request)
        return parts

    async def _run(self, parts: list[_Part]) -> None:
        items = np.concatenate([part.request.items[part.first : part.last] for part in parts])
        started_ns = time.monotonic_ns()
        try:
            batch = await asyncio.get_running_loop().run_in_executor(self._worker, parts[0].request.work.run, items)
        except Exception as error:
            await self._blame(parts, error)
            return
        compute_ns = time.monotonic_ns() - started_ns
        first = 0
        for part in parts:
            last = first + part.last - part.first
            timing = Timing(started_ns - part.request.arrived_ns, compute_ns, len(items))
            part.request.answers.put_nowait(Answer(columns.take(batch, first, last), timing))
            first = last

    async def _blame(self, parts: list[_Part], error: Exception) -> None:
        """One request's fault must not fail the others: run each alone."""
        if len(parts) == 1:
            parts[0].request.answers.put_nowait(error)
            parts[0].request.done = len(parts[0].request.items)
            return
        for part in parts:
            await self._run([part])
