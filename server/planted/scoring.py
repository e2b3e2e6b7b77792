"""Scores of how well a clustering of planted embeddings finds what was planted.

at_true    adjusted Rand index (ARI) with the truth of the cut to as many clusters as there are sources
best       the highest ARI of the cuts to 2 … 12 clusters
suggested  ARI of the suggested cut, by the significant merges; NaN where it was not asked for
auc        of a pair of examples of one source and a pair of two, how often the first is nearer; ties count half
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from polysem.client import cutting
from polysem.client.measuring.agreement import adjusted_rand_indexes
from polysem.kernels import agglomerative, distances, scc, splits, tree
from polysem.proto.arrays import Array
from polysem.proto.questions.clustering import Algorithm, threshold_schedule

MOST_CLUSTERS = 12


class Scores(NamedTuple):
    """The scores of B mixtures, each (B,) float64; the module's docstring says what they are."""

    at_true: Array
    best: Array
    suggested: Array
    auc: Array


def scores(
    embeddings: list[Tensor],
    truths: list[Array],
    algorithms: Iterable[Algorithm],
    n_suggested: int,
    n_null: int = 99,
    seed: int = 0,
) -> dict[Algorithm, Scores]:
    """Cluster each mixture's embeddings (n, D) float32 by each algorithm and compare with its truth (n,) from 0.

    hac has average linkage, scc its linear rounds. n_suggested: so many mixtures, the first, are cut as suggested;
    n_null and seed are of the tests from which these cuts come, which cost a thousand times as much as the rest. Raises
    ValueError for embeddings that are NaN or infinite.
    """
    counts = torch.tensor([len(e) for e in embeddings])
    d_model, device = embeddings[0].shape[1], embeddings[0].device
    rows, n = torch.cat(embeddings), counts.to(device)
    slots = torch.arange(int(counts.max()))
    starts = counts.cumsum(0) - counts
    used = (starts[:, None] + slots).where(slots < counts[:, None], 0).to(device)
    ones = torch.ones((len(counts), d_model), device=device)
    d = distances.gathered_cosine_distances(rows, used, ones, n)
    of_pairs = pair_auc(d.cpu().numpy(), truths)
    found = {}
    for algorithm in algorithms:
        trees = _trees(d, n, algorithm)
        suggested = np.full(len(truths), np.nan)
        if n_suggested:
            part = slice(n_suggested)
            tests = splits.significant_merges(
                rows, used[part], ones[part], n[part], trees[part], n_null=n_null, seed=seed
            )
            cut = at_suggested_cut(trees[part].cpu().numpy(), tests.significant.cpu().numpy(), truths[part])
            suggested[part] = cut
        at_numbers = at_numbers_of_clusters(trees, n, truths)
        at_true = np.array([of[truth.max() - 1] for of, truth in zip(at_numbers, truths, strict=True)])
        found[algorithm] = Scores(at_true, at_numbers.max(1), suggested, of_pairs)
    return found


def _trees(d: Tensor, n: Tensor, algorithm: Algorithm) -> Tensor:
    """(B, N - 1, 4) float64."""
    if algorithm == "scc":
        return scc.linkage(d, n, torch.tensor(threshold_schedule("linear"), dtype=torch.float64, device=d.device))
    return agglomerative.linkage(d, n, "single" if algorithm == "components" else "average")


def pair_auc(d: Array, truths: list[Array]) -> Array:
    """(B,) of distances (B, N, N) and truths (n,); NaN where all examples have one source, or each its own."""
    both = zip(d, truths, strict=True)
    return np.array([_pair_auc(matrix[: len(truth), : len(truth)], truth) for matrix, truth in both])


def _pair_auc(d: Array, truth: Array) -> float:
    i, k = np.triu_indices(len(truth), 1)
    same = truth[i] == truth[k]
    n_same, n_other = int(same.sum()), int((~same).sum())
    if not n_same or not n_other:
        return float("nan")
    ranks = rankdata(-d[i, k])  # the nearest has the highest
    return float((ranks[same].sum() - n_same * (n_same + 1) / 2) / (n_same * n_other))


def at_numbers_of_clusters(trees: Tensor, n: Tensor, truths: list[Array]) -> Array:
    """(B, 11) ARI of the cuts to at most 2 … 12 clusters; at one height all merges are made (SciPy's maxclust)."""
    flat = np.concatenate(truths)
    counts = n.cpu().numpy()
    used = np.arange(int(counts.max())) < counts[:, None]
    heights = torch.nn.functional.pad(trees[:, :, 2], (1, 0), value=-1.0)  # no merge at all
    columns = []
    for k in range(2, MOST_CLUSTERS + 1):
        last = (n.long() - k).clamp(min=0)  # the merge that leaves k
        labels = tree.cut(trees, n, heights.gather(1, last[:, None])[:, 0]).cpu().numpy()
        columns.append(adjusted_rand_indexes(labels[used], flat, counts))
    return np.stack(columns, axis=1)


def at_suggested_cut(trees: Array, significant: Array, truths: list[Array]) -> Array:
    """(B,) ARI of the cut that agrees best with the groups that significant merges tell apart."""
    labels = []
    for z, merges, truth in zip(trees, significant, truths, strict=True):
        n = len(truth)
        made = z[: n - 1]
        nothing = np.zeros(n - 1)
        drawn = cutting.Tree(made[:, :2].astype(np.int32), made[:, 2], nothing.astype(np.int32), nothing)
        groups = cutting.significant_labels(drawn, n, merges[: n - 1].astype(np.int32))
        cut = cutting.suggested_cut(drawn, n, groups)
        labels.append(cutting.labels(drawn, n, 2.0 if cut is None else cut))
    counts = np.array([len(truth) for truth in truths])
    return adjusted_rand_indexes(np.concatenate(labels), np.concatenate(truths), counts)
