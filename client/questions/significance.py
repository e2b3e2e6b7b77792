"""Whether a neuron's clustering is more than chance: the rotation test, as a neuron says it."""

from typing import NamedTuple

import numpy as np

from polysem.client.views import or_none
from polysem.proto.arrays import DoubleArray
from polysem.proto.questions.clustering import LEAST_NULLS, LEVEL, ClusterBatch


class Significance(NamedTuple):
    """The rotation test of one neuron: is its best clustering better than that of data without clusters?

    A small p says that its examples are not one Gaussian cloud; how far apart its clusters are says `excess`. Tested
    are embeddings in frame own, so best_silhouette is of their tree, which is not the tree shown in another frame.

    best_silhouette     -1..1: over all cuts
    null_mean, null_sd  of the best silhouettes of rotations of the examples; null_sd NaN with one rotation
    p_value             (1 + rotations that are as good) / (1 + rotations)
    """

    best_silhouette: float
    null_mean: float
    null_sd: float
    p_value: float

    @property
    def excess(self) -> float:
        """The neuron's best silhouette minus the mean of its rotations'."""
        return self.best_silhouette - self.null_mean


def verdict(p_value: float, n_null: int) -> str:
    """The p-value in words; n_null 0: an older server does not say how many rotations it made."""
    if 0 < n_null < LEAST_NULLS:
        return f"{n_null} rotations cannot tell it from one Gaussian cloud, {LEAST_NULLS} or more could"
    return "not one Gaussian cloud" if p_value <= LEVEL else "no better than one Gaussian cloud"


def tests_of(batch: ClusterBatch, i: int, merges: slice) -> tuple[Significance | None, DoubleArray | None]:
    """The test of the batch's neuron i, and of its merges; None where there is none.

    That is from an older server, where none was asked for or held, and for too few or too many examples.
    """
    if batch.significance.ndim < 2 or not batch.significance.shape[1] or np.isnan(batch.significance[i, 0]):
        return None, None
    of_merges = batch.merge_tests.ndim == 2 and batch.merge_tests.shape[1] > 0
    return Significance(*batch.significance[i].tolist()), batch.merge_tests[merges] if of_merges else None


TESTS = ("p_value", "excess_silhouette")


def test_columns(batch: ClusterBatch) -> dict[str, DoubleArray]:
    """TESTS of B neurons, (B,) float64; NaN where there is none."""
    if batch.significance.ndim < 2 or not batch.significance.shape[1]:
        return dict.fromkeys(TESTS, np.full(len(batch.neurons), np.nan))
    best, mean, _, p = batch.significance.T
    return {"p_value": p, "excess_silhouette": best - mean}


def stability_of(batch: ClusterBatch) -> DoubleArray | None:
    """(E,) stability of each example's cluster; None where none was asked for."""
    return batch.stability[:, 0] if batch.stability.ndim == 2 and batch.stability.shape[1] else None


def strength_of(batch: ClusterBatch, i: int) -> float | None:
    """The prediction strength of the batch's neuron i; None where it has none."""
    if batch.prediction_strength.ndim < 2 or not batch.prediction_strength.shape[1]:
        return None
    return or_none(batch.prediction_strength[i, 0])
