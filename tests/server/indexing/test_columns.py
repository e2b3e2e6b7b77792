"""Passes over key activations give what NumPy's plain sentences give, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Selection
from polysem.server.indexing import scan
from polysem.server.indexing.columns import BLOCK, add_to_histogram, column_sums, scatter_to_histogram, transposed

FLOATS = st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0, 1.0, 3.0])
SOME = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS)
SHAPES = [(1, 1), (3, BLOCK), (BLOCK, 3), (67, BLOCK + 1), (5, 3 * BLOCK - 1), (130, 2 * BLOCK)]


def drawn(C, J):
    return np.random.default_rng(C * J).standard_normal((C, J)).astype(np.float32) * 100


def check_sums(strength):
    maximum, total, n_positive = column_sums(strength)
    assert (maximum.dtype, total.dtype, n_positive.dtype) == (np.float32, np.float64, np.int64)
    np.testing.assert_array_equal(maximum, strength.max(axis=0))
    np.testing.assert_array_equal(total, strength.sum(axis=0, dtype=np.float64))
    np.testing.assert_array_equal(n_positive, (strength > 0).sum(axis=0))


def test_sums_of_two_neurons_by_hand():
    maximum, total, n_positive = column_sums(np.array([[1, -3], [-2, -1], [4, 0]], np.float32))
    assert (maximum.tolist(), total.tolist(), n_positive.tolist()) == ([4, 0], [3, -4], [2, 0])


@given(SOME)
@settings(deadline=None)
def test_sums_are_those_of_numpy(strength):
    check_sums(strength)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_do_not_show(shape):
    values = drawn(*shape)
    check_sums(values)
    np.testing.assert_array_equal(transposed(values), values.T)
    assert transposed(values).flags.c_contiguous


def histogram_in_torch(strength, maximum, n_bins):
    bins = (strength / maximum * n_bins).long().clamp(0, n_bins - 1)
    flat = bins + torch.arange(len(maximum)) * n_bins
    return torch.bincount(flat[strength > 0], minlength=len(maximum) * n_bins).view(-1, n_bins)


def test_a_histogram_by_hand():
    histogram = torch.zeros((2, 4), dtype=torch.int64)
    strength = torch.tensor([[8.0, -1.0], [0.5, 0.0], [2.0, 3.0], [1.9999, -5.0]])
    add_to_histogram(histogram, strength, torch.tensor([8.0, 3.0]))
    assert histogram.tolist() == [
        [2, 1, 0, 1],
        [0, 0, 0, 1],
    ]  # the maximum lies in the last bin, what is not positive in none


@pytest.mark.parametrize("shape", SHAPES)
def test_histograms_are_those_of_torch_and_add_up(shape):
    strength = torch.from_numpy(drawn(*shape))
    maximum = strength.amax(0).maximum(torch.tensor(0.0))
    histogram, scattered = torch.zeros((2, shape[1], 64), dtype=torch.int64)
    for some in strength.split(7):
        add_to_histogram(histogram, some, maximum)
        scatter_to_histogram(scattered, some, maximum)
    assert torch.equal(scattered, histogram)
    assert torch.equal(histogram, histogram_in_torch(strength, maximum, 64))
    assert torch.equal(histogram.sum(1), (strength > 0).sum(0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_is_named(bad):
    strength = np.ones((5, 6), np.float32)
    strength[2, 4], strength[3, 4] = bad, -bad  # which add up to NaN
    found = scan.KeyActivations(
        10, strength, np.ones((5, 6), np.int32), np.zeros((5, 3), np.uint64), scan.Totals(*np.zeros((3, 1)))
    )
    reading = scan.ReadOptions(1, 64, (0, 4), ("positive",), (3, 3))
    with pytest.raises(FailedPrecondition, match=rf"neuron 4\.1 has the activation {bad} in context 12"):
        scan.reduced(found, reading, Selection())
    with pytest.raises(FailedPrecondition, match=r"latent 4\.1 has the activation"):
        scan.reduced(found, reading._replace(unit="latent"), Selection())
