"""Sub-Cluster Component clustering (Monath et al., KDD 2021, arXiv 2010.11821) of many neurons, one tree each.

linkage_reference  NumPy float64: every round computes every mean anew. O(rounds · n²)
linkage            CPU: the first round reads float32 distances; then sums of distances, contracted as sub-clusters
                   merge; only sub-clusters whose nearest one merged look again, and thresholds at which nothing
                   merges are jumped over (Numba). About O(n²), one (N, N) float64 buffer a task
                   CUDA: the same plan, a Triton program a neuron (kernels/gpu/scc.py)

Sums, not means: distances are multiples of 2⁻²⁴ (see distances.py), so float64 sums of fewer than 2²⁸ of them are
exact, in whatever order they were added, and the sums stay exactly symmetric.

Tried and dropped, in runs of 3 to 5 rounds on a busy machine: moving live slots together at 3/4 or 7/8 of the width
(0.73 and 0.74 to 0.76 of the former time at N = 1000, where 1/2 takes 0.65); making the first sums side by side at once
(slower at N = 100 and 256, 0.70 to 0.78 at N = 1000); the first sums between sub-clusters at once, in place of rows,
then columns, then moving (1.06 to 1.24 of the time: sums of neighbouring columns wait for one another).

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

LANES = 32  # entries that a loop takes at once


def linkage_reference(distances: Tensor, n_examples: Tensor, thresholds: Tensor, until_stable: bool = False) -> Tensor:
    """Compute `linkage` from the definition."""
    matrix, counts, taus = scc_arguments(distances, n_examples, thresholds)
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
    matrix, counts, taus = scc_arguments(distances, n_examples, thresholds)
    B, N = matrix.shape[:2]
    result = torch.empty((B, max(N - 1, 0), 4), dtype=torch.float64)
    bad = np.zeros(B, np.bool_)
    arrays = matrix, counts, taus, until_stable, result.numpy(), bad
    for_each_neuron(_linkage_kernel, B, *arrays, scratch=lambda: (rounds_scratch(N),))
    raise_if_outside(bad, matrix, counts)
    return result


def rounds_scratch(N: int) -> Array:
    """Return room for (N, N) float64 and some columns more, an odd number of cache lines a row."""
    return room((N, (N + LANES - 1) // LANES * LANES + 8), np.float64)


def scc_arguments(
    distances: Tensor, n_examples: Tensor, thresholds: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Return the distances, counts and thresholds of `linkage`, checked as its docstring says."""
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
        bad[b] = not rounds(distances[b], n, thresholds, until_stable, result[b], sums)


@compiled
def _padded(n: int) -> int:
    """n up to a multiple of LANES: a loop over so many entries leaves none to do one at a time."""
    return (n + LANES - 1) // LANES * LANES


@compiled
def rounds(distances: Array, n: int, thresholds: Array, until_stable: bool, merges: Array, sums: Array) -> bool:
    """All rounds of one neuron; False if one of the used distances is not in 0..2.

    A sub-cluster lives in the slot of its lowest example; its size is 0 once absorbed. When half of the slots are
    dead, those left move together, in their order.
    """
    size, inverse = np.zeros(_padded(n)), np.zeros(_padded(n))  # inverse: 1 / size, 0 once absorbed and in padding
    size[:n] = 1.0
    node = np.arange(n)
    live, absorbed = np.arange(n), np.empty(n, np.int64)
    nearest = np.empty(n, np.int64)  # -1: look again
    mean = np.empty(n)
    up = np.arange(n)  # towards the slot that absorbs it
    changed = np.empty(n, np.bool_)
    means = np.empty(_padded(n))
    bits = means.view(np.int64)  # floats from 0 up have their bits' order, and integer minima use SIMD lanes
    if not _nearest_examples(distances, n, nearest, mean):
        return False
    width = n_live = n
    row = r = 0
    while n_live > 1:
        closest = np.inf
        for i in range(n_live):
            u = live[i]
            if nearest[u] < 0:
                nearest[u], mean[u] = _nearest(sums, u, _padded(width), size, inverse, means, bits)
            closest = min(closest, mean[u])
        while r < len(thresholds) and thresholds[r] < closest:
            r += 1
        if r == len(thresholds):
            break
        for i in range(n_live):
            u = live[i]
            if mean[u] <= thresholds[r]:
                a, c = root(up, u), root(up, nearest[u])
                up[max(a, c)] = min(a, c)
        first = row == 0
        row = _absorb(live[:n_live], up, thresholds[r], n, row, node, size, merges)
        r += 0 if until_stable else 1
        n_live, n_absorbed = _part(live, n_live, size, absorbed)
        if n_live == 1:
            break
        if first:
            _sum_examples(distances, n, up, sums)
        else:
            _add_rows(sums, absorbed, n_absorbed, up, _padded(width))
        _add_columns(sums, live, n_live, absorbed, n_absorbed, up)
        _forget(live, n_live, absorbed, n_absorbed, up, nearest, changed)
        if 2 * n_live <= width:
            _move_together(sums, live, n_live, up, size, node, nearest, mean)
            width = n_live
        for v in range(len(size)):
            inverse[v] = 1.0 / size[v] if size[v] > 0.0 else 0.0
    for i in range(1, n_live):
        up[live[i]] = live[0]
    _absorb(live[:n_live], up, LEFTOVER_HEIGHT, n, row, node, size, merges)
    return True


