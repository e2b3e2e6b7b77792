"""A server with jobs, and a gate that holds its work up."""

import threading

import grpc
import pytest

import polysem.server
from polysem.server.questions import clustering
from polysem.v1 import job_service_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def client(index_folder, tmp_path_factory):
    """Of a server with jobs, over the small index."""
    with polysem.server.local(index_folder, device="cpu", state=tmp_path_factory.mktemp("state")) as client:
        yield client


@pytest.fixture
def stub(client):
    with grpc.insecure_channel(client.target) as channel:
        yield pb_grpc.JobServiceStub(channel)


@pytest.fixture
def gated(monkeypatch):
    """A function from whose call on batches of clusterings wait until they are let through, one for each release."""
    gate = threading.Semaphore(0)
    run = clustering.ClusterWork.run

    def run_when_let(self, items):
        assert gate.acquire(timeout=60)
        return run(self, items)

    def begin():
        monkeypatch.setattr(clustering.ClusterWork, "run", run_when_let)
        return gate

    yield begin
    gate.release(10_000)


@pytest.fixture
def gate(gated):
    return gated()
