"""Means and inner products of each neuron's embeddings: what a neuron's own frame and its rotations are made of.

mean_embeddings    the mean of each neuron's embeddings, in float64 (Numba; CUDA: torch)
gathered_products  the Gram matrix of each neuron's embeddings, in the tiles of gram.py
                   CUDA, both: `gpu/products.py`, one torch product a neuron

`…_reference` is NumPy float64 and says what is meant. Both read rows[example_rows], which is never built on the CPU.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import Array
from polysem.kernels.dispatch import kernel
from polysem.kernels.distances import gathered_arguments, raise_not_finite
from polysem.kernels.gram import COLUMNS, ROWS, address, fill_panel, mirror, product_tile
from polysem.kernels.parallel import compiled, for_each_neuron, room
from polysem.kernels.rows import embed


def mean_embeddings_reference(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Compute `mean_embeddings` in float64, rounded to float32 at the end."""
    table, used, (w, o, *_), counts = gathered_arguments(rows, example_rows, weights, n_examples, offsets)
    result = np.zeros(w.shape)
    for b, n in enumerate(counts):
        embeddings = table[used[b, :n]].astype(np.float64) * w[b] + (0.0 if o is None else o[b])
        _raise_if_not_finite(table, used, b, embeddings)
        result[b] = embeddings.mean(0) if n else 0.0
    return torch.from_numpy(result.astype(np.float32))


