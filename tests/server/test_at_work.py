"""A server at work: how it says what it cannot serve, answers while it is busy, breaks, and lets its callers go."""

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import polysem.server
from polysem.client import Client
from polysem.proto.errors import (
    FailedPrecondition,
    ForeignIndex,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    UnknownModel,
)
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.server import app, settings
from polysem.server.questions import clustering
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

# ---- Where it listens


def enter(load=lambda: pytest.fail("it loaded"), **flags):
    """Try to serve and leave at once; loading anything fails the test."""

    async def run():
        async with app.running(settings.read(**flags), load):
            pass

    asyncio.run(run())


def not_here():
    raise UnknownModel("the model is not here")


def test_two_servers_do_not_share_a_port(polysem_client):
    with pytest.raises(FailedPrecondition, match="the port is taken"):
        enter(port=int(polysem_client.target.rsplit(":")[-1]))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_told(host):
    with pytest.raises(FailedPrecondition, match=f"cannot listen on {host}:0"):
        enter(host=host, port=0, insecure=True)


@pytest.mark.parametrize("host", ["::", "", "127.0.0.1.example.org"])
def test_what_is_not_surely_loopback_needs_insecure(host):
    with pytest.raises(InvalidArgument, match=r"can be reached from other machines, .* pass --insecure") as raised:
        enter(host=host)
    assert raised.value.field == "host"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0"])
def test_loopback_is_always_allowed_and_the_rest_with_insecure(host):
    with pytest.raises(UnknownModel):  # it got as far as loading
        enter(not_here, host=host, port=0, insecure=host == "0.0.0.0")


def test_a_server_that_could_not_load_frees_its_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    for _ in range(3):
        with pytest.raises(UnknownModel):
            enter(not_here, port=port)
    with socket.create_server(("127.0.0.1", port)):
        pass


# ---- In this process


class BodyError(Exception):
    pass


def port_of(client):
    return int(client.target.rsplit(":")[-1])


def test_a_local_server_is_gone_after_with(index_folder):
    with polysem.server.local(index_folder, device="cpu") as client:
        assert client.info().default_index == "small"
    with socket.create_server(("127.0.0.1", port_of(client))):
        pass


def use_badly(index_folder, seen):
    with polysem.server.local(index_folder, device="cpu") as client:
        seen.append(client)
        next(iter(client.cluster("*")))
        raise BodyError


def test_a_local_server_stops_where_its_body_fails(index_folder):
    seen = []
    with pytest.raises(BodyError):
        use_badly(index_folder, seen)
    with socket.create_server(("127.0.0.1", port_of(*seen))):
        pass


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"index": "none"}, NotFound, "there is no index"),
        ({"model": "./none"}, UnknownModel, "there is no model folder"),
        ({"device": "cuda:99"}, InvalidArgument, "device"),
        ({"device": "abacus"}, InvalidArgument, "unknown device 'abacus'"),
    ],
)
def test_what_cannot_be_served_is_told_to_whoever_wanted_it(index_folder, options, error, words):
    options = {"device": "cpu", "index": index_folder} | options
    with pytest.raises(error, match=words), polysem.server.local(options.pop("index"), **options):
        pytest.fail("it was served")


def test_an_index_is_not_served_with_other_weights(index_folder, make_checkpoint):
    other = str(make_checkpoint("served-foreign", seed=3))
    with pytest.raises(ForeignIndex), polysem.server.local(index_folder, model=other, device="cpu"):
        pytest.fail("it was served")


def test_two_indexes_of_one_name_are_refused(index_folder):
    with (
        pytest.raises(InvalidArgument, match="two indexes are called 'small'"),
        polysem.server.local(index_folder, index_folder, device="cpu"),
    ):
        pytest.fail("it was served")


# ---- What it says of itself


@pytest.fixture
def channel(polysem_client):
    with grpc.insecure_channel(polysem_client.target) as channel:
        yield channel


