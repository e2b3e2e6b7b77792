"""Summaries, the choice of a combination, and the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose

from polysem.client.commands.cli import cli
from polysem.proto.errors import FailedPrecondition, NotFound
from polysem.server.planted.benchmark import PAPER, PRE_MLP, Found, bootstrap
from polysem.server.planted.mixtures import Mixture
from polysem.server.planted.scoring import Scores

from ..model import tiny_families
from ..model.tiny_families import TINY

HERE = ("two", "three", "random")  # of the small index, whose neurons share no token often enough
OTHER = PAPER._replace(frame="own")
COMPATIBLE = Path(__file__).parents[2] / "compatibility"


def test_the_interval_of_what_is_all_the_same_is_that():
    assert bootstrap(np.full(7, 0.25), np.array(["two"] * 7)) == (0.25, 0.25, 0.25)


def test_kinds_count_alike_however_many_mixtures_they_have():
    values, kinds = np.array([1.0, 0.0, 0.0, 0.0]), np.array(["two", "random", "random", "random"])
    assert bootstrap(values, kinds) == (0.5, 0.5, 0.5)  # nothing varies within a kind


def test_the_interval_is_nearly_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = bootstrap(values, np.array(["two"] * 400), 3)
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert_allclose([low, high], [mean - half, mean + half], atol=0.01)
    assert bootstrap(values, np.array(["two"] * 400), 3) == (mean, low, high)


def test_nothing_has_no_mean():
    assert np.isnan(bootstrap(np.empty(0), np.empty(0, str))).all()


def found_of(layers, **best):
    """Two mixtures a layer; the best ARI of each combination, by layer."""
    mixtures = [Mixture(kind, layer, (0, 1), None, None) for layer in layers for kind in ("two", "random")]
    nothing = np.zeros(len(mixtures))
    ways = {"paper": PAPER, "pre_mlp": PRE_MLP, "other": OTHER}
    table = {("units", ways[name]): Scores(nothing, np.repeat(of, 2), nothing, nothing) for name, of in best.items()}
    return Found(mixtures, ("units",), table, 0)


def test_the_best_on_even_layers_is_reported_on_odd_ones():
    found = found_of([0, 1, 2, 3], paper=[0.5, 0.9, 0.5, 0.9], pre_mlp=[0.4, 0.8, 0.4, 0.7], other=[0.6, 0.2, 0.7, 0.4])
    assert found.chosen_on == [0, 2]
    assert found.choose("units") == OTHER
    chosen, paper, pre_mlp = found.held_out("units")
    assert [held.name for held in (chosen, paper, pre_mlp)] == ["chosen", "paper", "pre-MLP"]
    assert chosen.scores["best"][0] == pytest.approx(0.3)  # whichever way it falls
    assert paper.scores["best"][0] == pytest.approx(0.9)
    assert paper.behind[0] == pytest.approx(-0.6)
    assert pre_mlp.behind[0] == pytest.approx(0.3 - 0.75)


def test_of_equals_the_first_is_chosen():
    assert found_of([0, 1], paper=[0.5, 0.5], pre_mlp=[0.5, 0.5], other=[0.5, 0.5]).choose("units") == PAPER


def test_one_layer_has_nothing_to_report_on():
    assert found_of([3], paper=[0.5], pre_mlp=[0.5], other=[0.5]).held_out("units") == []


def printed(*arguments):
    ran = CliRunner().invoke(cli, ["benchmark", "planted", "--device", "cpu", *map(str, arguments)])
    if ran.exception and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran


@pytest.fixture(scope="module")
def rows(index_folder):
    ran = printed("--index", index_folder, "--mixtures", 3, "--suggested", 1, "--null", 9, "--json")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_the_command_scores_the_whole_grid(rows):
    grid = [row for row in rows if "held_out" not in row]
    names = ("kind", "embedding", "frame", "algorithm", "layer_norm")
    assert len({tuple(row[name] for name in names) for row in grid}) == len(grid) == 4 * 2 * 4 * 3 * 2
    assert {row["kind"] for row in grid} == {*HERE, "all"}
    assert {row["planting"] for row in rows} == {"units"}
    for row in grid:
        assert row["n_suggested"] <= row["n_mixtures"]
        for name in ("at_true", "best", "suggested", "auc"):
            mean, low, high = row[name]
            assert -0.5 <= low <= mean <= high <= 1
        assert row["best"][0] >= row["at_true"][0]


def test_all_is_the_mean_over_kinds(rows):
    mine = [row for row in rows if "held_out" not in row and (row["embedding"], row["frame"]) == ("pre_mlp", "own")]
    mine = [row for row in mine if (row["algorithm"], row["layer_norm"]) == ("hac", "raw")]
    best = {row["kind"]: row["best"][0] for row in mine}
    assert best["all"] == pytest.approx(np.mean([best[kind] for kind in HERE]), abs=1e-6)


def test_the_command_reports_what_it_chose_beside_the_papers_and_pre_mlp(rows):
    held = [row for row in rows if "held_out" in row]
    assert [row["held_out"] for row in held] == ["chosen", "paper", "pre-MLP"]
    assert (held[0]["chosen_on"], held[0]["reported_on"]) == ([0], [1])
    assert held[0]["behind"] == [0.0, 0.0, 0.0]
    assert [row["embedding"] for row in held[1:]] == ["neuron", "pre_mlp"]


def test_the_command_says_the_same_again_and_draws_tables_of_it(index_folder, rows):
    arguments = ("--index", index_folder, "--mixtures", 3, "--suggested", 0)
    again = [json.loads(line) for line in printed(*arguments, "--json").stdout.splitlines()]
    assert [row["best"] for row in again] == [row["best"] for row in rows]
    assert all(row["suggested"] is None for row in again)
    shown = printed(*arguments).stdout
    assert "Planted truth: sum of units, which is one neuron with added weights" in shown
    assert "Reported on layer 1" in shown
    assert "Chosen on layer 0" in shown


def test_tables_are_whole_in_80_columns(index_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = printed("--index", index_folder, "--mixtures", 2, "--suggested", 0, "--layers", "0,1").stdout
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "neuron, own," in shown


def test_layers_and_a_side_can_be_named(tmp_path, corpus_file):
    """Of a gated model, in both plantings; mixtures of the negative side are of its examples."""
    from polysem.proto.facts import Selection
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing.builder import Recipe, build
    from polysem.server.model.loading import load

    model = load(str(tiny_families.write(tmp_path / "llama", TINY["llama, biases"])), "cpu")
    corpus = Corpus(str(corpus_file), max_documents=60)
    build(model, corpus, tmp_path / "gated", Recipe(Selection("first", 0.3, 30), bos=True))
    here = ("--index", tmp_path / "gated", "--mixtures", 1, "--suggested", 0, "--json", "--layers", "1")
    of_side = {}
    for side in ("positive", "negative"):
        found = [json.loads(line) for line in printed(*here, "--side", side).stdout.splitlines()]
        assert {row["planting"] for row in found} == {"units", "weights"}
        assert {row["embedding"] for row in found} == {"neuron", "pre_mlp", "gate", "up"}
        assert not any("held_out" in row for row in found)  # one layer
        of_side[side] = [row["best"] for row in found]
    assert of_side["positive"] != of_side["negative"]
    with pytest.raises(FailedPrecondition, match="layer 7 is not in the index 'gated'"):
        printed("--index", tmp_path / "gated", "--layers", "1,7")


def test_an_index_of_version_0_1_0_has_no_frames_of_layers(tmp_path):
    shutil.copytree(COMPATIBLE / "index", tmp_path / "old")
    ran = printed(
        "--index", tmp_path / "old", "--model", COMPATIBLE / "checkpoint", "--mixtures", 1, "--suggested", 0, "--json"
    )
    assert {json.loads(line)["frame"] for line in ran.stdout.splitlines()} == {"raw", "own"}


def test_an_index_without_enough_examples_is_refused_in_words(small_model, corpus_file, tmp_path):
    from polysem.proto.facts import Selection
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing.builder import Recipe, build

    build(small_model, Corpus(str(corpus_file), max_documents=8), tmp_path / "few", Recipe(Selection("first", 0.9, 5)))
    with pytest.raises(FailedPrecondition, match="no neurons of the index 'few' can be mixed: a mixture needs 10"):
        printed("--index", tmp_path / "few")
    with pytest.raises(NotFound, match="there is no index"):
        printed("--index", tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(("--mixtures", 0), "--mixtures"), (("--seed", -1), "--seed"), (("--null", 2000), "--null")],
)
def test_impossible_numbers_are_refused(arguments, wrong):
    ran = CliRunner().invoke(cli, ["benchmark", "planted", *map(str, arguments)])
    assert ran.exit_code == 2
    assert f"Invalid value for '{wrong}'" in ran.stderr
