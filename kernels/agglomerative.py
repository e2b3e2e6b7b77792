"""Agglomerative clustering (average, complete or single linkage) of many neurons' examples, one tree each.

linkage_reference  NumPy float64: merge the two nearest clusters, n - 1 times. O(n³)
linkage            CPU: nearest-neighbour chain (Murtagh 1983; Müllner 2011, section 3.2) in Numba, fewer than 3 n row
                   scans and n row updates. O(n²), one (N, N) float32 buffer a task
                   CUDA: `gpu/agglomerative.py`, the same chain in Triton, to the byte; a copy of the distances

A scan is one integer minimum over (distance, column): no second search for the column of a float minimum. A merge
leaves its column alone: a row that is read next takes what it lacks from the rows of the clusters merged since, 0.07 n²
entries far from each other instead of 0.5 n² (the chain in 0.55 of the time at N = 1000). The chain finds merges out of
order; sorted by height they are the tree, for all three linkages are reducible.

Tried and dropped at N = 100: rows padded to whole vectors, with the range checked on the largest bits of a row. The
chain takes 22 µs instead of 23, the copy 10 instead of 3; at N = 1000 both take 1.05 of the time.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import (
    Array,
    Scalar,
    Sizes,
    as_counts,
    as_distances,
    check_distances,
    raise_if_outside,
)
from polysem.kernels.definitions import LINKAGES, Linkage, check_linkage
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, for_each_neuron, room

DEAD = np.int32(0x7FFFFFFF)  # or-ed onto the bits of a float32, later in order than any distance


def linkage_reference(distances: Tensor, n_examples: Tensor, method: Linkage = "average") -> Tensor:
    """Compute `linkage` from the definition: a cluster distance is the mean, largest or smallest over pairs."""
    matrix, counts = hac_arguments(distances, n_examples, method)
    check_distances(matrix, counts)
    B, N = matrix.shape[:2]
    result = np.full((B, max(N - 1, 0), 4), np.nan)
    of_pairs: Any = {"average": np.mean, "complete": np.max, "single": np.min}[method]
    for b, n in enumerate(counts):
        d = matrix[b, :n, :n].astype(np.float64)
        clusters = {i: [i] for i in range(n)}  # node -> examples
        for row in range(n - 1):
            pairs = [(u, v) for u in clusters for v in clusters if u < v]
            heights = [of_pairs(d[np.ix_(clusters[u], clusters[v])]) for u, v in pairs]
            nearest = int(np.argmin(heights))
            u, v = pairs[nearest]
            clusters[n + row] = clusters.pop(u) + clusters.pop(v)
            result[b, row] = u, v, heights[nearest], len(clusters[n + row])
    return torch.from_numpy(result)


@kernel
def linkage(distances: Tensor, n_examples: Tensor, method: Linkage = "average") -> Tensor:
    """The agglomerative tree of each neuron's examples, as SciPy writes it.

    distances   (B, N, N) float32 in [0, 2], symmetric; left as they are. The diagonal and padding are never read
    n_examples  (B,) int32 or int64: slots used by each neuron, 0..N
    method      "average", "complete" or "single": mean, largest or smallest distance between two clusters' examples
    returns     (B, max(N-1, 0), 4) float64: row r of neuron b joins nodes [r, 0] < [r, 1] (an example, or n + the row
                that made it, n = n_examples[b]) at height [r, 2] into a node of [r, 3] examples; heights never
                decrease. NaN in padding, from row n - 1 on

    Heights are within 1e-5 of SciPy's where distances are distinct; with ties this is one of the valid trees. A neuron
    gives the same bytes in any batch. Raises TypeError or ValueError for wrong dtypes, shapes, counts, methods and
    distances.
    """
    matrix, counts = hac_arguments(distances, n_examples, method)
    B, N = matrix.shape[:2]
    result = torch.empty((B, max(N - 1, 0), 4), dtype=torch.float64)
    bad = np.zeros(B, np.bool_)
    for_each_neuron(
        _linkage_kernel, B, matrix, counts, LINKAGES[method], result.numpy(), bad, scratch=lambda: (linkage_scratch(N),)
    )
    raise_if_outside(bad, matrix, counts)
    return result


def hac_arguments(distances: Tensor, n_examples: Tensor, method: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the distances and counts of `linkage`, checked as its docstring says."""
    check_linkage(method)
    sizes: Sizes = {}
    return as_distances(distances, sizes), as_counts(n_examples, sizes)


@compiled
def _linkage_kernel(
    first: int, step: int, distances: Array, counts: Array, method: int, result: Array, bad: Array, work: Array
) -> None:
    B = len(distances)
    for b in range(first, B, step):
        n = counts[b]
        result[b, max(n - 1, 0) :] = np.nan
        if not copy_distances(distances[b], n, work) or not chain(work, n, method, result[b]):
            bad[b] = True
        elif n > 1:
            sort_by_height(result[b, : n - 1])


def linkage_scratch(N: int) -> Array:
    """(N, N) float32, an odd number of cache lines a row, so that a column's entries fall into different cache sets."""
    lines = N // 16 + 1
    return room((N, 16 * (lines + 1 - lines % 2)), np.float32)


@compiled
def copy_distances(distances: Array, n: int, work: Array) -> bool:
    """The used distances, with `inf` on the diagonal, so that no row finds itself; False if one is not in 0..2."""
    outside = 0
    for i in range(n):
        outside += _copy_row(distances, i, n, work)
        work[i, i] = np.inf
    return outside == 0


