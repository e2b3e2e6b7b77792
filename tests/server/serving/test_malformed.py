"""Requests that are no message, or none at all; hundreds more, at random, in tests/load/hostile.py."""

import grpc
import pytest
from grpc_health.v1 import health_pb2

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
