"""Controls through a real server, against NumPy; and the silhouettes of every cut that Table 1 compares them by."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose
from safetensors.numpy import load_file
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from polysem.client.commands.cli import cli
from polysem.client.measuring import measurements
from polysem.client.measuring.measure import Measuring, variants
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.clustering import Clustering, ClusterQuery
from polysem.server.index.format import open_index
from polysem.server.model import controls

NEURON = "0.3"


@pytest.fixture(scope="module")
def embedded(checkpoint, index_folder):
    """A function: the control embeddings of the neuron (n, D) by a kind, mode and seed."""
    weights = load_file(checkpoint / "model.safetensors")
    stored, matrix = open_index(index_folder).layer(0), weights["transformer.h.0.mlp.c_fc.weight"]  # (D, N)
    gamma, beta = (weights[f"transformer.h.0.ln_2.{name}"] for name in ("weight", "bias"))
    x = stored.xhat[stored.rows[stored.offsets[3] : stored.offsets[4]]].astype(float)

    def of(kind, layer_norm, seed):
        j = torch.tensor([3])
        if kind == "other":
            w = matrix[:, int(controls.others(0, j, 96, seed)[0])]
        else:
            w = matrix[:, 3][controls.orders(0, j, 24, seed)[0].numpy()]
        return x * gamma * w if layer_norm == "folded" else (gamma * x + beta) * w

    return of


@pytest.mark.parametrize("layer_norm", ["folded", "raw"])
@pytest.mark.parametrize("kind", ["permuted", "other"])
def test_a_control_clusters_the_neurons_examples_by_other_weights(polysem_client, embedded, kind, layer_norm):
    heights = []
    for seed in (0, 2**40):
        found = polysem_client.cluster(NEURON, embedding=kind, layer_norm=layer_norm, seed=seed, n_null=0)[0]
        tree = linkage(pdist(embedded(kind, layer_norm, seed), "cosine"), "average")
        assert_allclose(found.linkage[:, 2], tree[:, 2], atol=1e-4)
        assert (found.provenance.choice.embedding, found.provenance.choice.seed) == (kind, seed)
        heights.append(found.linkage[-1, 2])
    assert heights[0] != heights[1]
    got = polysem_client.embed(NEURON, embedding=kind, layer_norm=layer_norm)[0].embeddings
    assert_allclose(got, embedded(kind, layer_norm, 0), atol=1e-3)


def test_a_seed_changes_no_embedding_that_draws_nothing(polysem_client):
    a, b = (polysem_client.cluster(NEURON, embedding="neuron", seed=seed, n_null=0)[0] for seed in (0, 7))
    assert a.provenance == b.provenance
    with pytest.raises(InvalidArgument, match="seed is -1"):
        polysem_client.cluster(NEURON, embedding="permuted", seed=-1, n_null=0)


def test_controls_go_through_commands_listings_and_measurements(polysem_client, index_folder, tmp_path):
    words = ["cluster", NEURON, "--server", polysem_client.target, "--embedding", "other", "--seed", "4", "--json"]
    printed = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).output)
    Measuring(polysem_client, (NEURON,), variants(("hac",), ("neuron", "permuted", "other")), seed=4).run(
        tmp_path / "m"
    )
    measured = measurements.read(tmp_path / "m")
    assert (measured.about["seed"], "n_null" in measured.about) == (4, False)
    rows = {row["embedding"]: row for row in measured.rows(np.arange(3))}
    assert rows["other"]["intra"] == printed["intra"]
    assert rows["other"]["matched_n_clusters"] == rows["neuron"]["n_clusters"]
    (listed,) = polysem_client.neurons(NEURON, embedding="permuted")  # with seed 0, as in all other questions
    assert listed.intra == polysem_client.cluster(NEURON, embedding="permuted", n_null=0)[0].metrics.intra
    assert listed.intra != rows["permuted"]["intra"]


@pytest.mark.parametrize("algorithm", ["hac", "scc"])
def test_the_silhouette_of_every_cut_is_scikit_learns(polysem_client, algorithm):
    query = ClusterQuery(parse_neurons(NEURON), clustering=Clustering(algorithm, cut_silhouettes=True))
    (answer,) = polysem_client.clusters(query)
    (e,) = polysem_client.embed(NEURON)
    d, heights = squareform(pdist(e.embeddings.astype(float), "cosine")), answer.batch.heights
    tree = polysem_client.cluster(NEURON, algorithm=algorithm, n_null=0)[0].linkage
    for height, got in zip(heights, answer.batch.cut_silhouettes[:, 0], strict=True):
        labels = fcluster(tree, height, "distance")
        want = silhouette_score(d, labels, metric="precomputed") if 1 < labels.max() < len(d) else np.nan
        assert_allclose(got, want, atol=1e-5)
    plain = ClusterQuery(parse_neurons(NEURON), clustering=Clustering(algorithm))
    assert next(polysem_client.clusters(plain)).batch.cut_silhouettes.shape == (len(heights), 0)