@compiled
def _copy_row(distances: Array, i: int, n: int, work: Array) -> int:
    """Count the row's entries that are not in 0..2, except on the diagonal."""
    outside = 0
    for k in range(n):
        value = distances[i, k]
        work[i, k] = value + np.float32(0.0)  # -0.0 becomes 0.0, whose bits come first
        outside += 0 if (value >= np.float32(0.0)) & (value <= np.float32(2.0)) else 1
    own = distances[i, i]
    return outside - (0 if (own >= np.float32(0.0)) & (own <= np.float32(2.0)) else 1)


@compiled
def chain(d: Array, n: int, method: int, merges: Array) -> bool:
    """All n - 1 merges as (slot, slot, height), children before parents; False where d is not symmetric.

    A merged cluster lives in the later slot of its two; `dead` is 0 for live slots, DEAD for others. A merge rewrites
    one row and no column: rows learn of it when they are next read.
    """
    bits = d.view(np.int32)
    dead = np.zeros(n, np.int32)
    size = np.ones(n, np.float32)
    height = np.zeros(n, np.float32)  # of each slot's last merge
    live = np.arange(n)  # in no order
    place = np.arange(n)  # of each slot in it
    merged = np.zeros(n, np.int64)  # how many merges there were after each slot's last one; 0: it had none
    known = np.zeros(n, np.int64)  # of how many merges each row knows
    older, newer = np.full(n, -1), np.full(n, -1)  # the merged clusters, listed by their last merge
    newest = -1
    chain = np.empty(n, np.int64)
    length = 0
    for row in range(n - 1):
        if length == 0:
            chain[0], length = live[0], 1
        while True:
            x = chain[length - 1]
            _update(d, x, row, newest, older, merged, known)
            y = _nearest(bits, x, n, dead)
            # also on a tie, or the chain could circle
            if length > 1 and d[x, chain[length - 2]] <= d[x, y]:
                y = chain[length - 2]
                break
            if length == n:
                return False
            chain[length] = y
            length += 1
        length -= 2
        x, y = min(x, y), max(x, y)
        _update(d, x, row, newest, older, merged, known)  # one of them is up to date
        _update(d, y, row, newest, older, merged, known)
        # rounding may put a mean one unit below its children's: a tree never descends
        height[y] = max(d[x, y], max(height[x], height[y]))
        merges[row, 0], merges[row, 1], merges[row, 2] = x, y, height[y]
        _unite(d, n, x, y, size, method)
        size[y] += size[x]
        dead[x] = DEAD
        last = live[n - 1 - row]
        live[place[x]], place[last] = last, place[x]
        newest = _unlist(x, newest, older, newer, merged)
        newest = _unlist(y, newest, older, newer, merged)
        older[y], newer[y] = newest, -1
        if newest >= 0:
            newer[newest] = y
        newest = y
        merged[y] = known[y] = row + 1
    return True


@compiled
def _update(d: Array, x: Scalar, n_merges: int, newest: Scalar, older: Array, merged: Array, known: Array) -> None:
    """Row x takes its distances to the clusters merged since it was last read from their rows."""
    k = newest
    while k >= 0 and merged[k] > known[x]:
        d[x, k] = d[k, x]
        k = older[k]
    known[x] = n_merges


@compiled
def _unlist(z: Scalar, newest: Scalar, older: Array, newer: Array, merged: Array) -> Scalar:
    """Take slot z out of the list of merged clusters, if it is there; the newest that is left."""
    if merged[z] == 0:
        return newest
    if older[z] >= 0:
        newer[older[z]] = newer[z]
    if newer[z] >= 0:
        older[newer[z]] = older[z]
        return newest
    return older[z]


@compiled
def _nearest(bits: Array, x: Scalar, n: int, dead: Array) -> Scalar:
    """The first live column with the smallest entry of row x.

    Bits of floats from 0 up are in the floats' order; with the column below them one integer minimum finds both.
    """
    least = np.int64(0x7FFFFFFFFFFFFFFF)
    for k in range(n):
        least = min(least, (np.int64(bits[x, k] | dead[k]) << np.int64(32)) | np.int64(k))
    return least & np.int64(0xFFFFFFFF)


@compiled
def _unite(d: Array, n: int, x: int, y: int, size: Array, method: int) -> None:
    """Row y becomes that of the union of x and y."""
    if method == 0:
        n_x, n_y = size[x], size[y]
        for k in range(n):
            d[y, k] = (n_x * d[x, k] + n_y * d[y, k]) / (n_x + n_y)
    elif method == 1:
        for k in range(n):
            d[y, k] = max(d[x, k], d[y, k])
    else:
        for k in range(n):
            d[y, k] = min(d[x, k], d[y, k])
    d[y, y] = np.inf


@compiled
def sort_by_height(merges: Array) -> None:
    """Sort the merges, stably, and turn slots into nodes, with the sizes."""
    n = len(merges) + 1
    order = np.argsort(merges[:, 2], kind="mergesort")
    found = merges[order, :3]
    up = np.arange(2 * n - 1)  # towards the node that holds it by now
    size = np.ones(2 * n - 1, np.int64)
    for row in range(n - 1):
        u, v = root(up, int(found[row, 0])), root(up, int(found[row, 1]))
        node = n + row
        up[u] = up[v] = node
        size[node] = size[u] + size[v]
        merges[row, 0], merges[row, 1] = min(u, v), max(u, v)
        merges[row, 2], merges[row, 3] = found[row, 2], size[node]


@compiled
def root(up: Array, node: Scalar) -> Scalar:
    """The end of the way up, halved for the next caller."""
    while up[node] != node:
        up[node] = up[up[node]]
        node = up[node]
    return node
