"""Two clusterings of the same examples: which cluster of the one is which of the other."""

import numpy as np

from polysem.proto.arrays import DoubleArray, IntArray


def matched(labels: IntArray, others: IntArray) -> IntArray:
    """Return (n,) clusters by the number of the one in `others` they match: pairs that share most examples go first.

    A cluster of either side is matched once; those left over get new numbers.
    """
    shared = _shared(labels, others)
    numbers: dict[int, int] = {}
    for flat in np.argsort(-shared, axis=None, kind="stable").tolist():
        label, other = divmod(flat, shared.shape[1])
        if shared[label, other] and label not in numbers and other not in numbers.values():
            numbers[label] = other
    left_over = [label for label in range(len(shared)) if label not in numbers]
    numbers |= {label: shared.shape[1] + i for i, label in enumerate(left_over)}
    return np.array([numbers[label] for label in labels.tolist()], np.int32)


def _shared(a: IntArray, b: IntArray) -> DoubleArray:
    """(clusters of a, clusters of b) examples in both."""
    table = np.zeros((a.max(initial=-1) + 1, b.max(initial=-1) + 1))
    np.add.at(table, (a, b), 1)
    return table
