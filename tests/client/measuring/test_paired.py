"""Paired differences by hand and against plain loops and SciPy; the commands that show them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import bootstrap, kstest

from polysem.client.commands.cli import cli
from polysem.client.measuring import measurements, ranking, table1
from polysem.client.measuring.paired import COMPARED, Difference, _medians, difference, differences


def test_only_neurons_that_are_defined_for_both_count():
    columns = {
        "layer": np.array([0, 0, 0, 0, 1, 1]),
        "neuron": np.array([3, 3, 4, 4, 3, 3]),
        **{metric: np.array([0.5, 0.2, np.nan, 0.1, 0.9, 0.4]) for metric, _ in COMPARED.values()},
        "mean_distance": np.array([1.0, 0.4, 1.0, 0.5, 0.0, 0.5]),
    }
    found = differences(columns, np.array([0, 2, 4]), np.array([1, 3, 5]))
    assert found["intra"].median == pytest.approx(0.4)  # of .3 and .5
    assert (found["intra"].n_paired, found["intra"].n_undefined) == (2, 1)
    assert found["matched_intra_share"] == Difference(0.0, 0.0, 0.0, 1, 2)  # .5 / 1 − .2 / .4


def test_rows_are_paired_by_neuron_whatever_their_order():
    columns = {
        "layer": np.array([0, 0, 0, 0]),
        "neuron": np.array([1, 2, 2, 1]),
        **{metric: np.array([1.0, 2.0, 20.0, 10.0]) for metric, _ in COMPARED.values()},
        "mean_distance": np.ones(4),
    }
    found = differences(columns, np.array([0, 1]), np.array([2, 3]))
    assert found["intra"].median == pytest.approx((-9 - 18) / 2)


def test_without_a_pair_there_is_no_difference():
    assert difference(np.array([np.nan, np.nan])) == Difference(None, None, None, 0, 2)
    assert difference(np.array([])) == Difference(None, None, None, 0, 0)


def test_one_neuron_has_an_interval_of_one_point():
    assert difference(np.array([0.25, np.nan])) == Difference(0.25, 0.25, 0.25, 1, 1)


def test_the_interval_is_scipys():
    values = np.random.default_rng(1).normal(size=400) + 0.3
    found = difference(values)
    theirs = bootstrap((values,), np.median, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.03)
    assert found.high == pytest.approx(theirs.high, abs=0.03)
    assert found == difference(values)
    assert found.low < 0.3 < found.high


@pytest.mark.parametrize("n", [1, 2, 3, 10, 51])
def test_medians_are_distributed_as_those_of_samples_that_are_drawn(n):
    values = np.random.default_rng(n).normal(size=n)
    drawn = values[np.random.default_rng(0).integers(0, n, (1000, n))]
    assert kstest(_medians(values), np.median(drawn, axis=1)).pvalue > 0.05


@pytest.fixture(scope="module")
def file(index_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("paired") / "m.parquet"
    words = ["measure", "0.0-30", "1.0-9", "--index", str(index_folder), "--out", str(out)]
    words += [word for e in ("neuron", "pre_mlp", "permuted", "other") for word in ("--embedding", e)]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    return out


OTHERS = ("pre_mlp", "other", "permuted")


def test_table1_compares_neuron_embeddings_with_each_other_one(file):
    measured = measurements.read(file)
    rows = measured.rows(np.arange(len(measured)))
    found = table1.rows(measured, per_layer=True)
    assert [row.embedding for row in found[:4]] == ["pre_mlp", "neuron", "permuted", "other"]
    for row in found:
        assert set(row.differences) == (set(OTHERS) if row.embedding == "neuron" else set())
        for other, differences_ in row.differences.items():
            values = {
                e: {(r["layer"], r["neuron"]): r["inter"] for r in rows
                    if (r["algorithm"], r["embedding"]) == (row.algorithm, e) and row.layer in (None, r["layer"])}
                for e in ("neuron", other)
            }  # fmt: skip
            both = [
                mine - values[other][key]
                for key, mine in values["neuron"].items()
                if mine is not None and values[other][key] is not None
            ]
            assert differences_["inter"].n_paired == len(both)
            assert differences_["inter"].median == (pytest.approx(np.median(both)) if both else None)


def test_rows_of_a_comparison_count_the_same_neurons(file):
    measured = measurements.read(file)
    rows = [r for r in measured.rows(np.arange(len(measured))) if r["algorithm"] == "hac" and r["n_examples"]]
    of = {e: {(r["layer"], r["neuron"]): r for r in rows if r["embedding"] == e} for e in ("neuron", *OTHERS)}
    in_all = [key for key in of["neuron"] if all(by[key]["inter"] is not None for by in of.values())]
    assert 0 < len(in_all) < len(of["neuron"])
    for row in table1.rows(measured)[:4]:
        mine = of[row.embedding]
        summary = row.numbers["inter"]
        assert summary.median == pytest.approx(np.median([mine[key]["inter"] for key in in_all]))
        assert summary.n_paired == len(in_all)
        assert summary.n_undefined == sum(r["inter"] is None for r in mine.values())
        assert row.n_neurons == len(mine)


def test_it_is_printed_and_in_json(file):
    shown = CliRunner().invoke(cli, ["table1", str(file)], env={"COLUMNS": "200"}, catch_exceptions=False).output
    assert "Neuron minus other embeddings, the same neurons" in shown
    assert "hac, neuron − permuted" in shown
    assert "controls, with the neuron's weights in a random order" in " ".join(shown.split())
    printed = CliRunner().invoke(cli, ["table1", str(file), "--json"]).output.splitlines()
    first = {row["embedding"]: row for row in reversed([json.loads(line) for line in printed])}
    assert first["pre_mlp"]["differences"] == {}
    of_permuted = first["neuron"]["differences"]["permuted"]
    assert set(of_permuted) == set(COMPARED)
    assert of_permuted["intra"]["low"] <= of_permuted["intra"]["high"]


def test_with_rotations_hac_of_neuron_embeddings_is_measured_and_ranked_by_excess(index_folder, tmp_path, file):
    out = tmp_path / "nulls"
    words = ["measure", "0.0-9", "--index", str(index_folder), "--out", str(out), "--null", "19"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    measured = measurements.read(out)
    assert [(v["algorithm"], v["embedding"]) for v in measured.about["variants"]] == [("hac", "neuron")]
    excess = [row["excess_silhouette"] for row in ranking.rank(measured) if row["excess_silhouette"] is not None]
    assert len(excess) > 3
    assert excess == sorted(excess, reverse=True)
    counts = [row["n_clusters"] for row in ranking.rank(measurements.read(file))]
    assert counts == sorted(counts, reverse=True)  # where nothing was tested
    assert "Neuron minus" not in CliRunner().invoke(cli, ["table1", str(out)], catch_exceptions=False).output
