"""Health, and calls, while callers misbehave: whoever opens no window, or says nothing, is in nobody's way."""

import struct
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polysem.client import Client
from polysem.server.serving import malformed

from ...load import http2

WATCH = b"/grpc.health.v1.Health/Watch"
NO_WINDOW = http2.frame(http2.SETTINGS, payload=struct.pack(">HI", 4, 0))  # SETTINGS_INITIAL_WINDOW_SIZE
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def closed_watch(target):
    """A connection with a watch whose answers it gives no window."""
    connection = http2.Connection(target)
    connection.send(NO_WINDOW + http2.call(1, WATCH))
    return connection


def test_a_watcher_that_opens_no_window_keeps_no_change_from_the_others(served):
    with served(drain_s=1) as target:
        closed = closed_watch(target)
        with Client(target) as client:
            assert client.info().version  # what came before has been looked at
        channel = grpc.insecure_channel(target)
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watching).status == SERVING
    assert next(watching).status == NOT_SERVING  # and the server has stopped
    closed.close()
    channel.close()


def nothing():
    time.sleep(20)
    yield from ()


@pytest.mark.parametrize(
    "path",
    [
        "/polysem.v1.NeuronService/ClusterNeurons",
        "/polysem.v1.JobService/UploadCorpus",
        "/grpc.health.v1.Health/Check",
    ],
)
def test_a_call_in_which_nothing_is_said_is_ended(served, monkeypatch, path):
    monkeypatch.setattr(malformed, "SILENCE_S", 0.3)
    with served() as target, grpc.insecure_channel(target) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            list(channel.stream_stream(path)(nothing(), timeout=20))
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert raised.value.details().startswith("no request came in 0.3 s, so the call's place was given up")


def test_a_service_that_is_not_here_has_no_health(served):
    with served() as target, grpc.insecure_channel(target) as channel:
        health, other = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service="no.Such")
        with pytest.raises(grpc.RpcError) as raised:
            health.Check(other)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        watching = health.Watch(other)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()
