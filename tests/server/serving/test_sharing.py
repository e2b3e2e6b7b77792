"""The batcher among many keys: classes, fair shares, caps, quotas, bounds, waiting."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from polysem.proto.errors import Overloaded, QuotaExceeded
from polysem.proto.questions.embedding import EmbeddingBatch
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.callers import Account, Caller

from ...load.figures import jain


@dataclass(frozen=True)
class EchoWork:
    """Answers items (M, 2) with themselves: the first number says whose it is, the second is the cost.

    Runs are noted in `runs`, and take `s_per_cost` seconds a cost; each waits for `gate` where there is one.
    """

    name: str = "echo"
    s_per_cost: float = 0.0
    runs: list[list[int]] = field(default_factory=list, compare=False)
    gate: threading.Semaphore | None = field(default=None, compare=False)

    def costs(self, items):
        return items[:, 1].astype(np.float64)

    def run(self, items):
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        self.runs.append(items[:, 0].tolist())
        time.sleep(self.s_per_cost * float(items[:, 1].sum()))
        return EmbeddingBatch(items, np.ones(len(items), np.int32), items[:, :1].astype(np.float32))


def key(name, **options):
    return Caller(name, name, **options)


def bulk(name):
    return key(name, class_="bulk")


def items(whose, n, cost=1):
    return np.tile(np.array([[whose, cost]], np.int32), (n, 1))


def run(scenario, max_batch_cost=10, max_requests=1000, **options):
    async def main():
        batcher = Batcher(max_batch_cost, max_requests, **options)
        batcher.start()
        try:
            async with asyncio.timeout(60):
                return await scenario(batcher)
        finally:
            await batcher.close()

    return asyncio.run(main())


async def ask(batcher, work, asked, caller):
    return sum([len(answer.batch.neurons) async for answer in batcher.stream(work, asked, caller)])


async def settle():
    for _ in range(20):
        await asyncio.sleep(0.001)


async def behind(batcher, *requests):
    """Ask (work, items, caller) of each request while the worker is busy; then let all go on."""
    gate = threading.Semaphore(0)
    first = asyncio.create_task(ask(batcher, EchoWork("busy", gate=gate), items(0, 1), key("busy")))
    await settle()
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(ask(batcher, *request)))
        await settle()
    gate.release()
    await first
    return await asyncio.gather(*tasks)


def samples(batcher, name):
    """The metric's values by its labels' values."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in batcher.metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


# ---- Classes


def test_interactive_goes_before_bulk_that_came_earlier():
    work = EchoWork()

    async def scenario(batcher):
        batcher._bulk_served_ns = time.monotonic_ns()
        await behind(batcher, (work, items(1, 30), bulk("night")), (work, items(2, 30), key("ada")))

    run(scenario)
    assert work.runs[:3] == [[2] * 10] * 3
    assert {value for batch in work.runs[3:] for value in batch} == {1}


def test_a_batch_holds_one_class():
    work = EchoWork()
    run(lambda b: behind(b, (work, items(1, 3), bulk("night")), (work, items(2, 3), key("ada"))))
    assert all(len(set(batch)) == 1 for batch in work.runs)
    assert sorted(value for batch in work.runs for value in batch) == [1, 1, 1, 2, 2, 2]


def test_bulk_has_a_turn_a_second_under_steady_interactive_load():
    work = EchoWork(s_per_cost=0.001)

    async def scenario(batcher):
        night = asyncio.create_task(ask(batcher, work, items(1, 1000), bulk("night")))
        await ask(batcher, work, items(2, 2500), key("ada"))  # 2.5 s
        seen = [batch for batch in work.runs if 1 in batch]
        night.cancel()
        return len(seen)

    assert 1 <= run(scenario) <= 10  # of more than 250 batches


def test_bulk_batches_come_to_take_no_longer_than_they_should():
    work = EchoWork(s_per_cost=0.0005)

    async def scenario(batcher):
        await ask(batcher, work, items(1, 1000), bulk("night"))
        await ask(batcher, work, items(2, 400), key("ada"))

    run(scenario, max_batch_cost=400, bulk_batch_ms=20)
    settled = [len(batch) for batch in work.runs if batch[0] == 1][4:-1]
    assert max(settled) <= 40  # 20 ms at 0.5 ms an item, fewer where sleeping takes longer than asked
    assert min(settled) >= 6  # a 64th of max_batch_cost, whatever was measured
    assert len(work.runs[-1]) == 400


# ---- Fair shares


@pytest.mark.parametrize("joined", [True, False], ids=["alike", "unlike"])
def test_a_key_with_twenty_times_the_requests_gets_its_share(joined):
    works = [EchoWork("one" if joined else f"of {k}") for k in range(8)]
    served = [0.0] * 8

    async def scenario(batcher):
        async def stream(k):
            async for answer in batcher.stream(works[k], items(k, 100_000), key(f"key {k}")):
                served[k] += len(answer.batch.neurons)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(stream(k)) for k in range(8) for _ in range(20 if k == 0 else 1)]
        while sum(served) < 20_000:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()

    run(scenario, max_batch_cost=64)
    assert jain(served) >= 0.95


def test_costs_are_shared_not_numbers_of_items():
    served = {}

    async def scenario(batcher):
        async def stream(name, cost):
            work = EchoWork(name)
            async for answer in batcher.stream(work, items(0, 50_000, cost), key(name)):
                served[name] = served.get(name, 0) + cost * len(answer.batch.neurons)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(stream(name, cost)) for name, cost in (("small", 1), ("large", 50))]
        while sum(served.values()) < 50_000:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()

    run(scenario, max_batch_cost=100)
    assert jain(list(served.values())) >= 0.95


