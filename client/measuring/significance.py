"""Columns that say what of a clustering is more than chance, where a measurement was asked for rotations."""

import numpy as np

from polysem.client.baselines import baseline_columns
from polysem.client.measuring.measurements import UNDEFINED
from polysem.proto.arrays import Array
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.questions.tested import mean_stability, significant_clusters


def significance_columns(batch: ClusterBatch) -> dict[str, Array]:
    """Columns of the rotation test for B neurons, (B,) each; undefined where the batch holds no tests."""
    B = len(batch.n_examples)
    tested = (
        batch.merge_tests.ndim == 2 and batch.merge_tests.shape[1] > 0
    )  # what the index alone holds is not measured
    best, mean, sd, p = batch.significance.T if tested else np.full((4, B), np.nan)
    clusters = significant_clusters(batch)
    return {
        "own_silhouette": best,
        "null_silhouette": mean,
        "null_deviation": sd,
        "excess_silhouette": best - mean,
        "p_value": p,
        "significant_clusters": np.where(np.isnan(clusters), UNDEFINED, clusters).astype(np.int64),
    }


def compared_columns(batch: ClusterBatch) -> dict[str, Array]:
    """Columns of the baselines of B neurons, (B,) each: key tokens, singletons, and rotations at the same cut."""
    found = baseline_columns(batch)
    return {"null_cut_silhouette": found.pop("null_silhouette"), **found, **_stability_columns(batch)}


def _stability_columns(batch: ClusterBatch) -> dict[str, Array]:
    strength, B = batch.prediction_strength, len(batch.n_examples)
    known = strength.ndim == 2 and strength.shape[1] > 0
    return {"stability": mean_stability(batch), "prediction_strength": strength[:, 0] if known else np.full(B, np.nan)}
