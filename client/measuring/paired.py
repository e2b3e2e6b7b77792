"""Neuron against pre-MLP embeddings of the same neurons: differences with bootstrap intervals.

A median over all neurons of one embedding and over all of the other are medians over other neurons wherever a metric is
undefined for one of them. Here only neurons count for which it is defined for both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray

N_RESAMPLES = 1000
SEED = 0
AT_ONCE = 1 << 22  # values drawn at a time
# (metric, what it is divided by): shares of the mean distance do not depend on the embedding's scale of distances
COMPARED = {
    "intra": ("intra", None),
    "inter": ("inter", None),
    "silhouette": ("silhouette", None),
    "matched_intra": ("matched_intra", None),
    "matched_inter": ("matched_inter", None),
    "matched_intra_share": ("matched_intra", "mean_distance"),
    "matched_inter_share": ("matched_inter", "mean_distance"),
    "best_silhouette": ("best_silhouette", None),
}


class Difference(NamedTuple):
    """The median of neuron minus pre-MLP over paired neurons; None without any.

    low, high    95 % percentile interval of the median, over 1,000 bootstrap samples of the neurons, seeded
    n_paired     neurons for which the metric is defined for both
    n_undefined  neurons of both rows for which it is not
    """

    median: float | None
    low: float | None
    high: float | None
    n_paired: int
    n_undefined: int


def differences(columns: dict[str, Array], neuron_rows: Array, pre_mlp_rows: Array) -> dict[str, Difference]:
    """Each of COMPARED: how neurons differ between the rows of two embeddings, from columns (rows,) of a file."""
    keys = columns["layer"].astype(np.int64) << 32 | columns["neuron"].astype(np.int64)
    _, a, b = np.intersect1d(keys[neuron_rows], keys[pre_mlp_rows], assume_unique=True, return_indices=True)
    pair = neuron_rows[a], pre_mlp_rows[b]
    found = {}
    for name, (metric, unit) in COMPARED.items():
        mine, other = (_scaled(columns, metric, unit, rows) for rows in pair)
        found[name] = difference(mine - other)
    return found


def _scaled(columns: dict[str, Array], metric: str, unit: str | None, rows: Array) -> DoubleArray:
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
    """(N_RESAMPLES,) medians of samples with replacement."""
    rng, found = np.random.default_rng(SEED), []
    step = max(1, AT_ONCE // len(values))
    for first in range(0, N_RESAMPLES, step):
        drawn = rng.integers(0, len(values), (min(step, N_RESAMPLES - first), len(values)))
        found.append(np.median(values[drawn], axis=1))
    return np.concatenate(found)


def shown(difference: Difference) -> str:
    """As a table has it: +0.012 [+0.008, +0.015]."""
    if difference.median is None:
        return "–"
    return f"{difference.median:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def undefined(found: Sequence[Difference]) -> str:
    """Neurons left out of each, in words of a table."""
    return " / ".join(f"{one.n_undefined:,}" for one in found)