def test_a_key_that_was_away_earned_nothing():
    one, other = EchoWork("one"), EchoWork("other")

    async def scenario(batcher):
        await ask(batcher, other, items(2, 10), key("away"))
        await ask(batcher, one, items(1, 5000), key("steady"))
        one.runs.clear()
        other.runs.clear()
        steady = asyncio.create_task(ask(batcher, one, items(1, 300), key("steady")))
        back = asyncio.create_task(ask(batcher, other, items(2, 300), key("away")))
        await asyncio.wait([steady, back], return_when=asyncio.FIRST_COMPLETED)
        n_steady, n_back = len(one.runs), len(other.runs)
        await asyncio.gather(steady, back)
        return n_steady, n_back

    n_steady, n_back = run(scenario)
    assert min(n_steady, n_back) >= 25  # both in turns, of 30 batches each


# ---- Caps, quotas and bounds


def test_a_key_above_its_cap_is_refused_while_others_come_in():
    gate = threading.Semaphore(0)
    work = EchoWork(gate=gate)
    capped = key("ada", max_in_flight=2)

    async def scenario(batcher):
        tasks = [asyncio.create_task(ask(batcher, work, items(1, 1), capped)) for _ in range(2)]
        await settle()
        with pytest.raises(
            Overloaded, match=r"your key has 2 requests in flight, of 2 at most; try again in"
        ) as raised:
            await ask(batcher, work, items(1, 1), capped)
        assert 0 < raised.value.retry_after_s < 10
        tasks.append(asyncio.create_task(ask(batcher, work, items(2, 1), key("ben"))))
        gate.release(10)
        return await asyncio.gather(*tasks), samples(batcher, "polysem_refusals_total")

    assert run(scenario) == ([1, 1, 1], {("key",): 1.0})


def test_a_quota_counts_what_was_served_and_what_was_asked_for():
    work, account = EchoWork(), Account(daily_quota=100)
    caller = key("ada", account=account)

    async def scenario(batcher):
        await ask(batcher, work, items(1, 60), caller)
        assert account.spent() == 60
        with pytest.raises(QuotaExceeded, match=r"cost 100 a day, 60 is taken, and this request needs 41") as raised:
            await ask(batcher, work, items(1, 41), caller)
        assert 0 < raised.value.retry_after_s <= 24 * 3600
        with pytest.raises(QuotaExceeded, match=r"cost 100 a day, and this request needs 101, which never fits"):
            await ask(batcher, work, items(1, 101), caller)
        await ask(batcher, work, items(1, 40), caller)
        await ask(batcher, work, items(2, 1000), key("ben"))
        return samples(batcher, "polysem_cost_total")

    assert run(scenario) == {("ada", "interactive"): 100.0, ("ben", "interactive"): 1000.0}


def test_yesterdays_cost_does_not_count():
    assert Account(100, day="2020-01-01", spent=99).spent() == 0


def test_more_queued_cost_than_the_limit_is_refused_but_one_large_request_is_not():
    gate = threading.Semaphore(0)
    work = EchoWork(gate=gate)

    async def scenario(batcher):
        large = asyncio.create_task(ask(batcher, work, items(1, 500), key("ada")))
        await settle()
        with pytest.raises(Overloaded, match="cost 490 waits already, of 100 at most"):
            await ask(batcher, work, items(2, 1), key("ben"))
        gate.release(100)
        assert await large == 500
        return await ask(batcher, work, items(2, 1), key("ben"))

    assert run(scenario, max_queued_cost=100) == 1


def test_times_to_come_back_differ():
    gate = threading.Semaphore(0)
    work = EchoWork(gate=gate)

    async def scenario(batcher):
        task = asyncio.create_task(ask(batcher, work, items(1, 1), key("ada")))
        await settle()
        times = set()
        for _ in range(10):
            with pytest.raises(Overloaded) as raised:
                await ask(batcher, work, items(1, 1), key("ada"))
            times.add(raised.value.retry_after_s)
        gate.release()
        await task
        return times

    assert len(run(scenario, max_requests=1)) > 5


# ---- Waiting for others


def test_a_batch_that_is_not_full_waits_for_others():
    work = EchoWork()

    async def scenario(batcher):
        first = asyncio.create_task(ask(batcher, work, items(1, 2), key("ada")))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(ask(batcher, work, items(2, 3), key("ben")))
        await asyncio.gather(first, second)
        return samples(batcher, "polysem_batches_total")

    assert run(scenario, max_wait_ms=500) == {("interactive", "waited"): 1.0}
    assert [sorted(batch) for batch in work.runs] == [[1, 1, 2, 2, 2]]


def test_a_full_batch_does_not_wait():
    work = EchoWork()

    async def scenario(batcher):
        await ask(batcher, work, items(1, 11), key("ada"))
        return samples(batcher, "polysem_batches_total")

    assert run(scenario, max_wait_ms=100) == {("interactive", "full"): 1.0, ("interactive", "waited"): 1.0}


def test_without_a_wait_what_is_there_is_sent_at_once():
    async def scenario(batcher):
        await ask(batcher, EchoWork(), items(1, 3), key("ada"))
        return samples(batcher, "polysem_batches_total"), samples(batcher, "polysem_queued_requests")

    assert run(scenario) == ({("interactive", "idle"): 1.0}, {("interactive",): 0.0, ("bulk",): 0.0})
