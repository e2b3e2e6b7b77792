"""Chance at the same cut: metrics of rotations of a neuron's examples, clustered as the neuron was."""

from collections.abc import Callable

import torch
from torch import Tensor

from polysem.kernels import metrics, rotations
from polysem.kernels.significance import exact_sum

N_MEANS = 20  # rotations that the means are over: a mean is known well with far fewer than a p-value
ROOM = 64 << 20  # bytes of null distances at a time
LEAST_EXAMPLES = 3  # as of the rotation test


def null_metrics(
    products: Tensor, n_examples: Tensor, labels_of: Callable[[Tensor, Tensor], Tensor], n_null: int, seed: int
) -> Tensor:
    """Means of n_clusters, intra, inter and silhouette over rotations, (B, 4) float64; NaN where never defined.

    products    (B, N, N) float32: inner products of each neuron's embeddings in the frame of its tree
    n_examples  (B,) int32; below 3 all means are NaN
    labels_of   gives the clusters (B, N) of distances (B, N, N) and numbers of examples (B,)
    n_null      1 or more: the first N_MEANS rotations of them are used

    A neuron gives the same bytes in any batch.
    """
    (B, N), n_null = products.shape[:2], min(n_null, N_MEANS)
    at_once = max(1, ROOM // (4 * n_null * max(N, 1) ** 2))
    result = torch.empty((B, 4), dtype=torch.float64, device=products.device)
    for b in range(0, B, at_once):
        counts = n_examples[b : b + at_once]
        d = rotations.rotated_distances(products[b : b + at_once], counts, 0, n_null, seed).flatten(0, 1)
        repeated = counts.repeat_interleave(n_null)
        found = metrics.cluster_metrics(d, labels_of(d, repeated), repeated)
        wanted = torch.stack((found.n_clusters.double(), found.intra, found.inter, found.silhouette))
        of_nulls = wanted.view(4 * len(counts), n_null)
        result[b : b + at_once] = (exact_sum(of_nulls) / (~of_nulls.isnan()).sum(1)).view(4, -1).T
    return result.masked_fill((n_examples < LEAST_EXAMPLES)[:, None], torch.nan)
