"""Random rotations of a neuron's examples: null data sets of the same mean and covariance, without clusters.

rotation, orders             the random numbers, seeded: one orthogonal matrix for each number of examples, and an order
                             of the examples for each null (Fisher and Yates, by SplitMix64)
rotated_distances_reference  NumPy float64: says what is meant
rotated_distances            CPU: two products of n × n matrices a null, in tiles of vector registers (gram.py, Numba)
                             CUDA: `gpu/rotations.py`, the same products by torch

If the rows of E (n × D) are drawn from one Gaussian, then R·E has the distribution of E for every orthogonal R with
R·1 = 1 (Langsrud 2005, "Rotation tests"). Null r is R_r = Qᵀ Π_r Q, where Q is one such matrix, uniform among all, and
Π_r a random order of the rows. E itself is Qᵀ (Q·E), so E and its nulls are all random orders of the same Q·E, rotated
back: they are exchangeable, and a statistic's rank among its nulls is uniform (Besag and Clifford 1989, "Generalized
Monte Carlo significance tests"), without a new uniform matrix a null. Only inner products are needed: R·E has those of
R G Rᵀ, with G = E Eᵀ; Q G Qᵀ is made once, and its order costs nothing.

The rotations depend on the seed and the number of examples alone: all neurons with n examples share them.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import Array, Scalar, Sizes, as_array, as_counts
from polysem.kernels.dispatch import kernel
from polysem.kernels.gram import COLUMNS, ROWS, address, fill_panel, mirror, product_tile
from polysem.kernels.parallel import compiled, for_each_neuron, room

KEPT = 256  # rotations in memory: 80 kB each of 100 examples
LARGEST_KEPT = 256  # of more examples they are made again, a hundredth of one null's work for each


def rotation(n: int, seed: int) -> NDArray[np.float64]:
    """(n, n) a random orthogonal matrix Q with Q·1 = 1, uniform among all (Stewart 1980: QR of Gaussian numbers)."""
    if n < 2:
        return np.eye(n)
    drawn = np.random.default_rng([seed, n]).normal(size=(n, n))
    drawn[:, 0] = 1.0
    columns, r = np.linalg.qr(drawn)
    columns *= np.where(np.diag(r) < 0, -1.0, 1.0)  # the first is 1 / √n everywhere, the others are orthogonal to it
    to_first = np.full(n, n**-0.5)  # a reflection that takes the first unit vector to 1 / √n
    to_first[0] -= 1.0
    columns -= np.outer(columns @ to_first, to_first) * (2.0 / (to_first @ to_first))
    return columns


def orders(n: int, first: int, last: int, seed: int) -> NDArray[np.int32]:
    """(last - first, n) a random order of 0..n-1 for each of the nulls first..last - 1."""
    drawn_ = np.empty((last - first, n), np.int32)
    _draw_orders(n, first, np.uint64(seed), drawn_)
    return drawn_


def rotated_distances_reference(products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0) -> Tensor:
    """Compute `rotated_distances` in float64, rounded to float32 at the end."""
    gram, counts = gram_arguments(products, n_examples, first, last, seed)
    B, N = gram.shape[:2]
    result = np.full((B, last - first, N, N), np.inf, np.float32)
    for b, n in enumerate(counts):
        q = rotation(int(n), seed)
        for r in range(first, last):
            turned = q.T[:, orders(int(n), r, r + 1, seed)[0]] @ q
            rotated = turned @ gram[b, :n, :n].astype(np.float64) @ turned.T
            result[b, r - first, :n, :n] = _cosine_distances_reference(rotated)
    return torch.from_numpy(result)


def cosine_distances_reference(products: Tensor, n_examples: Tensor) -> Tensor:
    """The distances (B, N, N) of the examples as they are, as `rotated_distances_reference` gives those of a null."""
    gram, counts = gram_arguments(products, n_examples, 0, 1, 0)
    result = np.full(gram.shape, np.inf, np.float32)
    for b, n in enumerate(counts):
        result[b, :n, :n] = _cosine_distances_reference(gram[b, :n, :n].astype(np.float64))
    return torch.from_numpy(result)


def _cosine_distances_reference(products: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    both = np.outer(lengths, lengths)
    cosine = np.divide(products, both, out=np.zeros_like(products), where=both > 0)
    distances: NDArray[np.float64] = np.clip(1.0 - (cosine + cosine.T) / 2, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    return distances


@kernel
def rotated_distances(products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0) -> Tensor:
    """Cosine distances of the nulls first..last - 1 of each neuron.

    products    (B, N, N) float32: inner products of the neuron's embeddings, as `products.gathered_products` gives
                them; padding is never read
    n_examples  (B,) int32 or int64, 0..N
    first, last 0 <= first < last
    seed        0..2⁶³ - 1: of the rotations
    returns     (B, last - first, N, N) float32 in [0, 2], exactly symmetric, zero diagonal, multiples of 2⁻²⁴; `inf`
                wherever a slot is padding. Embeddings that are all equal, and of mean 0, are at distance 1

    A null has the same bits whatever else is requested. Raises TypeError or ValueError for wrong dtypes, shapes,
    counts, nulls and seeds. O(3 N³) multiply-adds a null. Memory beside the result: 16 N² bytes a task, and 4 N² a
    neuron.
    """
    gram, counts = gram_arguments(products, n_examples, first, last, seed)
    B, N = gram.shape[:2]
    result = room((B, last - first, N, N), np.float32)
    arrays = *turned_products(gram, counts, seed), counts, first, np.uint64(seed), result
    for_each_neuron(_rotate_kernel, B * (last - first), *arrays, scratch=lambda: rotation_scratch(N))
    return torch.from_numpy(result)


def gram_arguments(
    products: Tensor, n_examples: Tensor, first: int, last: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The arguments, checked: Gram matrices (B, N, N) float32 and counts (B,). Raises ValueError."""
    check_nulls(first, last, seed)
    sizes: Sizes = {}
    gram = as_array("products", products, "B N N", sizes, (torch.float32,))
    return gram, as_counts(n_examples, sizes)


