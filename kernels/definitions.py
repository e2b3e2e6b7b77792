"""Definitions that the two halves of a kernel share: metrics, linkages, and checks of arguments."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts


class ClusterMetrics(NamedTuple):
    """One number a neuron, each (B,); float64 where not said otherwise, NaN where there is nothing to measure."""

    n_examples: Tensor  # int32
    n_clusters: Tensor  # int32
    max_distance: Tensor  # over unordered pairs; NaN with fewer than 2 examples
    mean_distance: Tensor  # likewise
    intra: Tensor  # mean distance over all pairs in the same cluster; NaN without one
    inter: Tensor  # mean distance over all pairs in different clusters; NaN without one
    silhouette: Tensor  # scikit-learn's mean, singletons count 0; NaN with one cluster or only singletons
    largest_share: Tensor  # of the examples, in the largest cluster; NaN without examples


class NodeMetrics(NamedTuple):
    """One entry a row of a linkage, describing the node that the row makes; each (B, max(N-1, 0))."""

    central: (
        Tensor  # int32: the member with the least sum of distances to the others, on a tie the lowest; -1 in padding
    )
    mean_distance: Tensor  # float64: over all unordered pairs inside the node; NaN in padding


class TreeMetrics(NamedTuple):
    """A tree's nodes, and one of its cuts."""

    clusters: ClusterMetrics
    nodes: NodeMetrics


class Clusterings(NamedTuple):
    """Trees of B neurons (B, max(N-1, 0), 4) float64, the labels (B, N) int32 of a cut of each, and their metrics."""

    trees: Tensor
    labels: Tensor
    metrics: TreeMetrics


class LogitEffects(NamedTuple):
    """Effects of B directions on the logits of V tokens, in standard deviations from the tokens' mean.

    Of a direction that moves all tokens alike, effects, skewness and kurtosis are NaN, and no bin counts.
    """

    tokens: Tensor  # (B, 2, K) int32: the K tokens of the largest effects, largest first, and of the smallest, smallest
    #                  first; of equals the lower token first
    effects: Tensor  # (B, 2, K) float32: theirs
    skewness: Tensor  # (B,) float32: mean of effect³
    kurtosis: Tensor  # (B,) float32: excess kurtosis, the mean of effect⁴ minus 3, 0 of a normal distribution
    histogram: Tensor  # (B, 64) int32: tokens in equal bins from the smallest effect to the largest


EFFECT_BINS = 64
EFFECT_DTYPES = torch.float32, torch.float16, torch.bfloat16

Linkage = Literal["average", "complete", "single"]
LINKAGES = {"average": 0, "complete": 1, "single": 2}


def check_linkage(method: str) -> None:
    """Raise ValueError for an unknown linkage."""
    if method not in LINKAGES:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(LINKAGES)}")


ACTIVATION_DTYPES = torch.float32, torch.bfloat16


LEFTOVER_HEIGHT = 2.0  # the largest distance there is


def check_gated(offsets: Tensor | None, up: Tensor | None, factors: Tensor | None) -> None:
    """Raise unless `up` and `factors` come together, and without offsets."""
    if (up is None) != (factors is None) or (up is not None and offsets is not None):
        raise ValueError("up and factors come together, and without offsets")


def check_thresholds(taus: NDArray[np.float64]) -> None:
    """Raise unless each lies in 0..2 and above the one before it."""
    for r in np.flatnonzero(~((taus >= 0) & (taus <= 2)))[:1]:
        raise ValueError(f"thresholds[{r}] is {taus[r]}; expected 0..2")
    for r in np.flatnonzero(np.diff(taus) <= 0)[:1]:
        raise ValueError(f"thresholds must increase: {taus[r]} is followed by {taus[r + 1]}")


def raise_if_no_tree(bad: NDArray[np.bool_]) -> None:
    """Raise for the first neuron in `bad` (B,)."""
    for b in np.flatnonzero(bad)[:1]:
        raise ValueError(f"linkage[{b}] is not a tree of n_examples[{b}] leaves with ascending heights")


def gate_arguments(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    up: Tensor,
    biases: Tensor,
    n_examples: Tensor,
    scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The arguments of `gated_factors`, checked as its docstring says; counts int64."""
    sizes: Sizes = {}
    device = rows.device if isinstance(rows, Tensor) else torch.device("cpu")
    single, whole = (torch.float32,), (torch.int32, torch.int64)
    rows = checked("rows", rows, "P D", sizes, (torch.float32, torch.float16), device)
    used = checked("example_rows", example_rows, "B N", sizes, whole, device)
    weights = checked("weights", weights, "B D", sizes, single, device)
    up = checked("up", up, "B D", sizes, single, device)
    biases = checked("biases", biases, "B 2", sizes, single, device)
    scales = None if scales is None else checked("scales", scales, "P", sizes, single, device)
    counts = checked_counts(n_examples, sizes, device).long()
    wrong = (used < 0) | (used >= sizes["P"])
    wrong &= torch.arange(sizes["N"], device=device) < counts[:, None]

    def explain() -> None:
        b, i = wrong.nonzero()[0].tolist()
        raise ValueError(f"example_rows[{b}, {i}] is {int(used[b, i])}; expected 0..{sizes['P'] - 1} (P - 1)")

    faults.check(wrong, explain)
    return rows, used, weights, up, biases, faults.sound(counts, wrong.any(1)), scales


def key_token_arguments(activations: Tensor, lengths: Tensor, n_skipped: int, n_ends: int) -> tuple[Tensor, Tensor]:
    """The activations and lengths of `key_tokens`, checked as its docstring says."""
    sizes: Sizes = {}
    device = activations.device if isinstance(activations, Tensor) else torch.device("cpu")
    values = checked("activations", activations, "b T N", sizes, ACTIVATION_DTYPES, device)
    n_tokens = checked("lengths", lengths, "b", sizes, (torch.int64,), torch.device("cpu"))
    if n_ends not in (1, 2):
        raise ValueError(f"n_ends is {n_ends}; expected 1 or 2")
    if n_skipped < 0:
        raise ValueError(f"n_skipped is {n_skipped}; expected 0 or more")
    if ((n_tokens <= n_skipped) | (n_tokens > sizes["T"])).any():
        row = int(((n_tokens <= n_skipped) | (n_tokens > sizes["T"])).nonzero()[0])
        raise ValueError(f"lengths[{row}] is {int(n_tokens[row])}; expected {n_skipped + 1}..{sizes['T']} (T)")
    return values, n_tokens


def effect_arguments(directions: Tensor, unembedding: Tensor, n_listed: int) -> tuple[Tensor, Tensor, int]:
    """The arguments of `logit_effects`, checked as its docstring says; K."""
    sizes: Sizes = {}
    device = directions.device if isinstance(directions, Tensor) else torch.device("cpu")
    d = checked("directions", directions, "B D", sizes, (torch.float32,), device)
    u = checked("unembedding", unembedding, "V D", sizes, EFFECT_DTYPES, device)
    if n_listed < 1 or sizes["V"] < 1 or sizes["D"] < 1:
        raise ValueError(f"n_listed is {n_listed}, V {sizes['V']}, D {sizes['D']}; expected 1 or more of each")
    return d, u, min(n_listed, sizes["V"])
