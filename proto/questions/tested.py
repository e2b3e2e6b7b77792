"""Numbers that tests give each neuron of a batch: significant clusters, stability; and q-values of many p-values."""

import numpy as np

from polysem.proto.arrays import DoubleArray
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.wire import columns

LEAST_IN_CLUSTER = 3  # examples of a significant cluster


def q_values(p: DoubleArray) -> DoubleArray:
    """Benjamini and Hochberg's (1995) q of each p (n,): the share of false ones among all with a p as small.

    NaN where p is. Valid as long as tests do not depend on each other negatively; rotations shared by neurons with the
    same number of examples are positive dependence at most.
    """
    q = np.full(len(p), np.nan)
    order = np.flatnonzero(~np.isnan(p))
    order = order[np.argsort(-p[order], kind="stable")]  # from the largest down
    ranks = np.arange(len(order), 0, -1)
    q[order] = np.minimum.accumulate(np.minimum(p[order] * len(order) / ranks, 1.0)) if len(order) else []
    return q


def significant_clusters(batch: ClusterBatch) -> DoubleArray:
    """Return how many groups of 3 examples or more the significant merges of each neuron tell apart, (B,).

    NaN where the neuron or its merges were not tested.
    """
    found = np.full(len(batch.n_examples), np.nan)
    if batch.merge_tests.ndim < 2 or not batch.merge_tests.shape[1]:
        return found
    ends = columns.offsets(batch)["merge"]
    for b in np.flatnonzero(~np.isnan(batch.significance[:, 0])):
        mine = slice(ends[b], ends[b + 1])
        found[b] = _n_groups(batch.merges[mine].tolist(), batch.merge_tests[mine, 1].tolist(), int(batch.n_examples[b]))
    return found


def _n_groups(merges: list[list[int]], significant: list[float], n: int) -> int:
    sizes = [1] * n
    for left, right in merges:
        sizes.append(sizes[left] + sizes[right])
    waiting, found = [2 * n - 2], 0
    while waiting:
        node = waiting.pop()
        if node >= n and significant[node - n]:
            waiting += merges[node - n]
        else:
            found += sizes[node] >= LEAST_IN_CLUSTER
    return found


def mean_stability(batch: ClusterBatch) -> DoubleArray:
    """Return the mean stability of each neuron's clusters of two examples or more, (B,); NaN where none is known."""
    B = len(batch.n_examples)
    if batch.stability.ndim < 2 or not batch.stability.shape[1]:
        return np.full(B, np.nan)
    neuron = np.repeat(np.arange(B), batch.n_examples)
    clusters, first = np.unique(np.stack([neuron, batch.labels], 1), axis=0, return_index=True)
    values = batch.stability[first, 0]
    known = ~np.isnan(values)
    of = np.bincount(clusters[known, 0], minlength=B)
    total = np.bincount(clusters[known, 0], values[known], minlength=B)
    mean: DoubleArray = np.divide(total, of, out=np.full(B, np.nan), where=of > 0)
    return mean
