"""Stability through server, client, JSON, terminal, browser and measurements, against the kernels."""

import io
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from polysem.client import terminal
from polysem.client.commands.cli import cli
from polysem.client.commands.neurons import neuron_json
from polysem.client.drawing import browser
from polysem.client.measuring import measurements
from polysem.kernels import agglomerative, tree
from polysem.kernels.distances import gathered_cosine_distances
from polysem.kernels.stability import cluster_stability, prediction_strength

NEURON = "0.3"


@pytest.mark.parametrize("frame", ["raw", "own"])
def test_a_neuron_has_that_of_its_embeddings(polysem_client, frame):
    neuron = polysem_client.cluster(NEURON, frame=frame, n_null=39, seed=3)[0]
    e = torch.from_numpy(np.array(polysem_client.embed(NEURON, frame=frame)[0].embeddings))
    n, used = torch.tensor([len(e)], dtype=torch.int32), torch.arange(len(e))[None]
    d = gathered_cosine_distances(e, used, torch.ones(1, e.shape[1]), n)

    def trees_of(d, n):
        return agglomerative.linkage(d, n, "average")

    want = cluster_stability(
        d, torch.from_numpy(neuron.labels.copy())[None], n, lambda d, n: tree.cut(trees_of(d, n), n, 0.5), seed=3
    )[0].numpy()
    for cluster in neuron.clusters:
        if cluster.size == 1:
            assert cluster.stability is None
        else:
            assert cluster.stability == pytest.approx(want[cluster.members[0]], abs=1e-3)
    k = torch.tensor([neuron.significant_clusters])
    strength = prediction_strength(d, n, k, trees_of, seed=3).item()
    assert neuron.prediction_strength == (None if np.isnan(strength) else pytest.approx(strength, abs=1e-3))


def test_who_does_not_ask_has_none(polysem_client):
    for neuron in polysem_client.cluster("0.3", "0.4"):
        assert neuron.prediction_strength is None
        assert all(cluster.stability is None for cluster in neuron.clusters)


def test_another_cut_has_other_clusters_and_the_same_strength(polysem_client):
    neuron = polysem_client.cluster(NEURON, n_null=19)[0]
    there = neuron.cut(0.3)
    assert all(cluster.stability is None for cluster in there.clusters)
    assert there.prediction_strength == neuron.prediction_strength


def test_company_changes_no_bit(polysem_client):
    alone, together = polysem_client.cluster(NEURON, n_null=20)[0], polysem_client.cluster("0.0-20", n_null=20)[3]
    assert [c.stability for c in alone.clusters] == [c.stability for c in together.clusters]
    assert alone.prediction_strength == together.prediction_strength


def test_it_is_said_in_json_terminal_and_browser(polysem_client):
    neuron = polysem_client.cluster("0.3", n_null=99)[0]
    written = json.loads(json.dumps(neuron_json(neuron)))
    assert [c["stability"] for c in written["clusters"]] == [c.stability for c in neuron.clusters]
    assert written["prediction_strength"] == neuron.prediction_strength
    assert browser.data(neuron, None)["tested"]["stability"] == {c.label: c.stability for c in neuron.clusters}
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(terminal.neuron_panel(neuron, neuron.examples))
    stable = neuron.clusters[0].stability
    assert stable is not None
    assert f"stability {stable:.2f}" in console.export_text()


def test_too_few_rotations_for_a_small_p_are_told(polysem_client, index_folder, tmp_path):
    neuron = polysem_client.cluster(NEURON, n_null=9, seed=4)[0]
    assert (neuron.provenance.clustering.n_null, neuron.provenance.clustering.seed) == (9, 4)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(terminal.neuron_panel(neuron, neuron.examples))
    assert "9 rotations cannot tell it from one Gaussian cloud, 19 or more could" in console.export_text()
    assert browser.data(neuron, None)["tested"]["verdict"] == neuron.verdict
    assert "cannot tell" not in polysem_client.cluster(NEURON, n_null=19)[0].verdict
    assert polysem_client.cluster(NEURON, n_null=0)[0].verdict is None
    words = ["measure", "0.3", "--index", str(index_folder), "--out", str(tmp_path / "m"), "--null", "18"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "with 18 rotations no p-value can be .05 or less; --null 19 or more can" in done.output


def test_measurements_have_the_mean_over_clusters_and_the_strength(polysem_client, index_folder, tmp_path):
    words = ["measure", "0.0-8", "--index", str(index_folder), "--out", str(tmp_path / "m"), "--null", "19"]
    assert CliRunner().invoke(cli, [*words, "--algorithm", "hac"], catch_exceptions=False).exit_code == 0
    measured = measurements.read(tmp_path / "m")
    for row in measured.rows(np.arange(len(measured))):
        neuron = polysem_client.cluster((row["layer"], row["neuron"]), embedding=row["embedding"], n_null=19)[0]
        stable = [cluster.stability for cluster in neuron.clusters if cluster.stability is not None]
        assert row["stability"] == (pytest.approx(np.mean(stable)) if stable else None)
        assert row["prediction_strength"] == neuron.prediction_strength
