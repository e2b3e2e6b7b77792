"""What the scan keeps spares the second pass: by hand, and whole indexes to the byte, whatever was kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.proto.work.shards import LocalExecutor
from polysem.server.corpus.documents import Corpus
from polysem.server.index.contexts import LoadedContexts
from polysem.server.index.format import open_index
from polysem.server.indexing import builder, collecting, columns, keeping, widths
from polysem.server.indexing.builder import Recipe
from polysem.server.indexing.keeping import Keeper, Keyed, Missing
from polysem.server.indexing.scan import ReadOptions
from polysem.server.model.latent_model import with_latents
from polysem.server.model.loading import load

from ..model.tiny_saes import sae

RULES = [Selection("first", 0.5, 7), Selection("top", 0.75, 7), Selection("quantile", 0.75, 20, 3)]
READING = ReadOptions(1, 60, (0,), ("positive",), (2,))


@pytest.fixture
def build(small_model, corpus_file, tmp_path):
    numbers = iter(range(99))

    def built(recipe, model=small_model, **options):
        return builder.build(model, Corpus(str(corpus_file)), tmp_path / str(next(numbers)), recipe, **options).sha256

    return built


@pytest.fixture
def passes(monkeypatch):
    """Whether the model read each shard a second time, in turn."""
    found, collect, kept = [], collecting.collect, collecting.kept

    def by_model(*of):
        found.append(True)
        return collect(*of)

    def from_memory(*of):
        made = kept(*of)
        found.append(False)
        return made

    monkeypatch.setattr(collecting, "collect", by_model)
    monkeypatch.setattr(collecting, "kept", from_memory)
    return found


def test_values_are_found_by_their_keys():
    keyed = Keyed(np.array([(3 << 32) + 1, (3 << 32) + 4, 5 << 32]), np.array([2, 0, 1]), (np.array([10, 20, 30]),))
    (found,) = keyed.of(np.array([5, 3], np.int32), np.array([0, 1]))
    assert found.tolist() == [20, 30]
    for context, other in ((3, 2), (2, 9), (6, 0)):
        with pytest.raises(Missing):
            keyed.of(np.array([5, context], np.int32), np.array([0, other]))
    with pytest.raises(Missing):
        Keyed(keyed.keys[:0], keyed.at[:0], keyed.values).of(np.array([1]), np.array([1]))


def test_the_threshold_is_that_of_the_maximum_so_far():
    keeper = Keeper(READING, Selection("first", 0.5), None, 1)
    low = 0.5 * keeping.SLACK
    assert keeper.least(0, torch.tensor([[1.0, -2.0], [4.0, -3.0]])).tolist() == [4 * low, 0]
    assert keeper.least(0, torch.tensor([[2.0, 8.0]])).tolist() == [4 * low, 8 * low]


def test_given_maxima_are_the_threshold_from_the_start_and_a_dead_neuron_keeps_nothing():
    keeper = Keeper(READING, Selection("first", 0.5), np.array([6.0, 0.0]), 1)
    assert keeper.least(0, torch.tensor([[9.0, 9.0]])).tolist() == [6 * 0.5 * keeping.SLACK, np.inf]
    keeper = Keeper(READING, Selection("top"), np.array([6.0, -1.0]), 1)
    assert keeper.least(0, torch.tensor([[9.0, 9.0]])).tolist() == [0, np.inf]


def test_nothing_is_kept_from_where_memory_ends(small_model):
    loaded = LoadedContexts(0, np.zeros(6, np.int64), np.array([0, 3, 6]))
    enough = Keeper(READING, Selection("first"), None, 2 * 2 * 5)  # float32 and uint8 of two contexts and neurons
    assert enough.begin(small_model, loaded) is not None
    assert enough.begin(small_model, loaded) is None
    assert Keeper(READING, Selection("first"), None, 2 * 2 * 5 - 1).begin(small_model, loaded) is None
    one = Keeper(READING, Selection("first"), None, 1 << 20)
    assert (one.take(1 << 21), one.take(1)) == (False, False)  # the next are as large


def test_a_share_of_the_free_memory_is_what_may_be_kept(monkeypatch):
    for free, fits in ((4000, 1000), (None, 0)):
        monkeypatch.setattr(keeping, "free_bytes", lambda device, free=free: free)
        keeper = Keeper(READING, Selection("first"), None, None)
        assert (keeper.take(fits), keeper.take(1)) == (True, False)


def test_large_rows_are_scaled_by_powers_of_two_and_bounded_ones_are_not():
    rows = torch.tensor([[3e6, -1.0], [0.0, 0.0], [0.5, -7.0]])
    xhat, scales = keeping.halved(rows, bounded=False)
    assert scales.log2().frac().eq(0).all()
    assert 2**14 <= xhat[0].abs().max() < 2**15
    np.testing.assert_allclose(xhat.float() * scales[:, None], rows, rtol=2**-11)
    xhat, scales = keeping.halved(rows[2:], bounded=True)
    assert (xhat.tolist(), xhat.dtype, scales.tolist()) == ([[0.5, -7.0]], torch.float16, [1.0])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@pytest.mark.parametrize("sides", ["positive", "both"])
def test_one_pass_gives_the_bytes_of_two(build, passes, monkeypatch, rule, sides):
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 50)
    recipe = Recipe(rule, sides=sides)
    assert build(recipe) == build(recipe, keep_bytes=0)
    assert passes == [False] * 3 + [True] * 3


def test_what_the_executor_makes_elsewhere_is_the_same(build, passes, small_model):
    recipe = Recipe(RULES[0], windows="all", context_length=9, skip_positions=1)
    assert build(recipe) == build(recipe, executor=LocalExecutor(small_model))
    assert (any(passes[: len(passes) // 2]), all(passes[len(passes) // 2 :])) == (False, True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
def test_with_given_maxima_one_pass_is_enough(build, passes, index_folder, rule):
    maxima = 0.8 * np.load(open_index(index_folder).folder / "statistics" / "maximum.npy").reshape(2, -1)
    maxima[1, :5] = 0
    recipe = Recipe(rule, layers=(1,), negatives=5)
    assert build(recipe, max_activations=maxima) == build(recipe, max_activations=maxima, keep_bytes=0)
    assert passes == [False, True]


def test_in_bfloat16_too(build, passes, checkpoint):
    model = load(str(checkpoint), "cpu", "bfloat16")
    assert build(Recipe(RULES[0]), model) == build(Recipe(RULES[0]), model, keep_bytes=0)
    assert passes == [False, True]


def test_latents_that_are_reduced_some_at_a_time(build, passes, small_model, monkeypatch):
    model = with_latents(small_model, [sae(0, "resid_post", 40, 24, 1, dead=[5]), sae(1, "mlp_out", 17, 24, 2, k=4)])
    monkeypatch.setattr(widths, "HELD_ACTIVATIONS", 57 * 7)  # 7 contexts
    recipe = Recipe(RULES[0], bos=True)
    assert build(recipe, model) == build(recipe, model, keep_bytes=0)
    assert passes == [False, True]


@given(size=st.integers(11, 70), share=st.floats(0, 1))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_memory_ends_and_shards_begin(build, monkeypatch, size, share):
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", size)
    recipe = Recipe(Selection("first", 0.5, 30), layers=(0,))
    assert build(recipe, keep_bytes=int(share * 300_000)) == build(recipe, keep_bytes=0)


def test_where_something_was_not_kept_the_model_reads_the_shard_again(build, passes, monkeypatch):
    of, left = Keyed.of, iter([True, True, True, False])

    def forgets(keyed, *of_which):
        if not next(left, True):
            raise Missing
        return of(keyed, *of_which)

    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 50)
    recipe = Recipe(RULES[1])
    want = build(recipe, keep_bytes=0)
    passes.clear()
    monkeypatch.setattr(Keyed, "of", forgets)
    assert build(recipe) == want
    assert passes == [True, False, False]


def test_a_build_that_goes_on_reads_again_what_it_does_not_remember(build, passes, small_model, corpus_file, tmp_path):
    def stop(stage, n, total):
        if stage == "choose":
            raise KeyboardInterrupt

    recipe = Recipe(RULES[0])
    want = build(recipe)
    with pytest.raises(KeyboardInterrupt):
        builder.build(small_model, Corpus(str(corpus_file)), tmp_path / "i", recipe, stop)
    passes.clear()
    assert builder.build(small_model, Corpus(str(corpus_file)), tmp_path / "i", recipe).sha256 == want
    assert passes == [True]


def test_what_a_gpu_does_is_the_same():
    dice = np.random.default_rng(1)
    activations = torch.from_numpy(dice.standard_normal((5, 13, 7)).astype(np.float32))
    slots, positions, neurons = (torch.from_numpy(dice.integers(0, most, 40)) for most in (5, 13, 7))
    lengths = torch.maximum(positions + 1, torch.from_numpy(dice.integers(1, 14, 40)))
    arguments = activations, slots, positions, neurons, lengths, 4, 3
    assert columns.around(*arguments).tolist() == columns.gather_around(*arguments).tolist()
    by_hand = columns.around(activations, *(torch.tensor([n]) for n in (2, 1, 6, 3)), 2, 3)
    assert by_hand.tolist() == [[0.0, *activations[2, 0:3, 6].tolist(), 0.0, 0.0]]
    strength, least = activations[0], torch.linspace(-1, 1, 7)
    want = ((strength > 0) & (strength >= least)).nonzero(as_tuple=True)
    for found, other in zip(columns.at_least(strength, least), want, strict=True):
        assert found.tolist() == other.tolist()
    assert columns.maxima(strength).tolist() == strength.amax(0).tolist()


def test_a_recipe_without_negatives_is_kept_as_well(build):
    recipe = replace(Recipe(RULES[2]), negatives=0, bos=False)
    assert build(recipe) == build(recipe, keep_bytes=0)
