"""The best silhouettes of a neuron's rotations: of each null its distances, its tree and the cuts of it.

null_silhouettes  CPU: one null after the other in a task's own buffers, by the steps of rotations.py, agglomerative.py
                  and silhouettes.py and with their bytes (Numba)
                  CUDA: `gpu/null_silhouettes.py`, those kernels one after the other, a batch of nulls at a time

The references of those three files say what is meant.
"""

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.agglomerative import chain, copy_distances, linkage_scratch, sort_by_height
from polysem.kernels.arrays import Array, Scalar
from polysem.kernels.definitions import LINKAGES, Linkage, check_linkage
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, for_each_neuron, room
from polysem.kernels.rotations import draw_order, gram_arguments, rotate, rotation_scratch, turned_products
from polysem.kernels.silhouettes import node_sums, score_cuts


@kernel
def null_silhouettes(
    products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0, method: Linkage = "average"
) -> Tensor:
    """`silhouettes.best_silhouettes` of the nulls first..last - 1 of each neuron.

    products … seed  those of `rotations.rotated_distances`
    method           the linkage of the trees
    returns          (B, last - first) float64 in [0, 1]; NaN with fewer than 3 examples

    A null has the same bits whatever else is requested. Raises what `rotated_distances` raises, and ValueError for an
    unknown method. O(1.5 n³) multiply-adds a null; memory: 4 N² bytes a neuron, 40 N² a task.
    """
    gram, counts = gram_arguments(products, n_examples, first, last, seed)
    check_linkage(method)
    B, N = gram.shape[:2]
    result = np.empty((B, last - first))
    arrays = *turned_products(gram, counts, seed), counts, first, np.uint64(seed), LINKAGES[method], result
    for_each_neuron(_silhouette_kernel, B * (last - first), *arrays, scratch=lambda: _scratch(N))
    return torch.from_numpy(result)


def _scratch(N: int) -> tuple[Array, ...]:
    """Buffers of a rotation: its distances, those that the tree is made in, the tree, sums, and silhouettes of cuts."""
    n_rows = max(N - 1, 0)
    tree = np.empty((n_rows, 4)), node_sums(N), np.empty(n_rows)
    return *rotation_scratch(N), room((N, N), np.float32), linkage_scratch(N), *tree


@compiled
def _silhouette_kernel(
    first: int,
    step: int,
    turned: Array,
    back: Array,
    back_at: Array,
    counts: Array,
    first_null: int,
    seed: Scalar,
    method: int,
    result: Array,
    order: Array,
    left: Array,
    product: Array,
    rotated: Array,
    panel: Array,
    distances: Array,
    work: Array,
    tree: Array,
    sums: Array,
    of_cuts: Array,
) -> None:
    n_nulls = result.shape[1]
    for unit in range(first, len(counts) * n_nulls, step):
        b, r = unit // n_nulls, unit % n_nulls
        n = counts[b]
        result[b, r] = np.nan
        if n > 2:
            draw_order(n, first_null + r, seed, order)
            rotate(turned[b], back, back_at[b], order, n, left, product, rotated, panel, distances)
            copy_distances(distances, n, work)
            chain(work, n, method, tree)
            sort_by_height(tree[: n - 1])
            of_cuts[: n - 1] = np.nan
            score_cuts(distances, n, tree, sums, of_cuts)
            result[b, r] = _best(of_cuts[: n - 1])


@compiled
def _best(of_cuts: Array) -> float:
    """The largest; 0 where all are NaN."""
    best = -np.inf
    for value in of_cuts:
        best = value if value > best else best
    return best if best > -np.inf else 0.0
