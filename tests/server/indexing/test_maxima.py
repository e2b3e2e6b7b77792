"""Maxima from a file instead of the corpus's own, and the quantile rule, through whole builds."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.facts import Selection
from polysem.server.commands import index as index_command
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder, maxima
from polysem.server.indexing.builder import Recipe


def build(small_model, corpus_file, out, rule, **options):
    return builder.build(small_model, Corpus(str(corpus_file)), out, Recipe(rule), **options)


def activations_of(index, layer, neuron):
    stored = index.layer(layer)
    return stored.activations[stored.offsets[neuron] : stored.offsets[neuron + 1]]


def own_maxima(index):
    return np.load(index.folder / "statistics" / "maximum.npy").reshape(2, -1)


@pytest.fixture(scope="module")
def all_positive(small_model, corpus_file, tmp_path_factory):
    """Every context with a positive key activation is an example."""
    out = tmp_path_factory.mktemp("all") / "all"
    return build(small_model, corpus_file, out, Selection("top", 0.75, 1000))


def test_twice_the_corpus_maximum_asks_for_twice_the_activation(small_model, corpus_file, all_positive, tmp_path):
    maxima = 2 * own_maxima(all_positive)
    index = build(small_model, corpus_file, tmp_path / "i", Selection("first", 0.4, 5), max_activations=maxima)
    for layer, neuron in np.argwhere(maxima > 0)[::7]:
        everything = activations_of(all_positive, layer, neuron)
        want = everything[everything >= 0.4 * np.float64(np.float32(maxima[layer, neuron]))][:5]
        np.testing.assert_allclose(activations_of(index, layer, neuron), want, rtol=1e-6)


def test_the_statistics_stay_those_of_the_corpus(small_model, corpus_file, all_positive, tmp_path):
    maxima = 3 * own_maxima(all_positive)
    index = build(small_model, corpus_file, tmp_path / "i", Selection("first", 0.2, 5), max_activations=maxima)
    np.testing.assert_array_equal(own_maxima(index), own_maxima(all_positive))


def test_the_manifest_tells_which_maxima_were_given(small_model, corpus_file, all_positive, tmp_path):
    own = build(small_model, corpus_file, tmp_path / "own", Selection("first", 0.5, 5))
    given = build(
        small_model, corpus_file, tmp_path / "given", Selection("first", 0.5, 5), max_activations=own_maxima(own)
    )
    assert own.manifest["max_activations_sha256"] is None
    assert len(given.manifest["max_activations_sha256"]) == 64
    assert own.sha256 != given.sha256
    np.testing.assert_array_equal(own.layer(1).activations, given.layer(1).activations)


def test_quantile_takes_a_share_of_each_band(small_model, corpus_file, all_positive, tmp_path):
    index = build(small_model, corpus_file, tmp_path / "i", Selection("quantile", 0.75, 30, seed=5))
    for layer, neuron in np.argwhere(own_maxima(all_positive) > 0)[::5]:
        maximum = np.float64(own_maxima(all_positive)[layer, neuron])
        there, chosen = (
            np.bincount(np.ceil(activations_of(i, layer, neuron) * 10 / maximum).astype(int).clip(1, 10), minlength=11)
            for i in (all_positive, index)
        )
        assert chosen.tolist() == np.minimum(there, 3).tolist()


def test_another_seed_draws_other_examples(small_model, corpus_file, tmp_path):
    one, other, again = (
        build(small_model, corpus_file, tmp_path / name, Selection("quantile", 0.75, 10, seed=seed))
        for name, seed in (("one", 1), ("other", 2), ("again", 1))
    )
    assert one.sha256 == again.sha256
    assert len(one.layer(0).activations) == len(other.layer(0).activations)
    assert not np.array_equal(one.layer(0).activations, other.layer(0).activations)


@pytest.mark.parametrize(
    ("maxima", "problem"),
    [
        (np.ones((2, 95)), r"the maxima have shape \(2, 95\); .* has 2 layers of 96 neurons, so give \(2, 96\)"),
        (np.ones(192), r"the maxima have shape \(192,\)"),
        (np.where(np.arange(192) == 100, np.nan, 1).reshape(2, 96), "the maximum of neuron 1.4 is nan"),
        (np.full((2, 96), 1e300), "the maximum of neuron 0.0 is inf"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_maxima_that_cannot_be_are_refused_before_anything_is_written(
    small_model, corpus_file, tmp_path, maxima, problem
):
    with pytest.raises(InvalidArgument, match=problem):
        build(small_model, corpus_file, tmp_path / "i", Selection(), max_activations=maxima)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_no_array_is_told_in_words(tmp_path):
    (tmp_path / "text.npy").write_text("maxima")
    np.save(tmp_path / "names.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "many.npz", a=np.ones(3))
    for name in ("absent.npy", "text.npy", "names.npy", "many.npz"):
        with pytest.raises(InvalidArgument, match=name):
            maxima.read(tmp_path / name)


def test_layers_that_are_not_kept_are_not_looked_at(small_model):
    values = np.arange(192.0).reshape(2, 96)
    values[0, 5] = np.nan
    found = maxima.strengths(values, small_model, ["positive"], [1])
    np.testing.assert_array_equal(found, np.arange(96.0, 192.0))
    both = maxima.strengths(np.stack([values, -values]), small_model, ["positive", "negative"], [1])
    np.testing.assert_array_equal(both, np.tile(np.arange(96.0, 192.0), 2))
    with pytest.raises(InvalidArgument, match=r"the maximum of neuron 0\.5 is nan; give finite numbers"):
        maxima.strengths(values, small_model, ["positive"], [])


def test_an_unfinished_build_goes_on_only_with_the_same_maxima(
    small_model, corpus_file, all_positive, tmp_path, monkeypatch
):
    def stop(stage, n, total):
        if stage == "collect":
            raise KeyboardInterrupt

    maxima = own_maxima(all_positive)
    with pytest.raises(KeyboardInterrupt):
        build(small_model, corpus_file, tmp_path / "i", Selection(), progress=stop, max_activations=maxima)
    with pytest.raises(FailedPrecondition, match="begun with another max_activations_sha256"):
        build(small_model, corpus_file, tmp_path / "i", Selection(), max_activations=2 * maxima)
    assert build(small_model, corpus_file, tmp_path / "i", Selection(), max_activations=maxima).folder.is_dir()


def test_the_command_takes_rule_seed_and_maxima(checkpoint, corpus_file, all_positive, tmp_path):
    np.save(tmp_path / "maxima.npy", own_maxima(all_positive))
    words = ["--model", checkpoint, "--corpus", corpus_file, "--out", tmp_path / "out", "--device", "cpu"]
    words += ["--selection", "quantile", "--seed", "9", "--max-examples", "20", "--max-activations"]
    done = CliRunner().invoke(index_command, [*map(str, words), str(tmp_path / "maxima.npy")])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["selection"]["seed"] == 9
    assert manifest["selection"]["rule"] == "quantile"
    assert manifest["max_activations_sha256"]
