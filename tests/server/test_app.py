import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from polysem.client import Client
from polysem.proto.errors import FailedPrecondition, InvalidArgument, Overloaded
from polysem.proto.questions.embedding import EmbeddingBatch
from polysem.server import app, settings
from polysem.server.serving.batcher import Batcher
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


def enter(**flags):
    """Try to serve; loading anything fails the test."""

    async def run():
        async with app.running(settings.read(**flags), lambda: pytest.fail("it loaded")):
            pass

    asyncio.run(run())


def test_a_taken_port_is_told_before_anything_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FailedPrecondition, match="the port is taken"):
            enter(port=taken.getsockname()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "gpu-box"])
def test_other_addresses_than_loopback_need_insecure(host):
    with pytest.raises(InvalidArgument, match="--insecure"):
        enter(host=host)


def test_health_and_reflection_name_the_service(polysem_client):
    with grpc.insecure_channel(polysem_client.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "polysem.v1.NeuronService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        services = next(reflection.ServerReflectionInfo(ask)).list_services_response.service
        assert "polysem.v1.NeuronService" in {service.name for service in services}


def test_a_request_above_the_message_limit_is_refused(polysem_client):
    with grpc.insecure_channel(polysem_client.target) as channel:
        stub = pb_grpc.NeuronServiceStub(channel)
        request = pb.ClusterNeuronsRequest(index="x" * (2 << 20), neurons=[pb.NeuronRange()])
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ClusterNeurons(request))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


SERVER = """
import asyncio, sys
from pathlib import Path
from polysem.server import app, settings
from polysem.server.opening import open_engine
given = settings.read(index=[Path(sys.argv[1])], port=0, device="cpu", max_batch_cost=1.0)
asyncio.run(app.until_stopped(given, lambda: open_engine(given), lambda port: print(port, flush=True)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_finishes_what_is_in_flight_and_exits_0(index_folder, number):
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(index_folder)], stdout=subprocess.PIPE, text=True)
    with Client(f"127.0.0.1:{int(process.stdout.readline())}") as client:
        neurons = iter(client.cluster("*"))  # a batch a neuron: max_batch_cost is below any neuron's
        next(neurons)
        os.kill(process.pid, number)
        assert 1 + sum(1 for _ in neurons) == 2 * 96
    assert process.wait(timeout=30) == 0
    process.stdout.close()


class SlowWork:
    """Answers with its items as embeddings; waits for leave before each batch."""

    def __init__(self, leave):
        self.leave, self.batches = leave, []

    def costs(self, items):
        return np.ones(len(items))

    def run(self, items):
        self.leave.acquire()
        self.batches.append(items[:, 1].tolist())
        if (items[:, 1] < 0).any():
            raise ValueError("negative")
        n = len(items)
        return EmbeddingBatch(items, np.ones(n, np.int32), items[:, 1:].astype(np.float32))


def items(*numbers):
    return np.array([(0, number) for number in numbers], np.int32)


def batched(scenario, max_batch_cost=4.0, max_requests=8):
    """Run a scenario(batcher, work, leave) in an event loop; its result and the batches that ran."""
    leave = threading.Semaphore(0)
    work = SlowWork(leave)

    async def run():
        batcher = Batcher(max_batch_cost, max_requests)
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher, work, leave), 20)
        finally:
            leave.release(1000)
            await batcher.close()

    return asyncio.run(run()), work.batches


async def collected(batcher, work, wanted):
    return [float(e) async for answer in batcher.stream(work, wanted) for e in answer.batch.embeddings[:, 0]]


def test_equal_work_is_joined_and_each_caller_gets_its_own_answers():
    async def scenario(batcher, work, leave):
        large = asyncio.create_task(collected(batcher, work, items(*range(10))))
        await asyncio.sleep(0.05)  # its first batch is at work
        small = asyncio.create_task(collected(batcher, work, items(77)))
        await asyncio.sleep(0.05)
        leave.release(1000)
        return await small, await large

    (small, large), batches = batched(scenario)
    assert small == [77.0]
    assert large == [float(i) for i in range(10)]
    assert batches[0] == [0, 1, 2, 3]
    assert 77 in batches[1]
    assert len(batches[1]) == 4  # the small one rode along
    assert all(len(batch) <= 4 for batch in batches)


def test_an_item_larger_than_a_batch_may_cost_still_runs():
    async def scenario(batcher, work, leave):
        leave.release(1000)
        return await collected(batcher, work, items(1, 2))

    assert batched(scenario, max_batch_cost=0.1)[0] == [1.0, 2.0]


def test_a_caller_that_leaves_takes_its_work_with_it():
    async def scenario(batcher, work, leave):
        leaving = asyncio.create_task(collected(batcher, work, items(*range(100))))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        leave.release(1000)
        return await collected(batcher, work, items(500))

    answer, batches = batched(scenario)
    assert answer == [500.0]
    assert sum(map(len, batches)) == 4 + 1


def test_a_caller_that_does_not_read_is_passed_over():
    async def scenario(batcher, work, leave):
        leave.release(1000)
        unread = batcher.stream(work, items(*range(100)))
        await anext(unread)
        await asyncio.sleep(0.2)
        done = sum(map(len, work.batches))
        await unread.aclose()
        return done

    assert batched(scenario)[0] <= 4 * 4


def test_one_requests_fault_does_not_fail_the_others():
    async def scenario(batcher, work, leave):
        first = asyncio.create_task(collected(batcher, work, items(0, 0, 0, 0)))
        await asyncio.sleep(0.05)
        bad = asyncio.create_task(collected(batcher, work, items(-1)))
        good = asyncio.create_task(collected(batcher, work, items(5)))
        await asyncio.sleep(0.05)
        leave.release(1000)
        await first
        with pytest.raises(ValueError, match="negative"):
            await bad
        return await good

    assert batched(scenario)[0] == [5.0]


def test_too_many_requests_are_refused_at_once():
    async def scenario(batcher, work, leave):
        waiting = [asyncio.create_task(collected(batcher, work, items(i))) for i in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded, match="2 requests are being served"):
            await collected(batcher, work, items(9))
        leave.release(1000)
        return [await task for task in waiting]

    assert batched(scenario, max_requests=2)[0] == [[0.0], [1.0]]


def test_a_ping_is_answered_while_a_batch_is_at_work(polysem_client):
    stream = iter(polysem_client.cluster("*", algorithm="scc"))
    next(stream)
    assert polysem_client.info().model.n_layers == 2
    assert sum(1 for _ in stream) == 2 * 96 - 1
