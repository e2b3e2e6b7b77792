"""Columns that say what of a clustering is more than chance, where a measurement was asked for rotations."""

import numpy as np

from polysem.client import cutting
from polysem.client.baselines import baseline_columns
from polysem.client.measuring.measurements import UNDEFINED
from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.wire import columns


def significance_columns(batch: ClusterBatch) -> dict[str, Array]:
    """Columns of the rotation test for B neurons, (B,) each; undefined where the batch holds no tests."""
    B = len(batch.n_examples)
    tested = (
        batch.merge_tests.ndim == 2 and batch.merge_tests.shape[1] > 0
    )  # what the index alone holds is not measured
    best, mean, sd, p = batch.significance.T if tested else np.full((4, B), np.nan)
    clusters = np.full(B, UNDEFINED)
    ends = columns.offsets(batch)["merge"]
    for b in np.flatnonzero(~np.isnan(best)):
        mine = slice(ends[b], ends[b + 1])
        tree = cutting.Tree(
            batch.merges[mine], batch.heights[mine], batch.node_centrals[mine], batch.node_mean_distances[mine]
        )
        significant = batch.merge_tests[mine, 1].astype(np.int32)
        groups = cutting.significant_labels(tree, int(batch.n_examples[b]), significant)
        clusters[b] = (np.bincount(groups) >= cutting.LEAST_IN_CLUSTER).sum()
    return {
        "own_silhouette": best,
        "null_silhouette": mean,
        "null_deviation": sd,
        "excess_silhouette": best - mean,
        "p_value": p,
        "significant_clusters": clusters,
    }


def compared_columns(batch: ClusterBatch) -> dict[str, Array]:
    """Columns of the baselines of B neurons, (B,) each: key tokens, singletons, and rotations at the same cut."""
    found = baseline_columns(batch)
    return {"null_cut_silhouette": found.pop("null_silhouette"), **found, **_stability_columns(batch)}


def _stability_columns(batch: ClusterBatch) -> dict[str, Array]:
    B = len(batch.n_examples)
    if batch.stability.ndim < 2 or not batch.stability.shape[1]:
        return {name: np.full(B, np.nan) for name in ("stability", "prediction_strength")}
    neuron = np.repeat(np.arange(B), batch.n_examples)
    clusters, first = np.unique(np.stack([neuron, batch.labels], 1), axis=0, return_index=True)
    values = batch.stability[first, 0]
    known = ~np.isnan(values)
    of = np.bincount(clusters[known, 0], minlength=B)
    total = np.bincount(clusters[known, 0], values[known], minlength=B)
    mean = np.divide(total, of, out=np.full(B, np.nan), where=of > 0)
    return {"stability": mean, "prediction_strength": batch.prediction_strength[:, 0]}


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