def check_nulls(first: int, last: int, seed: int) -> None:
    """Raise ValueError unless 0 <= first < last and the seed can be one."""
    if not 0 <= first < last:
        raise ValueError(f"nulls {first} to {last} were requested; expected 0 <= first < last")
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed is {seed}; expected 0 to 2^63 - 1")


class Turned(NamedTuple):
    """Data that all nulls of B neurons are made of.

    products  (B, N, N) float32: Q G Qᵀ
    back      (S,) float32: Qᵀ row by row, that of each number of examples once
    back_at   (B,) int64: where each neuron's begins
    """

    products: NDArray[np.float32]
    back: NDArray[np.float32]
    back_at: NDArray[np.int64]


def turned_products(gram: NDArray[np.float32], counts: NDArray[np.int64], seed: int) -> Turned:
    """Inner products (B, N, N) of counts (B,) examples, turned by the Q of their numbers."""
    sizes, which = np.unique(counts, return_inverse=True)
    matrices = [_single(int(n), seed) for n in sizes]
    empty = [np.zeros(0, np.float32)]
    forth, back = (np.concatenate([of[side] for of in matrices] or empty) for side in (0, 1))
    at = (np.cumsum(sizes**2) - sizes**2)[which]
    turned = room(gram.shape, np.float32)
    for_each_neuron(
        _turn_kernel, len(gram), gram, counts, forth, at, turned, scratch=lambda: rotation_scratch(gram.shape[1])
    )
    return Turned(turned, back, at)


