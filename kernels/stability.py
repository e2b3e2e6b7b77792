"""Do clusters come again in other samples? Bootstrap Jaccard of each cluster, and prediction strength of a number.

cluster_stability    Hennig 2007, "Cluster-wise assessment of cluster stability"
prediction_strength  Tibshirani and Walther 2005, "Cluster validation by prediction strength"

Both need the distances alone. The samples depend on the seed and the number of examples, so all neurons with n examples
share them; each neuron is sampled by itself, so a neuron gives the same bytes in any batch. The clusterings of the
samples are made by the kernels of the caller's choice, on the tensors' device; what is counted from them, by NumPy.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.tree import cut

N_RESAMPLES = 50
N_SPLITS = 25
ROOM = 64 << 20  # bytes of distances of samples at a time
KEPT = 256
Clusterer = Callable[[Tensor, Tensor], Tensor]  # of distances (S, M, M) and numbers of examples (S,)


@lru_cache(KEPT)
def resamples(n: int, n_resamples: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """The examples in each bootstrap sample of n draws, ascending; one drawn twice is in it once, as in Hennig's."""
    drawn = np.random.default_rng([seed, n, 2]).integers(0, n, (n_resamples, n))
    return tuple(np.unique(one) for one in drawn)


@lru_cache(KEPT)
def halves(n: int, n_splits: int, seed: int) -> NDArray[np.int64]:
    """(n_splits, 2, n // 2) two random halves; of an odd number one example is left out."""
    keys = np.random.default_rng([seed, n, 3]).random((n_splits, n))
    return keys.argsort(1, kind="stable")[:, : n // 2 * 2].reshape(n_splits, 2, n // 2)


def cluster_stability(
    distances: Tensor,
    labels: Tensor,
    n_examples: Tensor,
    labels_of: Clusterer,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Tensor:
    """Return the mean Jaccard index of each example's cluster with the likest cluster of each bootstrap sample.

    distances   (B, N, N) float32 in [0, 2]; padding is never read
    labels      (B, N) int32: the clusters
    n_examples  (B,) int32, 0..N
    labels_of   clusters a sample in the same way: labels (S, M) int32 of distances and numbers of examples
    seed        0..2⁶³ - 1: of the samples
    returns     (B, N) float64 in [0, 1], equal within a cluster; NaN in padding, and of a cluster of one, which is none

    A cluster is compared by its examples that the sample holds; samples that hold none say nothing of it, and it is NaN
    if none does. Hennig reads 0.75 and more as stable, 0.5 and less as dissolved. n_resamples clusterings of about
    0.63 n examples a neuron.
    """
    result = np.full(labels.shape, np.nan)
    of_examples, counts = labels.cpu().numpy(), n_examples.tolist()
    for b, n in enumerate(counts):
        if n > 1:
            samples = resamples(n, n_resamples, seed)
            found = _clustered(distances[b], samples, labels_of)
            result[b, :n] = _mean_jaccard(of_examples[b, :n], samples, found)
    return torch.from_numpy(result).to(labels.device)


def _mean_jaccard(
    labels: NDArray[np.int32], samples: tuple[NDArray[np.int64], ...], found: list[NDArray[np.int32]]
) -> NDArray[np.float64]:
    """(n,) of each example's cluster."""
    clusters, of_example, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    total, times = np.zeros(len(clusters)), np.zeros(len(clusters))
    width = 1 + max(int(theirs.max()) for theirs in found)
    at_once = max(1, ROOM // (32 * len(clusters) * width))
    for first in range(0, len(samples), at_once):
        some, theirs = samples[first : first + at_once], found[first : first + at_once]
        of = np.repeat(np.arange(len(some)), [len(sample) for sample in some])
        shared = _contingency(
            of * len(clusters) + of_example[np.concatenate(some)],
            np.concatenate(theirs),
            len(some) * len(clusters),
            width,
        ).reshape(len(some), len(clusters), width)
        mine, other = shared.sum(2), shared.sum(1)
        best = (shared / np.maximum(mine[:, :, None] + other[:, None] - shared, 1)).max(2)
        for of_sample in np.where(mine > 0, best, 0):  # one after the other: the same sum, however many at once
            total += of_sample
        times += (mine > 0).sum(0)
    known = (times > 0) & (sizes > 1)
    mean: NDArray[np.float64] = np.divide(total, times, out=np.full(len(clusters), np.nan), where=known)
    of_examples: NDArray[np.float64] = mean[of_example]
    return of_examples


def prediction_strength(
    distances: Tensor,
    n_examples: Tensor,
    n_clusters: Tensor,
    trees_of: Clusterer,
    n_splits: int = N_SPLITS,
    seed: int = 0,
) -> Tensor:
    """Return how well one half of the examples predicts which of the other half are together, in n_clusters clusters.

    distances   (B, N, N) float32 in [0, 2]; padding is never read
    n_examples  (B,) int32, 0..N
    n_clusters  (B,) int: the number of each neuron
    trees_of    makes the trees of samples: (S, M - 1, 4) of distances and numbers of examples
    seed        0..2⁶³ - 1: of the halves
    returns     (B,) float64 in [0, 1]: 1 for one cluster; NaN for none, where a half has fewer examples than clusters,
                and where no half has a cluster of two

    Both halves are cut to n_clusters; each example of one half goes to the cluster of the other with the smallest mean
    distance. Of the pairs of each cluster, the share that go to one cluster together; the least over the clusters of
    two examples or more, averaged over halves and splits. Tibshirani and Walther read 0.8 and more as well supported.
    2 · n_splits clusterings of n / 2 examples a neuron.
    """
    result = np.full(len(n_examples), np.nan)
    for b, (n, k) in enumerate(zip(n_examples.tolist(), n_clusters.tolist(), strict=True)):
        if k == 1 and n:
            result[b] = 1.0
        elif 1 < k <= n // 2:
            split = halves(n, n_splits, seed)
            found = _clustered(distances[b], tuple(split.reshape(-1, n // 2)), partial(_cut_to, k=k, trees_of=trees_of))
            result[b] = _strength(distances[b].cpu().numpy(), split, found)
    return torch.from_numpy(result).to(distances.device)


def _cut_to(d: Tensor, n: Tensor, k: int, trees_of: Clusterer) -> Tensor:
    """The labels of the cut to k clusters, of samples of one size: all but the last k - 1 merges."""
    trees = trees_of(d, n).clone()
    n_merges = trees.shape[1]
    trees[..., 2] = torch.arange(n_merges, device=d.device) / n_merges
    return cut(trees, n, (n_merges + 0.5 - k) / n_merges)


def _strength(d: NDArray[np.float32], split: NDArray[np.int64], found: list[NDArray[np.int32]]) -> float:
    labels, half = np.stack(found).reshape(split.shape), split.shape[2]
    training, clusters = split.reshape(-1, half), labels.reshape(-1, half)  # each half predicts the other
    test, wanted = split[:, ::-1].reshape(-1, half), labels[:, ::-1].reshape(-1, half)
    at_once = max(1, ROOM // (16 * half**2))
    parts = [
        _of_ways(d[test[at, :, None], training[at, None]], clusters[at], wanted[at])
        for at in (slice(first, first + at_once) for first in range(0, len(training), at_once))
    ]
    strengths = np.concatenate(parts)
    defined = strengths[~np.isnan(strengths)]
    return float(np.mean(defined)) if len(defined) else float("nan")


def _of_ways(between: NDArray[np.float32], training: NDArray[np.int32], test: NDArray[np.int32]) -> NDArray[np.float64]:
    """(W,) how strongly the clusters of W halves predict those of the others; NaN where those have none of two.

    between  (W, H, H): distances of test examples to training examples; training, test (W, H): their clusters
    """
    k, (W, _) = 1 + int(max(training.max(), test.max())), test.shape
    members = np.eye(k)[training]
    predicted = (between.astype(np.float64) @ members / members.sum(1)[:, None]).argmin(2)
    together = _contingency((np.arange(W)[:, None] * k + test).ravel(), predicted.ravel(), W * k, k).reshape(W, k, k)
    sizes = together.sum(2)
    several = sizes > 1
    pairs = (together * (together - 1)).sum(2) / np.where(several, sizes * (sizes - 1), 1)
    least: NDArray[np.float64] = np.where(several, pairs, np.inf).min(1)
    least[~several.any(1)] = np.nan
    return least


def _contingency(a: NDArray[np.integer], b: NDArray[np.integer], n_rows: int, n_columns: int) -> NDArray[np.float64]:
    """(groups of a, groups of b) how many are in both."""
    both = np.bincount(a.astype(np.int64) * n_columns + b, minlength=n_rows * n_columns)
    return both.reshape(n_rows, n_columns).astype(float)


def _clustered(
    distances: Tensor, samples: tuple[NDArray[np.int64], ...], labels_of: Clusterer
) -> list[NDArray[np.int32]]:
    """The labels of each sample of a neuron's examples."""
    width = max(map(len, samples))
    found: list[NDArray[np.int32]] = []
    at_once = max(1, ROOM // (4 * width**2))
    for first in range(0, len(samples), at_once):
        part = samples[first : first + at_once]
        padded = np.zeros((len(part), width), np.int64)
        for row, sample in zip(padded, part, strict=True):
            row[: len(sample)] = sample
        at = torch.from_numpy(padded).to(distances.device)
        counts = torch.tensor([len(sample) for sample in part], dtype=torch.int32, device=distances.device)
        labels = labels_of(distances.take(at[:, :, None] * len(distances) + at[:, None, :]), counts).cpu().numpy()
        found += [of[: len(sample)] for of, sample in zip(labels, part, strict=True)]
    return found
