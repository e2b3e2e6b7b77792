"""Sub-Cluster Component clustering (Monath et al., KDD 2021, arXiv 2010.11821) of many neurons, one tree each.

linkage_reference  NumPy float64: every round computes every mean anew. O(rounds · n²)
linkage            CPU: sums of distances, contracted as sub-clusters merge; only sub-clusters whose nearest one merged
                   look again, and thresholds at which nothing merges are jumped over (Numba). About O(n²), one (N, N)
                   float64 buffer a task
                   CUDA: the same plan, a Triton program a neuron (kernels/gpu/scc.py)

Sums, not means: distances are multiples of 2⁻²⁴ (see distances.py), so float64 sums of fewer than 2²⁸ of them are
exact, in whatever order they were added, and the sums stay exactly symmetric.

A sub-cluster's nearest stays nearest while other sub-clusters merge: a mean of means is never below the least of them.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.agglomerative import root
from polysem.kernels.arrays import (
    Array,
    Scalar,
    Sizes,
    as_array,
    as_counts,
    as_distances,
    check_distances,
    raise_if_outside,
)
from polysem.kernels.definitions import LEFTOVER_HEIGHT, check_thresholds
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, for_each_neuron, room


def linkage_reference(distances: Tensor, n_examples: Tensor, thresholds: Tensor, until_stable: bool = False) -> Tensor:
    """Compute `linkage` from the definition."""
    matrix, counts, taus = _arguments(distances, n_examples, thresholds)
    check_distances(matrix, counts)
    B, N = matrix.shape[:2]
    result = np.full((B, max(N - 1, 0), 4), np.nan)
    for b, n in enumerate(counts):
        merges: list[tuple[int, int, float, int]] = []
        clusters = [([i], i) for i in range(n)]  # (examples, node), in order of lowest example
        d = matrix[b, :n, :n].astype(np.float64)
        for tau in taus:
            while (n_before := len(clusters)) > 1:
                clusters = _join(clusters, _round_reference(d, clusters, tau), float(tau), n, merges)
                if not until_stable or len(clusters) == n_before:
                    break
        _join(clusters, [0] * len(clusters), LEFTOVER_HEIGHT, n, merges)
        result[b, : len(merges)] = np.array(merges).reshape(-1, 4)
    return torch.from_numpy(result)


Clusters = list[tuple[list[int], int]]


def _round_reference(d: NDArray[np.float64], clusters: Clusters, tau: float) -> list[int]:
    """The component of each sub-cluster, named by its lowest member."""
    component = list(range(len(clusters)))
    for u, (examples, _) in enumerate(clusters):
        means = [d[np.ix_(examples, others)].sum() / (len(examples) * len(others)) for others, _ in clusters]
        means[u] = np.inf
        v = int(np.argmin(means))  # the first of equals
        if means[v] <= tau:
            low, high = sorted((component[u], component[v]))
            component = [low if c == high else c for c in component]
    return component


def _join(
    clusters: Clusters, component: list[int], height: float, n: int, merges: list[tuple[int, int, float, int]]
) -> Clusters:
    """In order of lowest example, each sub-cluster joins what its component has become."""
    merged: dict[int, tuple[list[int], int]] = {}
    for (examples, node), c in zip(clusters, component, strict=True):
        if c in merged:
            so_far, other = merged[c]
            examples = so_far + examples
            merges.append((min(node, other), max(node, other), height, len(examples)))
            node = n + len(merges) - 1
        merged[c] = (examples, node)
    return list(merged.values())


@kernel
def linkage(distances: Tensor, n_examples: Tensor, thresholds: Tensor, until_stable: bool = False) -> Tensor:
    """The rounds of SCC on the complete graph of each neuron's examples, as one tree.

    Round r: every sub-cluster U picks the sub-cluster V with the least mean distance to it (tie: lowest index, that of
    its first example); the edge counts if that mean is <= thresholds[r]; connected components of these edges merge.

    distances     (B, N, N) float32 in [0, 2], symmetric; left as they are. The diagonal and padding are never read
    n_examples    (B,) int32 or int64: slots used by each neuron, 0..N
    thresholds    (R,) float64 within [0, 2], strictly increasing. A round at 0 merges what is at distance exactly 0
    until_stable  repeat each round until nothing merges at its threshold, instead of one pass
    returns       (B, max(N-1, 0), 4) float64, a SciPy linkage matrix as in `agglomerative.linkage`; NaN in padding

    A merge of round r has height thresholds[r], so a cut there gives the clusters after round r; within a pass,
    sub-clusters go by index, each joining what its component has become. What no round merged joins at 2.0 in the same
    way (so a cut at 2 is one cluster, though a last threshold of 2 might have left more). A neuron gives the same bytes
    in any batch. Raises TypeError or ValueError for wrong dtypes, shapes, counts, thresholds and distances.
    """
    matrix, counts, taus = _arguments(distances, n_examples, thresholds)
    B, N = matrix.shape[:2]
    result = torch.empty((B, max(N - 1, 0), 4), dtype=torch.float64)
    bad = np.zeros(B, np.bool_)
    arrays = matrix, counts, taus, until_stable, result.numpy(), bad
    width = N // 8 * 8 + 8 + 8 * (N // 8 % 2)  # an odd number of cache lines
    for_each_neuron(_linkage_kernel, B, *arrays, scratch=lambda: (room((N, width), np.float64),))
    raise_if_outside(bad, matrix, counts)
    return result


def _arguments(
    distances: Tensor, n_examples: Tensor, thresholds: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    sizes: Sizes = {}
    matrix, counts = as_distances(distances, sizes), as_counts(n_examples, sizes)
    taus = as_array("thresholds", thresholds, "R", sizes, (torch.float64,))
    check_thresholds(taus)
    return matrix, counts, taus


@compiled
def _linkage_kernel(
    first: int,
    step: int,
    distances: Array,
    counts: Array,
    thresholds: Array,
    until_stable: bool,
    result: Array,
    bad: Array,
    sums: Array,
) -> None:
    B = len(distances)
    for b in range(first, B, step):
        n = counts[b]
        result[b, max(n - 1, 0) :] = np.nan
        if _copy_distances(distances[b], n, sums):
            _rounds(sums, n, thresholds, until_stable, result[b])
        else:
            bad[b] = True


@compiled
def _copy_distances(distances: Array, n: int, sums: Array) -> bool:
    """False if one of the used distances is not in 0..2."""
    outside = 0
    for i in range(n):
        for k in range(n):
            value = distances[i, k]
            sums[i, k] = value + np.float32(0.0)  # -0.0 becomes 0.0, whose bits come first
            outside += 0 if (value >= np.float32(0.0)) & (value <= np.float32(2.0)) else 1
        own = distances[i, i]
        outside -= 0 if (own >= np.float32(0.0)) & (own <= np.float32(2.0)) else 1
    return outside == 0


@compiled
def _rounds(sums: Array, n: int, thresholds: Array, until_stable: bool, merges: Array) -> None:
    """All rounds of one neuron. A sub-cluster lives in the slot of its lowest example; its size is 0 once absorbed."""
    size = np.ones(n)
    node = np.arange(n)
    live = np.arange(n)
    nearest = np.full(n, -1)  # -1: look again
    mean = np.empty(n)
    up = np.arange(n)  # towards the slot that absorbs it
    means = np.empty(n)
    row = r = 0
    while len(live) > 1:
        closest = np.inf
        for u in live:
            if nearest[u] < 0:
                nearest[u], mean[u] = _nearest(sums, u, n, size, means)
            closest = min(closest, mean[u])
        while r < len(thresholds) and thresholds[r] < closest:
            r += 1
        if r == len(thresholds):
            break
        for u in live:
            if mean[u] <= thresholds[r]:
                a, c = root(up, u), root(up, nearest[u])
                up[max(a, c)] = min(a, c)
        row = _absorb(live, up, thresholds[r], n, row, node, size, merges)
        live = _contract(sums, live, up, size, nearest)
        r += 0 if until_stable else 1
    for u in live[1:]:
        up[u] = live[0]
    _absorb(live, up, LEFTOVER_HEIGHT, n, row, node, size, merges)


@compiled
def _nearest(sums: Array, u: Scalar, n: int, size: Array, means: Array) -> tuple[Scalar, Scalar]:
    """The first live slot with the least mean distance from slot u, and that mean."""
    for v in range(n):
        means[v] = sums[u, v] / (size[u] * size[v]) if size[v] > 0.0 else np.inf
    means[u] = np.inf
    bits = means.view(np.int64)  # floats from 0 up have their bits' order, and integer minima use SIMD lanes
    least = np.int64(0x7FFFFFFFFFFFFFFF)
    for v in range(n):
        least = min(least, bits[v])
    slot = np.int64(n)
    for v in range(n):
        slot = min(slot, np.int64(v) if bits[v] == least else np.int64(n))
    return slot, means[slot]


@compiled
def _absorb(live: Array, up: Array, height: float, n: int, row: int, node: Array, size: Array, merges: Array) -> int:
    """In order of index, each absorbed sub-cluster joins what its component has become: the next rows of the tree."""
    for u in live:
        slot = root(up, u)
        if slot != u:
            up[u] = slot
            size[slot] += size[u]
            size[u] = 0.0
            merges[row, 0], merges[row, 1] = min(node[slot], node[u]), max(node[slot], node[u])
            merges[row, 2], merges[row, 3] = height, size[slot]
            node[slot] = n + row
            row += 1
    return row


@compiled
def _contract(sums: Array, live: Array, up: Array, size: Array, nearest: Array) -> Array:
    """Add absorbed rows, then columns, to their slots; who merged, or whose nearest did, must look again."""
    changed = np.zeros(len(up), np.bool_)
    absorbed = live[size[live] == 0.0]
    kept = live[size[live] > 0.0]
    for u in absorbed:
        changed[up[u]] = changed[u] = True
        for v in range(len(up)):
            sums[up[u], v] += sums[u, v]
    for v in kept:
        for u in absorbed:
            sums[v, up[u]] += sums[v, u]
        if changed[v] or changed[nearest[v]]:
            nearest[v] = -1
    return kept
