"""Rotation tests that an index holds: made once, resumed, checked, and what is answered from them."""

import io
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import polysem.server
from polysem.client import terminal
from polysem.client.commands.cli import cli
from polysem.client.drawing import browser, report
from polysem.proto.errors import DamagedIndex, FailedPrecondition, InvalidArgument
from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.clustering import (
    Clustering,
    ClusterQuery,
    EmbeddingChoice,
    decode_cluster_query,
    encode_cluster_query,
)
from polysem.proto.questions.listing import is_rare
from polysem.server.index import nulls
from polysem.server.index.format import open_index, verify
from polysem.server.model.loading import load
from polysem.server.questions import held, holding
from polysem.server.questions.clustering import plan
from polysem.server.questions.engine import Engine

N_NULL, SEED = 19, 3


@pytest.fixture(scope="module")
def tested(index_folder, small_model, tmp_path_factory):
    """A copy of the small index that holds tests."""
    folder = shutil.copytree(index_folder, tmp_path_factory.mktemp("held") / "tested")
    holding.hold(small_model, open_index(folder), N_NULL, SEED)
    return folder


@pytest.fixture(scope="module")
def client(tested):
    with polysem.server.local(tested, device="cpu") as client:
        yield client


@pytest.fixture
def copy(tested, tmp_path):
    return shutil.copytree(tested, tmp_path / "copy")


def test_what_is_held_is_what_a_test_of_each_neuron_says(client, tested):
    found = open_index(tested).nulls
    assert (found.n_null, found.seed) == (N_NULL, SEED)
    asked = client.cluster("*", n_null=N_NULL, seed=SEED)
    want = [neuron.significance or (np.nan,) * 4 for neuron in asked]
    np.testing.assert_array_equal(found.tests, want)
    assert (~np.isnan(found.tests[:, 0])).sum() > 50


def test_bulk_answers_have_them_without_asking(client, tested):
    tests = open_index(tested).nulls.tests
    neurons = client.cluster("*")
    for neuron, (best, mean, sd, p) in zip(neurons, tests, strict=True):
        if np.isnan(best):
            assert neuron.significance is None
        else:
            assert neuron.significance == (best, mean, sd, p)
        assert neuron.significant_clusters is None  # merges are tested where that is asked for
    columns = neurons.columns()
    np.testing.assert_array_equal(columns["p_value"], tests[:, 3])
    np.testing.assert_array_equal(columns["excess_silhouette"], tests[:, 0] - tests[:, 1])


def test_who_asks_for_the_same_test_has_what_is_held(client, copy, monkeypatch):
    want = client.cluster("0.3", n_null=N_NULL, seed=SEED)[0]
    monkeypatch.setattr("polysem.kernels.significance.gathered_rotation_test", pytest.fail)
    query = encode_cluster_query(
        ClusterQuery(parse_neurons("0.3"), clustering=Clustering(n_null=N_NULL, seed=SEED, neuron_only=True))
    )
    engine = Engine(load(open_index(copy).info.model_id), [open_index(copy)], "0")
    made = plan(engine, decode_cluster_query(query))
    found = made.work.run(made.items)
    assert found.significance.tolist() == [list(want.significance)]
    np.testing.assert_allclose(found.null_metrics[0], want.baselines[3:])


@pytest.mark.parametrize(
    ("how", "has"),
    [
        ({"algorithm": "scc"}, True),
        ({"frame": "own"}, True),
        ({"frame": "centred", "distance_threshold": 0.9}, True),
        ({"frame": "standardised"}, False),
        ({"embedding": "pre_mlp"}, False),
        ({"layer_norm": "raw"}, False),
    ],
)
def test_they_are_of_neuron_embeddings_without_the_neurons_mean(client, how, has):
    first, second = client.cluster("0.3", "0.4", **how)
    assert [neuron.significance is not None for neuron in (first, second)] == [has, has]


