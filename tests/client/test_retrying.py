"""A busy or starting server is asked again by itself, and says at which attempt it took the call; the rest of an answer
that was cut off is asked for; what is too large is not asked again."""

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import pytest

import polysem.server
from polysem.client import AsyncClient, Client, connection
from polysem.proto.errors import InvalidArgument, Overloaded, Unavailable
from polysem.proto.wire import status
from polysem.server.questions import clustering
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


def test_so_does_a_call_with_one_answer(full_server, gate, caplog):
    threading.Timer(0.4, gate.set).start()
    with caplog.at_level(logging.WARNING, "polysem"), Client(full_server) as client:
        assert len(client.neurons(limit=1)) == 1
    assert sum("took the call at attempt" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("ask_of", [lambda c: c.cluster("0.0"), lambda c: c.neurons(limit=1)], ids=["stream", "page"])
def test_asyncios_client_does_the_same(full_server, gate, caplog, ask_of):
    async def ask():
        async with AsyncClient(full_server) as client:
            return len(await ask_of(client))

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


# ---- Messages that are too large


class Dropping(pb_grpc.NeuronServiceServicer):
    """Drops its first call, as gRPC does with what comes in while a server begins to drain."""

    def __init__(self):
        self.n_calls = 0

    def ListIndexes(self, request, context):  # noqa: N802
        self.n_calls += 1
        if self.n_calls == 1:
            context.abort(grpc.StatusCode.CANCELLED, "")
        return pb.ListIndexesResponse()


def test_a_call_that_a_server_dropped_is_made_again():
    servicer, server = Dropping(), grpc.server(ThreadPoolExecutor(1))
    pb_grpc.add_NeuronServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client:
            assert client.indexes() == []
    finally:
        server.stop(None).wait()
    assert servicer.n_calls == 2


@pytest.mark.parametrize("limits", [(), (("grpc.max_send_message_length", -1),)], ids=["here", "there"])
def test_a_question_above_one_mebibyte_is_told_at_once_and_not_repeated(polysem_client, limits, caplog):
    address, options = connection._address(polysem_client.target)
    started = time.monotonic()
    with grpc.insecure_channel(address, [*options, *limits]) as channel, pytest.raises(grpc.RpcError) as raised:
        pb_grpc.NeuronServiceStub(channel).ListNeurons(pb.ListNeuronsRequest(index="x" * (1 << 20)))
    assert time.monotonic() - started < 5
    error = status.from_rpc_error(raised.value, "gpu-box:50051")
    assert isinstance(error, InvalidArgument)
    assert str(error).startswith("the question has 1048580 bytes, a server reads 1048576; name ranges instead")


# ---- Answers that are cut off


@contextmanager
def cut_off(target, n_bytes):
    """The address of a proxy that closes its first connection once so many bytes have come back; later ones live."""
    host, port = target.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    sockets, limits = [listener], iter([n_bytes])

    def pump(source, sink, limit):
        with suppress(OSError):
            while limit > 0 and (data := source.recv(min(65536, limit))):
                sink.sendall(data)
                limit -= len(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def accept():
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((host, int(port)))
                sockets.extend([near, far])
                back = next(limits, float("inf"))
                for way in ((near, far, float("inf")), (far, near, back)):
                    threads.append(threading.Thread(target=pump, args=way))
                    threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in threads:
            thread.join()


def columns_of(neurons):
    return {
        name: bytes(str(list(values)), "utf-8")
        for per in ("neuron", "example")
        for name, values in neurons.columns(per).items()
    }


@pytest.fixture
def small_batches(index_folder, monkeypatch):
    """The target of a server whose answers come in many messages."""
    monkeypatch.setenv("POLYSEM_MAX_BATCH_COST", "1e5")
    with polysem.server.local(index_folder, device="cpu") as client:
        yield client.target


@pytest.mark.parametrize("n_bytes", [20_000, 50_000, 100_000])
def test_an_answer_that_is_cut_off_goes_on_and_has_the_same_bytes(small_batches, n_bytes, caplog):
    with Client(small_batches) as client:
        whole = columns_of(client.cluster("*"))
    with (
        cut_off(small_batches, n_bytes) as target,
        caplog.at_level(logging.WARNING, "polysem"),
        Client(target) as client,
    ):
        answers = client.cluster("*")
        assert columns_of(answers) == whole
    assert "broke off amid an answer: asking again for the rest" in caplog.text


def test_asyncios_client_goes_on_too(small_batches, caplog):
    async def ask(target):
        async with AsyncClient(target) as client:
            return columns_of(await client.cluster("*"))

    whole = asyncio.run(ask(small_batches))
    with cut_off(small_batches, 50_000) as target, caplog.at_level(logging.WARNING, "polysem"):
        assert asyncio.run(ask(target)) == whole
    assert "broke off amid an answer: asking again for the rest" in caplog.text
