"""The cost of tests of neurons in the queue, in its units: the n_examples² · d_model of a clustering.

Fitted to tests/benchmarks/tests_cost.py on a CPU, where one core does 9.5e6 units a millisecond.
"""

import numpy as np

from polysem.kernels.splits import N_NULL
from polysem.proto.arrays import Array
from polysem.server.questions.nulls import N_MEANS
from polysem.server.questions.rotation_tests import MAX_TESTED


def of_tests(n_examples: Array, n_null: int, neuron_only: bool, is_held: bool = False) -> Array:
    """(B,) cost of comparing neurons of n_examples (B,) with n_null rotations each; 0 of those that are not tested.

    is_held  the index holds the neuron's own test, so that only null means are made

    A rotation costs two products of matrices (n³), a tree and silhouettes (n²) and some work besides. Tests of merges
    cost about twice the rotations of a test, which however many are asked for has 99; stability and prediction strength
    150 clusterings of about half of the examples.
    """
    n = n_examples.astype(np.float64)
    rotation = 4e4 + 100 * n**2 + 0.16 * n**3
    cost = ((0 if is_held else n_null) + 1.2 * min(n_null, N_MEANS)) * rotation
    if not neuron_only and n_null:
        cost += 2 * N_NULL * rotation + 9e6 + 3e5 * n + 3800 * n**2
    return np.asarray(np.where(n <= MAX_TESTED, cost, 0.0))
