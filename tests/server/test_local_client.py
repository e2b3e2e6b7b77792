"""Whatever can cluster answers alike: a client of a server, engine and batcher of a process, workers of a cluster."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from polysem.proto.errors import UnknownIndex, UnknownNeuron
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import Clustering, ClusterQuery, EmbeddingChoice
from polysem.proto.wire.columns import LAYOUTS
from polysem.server.local_client import opened

LAYER = (NeuronRange(1),)
QUERIES = [
    ClusterQuery(LAYER),
    ClusterQuery((NeuronRange(0, 3, 9), NeuronRange(1, 7, 7)), clustering=Clustering("scc", until_stable=True)),
    ClusterQuery(LAYER, choice=EmbeddingChoice("pre_mlp", "raw"), clustering=Clustering("components", "complete")),
    ClusterQuery(LAYER, clustering=Clustering("scc", "single", silhouette_thresholds=(0.2, 0.5))),
]


@pytest.fixture(scope="module")
def local(index_folder):
    with opened(index_folder, device="cpu") as client:
        yield client


def whole(clusterer, query):
    """The columns of all batches that answer the query."""
    answers = list(clusterer.clusters(query))
    columns = LAYOUTS[type(answers[0].batch)].axes
    return {name: np.concatenate([getattr(answer.batch, name) for answer in answers]) for name in columns}


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_a_process_answers_as_its_server_would(polysem_client, local, query):
    far, near = whole(polysem_client, query), whole(local, query)
    for name in far:
        assert far[name].tobytes() == near[name].tobytes(), name


def test_facts_are_the_same(polysem_client, local):
    assert local.indexes() == polysem_client.indexes()
    assert replace(local.info(), limits=None) == replace(polysem_client.info(), limits=None)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (ClusterQuery((NeuronRange(9),)), UnknownNeuron),
        (ClusterQuery(LAYER, "nowhere"), UnknownIndex),
    ],
)
def test_errors_are_the_same(polysem_client, local, query, error):
    said = []
    for client in (polysem_client, local):
        with pytest.raises(error) as raised:
            list(client.clusters(query))
        said.append(raised.value.message)
    assert said[0] == said[1]


ALONE = """
import sys
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import ClusterQuery
from polysem.server.local_client import opened
with opened(sys.argv[1], device="cpu") as client:
    print(sum(len(answer.batch.neurons) for answer in client.clusters(ClusterQuery((NeuronRange(1),)))))
unwanted = {"polysem.server.app", "polysem.server.jobs.store", "grpc_reflection", "polysem.client"}
print(sorted(unwanted & set(sys.modules)))
"""


def test_it_needs_no_server_no_jobs_and_no_client(index_folder):
    ran = subprocess.run([sys.executable, "-c", ALONE, index_folder], capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["96", "[]"], ran.stderr