def test_health_knows_its_own_service_only(channel):
    health = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service="polysem.v1.Other"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_knows_the_services_and_their_messages(channel):
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="polysem.v1.NeuronService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="polysem.v1.Tensor"),
    ]
    services, *files = reflection.ServerReflectionInfo(iter(asked))
    names = {service.name for service in services.list_services_response.service}
    assert names == {
        "polysem.v1.NeuronService",
        "polysem.v1.JobService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert all(file.file_descriptor_response.file_descriptor_proto for file in files)


# ---- Messages


def test_no_answer_is_above_the_message_limit(channel):
    stub = pb_grpc.NeuronServiceStub(channel)
    everything = [pb.NeuronRange()]
    for answer in (
        stub.ClusterNeurons(pb.ClusterNeuronsRequest(neurons=everything)),
        stub.EmbedNeurons(pb.EmbedNeuronsRequest(neurons=everything)),
        stub.GetExamples(pb.GetExamplesRequest(neurons=everything, whole_context=True)),
    ):
        assert 0 < max(message.ByteSize() for message in answer) <= MAX_MESSAGE_BYTES


def test_a_request_just_below_the_message_limit_is_read(channel):
    stub = pb_grpc.NeuronServiceStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.ClusterNeurons(pb.ClusterNeuronsRequest(index="x" * (1000 << 10), neurons=[pb.NeuronRange()])))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND  # of an index, named in a sentence that fits


def test_a_request_that_names_nothing_is_refused(channel):
    stub = pb_grpc.NeuronServiceStub(channel)
    for call, request in (
        (stub.ClusterNeurons, pb.ClusterNeuronsRequest()),
        (stub.EmbedNeurons, pb.EmbedNeuronsRequest()),
        (stub.GetExamples, pb.GetExamplesRequest()),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            list(call(request))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert raised.value.details() == "no neuron was named: give at least one range"


# ---- While it works


@pytest.fixture
def gate(monkeypatch):
    """Batches of clusterings wait until they are let through, one for each release."""
    gate = threading.Semaphore(0)
    run = clustering.ClusterWork.run

    def run_when_let(self, items):
        assert gate.acquire(timeout=60)
        return run(self, items)

    monkeypatch.setattr(clustering.ClusterWork, "run", run_when_let)
    yield gate
    gate.release(10_000)


@pytest.fixture
def busy_client(index_folder, monkeypatch):
    """A client of a server that takes a batch for each neuron and two requests at once."""
    monkeypatch.setenv("POLYSEM_MAX_BATCH_COST", "1")
    monkeypatch.setenv("POLYSEM_MAX_REQUESTS_IN_FLIGHT", "2")
    with polysem.server.local(index_folder, device="cpu") as client:
        yield client


def first_of(stream, gate):
    """The stream's first item, let through as slowly as can be."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, stream)
        while not waiting.done():
            gate.release()
            time.sleep(0.01)
        return waiting.result()


def test_a_ping_is_answered_while_a_request_runs(busy_client, gate):
    stream = iter(busy_client.cluster("*"))
    first_of(stream, gate)
    for _ in range(3):
        assert busy_client.info().model.n_layers == 2  # the next batch is at work, and waits for the gate
    gate.release(10_000)
    assert sum(1 for _ in stream) == 2 * 96 - 1


def test_more_requests_than_the_limit_are_refused_with_a_time_to_come_back(busy_client, gate):
    streams = [iter(busy_client.cluster(f"{layer}.*")) for layer in range(2)]
    for stream in streams:
        first_of(stream, gate)
    with pytest.raises(Overloaded, match="2 requests are being served already") as raised:
        len(busy_client.cluster("0.0"))
    assert raised.value.retry_after_s > 0
    gate.release(10_000)
    assert [sum(1 for _ in stream) for stream in streams] == [95, 95]
    assert len(busy_client.cluster("0.0")) == 1


def test_callers_that_leave_free_their_places(busy_client, gate):
    for _ in range(2):  # as many as there are places
        leaving = Client(busy_client.target)
        first_of(iter(leaving.cluster("*")), gate)
        leaving.close()
    for _ in range(100):  # until the server has seen them go, long before their work would have been done
        try:
            assert first_of(iter(busy_client.cluster("0.0")), gate).id == (0, 0)
        except Overloaded:
            continue
        return
    pytest.fail("their places were never freed")


def test_what_nobody_foresaw_is_internal_and_logged_under_its_number(polysem_client, monkeypatch, caplog):
    def run(self, items):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(clustering.ClusterWork, "run", run)
    words = r"something went wrong in the server; its log has the details under [0-9a-f]{12}$"
    with caplog.at_level(logging.ERROR), pytest.raises(Internal, match=words) as raised:
        len(polysem_client.cluster("0.0"))
    number = str(raised.value).split()[-1]
    (record,) = [record for record in caplog.records if number in record.getMessage()]
    assert record.exc_info[0] is ZeroDivisionError
    monkeypatch.undo()
    assert len(polysem_client.cluster("0.0")) == 1  # and it goes on serving
