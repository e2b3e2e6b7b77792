"""Measurements with rotations: the columns are those of single neurons' answers; q-values against SciPy."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import false_discovery_control

from polysem.client.commands.cli import cli
from polysem.client.measuring import measurements, ranking
from polysem.client.measuring.measurements import BASELINES, SIGNIFICANCE
from polysem.proto.questions.tested import q_values

EVERY = ("--algorithm", "hac", "--algorithm", "scc", "--embedding", "neuron", "--embedding", "pre_mlp")


@pytest.fixture(scope="module")
def file(index_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("nulls") / "nulls.parquet"
    arguments = [
        "measure",
        "0.0-11",
        "1.3",
        "--index",
        str(index_folder),
        "--out",
        str(out),
        "--null",
        "19",
        "--seed",
        "2",
    ]
    done = CliRunner().invoke(cli, [*arguments, *EVERY], catch_exceptions=False)
    assert done.exit_code == 0
    return out


def test_rows_of_hac_have_the_test_of_the_neurons_own_answer(file, polysem_client):
    measured = measurements.read(file)
    assert (measured.about["n_null"], measured.about["seed"]) == (19, 2)
    seen = 0
    for row in measured.rows(np.arange(len(measured))):
        if row["algorithm"] != "hac" or row["n_examples"] < 3:
            assert all(row[name] is None for name in SIGNIFICANCE)
            continue
        neuron = polysem_client.cluster((row["layer"], row["neuron"]), embedding=row["embedding"], n_null=19, seed=2)[0]
        found = neuron.significance
        values = found.best_silhouette, found.null_mean, found.null_sd, found.excess, found.p_value
        *first, stability, strength = (row[name] for name in SIGNIFICANCE)
        assert tuple(first) == (*values, neuron.significant_clusters, *neuron.baselines[3:])
        assert (stability is None) == all(cluster.stability is None for cluster in neuron.clusters)
        assert strength == neuron.prediction_strength
        assert tuple(row[name] for name in BASELINES) == neuron.baselines[:3]
        seen += 1
    assert seen > 10


def test_ranks_show_it_first_with_q_beside_p(file):
    ranked = CliRunner().invoke(cli, ["rank", str(file), "--by", "excess_silhouette", "--json"]).output
    rows = [json.loads(line) for line in ranked.splitlines()]
    excess = [row["excess_silhouette"] for row in rows if row["excess_silhouette"] is not None]
    assert excess == sorted(excess, reverse=True)
    defined = [row for row in rows if row["p_value"] is not None]
    want = false_discovery_control([row["p_value"] for row in defined])
    np.testing.assert_allclose([row["q_value"] for row in defined], want)
    assert ranking.shown(measurements.read(file))[0] == "significant_clusters"
    told = CliRunner().invoke(cli, ["rank", str(file)], env={"COLUMNS": "80"}).output
    above, below = ([cell.strip() for cell in line.split("┃")[1:6]] for line in told.splitlines()[1:3])
    headings = [f"{first} {second}".strip() for first, second in zip(above, below, strict=True)]
    assert headings == ["neuron", "excess silhouette", "significant clusters", "p value", "q value"]
    assert "…" not in told
    assert "a wider terminal shows token agreement, examples, clusters" in " ".join(told.split())


def test_ranks_go_by_q_and_are_bounded_by_it(file):
    words = ["rank", str(file), "--by", "q_value", "--ascending", "--most", "q_value=0.1", "--json", "--top", "999"]
    rows = [json.loads(line) for line in CliRunner().invoke(cli, words, catch_exceptions=False).output.splitlines()]
    every = [row["q_value"] for row in ranking.rank(measurements.read(file)) if row["q_value"] is not None]
    assert [row["q_value"] for row in rows] == sorted(q for q in every if q <= 0.1)
    assert 0 < len(rows) < len(every)


def test_q_by_hand():
    got = q_values(np.array([0.01, np.nan, 0.04, 0.03, 0.5]))
    np.testing.assert_allclose(got, [0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5])
    assert len(q_values(np.array([]))) == 0
    assert np.isnan(q_values(np.array([np.nan]))).all()


@pytest.mark.parametrize("seed", range(5))
def test_q_is_scipys(seed):
    p = np.random.default_rng(seed).random(200).round(2)
    np.testing.assert_allclose(q_values(p), false_discovery_control(p))


def test_shared_rotations_make_no_more_false_ones():
    """All neurons with n examples share rotations. Of 40 families of 25 neurons without clusters, about a tenth at most
    should have any q <= .1."""
    import torch

    from polysem.kernels.significance import rotation_test

    rng = np.random.default_rng(0)
    deviation = np.arange(1, 31) ** -0.5
    with_any = 0
    for family in range(40):
        e = torch.from_numpy(rng.normal(size=(25, 24, 30)) * deviation).float()
        p = rotation_test(e, torch.full((25,), 24), 199, family).p_value.numpy()
        with_any += bool((q_values(p) <= 0.1).any())
    assert with_any <= 8


def test_a_file_without_nulls_has_none_of_it(index_folder, tmp_path):
    out = tmp_path / "plain.parquet"
    arguments = ["measure", "0.0-3", "--index", str(index_folder), "--out", str(out), "--algorithm", "hac"]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    measured = measurements.read(out)
    assert "n_null" not in measured.about
    assert np.isnan(measured.column("p_value")).all()
    assert ranking.shown(measured) == ranking.SHOWN
