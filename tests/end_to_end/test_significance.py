"""Is a neuron's clustering more than chance? Through server, client and command, against the kernels and by hand."""

import io
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from polysem.client import cutting, terminal
from polysem.client.commands.neurons import neuron_json
from polysem.client.cutting import Tree
from polysem.client.drawing import browser
from polysem.kernels.significance import rotation_test
from polysem.proto.errors import InvalidArgument

NEURON = "0.3"


@pytest.mark.parametrize("embedding", ["neuron", "pre_mlp"])
@pytest.mark.parametrize("frame", ["raw", "own", "standardised"])
def test_a_neuron_has_the_rotation_test_of_its_embeddings(polysem_client, embedding, frame):
    how = {"embedding": embedding, "frame": frame}
    neuron = polysem_client.cluster(NEURON, n_null=49, seed=3, **how)[0]
    e = polysem_client.embed(NEURON, **how)[0].embeddings
    want = rotation_test(torch.from_numpy(np.array(e))[None], torch.tensor([len(e)]), 49, 3)
    for ours, theirs in zip(neuron.significance, want, strict=True):
        assert ours == pytest.approx(theirs.item(), abs=1e-4)
    excess = want.best_silhouette.item() - want.null_mean.item()
    assert neuron.significance.excess == pytest.approx(excess, abs=1e-4)
    assert neuron.merge_tests[-1, 0] == neuron.significance.p_value


def test_one_neuron_is_tested_by_default_and_several_are_not(polysem_client):
    hundredths = polysem_client.cluster(NEURON)[0].significance.p_value * 100
    assert hundredths == pytest.approx(round(hundredths))  # of 99 rotations
    assert all(neuron.significance is None for neuron in polysem_client.cluster("0.3", "0.4"))
    assert polysem_client.cluster(NEURON, n_null=0)[0].significance is None
    assert polysem_client.cluster(NEURON, n_null=0)[0].significant_cut is None


def test_by_default_the_neuron_alone_is_tested_and_when_asked_its_merges_too(polysem_client):
    alone, wholly = polysem_client.cluster(NEURON)[0], polysem_client.cluster(NEURON, n_null=99)[0]
    assert alone.significance == wholly.significance
    assert alone.baselines == wholly.baselines  # with what rotations have at the cut
    assert (alone.merge_tests, alone.significant_clusters, alone.prediction_strength) == (None, None, None)
    assert {cluster.stability for cluster in alone.clusters} == {None}
    assert wholly.significant_clusters is not None
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal.neuron_panel(alone, alone.examples))
    assert "its merges were not tested" in console.export_text()
    written = neuron_json(alone)
    assert written["excess_silhouette"] == alone.significance.excess
    assert "significant_merges" not in written


def test_who_looks_at_one_neuron_sees_its_significant_merges(polysem_client):
    from polysem.client.commands.cli import cli

    wholly = polysem_client.cluster(NEURON, n_null=99)[0]
    arguments = ["cluster", NEURON, "--json", "--server", polysem_client.target]
    (row,) = [
        json.loads(line) for line in CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout.splitlines()
    ]
    assert row["significant_clusters"] == wholly.significant_clusters


def test_company_and_repetition_change_no_bit(polysem_client):
    alone = polysem_client.cluster(NEURON, n_null=20)[0]
    together = polysem_client.cluster("0.0-20", n_null=20)[3]
    assert alone.significance == together.significance
    assert np.array_equal(alone.merge_tests, together.merge_tests, equal_nan=True)
    assert polysem_client.cluster(NEURON, n_null=20, seed=1)[0].significance.null_mean != alone.significance.null_mean


def test_a_neuron_without_examples_has_no_test(polysem_client):
    neuron = polysem_client.cluster("1.3", n_null=9)[0]  # never positive
    assert len(neuron.labels) == 0
    assert neuron.significance is None
    assert neuron.significant_clusters is None


@pytest.mark.parametrize(
    ("n_null", "seed", "words"),
    [
        (-1, 0, "n_null is -1"),
        (2000, 0, "give 0 to 1999"),
        (9.5, 0, "n_null is 9.5; give 0 to 1999"),
        ("99", 0, "n_null is '99'"),
        (9, -1, "seed is -1"),
        (9, 0.5, "seed is 0.5"),
    ],
)
def test_wrong_numbers_are_refused_in_words(polysem_client, n_null, seed, words):
    with pytest.raises(InvalidArgument, match=words):
        polysem_client.cluster(NEURON, n_null=n_null, seed=seed)[0]


def test_a_cut_keeps_the_test(polysem_client):
    neuron = polysem_client.cluster(NEURON)[0]
    assert neuron.cut(0.7).significance == neuron.significance
    assert neuron.cut(0.7).significant_cut == neuron.significant_cut


# 0 and 1, then 2, join; 3 and 4 join; then both. Nodes: 5 = {0, 1}, 6 = {3, 4}, 7 = {0, 1, 2}, 8 = all
TREE = Tree(
    merges=np.array([[0, 1], [3, 4], [2, 5], [6, 7]], np.int32),
    heights=np.array([0.1, 0.2, 0.3, 0.9]),
    centrals=np.zeros(4, np.int32),
    mean_distances=np.zeros(4),
)


def test_groups_and_cut_by_hand():
    def groups(*significant):
        return cutting.significant_labels(TREE, 5, np.array(significant)).tolist()

    assert groups(0, 0, 0, 0) == [0, 0, 0, 0, 0]
    assert groups(0, 0, 0, 1) == [0, 0, 0, 1, 1]
    assert groups(0, 0, 1, 1) == [0, 0, 1, 2, 2]
    assert groups(1, 1, 1, 0) == [0, 0, 0, 0, 0]  # below a merge that is not, nothing counts
    assert cutting.suggested_cut(TREE, 5, np.array([0, 0, 0, 1, 1])) == pytest.approx(0.6)
    assert cutting.suggested_cut(TREE, 5, np.array([0, 0, 1, 2, 2])) == pytest.approx(0.25)
    assert cutting.suggested_cut(TREE, 5, np.zeros(5, int)) == 0.9
    nothing = Tree(np.zeros((0, 2), np.int32), np.zeros(0), np.zeros(0, np.int32), np.zeros(0))
    assert cutting.suggested_cut(nothing, 1, np.zeros(1, int)) is None


def test_it_is_said_in_terminal_json_and_browser(polysem_client, index_folder):
    neuron = polysem_client.cluster(NEURON, n_null=99)[0]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal.neuron_panel(neuron, neuron.examples))
    said = console.export_text()
    assert "one Gaussian cloud (p " in said
    assert f"best silhouette {neuron.significance.best_silhouette:.2f}, by chance" in said
    written = json.loads(json.dumps(neuron_json(neuron)))
    assert written["significance"]["p_value"] == neuron.significance.p_value
    assert written["significant_clusters"] == neuron.significant_clusters
    drawn = browser.data(neuron, None)["tested"]
    assert drawn["merges"] == written["significant_merges"]
    assert browser.data(polysem_client.cluster("0.3", "0.4")[0], None)["tested"] is None


def test_the_command_line_takes_nulls(polysem_client, monkeypatch):
    from polysem.client.commands.cli import cli

    arguments = ["cluster", "0.3", "0.4", "--json", "--server", polysem_client.target, "--null", "9"]
    rows = [json.loads(line) for line in CliRunner().invoke(cli, arguments, catch_exceptions=False).output.splitlines()]
    assert all(0.1 <= row["significance"]["p_value"] <= 1 for row in rows)
