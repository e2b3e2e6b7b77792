"""A busy or starting server is asked again by itself, and says at which attempt it took the call."""

import asyncio
import logging
import threading
import time

import grpc
import pytest

import polysem.server
from polysem.client import AsyncClient, Client
from polysem.proto.errors import Overloaded, Unavailable
from polysem.server import clustering
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


@pytest.fixture
def gate(monkeypatch):
    """Clusterings wait until the gate is open."""
    gate = threading.Event()
    run = clustering.ClusterWork.run

    def run_when_open(self, items):
        assert gate.wait(60)
        return run(self, items)

    monkeypatch.setattr(clustering.ClusterWork, "run", run_when_open)
    yield gate
    gate.set()


@pytest.fixture
def full_server(index_folder, gate, monkeypatch):
    """The target of a server that takes one request at once, and has it."""
    monkeypatch.setenv("POLYSEM_MAX_REQUESTS_IN_FLIGHT", "1")
    with polysem.server.local(index_folder, device="cpu") as client:
        taken = threading.Thread(target=lambda: len(client.cluster("0.0")))
        taken.start()
        time.sleep(0.3)
        yield client.target
        gate.set()
        taken.join()


def test_a_refusal_carries_its_time_for_people_and_for_grpc(full_server):
    with grpc.insecure_channel(full_server) as channel, pytest.raises(grpc.RpcError) as raised:
        list(pb_grpc.NeuronServiceStub(channel).ClusterNeurons(pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()])))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    pushback = dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]
    assert 100 <= int(pushback) <= 10_000


def test_a_call_that_was_refused_succeeds_by_itself_and_says_so_once(full_server, gate, caplog):
    threading.Timer(0.4, gate.set).start()
    with caplog.at_level(logging.WARNING, "polysem"), Client(full_server) as client:
        assert len(client.cluster("0.0")) == 1
    (record,) = [record for record in caplog.records if record.name == "polysem"]
    assert "took the call at attempt" in record.getMessage()


def test_asyncios_client_does_the_same(full_server, gate, caplog):
    async def ask():
        async with AsyncClient(full_server) as client:
            return len(await client.cluster("0.0"))

    threading.Timer(0.4, gate.set).start()
    with caplog.at_level(logging.WARNING, "polysem"):
        assert asyncio.run(ask()) == 1
    assert sum("took the call at attempt" in record.getMessage() for record in caplog.records) == 1


def test_a_call_that_succeeds_at_once_says_nothing(polysem_client, caplog):
    with caplog.at_level(logging.WARNING, "polysem"):
        assert len(polysem_client.cluster("0.0")) == 1
    assert caplog.records == []


def test_a_server_that_stays_full_is_told_in_the_end(full_server):
    with Client(full_server) as client, pytest.raises(Overloaded, match="1 requests are being served already"):
        len(client.cluster("0.0"))


def test_a_deadline_ends_the_attempts(full_server):
    started = time.monotonic()
    with Client(full_server, timeout_s=0.3) as client, pytest.raises((Overloaded, TimeoutError)):
        len(client.cluster("0.0"))
    assert time.monotonic() - started < 3


def test_no_server_is_told_within_seconds():
    started = time.monotonic()
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable, match=r"no Polysem server answers at 127.0.0.1:1"):
        client.info()
    assert time.monotonic() - started < 10
