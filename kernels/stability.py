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
    for sample, theirs in zip(samples, found, strict=True):
        shared = _contingency(of_example[sample], theirs, len(clusters))
        mine, other = shared.sum(1), shared.sum(0)
        best = (shared / np.maximum(mine[:, None] + other - shared, 1)).max(1)
        total += np.where(mine > 0, best, 0)
        times += mine > 0
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
    strengths = []
    for (first, second), (a, b) in zip(split, zip(found[::2], found[1::2], strict=True), strict=True):
        strengths += [_one_way(d[np.ix_(second, first)], a, b), _one_way(d[np.ix_(first, second)], b, a)]
    defined = [value for value in strengths if value is not None]
    return float(np.mean(defined)) if defined else float("nan")


def _one_way(between: NDArray[np.float32], training: NDArray[np.int32], test: NDArray[np.int32]) -> float | None:
    """The strength with which clusters of training examples predict those of the test examples (test, training)."""
    members = np.eye(int(training.max()) + 1)[training]
    predicted = (between.astype(np.float64) @ members / members.sum(0)).argmin(1)
    together = _contingency(test, predicted, int(test.max()) + 1)
    sizes = together.sum(1)
    pairs = (together * (together - 1)).sum(1)[sizes > 1] / (sizes * (sizes - 1))[sizes > 1]
    return float(pairs.min()) if len(pairs) else None


def _contingency(a: NDArray[np.integer], b: NDArray[np.integer], n_rows: int) -> NDArray[np.float64]:
    """(groups of a, groups of b) how many are in both."""
    width = int(b.max(initial=0)) + 1
    return np.bincount(a.astype(np.int64) * width + b, minlength=n_rows * width).reshape(n_rows, width).astype(float)


def _clustered(
    distances: Tensor, samples: tuple[NDArray[np.int64], ...], labels_of: Clusterer
) -> list[NDArray[np.int32]]:
    """The labels of each sample of a neuron's examples."""
    width = max(map(len, samples))
    found: list[NDArray[np.int32]] = []
    at_once = max(1, ROOM // (4 * width**2))
    for first in range(0, len(samples), at_once):
        part = samples[first : first + at_once]
        padded = np.stack([np.pad(sample, (0, width - len(sample))) for sample in part])
        at = torch.from_numpy(padded).to(distances.device)
        counts = torch.tensor([len(sample) for sample in part], dtype=torch.int32, device=distances.device)
        labels = labels_of(distances[at[:, :, None], at[:, None, :]].contiguous(), counts).cpu().numpy()
        found += [of[: len(sample)] for of, sample in zip(labels, part, strict=True)]
    return found
