"""Neuron embeddings against others of the same neurons: differences with bootstrap intervals.

A median over all neurons of one embedding and over all of the other are medians over other neurons wherever a metric is
undefined for one of them. Here only neurons count for which it is defined for both.
"""

from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray

N_RESAMPLES = 1000
SEED = 0
# (metric, what it is divided by): shares of the mean distance do not depend on the embedding's scale of distances
COMPARED = {
    "intra": ("intra", None),
    "inter": ("inter", None),
    "silhouette": ("silhouette", None),
    "matched_intra": ("matched_intra", None),
    "matched_inter": ("matched_inter", None),
    "matched_intra_share": ("matched_intra", "mean_distance"),
    "matched_inter_share": ("matched_inter", "mean_distance"),
    "matched_silhouette": ("matched_silhouette", None),
    "best_silhouette": ("best_silhouette", None),
}


class Difference(NamedTuple):
    """The median of neuron minus another embedding over paired neurons; None without any.

    low, high    95 % percentile interval of the median, over 1,000 bootstrap samples of the neurons, seeded
    n_paired     neurons for which the metric is defined for both
    n_undefined  neurons of both rows for which it is not
    """

    median: float | None
    low: float | None
    high: float | None
    n_paired: int
    n_undefined: int


def differences(columns: dict[str, Array], neuron_rows: Array, other_rows: Array) -> dict[str, Difference]:
    """Each of COMPARED: how neurons differ between the rows of two embeddings, from columns (rows,) of a file."""
    keys = columns["layer"].astype(np.int64) << 32 | columns["neuron"].astype(np.int64)
    _, a, b = np.intersect1d(keys[neuron_rows], keys[other_rows], assume_unique=True, return_indices=True)
    pair = neuron_rows[a], other_rows[b]
    found = {}
    for name, (metric, unit) in COMPARED.items():
        mine, other = (scaled(columns, metric, unit, rows) for rows in pair)
        found[name] = difference(mine - other)
    return found


def scaled(columns: dict[str, Array], metric: str, unit: str | None, rows: Array) -> DoubleArray:
    """The metric of these rows divided by its unit; NaN where either is undefined, or the unit is 0."""
    values: DoubleArray = columns[metric][rows]
    if unit is None:
        return values
    of = columns[unit][rows]
    shares: DoubleArray = np.divide(values, of, out=np.full(len(values), np.nan), where=of > 0)
    return shares


def difference(values: DoubleArray) -> Difference:
    """The median and interval of paired differences (J,), which are NaN where undefined for either."""
    defined = values[~np.isnan(values)]
    n_undefined = len(values) - len(defined)
    if not len(defined):
        return Difference(None, None, None, 0, n_undefined)
    low, high = np.percentile(_medians(defined), (2.5, 97.5))
    return Difference(float(np.median(defined)), float(low), float(high), len(defined), n_undefined)


def _medians(values: DoubleArray) -> DoubleArray:
    """(N_RESAMPLES,) medians of samples with replacement.

    No sample is drawn, only the one or two middle ranks of its order statistics, whose distributions are known: of n
    uniform numbers the k-th smallest is Beta(k, n + 1 - k), and the next one the least of n - k beyond it.
    """
    rng, ordered, n = np.random.default_rng(SEED), np.sort(values), len(values)
    low = rng.beta((n + 1) // 2, n // 2 + 1, N_RESAMPLES)
    high = low if n % 2 else low + (1 - low) * (1 - rng.random(N_RESAMPLES) ** (2 / n))
    at_low, at_high = (ordered[np.minimum((ranks * n).astype(int), n - 1)] for ranks in (low, high))
    medians: DoubleArray = (at_low + at_high) / 2
    return medians


def shown(difference: Difference) -> tuple[str, str]:
    """The median and its interval as a table has them: +0.012 and +0.008 … +0.015."""
    if difference.median is None:
        return "–", "–"
    return f"{difference.median:+.3f}", f"{difference.low:+.3f} … {difference.high:+.3f}"
