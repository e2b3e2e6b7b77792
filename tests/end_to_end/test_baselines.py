"""Baselines beside every clustering answer: through server, client, table, JSON, terminal and browser."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.cluster.hierarchy import fcluster

from polysem.client import terminal
from polysem.client.baselines import Baselines
from polysem.client.commands.neurons import neuron_json
from polysem.client.drawing import browser
from polysem.kernels import agglomerative, products, rotations
from polysem.server.index.format import open_index

NEURON = "0.3"


def test_key_tokens_are_those_at_the_examples_positions(polysem_client, index_folder):
    contexts = open_index(index_folder).contexts
    for neuron in polysem_client.cluster("1.9", "0.0-5", "1.3"):
        want = [contexts.tokens(example.context)[example.position] for example in neuron.examples]
        assert neuron.key_tokens.tolist() == want


@pytest.mark.parametrize("frame", ["raw", "own"])
@pytest.mark.parametrize("embedding", ["neuron", "pre_mlp"])
def test_nulls_are_rotations_clustered_and_cut_alike(polysem_client, embedding, frame):
    how = {"embedding": embedding, "frame": frame}
    neuron = polysem_client.cluster(NEURON, n_null=5, seed=2, **how)[0]
    e = torch.from_numpy(np.array(polysem_client.embed(NEURON, **how)[0].embeddings))
    n = torch.tensor([len(e)])
    gram = products.gathered_products(e, torch.arange(len(e))[None], torch.ones(1, e.shape[1]), n)
    distances = rotations.rotated_distances(gram, n, 0, 5, 2)[0]
    trees = agglomerative.linkage(distances, n.expand(5), "average").numpy()
    sizes = [fcluster(z, neuron.distance_threshold, "distance").max() for z in trees]
    assert neuron.baselines.null_n_clusters == pytest.approx(np.mean(sizes), abs=0.21)  # a merge may lie at the cut


@pytest.mark.parametrize("algorithm", ["hac", "scc", "components"])
def test_every_algorithm_has_them(polysem_client, algorithm):
    found = polysem_client.cluster(NEURON, algorithm=algorithm, n_null=9)[0].baselines
    assert found.null_n_clusters >= 1
    assert found.singleton_share is not None


def test_on_a_graph_of_neighbours_there_are_no_nulls(polysem_client):
    found = polysem_client.cluster(NEURON, algorithm="scc", neighbours=4)[0]
    assert found.significance is not None
    assert found.baselines[3:] == (None,) * 4


def test_another_cut_has_its_own_tokens_and_no_nulls(polysem_client):
    neuron = polysem_client.cluster(NEURON)[0]
    there = polysem_client.cluster(NEURON, distance_threshold=0.3)[0]
    assert neuron.baselines.null_n_clusters is not None
    assert neuron.cut(0.3).baselines == there.baselines[:3] + (None,) * 4


def test_several_neurons_have_tokens_in_their_table_and_pay_for_no_nulls(polysem_client):
    clusters = polysem_client.cluster("0.0-9")
    columns = clusters.columns()
    for i, neuron in enumerate(clusters):
        for name in Baselines._fields:
            value = getattr(neuron.baselines, name)
            assert columns[name][i] == value or (value is None and np.isnan(columns[name][i]))
    assert np.isnan(columns["null_intra"]).all()


def test_they_are_said_in_json_terminal_and_browser(polysem_client):
    neuron = polysem_client.cluster(NEURON)[0]
    assert json.loads(json.dumps(neuron_json(neuron)))["baselines"] == neuron.baselines._asdict()
    assert browser.data(neuron, None)["baselines"] == neuron.baselines._asdict()
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(terminal.neuron_panel(neuron, neuron.examples))
    console.print(terminal.metrics_table([neuron]))
    said = console.export_text()
    assert f"{neuron.baselines.token_agreement:.2f} agreement with the key token (AMI)" in said
    assert f"by chance {neuron.baselines.null_intra:.2f} within clusters" in said
    assert "token AMI" in said
