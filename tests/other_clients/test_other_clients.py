"""Clients that are not ours, with their default limits: buf, Node, h2load. They learn the contract by reflection."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from polysem.v1 import neuron_service_pb2 as pb

from .conftest import MODULES

HERE = Path(__file__).parent
DEFAULT_LIMIT = 4 << 20  # of a message that gRPC's libraries take


@pytest.fixture
def buf_curl(run, server):
    """A function that asks with buf: its exit status and the JSON that it printed, of answer or error."""

    def ask(method, question):
        url = f"http://{server.target}/polysem.v1.NeuronService/{method}"
        command = [str(MODULES / ".bin/buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        asked = run(*command, "-d", question, url, package="@bufbuild/buf")
        return asked.returncode, asked.stdout, asked.stderr

    return ask


def test_buf_asks_for_the_server_s_facts(buf_curl, server):
    status, answer, problem = buf_curl("GetServerInfo", "{}")
    assert status == 0, problem
    assert json.loads(answer)["model"]["nNeuronsPerLayer"] == server.info().model.n_neurons_per_layer == 384


def test_buf_clusters_a_neuron(buf_curl, server):
    status, answer, problem = buf_curl("ClusterNeurons", '{"neurons": [{"layer": 1, "first": 7, "last": 7}]}')
    assert status == 0, problem
    assert len(json.loads(answer)["labels"]["shape"]) == 1
    assert int(json.loads(answer)["labels"]["shape"][0]) == len(server.cluster("1.7")[0].labels)


def test_buf_reads_a_refusal(buf_curl):
    status, _, problem = buf_curl("ClusterNeurons", '{"neurons": [{"layer": 99}]}')
    error = json.loads(problem)
    assert status != 0
    assert error["code"] == "not_found"
    assert "there is no neuron 99.*: the model has layers 0 to 1" in error["message"]
    assert error["details"][0]["value"] or error["details"][0]["debug"]["reason"] == "UNKNOWN_NEURON"


def test_node_streams_every_neuron_with_default_limits(run, server):
    asked = run("node", str(HERE / "ask.js"), server.target, package="grpc-js-reflection-client")
    assert asked.returncode == 0, asked.stderr
    said = json.loads(asked.stdout)
    ours = server.cluster("*")
    assert said["neurons"] == len(ours) == 768
    np.testing.assert_array_equal(said["clusters"], [neuron.metrics.n_clusters for neuron in ours])
    assert said["embeddings"]["bytes"] > DEFAULT_LIMIT
    assert said["embeddings"]["messages"] > 4
    assert said["refusal"]["code"] == 5
    assert "there is no neuron 99.*: the model has layers 0 to 1" in said["refusal"]["message"]
    assert "UNKNOWN_NEURON" in said["refusal"]["status"]
    assert {"polysem.v1.NeuronService", "polysem.v1.JobService", "grpc.health.v1.Health"} <= set(said["services"])


def test_h2load_asks_two_thousand_times(run, server, tmp_path):
    message = pb.GetServerInfoRequest().SerializeToString()
    (tmp_path / "request").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    command = ["h2load", "-n", "2000", "-c", "8", "-m", "16", "-d", str(tmp_path / "request")]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    asked = run(*command, f"http://{server.target}/polysem.v1.NeuronService/GetServerInfo")
    assert asked.returncode == 0, asked.stderr
    assert "2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in asked.stdout
    assert re.search(r"2000 2xx", asked.stdout)
    assert server.info().model.n_layers == 2