@compiled
def _nearest_examples(distances: Array, n: int, nearest: Array, mean: Array) -> bool:
    """Each example's nearest and how far it is, read once in float32; False if a used distance is not in 0..2."""
    line = np.full(_padded(n), np.inf, np.float32)
    bits = line.view(np.int32)
    outside = 0
    for i in range(n):
        for k in range(n):
            value = distances[i, k]
            line[k] = value + np.float32(0.0)  # -0.0 becomes 0.0, whose bits come first
            outside += 0 if (value >= np.float32(0.0)) & (value <= np.float32(2.0)) else 1
        own = distances[i, i]
        outside -= 0 if (own >= np.float32(0.0)) & (own <= np.float32(2.0)) else 1
        line[i] = np.inf
        least = np.int32(0x7FFFFFFF)
        for k in range(len(line)):
            least = min(least, bits[k])
        slot = np.int32(n - 1)
        for k in range(len(line)):
            slot = min(slot, np.int32(k) if bits[k] == least else np.int32(n - 1))
        nearest[i], mean[i] = slot, line[slot]
    return outside == 0


@compiled
def _nearest(
    sums: Array, u: Scalar, width: int, size: Array, inverse: Array, means: Array, bits: Array
) -> tuple[Scalar, Scalar]:
    """The first live slot with the least mean distance from slot u, and that mean.

    Products with 1 / size, at most 2 units in the last place from size[u] times the mean, say who may be nearest; of
    those, mostly one, the quotients say who is.
    """
    for v in range(width):
        means[v] = sums[u, v] * inverse[v] if inverse[v] > 0.0 else np.inf
    means[u] = np.inf
    least = np.int64(0x7FFFFFFFFFFFFFFF)
    for v in range(width):
        least = min(least, bits[v])
    least += 16  # units in the last place
    first, last = np.int64(width), np.int64(-1)
    for v in range(width):
        near = bits[v] <= least
        first = min(first, np.int64(v) if near else np.int64(width))
        last = max(last, np.int64(v) if near else np.int64(-1))
    slot, nearest = first, sums[u, first] / (size[u] * size[first])
    for v in range(first + 1, last + 1):
        if bits[v] <= least and sums[u, v] / (size[u] * size[v]) < nearest:
            slot, nearest = np.int64(v), sums[u, v] / (size[u] * size[v])
    return slot, nearest


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
def _part(live: Array, n_live: int, size: Array, absorbed: Array) -> tuple[int, int]:
    """Keep in `live` who lives, list the others, both in order; how many of each."""
    n_kept = n_absorbed = 0
    for i in range(n_live):
        u = live[i]
        if size[u] > 0.0:
            live[n_kept] = u
            n_kept += 1
        else:
            absorbed[n_absorbed] = u
            n_absorbed += 1
    return n_kept, n_absorbed


@compiled
def _sum_examples(distances: Array, n: int, up: Array, sums: Array) -> None:
    """The rows of the first sub-clusters: those of their examples, added in order."""
    for u in range(n):
        slot = up[u]
        if slot == u:
            for k in range(n):
                sums[u, k] = distances[u, k] + np.float32(0.0)  # -0.0 becomes 0.0
        else:
            for k in range(n):
                sums[slot, k] += distances[u, k]


@compiled
def _add_rows(sums: Array, absorbed: Array, n_absorbed: int, up: Array, width: int) -> None:
    for i in range(n_absorbed):
        u, slot = absorbed[i], up[absorbed[i]]
        for v in range(width):
            sums[slot, v] += sums[u, v]


@compiled
def _add_columns(sums: Array, live: Array, n_live: int, absorbed: Array, n_absorbed: int, up: Array) -> None:
    for i in range(n_live):
        v = live[i]
        for k in range(n_absorbed):
            sums[v, up[absorbed[k]]] += sums[v, absorbed[k]]


@compiled
def _forget(
    live: Array, n_live: int, absorbed: Array, n_absorbed: int, up: Array, nearest: Array, changed: Array
) -> None:
    """Who merged, or whose nearest did, must look again."""
    changed[:] = False
    for i in range(n_absorbed):
        changed[up[absorbed[i]]] = changed[absorbed[i]] = True
    for i in range(n_live):
        v = live[i]
        if changed[v] or changed[nearest[v]]:
            nearest[v] = -1


@compiled
def _move_together(
    sums: Array, live: Array, n_live: int, up: Array, size: Array, node: Array, nearest: Array, mean: Array
) -> None:
    """Give the live slots the numbers 0, 1, …, in their order."""
    at = np.empty(len(up), np.int64)  # of each live slot from now on
    for i in range(n_live):
        at[live[i]] = i
    for i in range(n_live):
        v = live[i]
        for k in range(n_live):
            sums[i, k] = sums[v, live[k]]
        size[i], node[i], mean[i], up[i] = size[v], node[v], mean[v], i
        nearest[i] = at[nearest[v]] if nearest[v] >= 0 else -1
    size[n_live:] = 0.0
    for i in range(n_live):
        live[i] = i
