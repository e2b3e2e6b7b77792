"""Through the proxy: every feature works for every client, and what a hostile network sends is stopped there."""

import asyncio
import json
import time
import urllib.request
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from polysem.client import AsyncClient, Client
from polysem.proto.errors import Unauthenticated
from polysem.proto.facts import Selection

from ..load import http2

INFO = b"/polysem.v1.NeuronService/GetServerInfo"


@pytest.fixture
def client(proxied):
    with Client(proxied.target, token=proxied.tokens[0], tls=str(proxied.ca)) as client:
        yield client


@pytest.fixture
def channel(proxied):
    with grpc.secure_channel(proxied.target, grpc.ssl_channel_credentials(proxied.ca.read_bytes())) as channel:
        yield channel


def test_questions_stream_their_answers(client):
    assert client.serving()
    assert len(client.cluster("*")) == 192
    assert client.explain("a text", "0.0")
    assert len(list(client.neurons(limit=10))) == 10


def test_the_asynchronous_client_works(proxied):
    async def ask():
        async with AsyncClient(proxied.target, token=proxied.tokens[0], tls=str(proxied.ca)) as client:
            return [neuron async for neuron in client.cluster("0.*")]

    assert len(asyncio.run(ask())) == 96


def test_uploads_watches_and_results_pass(client, corpus_file, tmp_path):
    client.jobs.upload(corpus_file, "texts.jsonl")
    *_, made = client.jobs.watch(
        client.jobs.index("texts", "texts.jsonl", selection=Selection("first", 0.5, 30)).id, heartbeat_s=0.2
    )
    assert made.state == "done", made.error
    *_, measured = client.jobs.watch(client.jobs.measure("0.*", best_cut=False).id)
    assert client.jobs.fetch(measured.id, tmp_path / "all.parquet").stat().st_size == measured.result_bytes


def test_health_is_watched_and_the_contract_is_read_by_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.RpcError) as raised:  # reflection asks for a key, as every service but health
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_errors_keep_their_words(proxied, client):
    with (
        Client(proxied.target, token="psm_no_key", tls=str(proxied.ca)) as stranger,
        pytest.raises(Unauthenticated, match="this key is not one of this server's"),
    ):
        stranger.info()
    with pytest.raises(LookupError, match=r"there is no neuron 9\.0"):
        list(client.cluster("9.0"))


def test_a_cancelled_call_ends_in_the_server_too(proxied, channel):
    metadata = (("authorization", f"Bearer {proxied.tokens[1]}"),)
    job = channel.unary_stream("/polysem.v1.JobService/WatchJob")
    create = channel.unary_unary("/polysem.v1.JobService/CreateJob")
    id_ = create(b"\x12\x00", metadata=metadata)[4:20].decode()
    watch = job(b"\x0a\x10" + id_.encode(), metadata=metadata)
    next(watch)
    watch.cancel()
    for _ in range(250):
        ended = [json.loads(line) for line in proxied.audit.read_text().splitlines()]
        if any((line.get("method"), line["code"]) in (("WatchJob", "CANCELLED"), ("WatchJob", "OK")) for line in ended):
            return
        time.sleep(0.02)
    pytest.fail("the server never saw that the watch was cancelled")


@pytest.mark.parametrize(
    "path", [b"/", b"/metrics", b"/grpc.channelz.v1.Channelz/GetServers", b"/polysem.v2.NeuronService/GetServerInfo"]
)
def test_other_paths_do_not_reach_the_server(proxied, path):
    with proxied.connect() as connection:
        connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS) + http2.call(1, path))
        assert b"polysem" not in received(connection)


def test_http_1_is_not_spoken(proxied):
    with proxied.connect("http/1.1") as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert not received(connection).startswith(b"HTTP/1.1 200")


def received(connection):
    """What comes until the other end closes, or says nothing for a second."""
    connection.settimeout(1)
    got = b""
    with suppress(OSError):
        while some := connection.recv(65536):
            got += some
    return got


def test_a_flood_of_resets_ends_at_the_proxy_and_other_addresses_are_answered(proxied):
    with proxied.connect() as connection:
        connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))
        with suppress(OSError):
            for stream in range(1, 120_000, 400):
                connection.sendall(
                    b"".join(http2.call(s, INFO, message=None) + http2.reset(s) for s in range(stream, stream + 400, 2))
                )
    assert not answered(proxied, "127.0.0.1")  # it has to wait some seconds
    assert answered(proxied, "127.0.0.2")
    assert n_calls(proxied) < 30_000  # of 60,000


def n_calls(proxied):
    """That have reached the server."""
    lines = urllib.request.urlopen(f"http://127.0.0.1:{proxied.metrics_port}/metrics").read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("polysem_calls_total{"))


def answered(proxied, source):
    """Whether the server tells this address that it serves."""
    with suppress(OSError), proxied.connect(source=source) as connection:
        connection.sendall(http2.PREFACE + http2.frame(http2.SETTINGS) + http2.call(1, b"/grpc.health.v1.Health/Check"))
        return b"application/grpc" in received(connection)
    return False
