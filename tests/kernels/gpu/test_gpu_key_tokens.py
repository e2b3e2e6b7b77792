import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polysem.kernels.gpu.key_tokens import TILE, key_tokens
from polysem.kernels.key_tokens import key_tokens_reference


def made_up(seed, shape, n_skipped, dtype, n_levels):
    """Activations with ties, NaN where no text is; lengths."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.integers(-n_levels, n_levels, shape) / 7).to(dtype)
    lengths = torch.from_numpy(rng.integers(n_skipped + 1, shape[1] + 1, shape[0]))
    for row, length in enumerate(lengths.tolist()):
        values[row, length:] = torch.nan  # never read
        values[row, :n_skipped] = torch.nan
    return values, lengths


def assert_matches_reference(device, values, lengths, n_skipped, n_ends):
    got = key_tokens(values.to(device), lengths, n_skipped, n_ends)
    for found, wanted in zip(got, key_tokens_reference(values, lengths, n_skipped, n_ends), strict=True):
        assert torch.equal(found.cpu(), wanted)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([2, 5, 70]), st.sampled_from([1, 17, TILE["COLS"] + 5])),
    n_skipped=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    n_levels=st.sampled_from([2, 10_000]),
    n_ends=st.sampled_from([1, 2]),
)
@settings(max_examples=25)
def test_matches_reference(device, seed, shape, n_skipped, dtype, n_levels, n_ends):
    assert_matches_reference(device, *made_up(seed, shape, n_skipped, dtype, n_levels), n_skipped, n_ends)


@pytest.mark.parametrize("t", [1, 2, 3])
def test_nan_comes_through(device, t):
    values = torch.tensor([[[1.0, 2.0]] * 4], device=device)
    values[0, t, 1] = torch.nan
    highest, lowest = key_tokens(values, torch.tensor([4]), 1, 2)[0][:, 0]
    assert (highest[0], lowest[0]) == (1.0, -1.0)
    assert highest[1].isnan()
    assert lowest[1].isnan()


def test_no_contexts(device):
    highest, where = key_tokens(torch.empty(0, 4, 3, device=device), torch.empty(0, dtype=torch.int64), 1)
    assert highest.shape == where.shape == (1, 0, 3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matches_reference_at_the_size_of_gpt2_small(device, dtype):
    assert_matches_reference(device, *made_up(0, (8, 1024, 3072), 1, dtype, 10_000), 1, 2)
