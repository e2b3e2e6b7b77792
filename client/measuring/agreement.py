"""Agreement of clusterings of the same examples: the adjusted Rand index (Hubert and Arabie 1985)."""

import numpy as np

from polysem.proto.arrays import Array, IntArray


def adjusted_rand_index(a: IntArray, b: IntArray) -> float:
    """Compare two clusterings (n,): 1 the same, about 0 by chance, −0.5 at the least. ValueError: unequal lengths."""
    if len(a) != len(b):
        raise ValueError(f"clusterings of {len(a)} and of {len(b)} examples cannot be compared")
    return float(adjusted_rand_indexes(a, b, np.array([len(a)]))[0]) if len(a) > 1 else 1.0


def adjusted_rand_indexes(a: Array, b: Array, n_examples: Array) -> Array:
    """(B,) of two clusterings (E,) of each neuron's examples, neuron by neuron; NaN below two examples."""
    n = n_examples.astype(np.int64)
    rows = np.repeat(np.arange(len(n)), n)
    together, in_a, in_b = (_pairs_within(rows, labels, len(n)) for labels in ((a, b), (a,), (b,)))
    expected = np.divide(in_a * in_b, _pairs(n), out=np.zeros(len(n)), where=n > 1)
    largest = (in_a + in_b) / 2
    same = largest == expected
    index = np.divide(together - expected, largest - expected, out=np.ones(len(n)), where=~same)
    return np.where(n > 1, index, np.nan)


def _pairs_within(rows: Array, labels: tuple[Array, ...], n_rows: int) -> Array:
    """(n_rows,) pairs of examples of a row that have all their labels in common."""
    keys = rows
    for values in labels:
        keys = keys * (int(values.max(initial=0)) + 1) + values
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return np.bincount(rows[first], _pairs(counts), n_rows)


def _pairs(counts: Array) -> Array:
    pairs: Array = counts * (counts - 1) / 2
    return pairs