@kernel
def mean_embeddings(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """The mean of each neuron's embeddings e = x ⊙ weights + offsets.

    The arguments are those of `distances.gathered_cosine_distances`.
    returns  (B, D) float32, 0 of a neuron without examples. Embeddings that are all equal have exactly their mean

    Raises TypeError or ValueError for wrong dtypes, shapes, rows and counts and where an embedding is NaN or infinite.
    """
    table, used, (w, o, *_), counts = gathered_arguments(rows, example_rows, weights, n_examples, offsets)
    B, D = w.shape
    result = np.empty((B, D), np.float32)
    bad = np.full(B, -1, np.int64)
    arrays = _bits(table), used, w, _or_none(o, D), counts, result, bad
    for_each_neuron(_mean_kernel, B, *arrays, scratch=lambda: (np.empty(D, np.float32), np.empty(D)))
    for b in np.flatnonzero(bad >= 0)[:1]:
        raise_not_finite("rows", table, used, int(b), int(bad[b]))
    return torch.from_numpy(result)


def gathered_products_reference(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Compute `gathered_products` in float64, rounded to float32 at the end."""
    table, used, (w, o, *_), counts = gathered_arguments(rows, example_rows, weights, n_examples, offsets)
    result = np.zeros((*used.shape, used.shape[1]), np.float32)
    for b, n in enumerate(counts):
        embeddings = table[used[b, :n]].astype(np.float64) * w[b] + (0.0 if o is None else o[b])
        _raise_if_not_finite(table, used, b, embeddings)
        scaled = embeddings / 2.0 ** np.frexp(np.abs(embeddings).max(initial=0.0))[1]
        result[b, :n, :n] = scaled @ scaled.T
    return torch.from_numpy(result)


@kernel
def gathered_products(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Inner products of each neuron's embeddings e = x ⊙ weights + offsets, up to a factor a neuron.

    The arguments are those of `distances.gathered_cosine_distances`.
    returns  (B, N, N) float32, exactly symmetric, 0 wherever a slot is padding; divided by the power of 4 that brings
             the neuron's largest entry of an embedding into [½, 1), so that no product leaves float32's range

    Raises TypeError or ValueError for wrong dtypes, shapes, rows and counts and where an embedding is NaN or infinite.
    n² D / 2 multiply-adds a neuron. Memory beside the result: N · D floats a task.
    """
    table, used, (w, o, *_), counts = gathered_arguments(rows, example_rows, weights, n_examples, offsets)
    (B, N), D = used.shape, table.shape[1]
    result = room((B, N, N), np.float32)
    bad = np.full(B, -1, np.int64)
    arrays = _bits(table), used, w, _or_none(o, D), counts, result, bad
    for_each_neuron(_product_kernel, B, *arrays, scratch=lambda: _scratch(N, D))
    for b in np.flatnonzero(bad >= 0)[:1]:
        raise_not_finite("rows", table, used, int(b), int(bad[b]))
    return torch.from_numpy(result)


def _bits(rows: Array) -> Array:
    return rows.view(np.uint16) if rows.dtype == np.float16 else rows  # Numba has no float16 on the CPU


def _or_none(offsets: NDArray[np.float32] | None, D: int) -> NDArray[np.float32]:
    return np.zeros((0, D), np.float32) if offsets is None else offsets


def _raise_if_not_finite(table: Array, used: NDArray[np.int64], b: int, embeddings: Array) -> None:
    with np.errstate(over="ignore"):
        for i in np.flatnonzero(~np.isfinite(embeddings.astype(np.float32)).all(1))[:1]:
            raise_not_finite("rows", table, used, b, int(i))


def _scratch(N: int, D: int) -> tuple[Array, Array, Array]:
    """Embeddings, an odd number of cache lines a row, with what a tile past the edge reads; a panel; a tile."""
    e = room((N + max(ROWS, COLUMNS), D // 16 * 16 + 16 + 16 * (D // 16 % 2)), np.float32)
    return e, room((max(D, 1), COLUMNS), np.float32), np.empty((ROWS, COLUMNS), np.float32)


@compiled
def _mean_kernel(
    first: int,
    step: int,
    rows: Array,
    used: Array,
    weights: Array,
    offsets: Array,
    counts: Array,
    result: Array,
    bad: Array,
    row: Array,
    total: Array,
) -> None:
    for b in range(first, len(used), step):
        total[:] = 0.0
        for i in range(counts[b]):
            embed(rows[used[b, i]], weights[b], offsets[b] if len(offsets) > 0 else offsets.reshape(-1), row)
            if not _largest(row) < np.inf:
                bad[b] = i
                break
            for d in range(len(row)):
                total[d] += row[d]
        for d in range(len(row)):
            result[b, d] = total[d] / max(counts[b], 1)


@compiled
def _largest(row: Array) -> float:
    """The largest size of an entry; NaN where one is."""
    bits = row.view(np.int32)
    largest = np.int32(0)
    for d in range(len(row)):
        largest = max(largest, bits[d] & np.int32(0x7FFFFFFF))
    return np.float64(np.array([largest], np.int32).view(np.float32)[0])


@compiled
def _product_kernel(
    first: int,
    step: int,
    rows: Array,
    used: Array,
    weights: Array,
    offsets: Array,
    counts: Array,
    result: Array,
    bad: Array,
    e: Array,
    panel: Array,
    tile: Array,
) -> None:
    D = rows.shape[1]
    for b in range(first, len(used), step):
        n = counts[b]
        result[b] = 0.0
        largest = 0.0
        for i in range(n):
            embed(rows[used[b, i]], weights[b], offsets[b] if len(offsets) > 0 else offsets.reshape(-1), e[i, :D])
            size = _largest(e[i, :D])
            if not size < np.inf:
                bad[b] = i
                break
            largest = max(largest, size)
        if bad[b] < 0 and largest > 0.0:
            factor = np.float64(2.0) ** -(np.floor(np.log2(largest)) + 1)
            for i in range(n):
                for d in range(D):
                    e[i, d] = np.float32(e[i, d] * factor)
            e[n : n + max(ROWS, COLUMNS)] = 0.0
            _products(e, n, D, panel, tile, result[b])


@compiled
def _products(e: Array, n: int, D: int, panel: Array, tile: Array, result: Array) -> None:
    for k in range(0, n, COLUMNS):
        fill_panel(e, k, D, panel)
        for i in range(k, n, ROWS):
            product_tile(address(e, i, 0), e.shape[1], address(panel, 0, 0), D, address(tile, 0, 0), COLUMNS)
            for p in range(min(ROWS, n - i)):
                columns = min(COLUMNS, i + p + 1 - k)
                result[i + p, k : k + columns] = tile[p, :columns]
    mirror(result, n)
