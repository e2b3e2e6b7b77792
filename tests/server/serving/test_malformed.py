"""Requests that are no message, or none at all; hundreds more, at random, in tests/load/hostile.py."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

LOAD = Path(__file__).parents[2] / "load"
NEURONS = "/polysem.v1.NeuronService/"
JOBS = "/polysem.v1.JobService/"
HEALTH = "/grpc.health.v1.Health/"
CUT = b"\x0a\x05sm"  # a string of five bytes, of which two came
METHODS = [NEURONS + "GetServerInfo", NEURONS + "ClusterNeurons", JOBS + "GetJob", JOBS + "WatchJob"]
METHODS += [HEALTH + "Check", HEALTH + "Watch"]


@pytest.fixture(scope="module")
def channel(polysem_client):
    with grpc.insecure_channel(polysem_client.target) as channel:
        yield channel


def failure(channel, method, *payloads):
    with pytest.raises(grpc.RpcError) as raised:
        list(channel.stream_stream(method)(iter(payloads), timeout=20))
    return raised.value


@pytest.mark.parametrize(
    "method", [*METHODS, JOBS + "UploadCorpus", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
)
def test_bytes_that_are_no_message_are_an_invalid_argument(channel, method):
    error = failure(channel, method, CUT)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("the request's 4 bytes are not the message that this call takes")


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_a_request_is_told_so(channel, method):
    error = failure(channel, method)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the call ended without a request; send one message, which may be empty"


def test_health_lists_nothing_and_says_so(channel):
    assert failure(channel, HEALTH + "List", b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_is_watched(channel):
    call = channel.unary_stream(HEALTH + "Watch")(b"", timeout=20)
    assert health_pb2.HealthCheckResponse.FromString(next(call)).status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()


def test_hundreds_of_hostile_messages_bring_neither_internal_errors_nor_the_server_down(index_folder):
    command = [sys.executable, str(LOAD / "hostile.py"), "--messages", "300", "--index", str(index_folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "INTERNAL, UNKNOWN or no answer: 0" in run.stdout
    assert "the server lives" in run.stdout
