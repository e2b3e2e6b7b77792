"""Adjusted mutual information of two groupings (Vinh, Epps and Bailey 2010)."""

from collections import Counter
from functools import lru_cache
from itertools import product

import numpy as np

from polysem.proto.arrays import Array, DoubleArray

KEPT = 1 << 16  # terms of the expected information: those of neurons of 100 examples are met again and again


def adjusted_mutual_information(a: Array, b: Array) -> float | None:
    """Return (I − E[I]) / ((H(a) + H(b)) / 2 − E[I]): 1 if the groupings are the same, about 0 by chance.

    a, b  (n,) integers: the group of each item

    E[I] is the mean over all ways to deal the same group sizes to the items. None where chance cannot give anything
    else: below two items, where both have one group, and where both have none of two members. O(n log n), and one term
    a pair of distinct group sizes.
    """
    n = len(a)
    if len(b) != n:
        raise ValueError(f"groupings of {n} and of {len(b)} items cannot be compared")
    (a_at, a_sizes), (b_at, b_sizes) = (np.unique(x, return_inverse=True, return_counts=True)[1:] for x in (a, b))
    if n < 2 or len(a_sizes) == len(b_sizes) == 1 or len(a_sizes) == len(b_sizes) == n:
        return None
    both = np.unique(a_at.astype(np.int64) * len(b_sizes) + b_at, return_counts=True)[1]
    h_a, h_b, h_both = (_entropy(sizes, n) for sizes in (a_sizes, b_sizes, both))
    expected = _expected(n, a_sizes, b_sizes)
    return float((h_a + h_b - h_both - expected) / ((h_a + h_b) / 2 - expected))


def _entropy(sizes: Array, n: int) -> float:
    return float(np.log(n) - (sizes * np.log(sizes)).sum() / n)


def _expected(n: int, a_sizes: Array, b_sizes: Array) -> float:
    """E[I], by distinct sizes."""
    of_a, of_b = (Counter(sizes.tolist()) for sizes in (a_sizes, b_sizes))
    return sum(of_a[a] * of_b[b] * _term(n, a, b) for a, b in product(sorted(of_a), sorted(of_b)))


@lru_cache(KEPT)
def _term(n: int, a: int, b: int) -> float:
    """Return the information that a group of a items and one of b are expected to share (equation 24 of the paper)."""
    shared = np.arange(max(1, a + b - n), min(a, b) + 1)
    f = _log_factorials(n)
    log_chance = f[a] + f[b] + f[n - a] + f[n - b] - f[n] - f[shared] - f[a - shared] - f[b - shared]
    log_chance -= f[n - a - b + shared]
    return float((shared / n * np.log(n * shared / (a * b)) * np.exp(log_chance)).sum())


@lru_cache(16)
def _log_factorials(n: int) -> DoubleArray:
    """(n + 1,)"""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
