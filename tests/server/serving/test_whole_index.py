"""WholeIndexes: the clusters in them, how callers share their making, and what is kept of them."""

import asyncio
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from polysem.proto.errors import Overloaded
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.server.index.format import open_index
from polysem.server.questions.clustering import ClusterWork
from polysem.server.questions.clusters_of_trees import clusters_of
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.whole_index import MAX_KEPT, WholeIndexes


@pytest.fixture(scope="module")
def index(index_folder):
    return open_index(index_folder)


@pytest.fixture
def work(small_model, index):
    def make(threshold=0.5, **how):
        return NotedWork(small_model, index, EmbeddingChoice(), Clustering(distance_threshold=threshold), **how)

    return make


@dataclass(frozen=True, eq=True)
class NotedWork(ClusterWork):
    """Cluster work that notes its runs; each waits for `gate` where there is one, and fails if `bad`."""

    runs: list[int] = field(default_factory=list, compare=False)
    gate: threading.Semaphore | None = field(default=None, compare=False)
    bad: bool = False

    def run(self, items):
        if self.gate is not None:
            assert self.gate.acquire(timeout=30)
        self.runs.append(len(items))
        if self.bad:
            raise ZeroDivisionError("it fails")
        return super().run(items)


def run(scenario, max_requests=100):
    async def main():
        batcher = Batcher(1e6, max_requests)  # a few neurons of the small index
        batcher.start()
        try:
            async with asyncio.timeout(60):
                return await scenario(batcher, WholeIndexes(batcher))
        finally:
            await batcher.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "how", [{}, {"algorithm": "scc"}, {"linkage": "complete"}, {"algorithm": "components"}], ids=str
)
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 2.0])
def test_clusters_are_those_that_a_client_sees(polysem_client, small_model, index, how, threshold):
    clustering = Clustering(
        distance_threshold=threshold, **{"linkage": "single"} if "components" in how.values() else {}, **how
    )
    batch = ClusterWork(small_model, index, EmbeddingChoice(), clustering).run(index.every_neuron)
    got = clusters_of(batch, threshold)
    rows = zip(*(getattr(got, name).tolist() for name in ("neurons", "labels", "centrals", "sizes")), strict=True)
    want = [
        (list(neuron.id), cluster.label, cluster.central, cluster.size)
        for neuron in polysem_client.cluster("*", distance_threshold=threshold, **how)
        for cluster in sorted(neuron.clusters, key=lambda cluster: cluster.label)
    ]
    assert list(rows) == want


def test_callers_share_one_making_and_later_ones_none(work):
    async def scenario(batcher, whole_indexes):
        asked = work()
        found = await asyncio.gather(*(whole_indexes.get(work(runs=asked.runs)) for _ in range(5)))
        later = await whole_indexes.get(work())
        return asked.runs, found, later

    runs, found, later = run(scenario)
    assert sum(runs) == 192
    assert len(runs) > 1  # in batches, between which others are served
    assert {id(one) for one in found} == {id(later)}


def test_one_caller_leaving_does_not_disturb_the_others(work):
    async def scenario(batcher, whole_indexes):
        gate = threading.Semaphore(0)
        callers = [asyncio.create_task(whole_indexes.get(work(gate=gate))) for _ in range(3)]
        await asyncio.sleep(0.05)
        callers[0].cancel()
        gate.release(1000)
        done = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        return done[1:]

    first, second = run(scenario)
    assert first is second


def test_when_all_callers_leave_it_is_given_up_and_made_anew(work):
    async def scenario(batcher, whole_indexes):
        gate, runs = threading.Semaphore(0), []
        caller = asyncio.create_task(whole_indexes.get(work(gate=gate, runs=runs)))
        await asyncio.sleep(0.05)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        gate.release(1000)
        await asyncio.sleep(0.2)
        given_up = sum(runs)
        found = await whole_indexes.get(work(runs=runs))
        return given_up, sum(runs), len(found.table.neurons)

    given_up, together, n = run(scenario)
    assert given_up < 192
    assert together - given_up == n == 192


def test_a_failure_reaches_every_caller_and_is_not_kept(work):
    async def scenario(batcher, whole_indexes):
        bad = work(bad=True)
        failed = await asyncio.gather(*(whole_indexes.get(bad) for _ in range(2)), return_exceptions=True)
        with pytest.raises(ZeroDivisionError):
            await whole_indexes.get(bad)
        return failed, bad.runs

    failed, runs = run(scenario)
    assert [type(error) for error in failed] == [ZeroDivisionError] * 2
    assert len(runs) == 2


def test_a_full_queue_is_told(work):
    async def scenario(batcher, whole_indexes):
        with pytest.raises(Overloaded):
            await whole_indexes.get(work())

    run(scenario, max_requests=0)


def test_only_the_last_few_are_kept(work):
    async def scenario(batcher, whole_indexes):
        asked = [work(0.1 + i / 20) for i in range(MAX_KEPT + 2)]
        for one in asked:
            await whole_indexes.get(one)
        again = [work(0.1 + i / 20) for i in range(MAX_KEPT + 2)]
        for one in reversed(again):
            await whole_indexes.get(one)
        return [bool(one.runs) for one in again]

    assert run(scenario) == [True] * 2 + [False] * MAX_KEPT


def test_the_table_is_in_order(work):
    async def scenario(batcher, whole_indexes):
        return await whole_indexes.get(work())

    table = run(scenario).table
    np.testing.assert_array_equal(table.neurons[:, 0] * 96 + table.neurons[:, 1], np.arange(192))
