"""Key tokens: by hand, then against the reference and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polysem.kernels.key_tokens import BLOCK, key_tokens, key_tokens_reference

BOTH = pytest.mark.parametrize("function", [key_tokens, key_tokens_reference])


def int64(*values):
    return torch.tensor(values)


@BOTH
def test_two_contexts_by_hand(function):
    #                neuron 0 fires at token 2; neuron 1 twice alike, the first counts; token 3 of context 1 is padding
    first = [[9.0, 9.0], [0.5, 1.0], [2.0, -1.0], [1.0, 1.0]]
    second = [[9.0, 9.0], [-3.0, 0.25], [-2.0, 0.5], [7.0, 7.0]]
    highest, where = function(torch.tensor([first, second]), int64(4, 3), 1)
    assert highest.tolist() == [[[2.0, 1.0], [-2.0, 0.5]]]
    assert where.tolist() == [[[2, 1], [2, 2]]]
    assert (highest.dtype, where.dtype) == (torch.float32, torch.int32)


@BOTH
def test_both_ends_by_hand(function):
    """The other end is minus the lowest; there, too, the first of equals counts."""
    values = [[9.0, -9.0], [0.5, -1.0], [-2.0, -1.0], [1.0, 4.0]]
    strongest, where = function(torch.tensor([values]), int64(4), 1, 2)
    assert strongest.tolist() == [[[1.0, 4.0]], [[2.0, 1.0]]]
    assert where.tolist() == [[[3, 3]], [[2, 1]]]


@BOTH
def test_without_bos_the_first_token_counts(function):
    highest, where = function(torch.tensor([[[3.0], [1.0]]]), int64(2), 0)
    assert (highest.item(), where.item()) == (3.0, 0)


@BOTH
def test_no_contexts(function):
    highest, where = function(torch.empty(0, 4, 3), torch.empty(0, dtype=torch.int64), 1)
    assert highest.shape == where.shape == (1, 0, 3)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 5), st.integers(2, 9), st.sampled_from([1, 3, 17, BLOCK - 1, BLOCK + 5])),
    n_skipped=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    n_levels=st.sampled_from([2, 10_000]),
    n_ends=st.sampled_from([1, 2]),
)
def test_matches_reference(seed, shape, n_skipped, dtype, n_levels, n_ends):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.integers(-n_levels, n_levels, shape) / 7).to(dtype)
    lengths = torch.from_numpy(rng.integers(n_skipped + 1, shape[1] + 1, shape[0]))
    for row, length in enumerate(lengths.tolist()):
        values[row, length:] = torch.nan  # never read
    want = key_tokens_reference(values, lengths, n_skipped, n_ends)
    got = key_tokens(values, lengths, n_skipped, n_ends)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("t", [1, 2, 3])
def test_nan_comes_through(dtype, t):
    values = torch.tensor([[[1.0, 2.0]] * 4]).to(dtype)
    values[0, t, 1] = torch.nan
    highest, lowest = key_tokens(values, int64(4), 1, 2)[0][:, 0]
    assert (highest[0], lowest[0]) == (1.0, -1.0)
    assert highest[1].isnan()
    assert lowest[1].isnan()


@BOTH
@pytest.mark.parametrize("length", [0, 1, 5])
def test_lengths_without_text_or_beyond_the_slots_are_refused(function, length):
    with pytest.raises(ValueError, match=rf"lengths\[1\] is {length}; expected 2\.\.4 \(T\)"):
        function(torch.zeros(2, 4, 3), int64(2, length), 1)


@BOTH
def test_there_are_two_ends_at_most(function):
    with pytest.raises(ValueError, match="n_ends is 3; expected 1 or 2"):
        function(torch.zeros(1, 2, 3), int64(2), 1, 3)


@BOTH
def test_other_dtypes_are_refused(function):
    with pytest.raises(TypeError, match=r"activations must be torch.float32 or torch.bfloat16, not torch.float64"):
        function(torch.zeros(1, 2, 3).double(), int64(2), 1)
