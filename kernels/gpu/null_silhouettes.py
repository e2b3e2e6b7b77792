"""The best silhouettes of rotations by the other kernels, one after the other, for tensors anywhere."""

import torch
from torch import Tensor

from polysem.kernels import agglomerative, rotations, silhouettes
from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import Linkage, check_linkage

ROOM = 1 << 30  # bytes of null distances at a time


def null_silhouettes(
    products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0, method: Linkage = "average"
) -> Tensor:
    """Compute `polysem.kernels.null_silhouettes.null_silhouettes`; memory: 1 GiB, or one null where that is more."""
    rotations.check_nulls(first, last, seed)
    check_linkage(method)
    sizes: Sizes = {}
    gram = checked("products", products, "B N N", sizes, (torch.float32,), products.device)
    counts = checked_counts(n_examples, sizes, gram.device)
    B, N = gram.shape[:2]
    at_once = ROOM // (4 * max(N, 1) ** 2)
    n_nulls = max(1, min(last - first, at_once))
    n_neurons = max(1, at_once // n_nulls)
    result = gram.new_empty((B, last - first), dtype=torch.float64)
    for b in range(0, B, n_neurons):
        mine = counts[b : b + n_neurons]
        for r in range(first, last, n_nulls):
            end = min(r + n_nulls, last)
            d = rotations.rotated_distances(gram[b : b + n_neurons], mine, r, end, seed).flatten(0, 1)
            repeated = mine.repeat_interleave(end - r)
            best = silhouettes.best_silhouettes(d, agglomerative.linkage(d, repeated, method), repeated)
            result[b : b + n_neurons, r - first : end - first] = best.view(len(mine), end - r)
    return result
