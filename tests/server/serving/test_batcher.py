"""The batcher against work that doubles numbers: order, sharing, costs, leaving, failing."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from polysem.proto.errors import FailedPrecondition, Overloaded
from polysem.proto.questions.embedding import EmbeddingBatch
from polysem.server.serving import batcher as batchers
from polysem.server.serving import callers
from polysem.server.serving.batcher import MAX_UNREAD, Batcher, Worker
from polysem.server.serving.callers import ANYONE, Caller


@dataclass(frozen=True)
class DoublingWork:
    """Doubles each item (M, 2): its second number is its cost. Equal if of one name; fails on what `bad` holds.

    Runs are noted in `runs`; each waits for `gate` where there is one.
    """

    name: str = "x"
    bad: frozenset[int] = frozenset()
    error: type[Exception] = ZeroDivisionError
    runs: list[list[int]] = field(default_factory=list, compare=False)
    gate: threading.Semaphore | None = field(default=None, compare=False)

    def costs(self, items):
        return items[:, 1].astype(np.float64)

    def run(self, items):
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        self.runs.append(items[:, 0].tolist())
        if self.bad & set(items[:, 0].tolist()):
            raise self.error(f"{sorted(self.bad)} cannot be doubled")
        return EmbeddingBatch(items, np.ones(len(items), np.int32), 2.0 * items[:, :1].astype(np.float32))


def items(*values, cost=1):
    return np.array([[value, cost] for value in values], np.int32).reshape(-1, 2)


def run(scenario, max_batch_cost=10, max_requests=100, max_wait_ms=0.0, workers=(Worker(),)):
    """Run the coroutine function with a batcher that has started."""

    async def main():
        batcher = Batcher(max_batch_cost, max_requests, max_wait_ms=max_wait_ms, workers=workers)
        batcher.start()
        try:
            async with asyncio.timeout(60):
                return await scenario(batcher)
        finally:
            await batcher.close()

    return asyncio.run(main())


async def all_of(batcher, work, asked, caller=ANYONE):
    """What comes back for the items, in order."""
    answers = [answer async for answer in batcher.stream(work, asked, caller)]
    return [value for answer in answers for value in answer.batch.embeddings[:, 0]]


async def settle():
    """Let everything that can go on go on."""
    for _ in range(50):
        await asyncio.sleep(0.001)


# ---- Order and completeness


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 1000])
def test_every_item_is_answered_in_its_order(n):
    work = DoublingWork()
    got = run(lambda batcher: all_of(batcher, work, items(*range(n))))
    assert got == [2 * value for value in range(n)]
    assert [value for batch in work.runs for value in batch] == list(range(n))


def test_answers_come_as_they_are_ready():
    async def scenario(batcher):
        return [len(answer.batch.neurons) async for answer in batcher.stream(DoublingWork(), items(*range(25)))]

    assert run(scenario) == [10, 10, 5]


def test_many_callers_each_get_their_own():
    async def scenario(batcher):
        work = DoublingWork()
        asked = [list(range(caller, caller + caller % 7)) for caller in range(60)]
        return asked, await asyncio.gather(*(all_of(batcher, work, items(*values)) for values in asked))

    asked, got = run(scenario)
    assert got == [[2 * value for value in values] for values in asked]


def test_timing_says_how_long_a_request_waited_and_what_it_shared():
    async def scenario(batcher):
        return [answer.timing async for answer in batcher.stream(DoublingWork(), items(*range(15)))]

    first, second = run(scenario)
    assert (first.batch_size, second.batch_size) == (10, 5)
    assert 0 <= first.queue_ns <= second.queue_ns
    assert first.compute_ns > 0


# ---- Sharing


def held():
    """Work whose first run waits until the test lets it go, so that requests gather behind it."""
    gate = threading.Semaphore(0)
    return DoublingWork("held", gate=gate), gate


async def gathered(batcher, *requests):
    """Ask (work, items) of each request while the worker is busy; the answers of each."""
    busy, gate = held()
    first = asyncio.create_task(all_of(batcher, busy, items(0)))
    await settle()
    tasks = []
    for work, asked in requests:
        tasks.append(asyncio.create_task(all_of(batcher, work, asked)))
        await settle()
    gate.release()
    await first
    return await asyncio.gather(*tasks)


def test_equal_works_are_joined_into_one_run():
    work = DoublingWork()
    same = DoublingWork(runs=work.runs)
    got = run(lambda batcher: gathered(batcher, (work, items(1, 2)), (same, items(3)), (work, items(4, 5))))
    assert got == [[2, 4], [6], [8, 10]]
    assert [sorted(batch) for batch in work.runs] == [[1, 2, 3, 4, 5]]


def test_unequal_works_are_not_joined():
    one, other = DoublingWork("one"), DoublingWork("other")
    got = run(lambda batcher: gathered(batcher, (one, items(1)), (other, items(2)), (one, items(3))))
    assert got == [[2], [4], [6]]
    assert [sorted(batch) for batch in one.runs] == [[1, 3]]
    assert other.runs == [[2]]


def test_a_small_request_rides_along_with_a_large_one():
    large, work = list(range(100, 200)), DoublingWork()
    got = run(lambda batcher: gathered(batcher, (work, items(*large)), (work, items(1))))
    assert got == [[2 * value for value in large], [2]]
    assert 1 in work.runs[0]  # the very next batch
    assert len(work.runs[0]) == 10  # which is filled all the same


def test_a_request_that_waits_is_served_before_a_large_one_goes_on():
    served = []

    @dataclass(frozen=True)
    class NotedWork(DoublingWork):
        def run(self, asked):
            served.append(self.name)
            return super().run(asked)

    large, small = NotedWork("large"), NotedWork("small")
    run(lambda batcher: gathered(batcher, (large, items(*range(100))), (small, items(1))))
    assert served[:2] == ["large", "small"]
    assert served.count("large") == 10


# ---- Costs


@pytest.mark.parametrize("max_batch_cost", [7, 10, 100])
def test_no_batch_costs_more_than_the_limit(max_batch_cost):
    costs = {value: 1 + value * value % 7 for value in range(200)}
    asked = np.array(list(costs.items()), np.int32)
    work = DoublingWork()
    run(
        lambda batcher: gathered(batcher, (work, asked[:150]), (work, asked[150:153]), (work, asked[153:])),
        max_batch_cost,
    )
    totals = [sum(costs[value] for value in batch) for batch in work.runs]
    assert max(totals) <= max_batch_cost
    assert sum(map(len, work.runs)) == 200


def test_an_item_larger_than_the_limit_runs_alone():
    work = DoublingWork()
    asked = np.array([[1, 3], [2, 500], [3, 3], [4, 500]], np.int32)
    assert run(lambda batcher: all_of(batcher, work, asked)) == [2, 4, 6, 8]
    assert [2] in work.runs
    assert [4] in work.runs


def test_a_large_item_is_not_starved_by_small_ones():
    work = DoublingWork()
    got = run(lambda batcher: gathered(batcher, (work, items(*range(100, 140))), (work, items(1, cost=500))))
    assert got[1] == [2]
    assert next(i for i, batch in enumerate(work.runs) if 1 in batch) <= 2


# ---- Leaving, and not reading


def test_a_caller_that_leaves_takes_its_remaining_work_with_it():
    async def scenario(batcher):
        work = DoublingWork()
        stream = batcher.stream(work, items(*range(1000)))
        await anext(stream)
        await stream.aclose()
        await settle()
        return work.runs, batcher._requests

    runs, requests = run(scenario)
    assert len(runs) <= 1 + MAX_UNREAD
    assert requests == []


def test_a_caller_that_is_cancelled_takes_its_work_with_it():
    async def scenario(batcher):
        work, gate = held()
        task = asyncio.create_task(all_of(batcher, work, items(*range(1000))))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.release(1000)
        await settle()
        return work.runs, batcher._requests

    assert run(scenario) == ([list(range(10))], [])


def test_one_callers_leaving_does_not_disturb_the_others():
    async def scenario(batcher):
        busy, gate = held()
        work = DoublingWork()
        first = asyncio.create_task(all_of(batcher, busy, items(0)))
        await settle()
        leaves = asyncio.create_task(all_of(batcher, work, items(*range(50))))
        stays = asyncio.create_task(all_of(batcher, work, items(*range(100, 150))))
        await settle()
        leaves.cancel()
        gate.release()
        await first
        return await stays

    assert run(scenario) == [2 * value for value in range(100, 150)]


def test_a_caller_that_does_not_read_is_passed_over_until_it_does():
    async def scenario(batcher):
        slow = DoublingWork("slow")
        stream = batcher.stream(slow, items(*range(100)))
        got = [await anext(stream)]
        await settle()
        runs_unread = len(slow.runs)
        others = await all_of(batcher, DoublingWork("other"), items(*range(50)))
        got += [answer async for answer in stream]
        return runs_unread, others, sum(len(answer.batch.neurons) for answer in got)

    runs_unread, others, n = run(scenario)
    assert runs_unread <= 1 + MAX_UNREAD
    assert others == [2 * value for value in range(50)]
    assert n == 100


# ---- Failing


def test_a_failure_reaches_the_caller_and_frees_the_place():
    async def scenario(batcher):
        with pytest.raises(ZeroDivisionError, match=r"\[3\] cannot be doubled"):
            await all_of(batcher, DoublingWork(bad=frozenset({3})), items(*range(5)))
        assert batcher._requests == []
        return await all_of(batcher, DoublingWork(), items(7))

    assert run(scenario) == [14]


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_memory_that_does_not_suffice_is_told_in_words(error):
    """Of whatever work: RMM's, CuPy's and NumPy's class, and torch's."""

    async def scenario(batcher):
        with pytest.raises(FailedPrecondition, match="not enough memory free for this request; ask for less at once"):
            await all_of(batcher, DoublingWork(bad=frozenset({3}), error=error), items(*range(5)))
        return await all_of(batcher, DoublingWork(), items(7))

    assert run(scenario) == [14]


def test_one_requests_fault_does_not_fail_those_in_the_same_batch():
    async def scenario(batcher):
        work = DoublingWork(bad=frozenset({3}))
        busy, gate = held()
        first = asyncio.create_task(all_of(batcher, busy, items(0)))
        await settle()
        tasks = [asyncio.create_task(all_of(batcher, work, items(*values))) for values in ([1, 2], [3], [4])]
        await settle()
        gate.release()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True), work.runs

    (one, failed, other), runs = run(scenario)
    assert (one, other) == ([2, 4], [8])
    assert isinstance(failed, ZeroDivisionError)
    assert sorted(runs[0]) == [1, 2, 3, 4]


def test_what_came_before_a_failure_is_delivered():
    async def scenario(batcher):
        stream = batcher.stream(DoublingWork(bad=frozenset({15})), items(*range(30)))
        first = await anext(stream)
        with pytest.raises(ZeroDivisionError):
            await anext(stream)
        return first.batch.embeddings[:, 0].tolist()

    assert run(scenario) == [2 * value for value in range(10)]


# ---- Too many


def test_more_requests_than_the_limit_are_refused_with_a_time_to_come_back():
    async def scenario(batcher):
        work, gate = held()
        waiting = [asyncio.create_task(all_of(batcher, work, items(value))) for value in range(3)]
        await settle()
        with pytest.raises(Overloaded, match="3 requests are being served already; try again") as raised:
            await all_of(batcher, work, items(4))
        assert raised.value.retry_after_s > 0
        gate.release(10)
        assert await asyncio.gather(*waiting) == [[0], [2], [4]]
        return await all_of(batcher, work, items(4))

    assert run(scenario, max_requests=3) == [8]


def test_closing_while_requests_wait_does_not_hang():
    async def main():
        batcher = Batcher(10, 10)
        batcher.start()
        work, gate = held()
        task = asyncio.create_task(all_of(batcher, work, items(*range(100))))
        await settle()
        gate.release()
        await batcher.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return work.runs

    assert asyncio.run(main()) == [list(range(10))]


# ---- Bulk batches and the queue's metrics


@pytest.mark.parametrize("class_", ["bulk", "interactive"])
@pytest.mark.parametrize(("rate", "limit"), [(None, 640 / 8), (1e9, 640), (1e-9, 640 / 64), (5_000.0, 100.0)])
def test_a_batch_that_others_wait_for_costs_what_takes_its_time_within_bounds(rate, limit, class_):
    batcher = Batcher(640, 100, bulk_batch_ms=20.0, shared_batch_ms=20.0)
    for share in ("ada", "bob"):
        batcher._company.met(share)
    if rate is not None:
        batcher._rates[class_, DoublingWork] = rate
    assert batcher._limit(class_, DoublingWork()) == pytest.approx(limit)


def test_an_interactive_batch_is_as_large_as_any_while_one_key_asks(monkeypatch):
    batcher = Batcher(640, 100, shared_batch_ms=20.0)
    batcher._rates["interactive", DoublingWork] = 5_000.0
    limits = []
    for share in ("ada", "ada", "bob", "bob"):
        batcher._company.met(share)
        limits.append(batcher._limit("interactive", DoublingWork()))
    assert limits == [640, 640, 100, 100]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + callers.COMPANY_S)
    assert batcher._limit("interactive", DoublingWork()) == 640


def test_small_requests_of_many_keys_are_done_together_and_a_large_one_is_not():
    batcher = Batcher(640, 100, shared_batch_ms=20.0)
    batcher._rates["interactive", DoublingWork] = 500.0  # ten of cost in that time
    work = DoublingWork()
    for share in [*"abcdefghijklmnopqrst", "large"]:
        batcher._company.met(share)
        request = made_request(work, "interactive", 200 if share == "large" else 1)
        request.caller = Caller(share, share)
        batcher._requests.append(request)
    batch = batcher._next_batch()
    assert batch.limit == 30
    assert {part.request.caller.share for part in batch.parts} >= set("abcdefghijklmnopqrst")
    batcher._requests = [request for request in batcher._requests if request.caller.share == "large"]
    batch = batcher._next_batch()
    assert (batch.limit, batch.cost, batch.reason) == (10, 10, "full")


def made_request(work, class_, n_items=1):
    caller = Caller(class_, class_, class_)
    return batchers._Request(work, items(*range(n_items)), np.arange(n_items + 1.0), caller, time.monotonic_ns())


def test_rates_are_learned_by_class_and_kind_of_work_and_from_full_interactive_batches_alone():
    batcher = Batcher(640, 100)
    batches = (
        ("interactive", "full", 300.0),
        ("interactive", "idle", 7.0),
        ("interactive", "waited", 500.0),
        ("bulk", "idle", 100.0),
        ("bulk", "full", 200.0),
    )
    for class_, reason, cost in batches:
        taken = batchers._Taken(made_request(DoublingWork(), class_), 0, 1, cost)
        batcher._learn(batchers._Batch([taken], reason, 500.0), 10**9)
    assert batcher._rates == {
        ("interactive", DoublingWork): 300.0,
        ("bulk", DoublingWork): pytest.approx(100 + 0.3 * (200 - 100)),  # the first as it is
    }


@pytest.mark.parametrize(("served_s_ago", "next_"), [(0.0, "interactive"), (2.0, "bulk")])
def test_bulk_work_has_a_turn_once_a_second_beside_other_work(served_s_ago, next_):
    batcher = Batcher(640, 100)
    batcher._bulk_served_ns = time.monotonic_ns() - int(served_s_ago * 1e9)
    ready = [made_request(DoublingWork(), class_) for class_ in ("bulk", "interactive")]
    assert batcher._next_class(ready) == next_
    assert batcher._next_class(ready[:1]) == "bulk"  # alone


def test_whom_it_computes_for_are_keys_with_new_interactive_requests():
    batcher = Batcher(640, 100)
    batcher._requests += [made_request(DoublingWork(), class_) for class_ in ("bulk", "interactive")]
    assert batcher.computed_for() == {"interactive"}
    batcher._requests[1].arrived_ns -= batchers.NEW_NS
    assert batcher.computed_for() == set()


@pytest.mark.parametrize(("waiting_s", "least"), [(0.0, 0.5), (8.0, 2.0), (80.0, 5.0)])
def test_who_is_refused_comes_back_after_a_quarter_of_what_waits_within_bounds(waiting_s, least):
    batcher = Batcher(640, 100)
    batcher._rate = 10.0  # of cost a second
    batcher._requests.append(made_request(DoublingWork(), "bulk", int(10 * waiting_s)))
    assert least <= batcher._refusal("queue", "full").retry_after_s <= 1.5 * least


def test_a_batch_that_nobody_joins_is_run_once_it_has_waited():
    async def scenario(batcher):
        return await all_of(batcher, DoublingWork(), items(3))

    assert run(scenario, max_wait_ms=20) == [6.0]


def test_the_queues_metrics_are_those_of_their_class():
    gate = threading.Semaphore(0)

    async def scenario(batcher):
        work = DoublingWork(gate=gate)
        bulk = Caller("b", "b", "bulk")
        asked = [asyncio.create_task(all_of(batcher, work, items(*range(3), cost=10)))]
        asked.append(asyncio.create_task(_all_of_caller(batcher, work, items(*range(40), cost=10), bulk)))
        await settle()
        found = {name: getattr(batcher, f"_{read}")() for name, read in (("n", "count"), ("cost", "queued_cost"))}
        for _ in range(100):
            gate.release()
        await asyncio.gather(*asked)
        return found

    found = run(scenario)
    assert found["n"] == {"interactive": 1, "bulk": 1}
    assert found["cost"]["bulk"] > found["cost"]["interactive"] > 0


async def _all_of_caller(batcher, work, asked, caller):
    return [answer async for answer in batcher.stream(work, asked, caller)]
