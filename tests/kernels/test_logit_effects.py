import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from polysem.kernels.logit_effects import logit_effects, logit_effects_reference

EVERY = pytest.mark.parametrize("function", [logit_effects, logit_effects_reference])
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOKENS = torch.tensor([[1.0, 0.0], [3.0, 1.0], [-1.0, 0.0], [1.0, 5.0]])


def made_up(n, V, D, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=generator), torch.randn(V, D, generator=generator).to(dtype)


@EVERY
def test_four_tokens_by_hand(function):
    """Logits 1, 3, -1 and 1: mean 1, deviation √2; the two in the middle are equal."""
    got = function(torch.tensor([[1.0, 0.0]]), TOKENS, 3)
    assert got.tokens.tolist() == [[[1, 0, 3], [2, 0, 3]]]
    assert_allclose(got.effects, [[[2**0.5, 0, 0], [-(2**0.5), 0, 0]]], rtol=1e-6)
    assert_allclose([got.skewness[0], got.kurtosis[0]], [0, 2 - 3], atol=1e-6)
    assert got.histogram[0, [0, 32, 63]].tolist() == [1, 2, 1]
    assert got.histogram.sum() == 4


@EVERY
def test_the_other_sign_turns_the_lists_round(function):
    got = function(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), TOKENS, 4)
    assert torch.equal(got.tokens[0], got.tokens[1].flip(0))
    assert_allclose(got.effects[0], -got.effects[1].flip(0), rtol=1e-6)
    assert_allclose(got.skewness[0], -got.skewness[1], rtol=1e-6)
    assert_allclose(got.kurtosis[0], got.kurtosis[1], rtol=1e-6)


@EVERY
@pytest.mark.parametrize("unembedding", [TOKENS[:1], TOKENS[[1, 1, 1]], torch.zeros(3, 2)])
def test_a_direction_that_moves_all_tokens_alike_has_no_effects(function, unembedding):
    got = function(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), unembedding, 2)
    for column in (got.effects, got.skewness, got.kurtosis):
        assert column.isnan().all()
    assert not got.histogram.any()


@EVERY
def test_no_directions(function):
    assert [tuple(column.shape) for column in function(torch.zeros(0, 2), TOKENS, 9)] == [
        (0, 2, 4), (0, 2, 4), (0,), (0,), (0, 64),
    ]  # fmt: skip


@EVERY
def test_wrong_arguments_are_refused(function):
    with pytest.raises(ValueError, match="n_listed is 0"):
        function(torch.ones(1, 2), TOKENS, 0)
    with pytest.raises(ValueError, match="n_listed is 1, V 0, D 2; expected 1 or more of each"):
        function(torch.ones(1, 2), TOKENS[:0], 1)
    with pytest.raises(ValueError, match="V 4, D 0"):
        function(torch.ones(1, 0), TOKENS[:, :0], 1)
    with pytest.raises(ValueError, match=r"unembedding has shape \(4, 2\); expected \(V, D\), V=4, D=3"):
        function(torch.ones(1, 3), TOKENS, 1)
    with pytest.raises(TypeError, match=r"directions must be torch\.float32"):
        function(torch.ones(1, 2).double(), TOKENS, 1)


def test_a_logit_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"a logit of directions\[1\] is not finite"):
        logit_effects(torch.tensor([[1.0, 1.0], [1e38, 1e38]]), TOKENS, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "V", "D"), [(1, 2, 1), (5, 31, 7), (13, 65, 48), (2, 5003, 131)])
def test_it_matches_the_reference(n, V, D, dtype):
    directions, unembedding = made_up(n, V, D, dtype)
    got, want = (function(directions, unembedding, 8) for function in (logit_effects, logit_effects_reference))
    assert torch.equal(got.tokens, want.tokens)
    for name in ("effects", "skewness", "kurtosis"):
        assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-5, atol=2e-5)
    moved = (got.histogram.cumsum(1) - want.histogram.cumsum(1)).abs()
    assert moved.max() <= 1  # float32 may round a token over an edge
    assert got.histogram.sum(1).tolist() == [V] * n


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99), st.integers(1, 3))
def test_lists_are_sorted_with_ties_by_token(V, K, seed, n_values):
    """Few values of a logit, so that many are equal."""
    logits = torch.randint(-n_values, n_values + 1, (V, 1), generator=torch.Generator().manual_seed(seed)).float()
    got = logit_effects(torch.ones(1, 1), logits, K)
    if logits.min() == logits.max():
        return
    values = logits[:, 0].numpy()
    order = np.lexsort([np.arange(V), -values])[:K], np.lexsort([np.arange(V), values])[:K]
    assert got.tokens[0].tolist() == [of.tolist() for of in order]


def test_moments_and_histogram_are_those_of_scipy_and_numpy():
    directions, unembedding = made_up(3, 999, 5)
    got = logit_effects(directions, unembedding, 1)
    logits = (directions.double() @ unembedding.double().T).numpy()
    assert_allclose(got.skewness, stats.skew(logits, axis=1), rtol=1e-4, atol=1e-6)
    assert_allclose(got.kurtosis, stats.kurtosis(logits, axis=1), rtol=1e-4, atol=1e-6)
    assert_allclose(got.effects[:, 0, 0], stats.zscore(logits, axis=1).max(1), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_direction_has_the_same_bytes_in_any_batch(dtype):
    directions, unembedding = made_up(40, 4131, 67, dtype)
    whole = logit_effects(directions, unembedding, 5)
    for part in (slice(17, 18), slice(3, 33)):
        for one, other in zip(logit_effects(directions[part], unembedding, 5), whole, strict=True):
            assert torch.equal(one, other[part])


def test_logits_are_made_in_groups_of_directions(monkeypatch):
    directions, unembedding = made_up(40, 77, 5)
    whole = logit_effects(directions, unembedding, 5)
    monkeypatch.setattr("polysem.kernels.logit_effects.ROOM", 1)
    for one, other in zip(logit_effects(directions, unembedding, 5), whole, strict=True):
        assert torch.equal(one, other)
