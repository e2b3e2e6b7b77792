"""Tests of clusters that an index holds, q-values over all tested neurons, and what an index says of its tests."""

import io
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy.stats import false_discovery_control

import polysem.server
from polysem.client import terminal
from polysem.client.commands.cli import cli
from polysem.proto.errors import DamagedIndex
from polysem.proto.facts import HeldTests
from polysem.server.index import nulls
from polysem.server.index.format import open_index

OF_CLUSTERS = ("significant_clusters", "stability", "prediction_strength")


@pytest.fixture(scope="module")
def tested(index_folder, checkpoint, tmp_path_factory):
    """A copy of the small index that holds tests of neurons and their clusters, as the command adds them."""
    folder = shutil.copytree(index_folder, tmp_path_factory.mktemp("held_clusters") / "tested")
    words = ["index", "--add-nulls", str(folder), "--null", "19", "--seed", "3", "--test-clusters"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "compared with 19 rotations of its examples, its merges and clusters tested; serve it anew" in done.output
    return folder


@pytest.fixture(scope="module")
def client(tested):
    with polysem.server.local(tested, device="cpu") as client:
        yield client


def test_they_are_what_each_neurons_own_tests_say(client):
    listed = client.neurons("0.0-39")
    found = 0
    for row, neuron in zip(listed, client.cluster("0.0-39", n_null=19, seed=3), strict=True):
        assert row.significant_clusters == neuron.significant_clusters
        if row.significant_clusters is None:
            continue
        stable = [cluster.stability for cluster in neuron.clusters if cluster.stability is not None]
        assert row.stability == (pytest.approx(np.mean(stable)) if stable else None)
        assert row.prediction_strength == neuron.prediction_strength
        assert row.p_value == neuron.significance.p_value
        found += 1
    assert found > 20


@pytest.mark.parametrize("metric", ["q_value", *OF_CLUSTERS])
def test_listings_sort_and_filter_by_them_the_unknown_last(client, metric):
    every = list(client.neurons())
    for sign in (1, -1):

        def place(row, sign=sign):
            value = getattr(row, metric)
            return (value is None, sign * (value or 0), row.id)

        assert list(client.neurons(sort_by="-"[: sign < 0] + metric)) == sorted(every, key=place)
    known = sorted(getattr(row, metric) for row in every if getattr(row, metric) is not None)
    least = known[len(known) // 2]
    want = [row for row in every if getattr(row, metric) is not None and getattr(row, metric) >= least]
    assert len(want) > 0
    assert list(client.neurons(where={metric: (least, None)})) == want


def test_q_is_over_all_tested_neurons_whichever_are_listed(client, tested):
    p = open_index(tested).nulls.tests[:, 3]
    known = ~np.isnan(p)
    q = np.full(len(p), np.nan)
    q[known] = false_discovery_control(p[known])
    found = [np.nan if row.q_value is None else row.q_value for row in client.neurons()]
    np.testing.assert_allclose(found, q)
    assert list(client.neurons("1.*")) == [row for row in client.neurons() if row.id.layer == 1]


@pytest.mark.parametrize(
    ("how", "tree", "cut"),
    [
        ({}, True, True),
        ({"distance_threshold": 0.7}, True, False),
        ({"linkage": "complete"}, False, False),
        ({"algorithm": "scc"}, False, False),
        ({"frame": "own"}, False, False),
        ({"embedding": "pre_mlp"}, False, False),
    ],
    ids=str,
)
def test_they_are_of_one_tree_and_stability_of_one_cut(client, how, tree, cut):
    rows = list(client.neurons("0.*", **how))
    assert [any(getattr(row, name) is not None for row in rows) for name in OF_CLUSTERS] == [tree, cut, tree]


def test_a_common_and_a_rare_behaviour_need_two_significant_clusters_and_a_small_p(client):
    rows = list(client.neurons(distance_threshold=0.9))
    split = [row for row in rows if row.n_examples >= 20 and 0.9 <= row.largest_share <= 1 - 3 / row.n_examples + 1e-9]
    for row in split:
        assert row.rare == (row.p_value <= 0.05 and row.significant_clusters >= 2)
    assert {row.rare for row in rows} <= {False, *(row.rare for row in split)}


def test_blurred_is_no_more_than_chance_where_neurons_are_tested(client):
    judged = [row for row in client.neurons() if row.kind in ("blurred", "several")]
    assert {row.kind == "blurred" for row in judged} == {True, False}
    assert all((row.kind == "blurred") == (row.p_value > 0.05) for row in judged)
    found = client.neurons(summary=True).summary
    assert found.n_tested == sum(row.p_value is not None for row in client.neurons())
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal.summary(found))
    assert "blurred: no more than chance (p above .05)" in console.export_text()


def test_tables_show_them(client):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal.listing(client.neurons("0.3")))
    heading = console.export_text().split("\n")[0].split()
    assert heading[:7] == ["neuron", "p", "excess", "q", "signif.", "stability", "strength"]


def test_an_index_says_which_tests_it_holds(client, polysem_client, tested):
    assert client.indexes()[0].tests == HeldTests(19, 3, clusters=True)
    assert polysem_client.indexes()[0].tests is None
    words = "tested: neurons tested with 19 rotations (seed 3, frame own), with significant clusters and stability"
    assert words in " ".join(CliRunner().invoke(cli, ["info", "--server", client.target]).output.split())
    said = json.loads(CliRunner().invoke(cli, ["info", "--server", client.target, "--json"]).output)
    assert said["indexes"][0]["tests"] == {"n_null": 19, "seed": 3, "clusters": True}


def test_an_index_that_holds_none_has_a_dash(polysem_client):
    listed = polysem_client.neurons(sort_by="-stability")
    assert {getattr(row, name) for row in listed for name in ("q_value", *OF_CLUSTERS)} == {None}


def damaged(folder, **arrays):
    with np.load(folder / nulls.FILE) as file:
        found = dict(file) | arrays
    np.savez(folder / nulls.FILE, **found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held[:3], r"holds float64 of shape \(3, 3\), it should hold float64 of \(192, 3\)"),
        (lambda held: held + 0.5, "holds what is no test of clusters"),
        (lambda held: held * 2, "holds what is no test of clusters"),
        (np.zeros_like, "holds what is no test of clusters"),  # of neurons that were not tested
    ],
)
def test_tests_of_clusters_that_cannot_be_are_refused(tested, tmp_path, change, words):
    copy = shutil.copytree(tested, tmp_path / "copy")
    damaged(copy, positive_clusters=change(open_index(tested).nulls.clusters))
    with pytest.raises(DamagedIndex, match=rf"nulls\.npz' {words}; remove it"):
        open_index(copy)


def test_clusters_are_tested_with_their_neurons_alone():
    done = CliRunner().invoke(cli, ["index", "--out", "x", "--corpus", "c", "--test-clusters"])
    assert done.exit_code == 2
    assert "--test-clusters goes with --null N, or with --add-nulls DIR" in done.output