def test_listings_sort_and_filter_by_them(client, tested):
    tests = open_index(tested).nulls.tests
    excess = tests[:, 0] - tests[:, 1]
    known = np.flatnonzero(~np.isnan(excess))
    listed = client.neurons(sort_by="-excess_silhouette")
    found = [neuron.excess_silhouette for neuron in listed]
    assert found[: len(known)] == sorted(excess[known].tolist(), reverse=True)
    assert found[len(known) :] == [None] * (len(tests) - len(known))  # where it is undefined: last
    small = client.neurons(where={"p_value": (None, 0.05)})
    assert small.n_matching == (tests[:, 3] <= 0.05).sum()
    assert all(neuron.p_value <= 0.05 for neuron in small)
    first = next(iter(client.neurons(sort_by="null_silhouette", limit=1)))
    assert first.null_silhouette == np.nanmin(tests[:, 1])


def test_an_index_that_holds_none_has_a_dash(polysem_client):
    listed = polysem_client.neurons(limit=5, sort_by="-excess_silhouette")
    assert [(neuron.p_value, neuron.null_silhouette, neuron.excess_silhouette) for neuron in listed] == [
        (None,) * 3
    ] * 5
    assert np.isnan(polysem_client.cluster("0.3", "0.4").columns()["p_value"]).all()
    assert polysem_client.neurons(where={"p_value": (0, 1)}).n_matching == 0


def test_tables_show_them_and_a_dash_where_there_is_none(client, tested):
    tests = open_index(tested).nulls.tests
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal.metrics_table(client.cluster("0.3", "1.3")))  # 1.3 has no examples
    console.print(terminal.listing(client.neurons("0.3", "1.3")))
    said = [line.split() for line in console.export_text().splitlines() if line.strip()]
    p, excess = f"{tests[3, 3]:.2f}", f"{tests[3, 0] - tests[3, 1]:.2f}"
    assert [line[:3] for line in said if line[0] in ("neuron", "0.3", "1.3")] == [
        ["neuron", "p", "excess"],
        ["0.3", p, excess],
        ["1.3", "–", "–"],
    ] * 2


def test_a_report_of_many_neurons_shows_them(client, tested):
    best, mean, _, p = open_index(tested).nulls.tests[3]
    neurons = client.cluster("0.3", "1.3")  # 1.3 has no examples
    data = [browser.data(neuron, None)["tested"] for neuron in neurons]
    assert data[1] is None
    assert (data[0]["p_value"], data[0]["best_silhouette"], data[0]["null_mean"]) == (p, best, mean)
    assert (data[0]["merges"], data[0]["n_clusters"], data[0]["cut"]) == ([], None, None)
    assert data[0]["significant"] == data[0]["several"] == (p <= 0.05)
    html = report.make(client, "0.3", "1.3").html
    assert '<th scope="col">neuron</th><th scope="col">p</th><th scope="col">excess silhouette</th>' in html
    assert f">0.3</a></td><td>{p:.2f}</td><td>{best - mean:.2f}</td>" in html
    assert ">1.3</a></td><td>–</td><td>–</td>" in html


def test_rare_asks_for_a_small_p_where_it_is_held():
    n, share = np.array([40, 40, 40]), np.array([0.9, 0.9, 0.9])
    assert is_rare(n, share, p_value=np.array([0.05, 0.06, np.nan])).tolist() == [True, False, True]


def test_the_tests_are_no_part_of_the_index(index_folder, tested):
    assert open_index(tested).sha256 == open_index(index_folder).sha256
    verify(open_index(tested))


def test_killed_it_goes_on_and_ends_with_the_same_bytes(copy, small_model, monkeypatch):
    want = (copy / nulls.FILE).read_bytes()
    (copy / nulls.FILE).unlink()
    monkeypatch.setattr(holding, "NEURONS_A_SHARD", 50)
    made, done = holding.rotation_tests.tests_of, []

    def killed(batch, n_null, seed):
        done.append(len(batch.places))
        if len(done) == 3:
            raise KeyboardInterrupt
        return made(batch, n_null, seed)

    monkeypatch.setattr(holding.rotation_tests, "tests_of", killed)
    with pytest.raises(KeyboardInterrupt):
        holding.hold(small_model, open_index(copy), N_NULL, SEED)
    assert not (copy / nulls.FILE).exists()
    told = []
    holding.hold(small_model, open_index(copy), N_NULL, SEED, lambda stage, n, total: told.append((stage, n, total)))
    assert (copy / nulls.FILE).read_bytes() == want
    assert not (copy / holding.WORK).exists()
    assert {(stage, total) for stage, _, total in told} == {("test", len(open_index(copy).every_neuron))}
    assert sum(n for _, n, _ in told) == told[0][2]