def _single(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Q and Qᵀ, row by row."""
    return (_kept if n <= LARGEST_KEPT else _made)(n, seed)


def _made(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    q = rotation(n, seed).astype(np.float32)
    return q.ravel(), np.ascontiguousarray(q.T).ravel()


_kept = lru_cache(KEPT)(_made)


def rotation_scratch(N: int) -> tuple[Array, ...]:
    """An order, the matrix that turns, its product with the inner products, their rotation, and a panel of columns.

    Rows are an odd number of cache lines long, and there is room for a tile past the edge.
    """
    width = (N + COLUMNS) // 16 * 16 + 16
    width += 16 * (1 - width // 16 % 2)
    shape = (N + max(ROWS, COLUMNS), width)
    left, product, rotated = (room(shape, np.float32) for _ in range(3))
    left[:] = 0.0
    return np.empty(N, np.int32), left, product, rotated, room((max(N, 1), COLUMNS), np.float32)


@compiled
def _mixed(state: Scalar) -> Scalar:
    """SplitMix64's output (Steele, Lea and Flood 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def draw_order(n: int, null: int, seed: Scalar, order: Array) -> None:
    """A random order of 0..n-1, for each seed, n and null another."""
    state = _mixed(_mixed(_mixed(seed) + np.uint64(n)) + np.uint64(null))
    for i in range(n):
        order[i] = i
    for i in range(n - 1, 0, -1):
        state += np.uint64(0x9E3779B97F4A7C15)
        k = ((_mixed(state) >> np.uint64(32)) * np.uint64(i + 1)) >> np.uint64(32)
        order[i], order[k] = order[k], order[i]


@compiled
def _draw_orders(n: int, first: int, seed: Scalar, drawn: Array) -> None:
    for r in range(len(drawn)):
        draw_order(n, first + r, seed, drawn[r])


@compiled
def _turn_kernel(
    first: int,
    step: int,
    gram: Array,
    counts: Array,
    forth: Array,
    at: Array,
    turned: Array,
    _order: Array,
    left: Array,
    product: Array,
    rotated: Array,
    panel: Array,
) -> None:
    for b in range(first, len(counts), step):
        n = counts[b]
        for i in range(n):
            left[i, :n] = forth[at[b] + i * n : at[b] + (i + 1) * n]
        left[n : n + COLUMNS, :n] = 0.0
        _conjugate(left, gram[b], n, product, rotated, panel)
        for i in range(n):
            turned[b, i, : i + 1] = rotated[i, : i + 1]
        mirror(turned[b], n)


@compiled
def _rotate_kernel(
    first: int,
    step: int,
    turned: Array,
    back: Array,
    back_at: Array,
    counts: Array,
    first_null: int,
    seed: Scalar,
    result: Array,
    order: Array,
    left: Array,
    product: Array,
    rotated: Array,
    panel: Array,
) -> None:
    n_nulls = result.shape[1]
    for unit in range(first, len(counts) * n_nulls, step):
        b, r = unit // n_nulls, unit % n_nulls
        n = counts[b]
        draw_order(n, first_null + r, seed, order)
        rotate(turned[b], back, back_at[b], order, n, left, product, rotated, panel, result[b, r])
        result[b, r, :, n:] = np.inf
        result[b, r, n:, :n] = np.inf


@compiled
def rotate(
    turned: Array,
    back: Array,
    at: int,
    order: Array,
    n: int,
    left: Array,
    product: Array,
    rotated: Array,
    panel: Array,
    distances: Array,
) -> None:
    """The distances (N, N) of one null."""
    for i in range(n):
        row = back[at + i * n : at + (i + 1) * n]
        for j in range(n):
            left[i, j] = row[order[j]]
    left[n : n + COLUMNS, :n] = 0.0
    _conjugate(left, turned, n, product, rotated, panel)
    _cosine_distances(rotated, n, distances)


@compiled
def _conjugate(left: Array, inner: Array, n: int, product: Array, rotated: Array, panel: Array) -> None:
    """rotated = left · inner · leftᵀ on and below the diagonal; inner (N, N) symmetric."""
    if n == 0:
        return
    for k in range(0, n, COLUMNS):
        columns = min(COLUMNS, n - k)
        for d in range(n):
            panel[d, :columns] = inner[d, k : k + columns]
            panel[d, columns:] = 0.0
        for i in range(0, n, ROWS):
            _tile(left, i, panel, n, product, k)
    product[n : n + ROWS, :n] = 0.0
    for k in range(0, n, COLUMNS):
        fill_panel(left, k, n, panel)
        for i in range(k, n, ROWS):
            _tile(product, i, panel, n, rotated, k)


@compiled
def _tile(rows: Array, i: int, panel: Array, depth: int, result: Array, k: int) -> None:
    product_tile(
        address(rows, i, 0), rows.shape[1], address(panel, 0, 0), depth, address(result, i, k), result.shape[1]
    )


@compiled
def _cosine_distances(rotated: Array, n: int, result: Array) -> None:
    inverse = np.empty(n, np.float32)
    for i in range(n):
        inverse[i] = 1.0 / np.sqrt(np.float64(rotated[i, i])) if rotated[i, i] > 0 else 0.0
    for i in range(n):
        scale = inverse[i]
        for k in range(i):
            distance = np.float32(1.0) - rotated[i, k] * scale * inverse[k]
            distance = distance if distance > np.float32(0.0) else np.float32(0.0)
            result[i, k] = distance if distance < np.float32(2.0) else np.float32(2.0)
        result[i, i] = 0.0
    mirror(result, n)
