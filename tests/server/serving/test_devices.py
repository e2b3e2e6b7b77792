"""Copies of the model on several devices, here two that are the CPU, serve one queue with the bytes of one."""

import asyncio
import threading
from dataclasses import replace

import pytest
import torch
from pyarrow import parquet

from polysem.client import Client
from polysem.client.measuring.measure import Measuring
from polysem.proto.errors import InvalidArgument
from polysem.server import opening, settings
from polysem.server.questions.clustering import ClusterWork
from polysem.server.questions.engine import with_copy
from polysem.server.serving.batcher import Worker
from polysem.server.serving.callers import Caller

from .test_batcher import DoublingWork, all_of, items, run, settle

TWO = "cpu:0,cpu:1"
QUESTIONS = {
    "cluster": lambda client: client.cluster("0.*", "1.*", n_null=19).to_pandas().to_json(double_precision=15),
    "embed": lambda client: [found.embeddings.tobytes() for found in client.embed("0.0-40")],
    "examples": lambda client: client.examples("0.0-40", whole_context=True).to_pandas().to_json(double_precision=15),
    "explain": lambda client: client.explain("the model reads 日本 tea").to_pandas().to_json(double_precision=15),
    "importance": lambda client: client.importance("0.0-2").to_pandas().to_json(double_precision=15),
    "similar": lambda client: client.similar("0.0").to_pandas().to_json(double_precision=15),
    "labels": lambda client: client.labels("0.0-40").to_pandas().to_json(double_precision=15),
    "logit_effects": lambda client: [str(one) for one in client.logit_effects("0.0-40")],
    "ablate": lambda client: str(client.ablate("1.0", n_tokens=50)),
}


def test_answers_have_the_bytes_of_one_device(served, polysem_client):
    with served(device=TWO, max_batch_cost=2e4) as target, Client(target) as client:
        assert client.info().device == "cpu, cpu"
        for question, ask in QUESTIONS.items():
            assert ask(client) == ask(polysem_client), question


def test_both_devices_work_for_requests_and_measurements(served, polysem_client, tmp_path, monkeypatch):
    threads, cluster = set(), ClusterWork.run
    meet = threading.Barrier(2)

    def run(self, items):
        name = threading.current_thread().name
        if name not in threads and len(threads) < 2:
            threads.add(name)
            meet.wait(60)  # the other is at work as well
        return cluster(self, items)

    Measuring(polysem_client).run(tmp_path / "one.parquet")
    monkeypatch.setattr(ClusterWork, "run", run)
    with served(device=TWO, max_batch_cost=2e4) as target, Client(target) as client:
        Measuring(client).run(tmp_path / "two.parquet")
    assert len(threads) == 2
    assert parquet.read_table(tmp_path / "two.parquet") == parquet.read_table(tmp_path / "one.parquet")


def copies(*gates):
    """Workers that do a work each by a copy of it, which notes its runs here and waits for its own gate."""
    notes = [[] for _ in gates]
    return notes, [
        Worker(copy=lambda work, note=note, gate=gate: replace(work, runs=note, gate=gate))
        for note, gate in zip(notes, gates, strict=True)
    ]


def test_a_request_is_spread_over_devices_and_answered_in_its_order():
    slow = threading.Semaphore(0)
    notes, workers = copies(slow, None)

    async def scenario(batcher):
        asked = asyncio.create_task(all_of(batcher, DoublingWork(), items(*range(40))))
        await settle()
        before = [list(note) for note in notes], asked.done()
        for _ in range(4):
            slow.release()
        return before, await asked

    (before, done), got = run(scenario, workers=workers)
    assert got == [2 * value for value in range(40)]
    assert not done
    # the slow one has the first ten and holds back the answers behind them, of which so many may wait
    assert before == [[], [list(range(10, 20)), list(range(20, 30))]]
    assert sorted(value for note in notes for batch in note for value in batch) == list(range(40))


def test_the_devices_share_one_queue_fairly():
    gates = [threading.Semaphore(0) for _ in range(2)]
    notes, workers = copies(*gates)
    other = Caller(key="other", share="other")

    async def scenario(batcher):
        long = asyncio.create_task(all_of(batcher, DoublingWork("long"), items(*range(100))))
        await settle()  # it has both
        short = asyncio.create_task(all_of(batcher, DoublingWork("short"), items(*range(500, 510)), other))
        await settle()
        gates[1].release(2)
        assert await asyncio.wait_for(short, 30) == [2 * value for value in range(500, 510)]
        after = list(notes[1])
        for gate in gates:
            gate.release(20)
        await long
        return after

    after = run(scenario, workers=workers)
    assert after[:2] == [list(range(10, 20)), list(range(500, 510))]  # the next that is free is another key's


def test_a_fault_on_one_device_ends_its_request_alone_and_in_order():
    notes, workers = copies(None, None)

    async def scenario(batcher):
        bad = asyncio.create_task(all_of(batcher, DoublingWork(bad=frozenset({25})), items(*range(60))))
        good = all_of(batcher, DoublingWork("good"), items(*range(60)))
        return await asyncio.gather(bad, good, return_exceptions=True)

    bad, good = run(scenario, workers=workers)
    assert isinstance(bad, ZeroDivisionError)
    assert good == [2 * value for value in range(60)]
    assert all(notes)


def test_each_thread_begins_on_its_device():
    begun = []
    workers = [Worker(begin=lambda i=i: begun.append((i, threading.current_thread().name))) for i in range(3)]

    async def scenario(batcher):
        await asyncio.gather(*(all_of(batcher, DoublingWork(str(i)), items(*range(60))) for i in range(6)))

    run(scenario, workers=workers)
    assert [i for i, _ in sorted(begun)] == [0, 1, 2]
    assert len({name for _, name in begun}) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"device": "cpu,cpu"}, "device 'cpu,cpu': name one, or several that differ"),
        ({"device": ","}, "device ',': name one, or several that differ"),
        ({"device": "cpu:0,tpu:1"}, "unknown device 'tpu:1'"),
        ({"device": TWO, "split_layers": TWO}, "split_layers for one model on several devices; choose one of the two"),
        ({"device": TWO, "dtype": "tf32"}, "tf32 is a switch of the whole process"),
    ],
)
def test_what_does_not_go_together_is_told(flags, said):
    with pytest.raises(InvalidArgument) as refused:
        opening.open_engine(settings.read(**flags))
    assert said in refused.value.message


def test_a_work_is_the_same_but_for_its_model(small_model, polysem_client):
    other = object.__new__(type(small_model))
    work = Worker().copy("no dataclass")
    assert with_copy(work, other) is work
    work = ClusterWork(small_model, "index", "choice", "clustering", "torch")
    assert with_copy(work, other) == ClusterWork(other, "index", "choice", "clustering", "torch")


def test_threads_that_read_one_model_at_once_read_one_after_the_other(small_model):
    tokens = torch.arange(24).repeat(4, 1)
    seen, wrong = [], []
    small_model.read(tokens, lambda layer, residual, a: seen.append(a.clone()))

    def read():
        for _ in range(20):
            mine = []
            small_model.read(tokens, lambda layer, residual, a, mine=mine: mine.append(a.clone()))
            if len(mine) != len(seen) or any(not torch.equal(a, b) for a, b in zip(mine, seen, strict=True)):
                wrong.append(len(mine))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