def changed(folder, **arrays):
    with np.load(folder / nulls.FILE) as file:
        found = dict(file) | arrays
    np.savez(folder / nulls.FILE, **found)


def about(**facts):
    return np.frombuffer(json.dumps(facts).encode(), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"positive": np.zeros((3, 4))}, r"holds float64 of shape \(3, 4\), it should hold float64 of \(192, 4\)"),
        ({"positive": np.full((192, 4), 7.0)}, "holds what is no test"),
        ({"about": about(index_sha256="0" * 64, n_null=9, seed=0)}, r"is of another index \(000000000000…\)"),
        ({"about": np.frombuffer(b"{", np.uint8)}, "cannot be read"),
        ({"about": about(n_null=9)}, "cannot be read"),
        ({"about": np.frombuffer(b"[" * 100_000, np.uint8)}, "cannot be read"),
    ],
)
def test_tests_that_cannot_be_are_refused_by_name(copy, arrays, words):
    changed(copy, **arrays)
    with pytest.raises(DamagedIndex, match=rf"nulls\.npz' {words}; remove it, and make it anew with .*--add-nulls"):
        open_index(copy)


def test_a_file_that_would_grow_without_end_is_refused(copy):
    """Of zeros deflate makes a thousandth."""
    np.savez_compressed(copy / nulls.FILE, about=about(), positive=np.zeros((1 << 21, 4)))
    assert (copy / nulls.FILE).stat().st_size < 1 << 17
    with pytest.raises(DamagedIndex, match="cannot be read"):
        open_index(copy)


def test_a_damaged_file_is_refused(copy):
    data = bytearray((copy / nulls.FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / nulls.FILE).write_bytes(data)
    with pytest.raises(DamagedIndex, match="cannot be read"):
        open_index(copy)


def test_numbers_that_cannot_be_and_folders_that_cannot_be_written_are_told(copy, small_model):
    with pytest.raises(InvalidArgument, match="n_null is 2000; give 0 to 1999"):
        holding.hold(small_model, open_index(copy), 2000)
    (copy / holding.WORK).write_text("in the way")
    with pytest.raises(FailedPrecondition, match="cannot keep the tests in"):
        holding.hold(small_model, open_index(copy), 9)


def test_neurons_without_a_test_are_looked_up_as_such(tested):
    index = open_index(tested)
    neurons = np.array([[1, 3], [0, 3]], np.int32)  # the first has no examples
    found = held.held_tests(index, EmbeddingChoice(), neurons)
    assert np.isnan(found[0]).all()
    assert not np.isnan(found[1]).any()


def test_the_command_adds_them_and_says_so(index_folder, checkpoint, tmp_path):
    folder = shutil.copytree(index_folder, tmp_path / "mine")
    found = CliRunner().invoke(cli, ["index", "--add-nulls", str(folder), "--null", "9", "--seed", "2"])
    assert found.exit_code == 0, found.output
    assert "each neuron compared with 9 rotations of its examples; serve it anew to see them" in found.output
    held_ = open_index(folder).nulls
    assert (held_.n_null, held_.seed) == (9, 2)


def test_an_index_is_built_with_them_and_a_killed_one_goes_on_with_them(checkpoint, corpus_file, tmp_path, monkeypatch):
    out = tmp_path / "built"
    words = ["index", "--model", str(checkpoint), "--corpus", str(corpus_file), "--out", str(out), "--null", "9"]
    monkeypatch.setattr(holding.rotation_tests, "tests_of", killed_at_once)
    assert CliRunner().invoke(cli, words).exit_code != 0
    assert (out / holding.WORK).is_dir()
    monkeypatch.undo()
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 0, found.output
    assert open_index(out).nulls.n_null == 9
    assert "exists already" in str(CliRunner().invoke(cli, words).exception)  # it is done


def killed_at_once(batch, n_null, seed):
    raise KeyboardInterrupt
