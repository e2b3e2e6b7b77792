import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.kernels.rows import embed, embed_gated, widen

NONE = np.zeros(0, np.float32)
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)


def test_every_float16_becomes_the_same_number():
    row = np.full(1 << 16, 7, np.float32)
    widen(EVERY_HALF, row)
    np.testing.assert_array_equal(row, EVERY_HALF.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(row), EVERY_HALF >= 0x8000)


@pytest.mark.parametrize("half", [False, True])
def test_rows_by_hand(half):
    x = np.array([1, -2, 0.5], np.float16)
    x = x.view(np.uint16) if half else x.astype(np.float32)
    weights, offsets = np.array([3, 0, -4], np.float32), np.array([10, 20, -1], np.float32)
    row = np.empty(3, np.float32)
    embed(x, weights, NONE, row)
    assert row.tolist() == [3, 0, -2]
    embed(x, weights, offsets, row)
    assert row.tolist() == [13, 20, -3]
    embed_gated(x, weights, offsets, np.array([2, -0.5], np.float32), row)
    assert row.tolist() == [1, 20, -3.75]


@given(st.integers(1, 9), st.integers(0, 99))
def test_rows_are_those_of_numpy(width, seed):
    rng = np.random.default_rng(seed)
    x, weights, offsets = rng.integers(-50, 50, (3, width)).astype(np.float32)  # exact in every order
    factors = rng.integers(-9, 9, 2).astype(np.float32)
    half, row = x.astype(np.float16).view(np.uint16), np.empty(width, np.float32)
    for given_ in (x, half):
        embed(given_, weights, NONE, row)
        np.testing.assert_array_equal(row, x * weights)
        embed(given_, weights, offsets, row)
        np.testing.assert_array_equal(row, x * weights + offsets)
        embed_gated(given_, weights, offsets, factors, row)
        np.testing.assert_array_equal(row, x * (factors[0] * weights + factors[1] * offsets))
