"""Gated neurons: their two numbers an example, and the distances of embeddings that have them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics.pairwise import cosine_distances

from polysem.kernels.distances import (
    gathered_cosine_distances,
    weighted_cosine_distances,
    weighted_cosine_distances_reference,
)
from polysem.kernels.gates import gated_factors, gated_factors_reference
from polysem.kernels.large.embeddings import unit_embeddings

FACTORS = pytest.mark.parametrize("function", [gated_factors, gated_factors_reference])
DISTANCES = pytest.mark.parametrize("function", [weighted_cosine_distances, weighted_cosine_distances_reference])
ATOL = 1e-6


def made_up(seed, n_neurons, width, d_model, dtype=torch.float32):
    """rows, example_rows, weights, up, biases, n_examples"""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 * width + 1, d_model, generator=generator).to(dtype)
    used = torch.randint(0, len(rows), (n_neurons, width), generator=generator)
    weights, up = torch.randn(2, n_neurons, d_model, generator=generator)
    biases = torch.randn(n_neurons, 2, generator=generator)
    n_examples = torch.randint(0, width + 1, (n_neurons,), generator=generator)
    n_examples[: n_neurons // 2] = width
    return rows, used, weights, up, biases, n_examples


@FACTORS
def test_up_comes_first_then_the_gate(function):
    rows = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    got = function(
        rows, torch.tensor([[1, 0]]), torch.tensor([[10.0, 1.0]]), torch.tensor([[0.0, 2.0]]),
        torch.tensor([[0.5, -1.0]]), torch.tensor([2]),
    )  # fmt: skip
    assert got.tolist() == [[[-3.0, 29.5], [3.0, 12.5]]]  # u = 2 x₁ − 1, g = 10 x₀ + x₁ + 0.5


@FACTORS
def test_padding_is_zero_and_never_read_and_scales_multiply_rows(function):
    rows = torch.tensor([[1.0], [torch.nan]])
    ones = torch.ones(1, 1)
    got = function(
        rows,
        torch.tensor([[0, 99]]),
        2 * ones,
        3 * ones,
        torch.zeros(1, 2),
        torch.tensor([1]),
        torch.tensor([1e6, 1.0]),
    )
    assert got.tolist() == [[[3e6, 2e6], [0, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 1, 1), (3, 17, 31), (2, 100, 768)])
def test_factors_match_their_reference(shape, dtype):
    arguments = made_up(0, *shape, dtype)
    scales = torch.rand(len(arguments[0]), generator=torch.Generator().manual_seed(1))
    for given_scales in (None, scales):
        got = gated_factors(*arguments, given_scales)
        assert_allclose(got, gated_factors_reference(*arguments, given_scales), rtol=1e-5, atol=2e-5)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 9), d_model=st.integers(1, 70))
def test_a_neurons_factors_have_the_same_bits_in_any_batch(seed, width, d_model):
    rows, used, weights, up, biases, n = made_up(seed, 4, width, d_model, torch.float16)
    every = gated_factors(rows, used, weights, up, biases, n)
    for b in range(4):
        one = slice(b, b + 1)
        alone = gated_factors(rows, used[one], weights[one], up[one], biases[one], n[one])
        assert torch.equal(alone[0], every[b])


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"biases": torch.zeros(2, 3)}, ValueError, r"biases has shape \(2, 3\); expected \(B, 2\)"),
        ({"up": torch.zeros(2, 4)}, ValueError, r"up has shape \(2, 4\)"),
        ({"weights": torch.zeros(2, 5).double()}, TypeError, "weights must be torch.float32"),
        ({"n_examples": torch.tensor([1, 9])}, ValueError, r"n_examples\[1\] is 9; expected 0..3"),
        ({"example_rows": torch.tensor([[0, 1, 2], [0, 9, 1]])}, ValueError, r"example_rows\[1, 1\] is 9"),
        ({"example_rows": torch.tensor([[0, -1, 2], [0, 9, 1]])}, ValueError, r"example_rows\[0, 1\] is -1"),
        ({"scales": torch.ones(3)}, ValueError, "scales has shape"),
    ],
)
def test_wrong_arguments_are_named(wrong, error, words):
    names = ("rows", "example_rows", "weights", "up", "biases", "n_examples")
    arguments = dict(zip(names, made_up(0, 2, 3, 5), strict=True)) | {"n_examples": torch.tensor([3, 2])}
    with pytest.raises(error, match=words):
        gated_factors(**arguments | wrong)


def test_example_rows_go_up_to_the_last_and_are_not_looked_at_in_padding():
    rows, used, weights, up, biases, _ = made_up(0, 2, 3, 5)
    last, n_examples = len(rows) - 1, torch.tensor([3, 2])
    used[:] = torch.tensor([[0, last, 1], [last, 0, -1]])
    padded = used.clamp(min=0)
    got = gated_factors(rows, used, weights, up, biases, n_examples)
    assert torch.equal(got[:, :2], gated_factors(rows, padded, weights, up, biases, n_examples)[:, :2])
    for beyond in (last + 1, -1):
        used[1, 1] = beyond
        with pytest.raises(ValueError, match=rf"example_rows\[1, 1\] is {beyond}; expected 0\.\.{last} \(P - 1\)"):
            gated_factors(rows, used, weights, up, biases, n_examples)


# ---- Distances


@DISTANCES
def test_each_example_has_weights_of_its_own(function):
    """e = x ⊙ (f₀ w + f₁ v): (1, 1) and (1, 0)."""
    x, w, v = torch.ones(1, 2, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    factors = torch.tensor([[[2.0, 2.0], [3.0, 0.0]]])
    got = function(x, w, torch.tensor([2]), up=v, factors=factors)
    assert got[0, 0, 1].item() == pytest.approx(1 - 0.5**0.5, abs=ATOL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("n_neurons", "width", "d_model"), [(0, 4, 8), (1, 1, 5), (3, 17, 48), (2, 97, 31), (4, 100, 576)]
)
def test_gated_distances_match_reference_and_scikit_learn(n_neurons, width, d_model, dtype):
    rows, used, weights, up, biases, n = made_up(width, n_neurons, width, d_model, dtype)
    factors = gated_factors(rows, used, weights, up, biases, n)
    got = gathered_cosine_distances(rows, used, weights, n, up=up, factors=factors)
    x = rows[used.clamp(0, len(rows) - 1)]
    want = weighted_cosine_distances_reference(x, weights, n, up=up, factors=factors)
    assert_allclose(got, want, atol=ATOL, rtol=0)
    assert torch.equal(got, weighted_cosine_distances(x, weights, n, up=up, factors=factors))
    for b, count in enumerate(n.tolist()):
        if count:
            h = x[b, :count].double()
            g = h @ weights[b].double() + biases[b, 0]
            u = h @ up[b].double() + biases[b, 1]
            e = h * (u[:, None] * weights[b].double() + g[:, None] * up[b].double())
            assert_allclose(got[b, :count, :count], cosine_distances(e), atol=5e-6, rtol=0)


def test_flipping_up_changes_no_distance():
    rows, used, weights, up, _, n = made_up(3, 2, 20, 32)
    zero = torch.zeros(2, 2)
    one, other = (
        gathered_cosine_distances(rows, used, weights, n, up=v, factors=gated_factors(rows, used, weights, v, zero, n))
        for v in (up, -up)
    )
    assert torch.equal(one, other)


def test_values_of_a_million_do_not_overflow():
    rows, used, weights, up, biases, n = made_up(4, 2, 30, 64)
    scales = torch.full((len(rows),), 1e6)
    factors = gated_factors(rows, used, weights, up, biases, n, scales)
    got = gathered_cosine_distances(rows, used, weights, n, up=up, factors=factors)
    x = rows[used] * 1e6
    assert_allclose(got, weighted_cosine_distances_reference(x, weights, n, up=up, factors=factors), atol=ATOL, rtol=0)


def test_the_unit_embeddings_of_a_large_neuron_are_the_same():
    rows, used, weights, up, biases, _ = made_up(5, 1, 50, 40, torch.float16)
    n = torch.tensor([50])
    factors = gated_factors(rows, used, weights, up, biases, n)
    unit = unit_embeddings(rows[used[0]], weights[0], None, up[0], factors[0])
    want = weighted_cosine_distances_reference(rows[used], weights, n, up=up, factors=factors)
    assert_allclose(1 - unit.double() @ unit.double().T, want[0], atol=1e-6)


@pytest.mark.parametrize("function", [weighted_cosine_distances, weighted_cosine_distances_reference])
def test_up_and_factors_come_together_and_finite(function):
    x, w, n = torch.ones(1, 2, 3), torch.ones(1, 3), torch.tensor([2])
    for wrong in ({"up": w}, {"factors": torch.ones(1, 2, 2)}, {"up": w, "factors": torch.ones(1, 2, 2), "offsets": w}):
        with pytest.raises(ValueError, match="up and factors come together, and without offsets"):
            function(x, w, n, **wrong)
    with pytest.raises(ValueError, match=r"factors\[0, 1\] is \[1.0, nan\]; expected finite numbers"):
        function(x, w, n, up=w, factors=torch.tensor([[[1.0, 1.0], [1.0, torch.nan]]]))
    with pytest.raises(ValueError, match=r"up\[0, 2\] is inf"):
        function(x, w, n, up=torch.tensor([[1.0, 1.0, torch.inf]]), factors=torch.ones(1, 2, 2))
