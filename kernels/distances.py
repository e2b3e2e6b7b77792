"""Cosine distances between each neuron's dataset examples, for many neurons at once.

weighted_cosine_distances_reference  NumPy float64: says what is meant
weighted_cosine_distances            CPU: rows embedded and normalised into one buffer, then half of their Gram matrix
gathered_cosine_distances            in tiles of vector registers (gram.py, Numba), the other half as its transpose
                                     CUDA: `gpu/distances.py`, one fused Triton step, nothing embedded in memory

The server gathers; the functions that are given x itself are the oracle, and for callers who hold embeddings of their
own. All cost n² D / 2 multiply-adds a neuron; the CPU holds one (N, D) float32 buffer a task beside the result.

Tried and dropped: NumPy's float32 product and E @ E.T, ahead of nothing; 4 x 4 tiles of scalars that LLVM vectorised
along D, 1.5 to 2.2 times as slow as the vectors of `gram.py`; BLAS's ssyrk called from Numba, which needs a BLAS held
to one thread and a pointer that cannot be cached; float64 embeddings.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels.arrays import Array, Scalar, Sizes, as_array, as_counts
from polysem.kernels.definitions import check_gated
from polysem.kernels.dispatch import kernel
from polysem.kernels.gram import COLUMNS, ROWS, address, cosine_distance_tile, fill_panel, mirror
from polysem.kernels.parallel import compiled, compiled_sum, for_each_neuron, room
from polysem.kernels.rows import embed, embed_gated

SAFE = 1e-20  # sums of squares above it lost nothing to underflow, below its inverse nothing to overflow
ROUNDING = np.float32(1e-5)  # far above the error of a float32 dot product of unit vectors


def weighted_cosine_distances_reference(
    x: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None = None,
    precision: str = "float32",
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Compute `weighted_cosine_distances` in float64, rounded to float32 at the end."""
    rows, used, (w, o, v, f), counts = _direct_arguments(x, weights, n_examples, offsets, precision, up, factors)
    result = np.full((*used.shape, used.shape[1]), np.inf, np.float32)
    for b, n in enumerate(counts):
        of_examples = w[b] if v is None or f is None else f[b, :n, :1].astype(np.float64) * w[b] + f[b, :n, 1:] * v[b]
        embeddings = rows[used[b, :n]].astype(np.float64) * of_examples + (0.0 if o is None else o[b])
        if not np.isfinite(embeddings).all():
            raise_not_finite("x", rows, used, b, int(np.flatnonzero(~np.isfinite(embeddings).all(1))[0]))
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        unit = np.divide(embeddings, norms, out=np.zeros_like(embeddings), where=norms > 0)
        result[b, :n, :n] = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
        np.fill_diagonal(result[b, :n, :n], 0.0)
    return torch.from_numpy(result)


@kernel
def weighted_cosine_distances(
    x: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None = None,
    precision: str = "float32",
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Pairwise cosine distances of the embeddings e = x ⊙ weights + offsets (paper eq. 1 to 3), neuron by neuron.

    With `up` and `factors`, as gated neurons have them, e = x ⊙ (factors[…, 0] · weights + factors[…, 1] · up).

    x           (B, N, D) float16 or float32: B neurons, N example slots, D = d_model
    weights     (B, D) float32
    n_examples  (B,) int32 or int64: slots used by each neuron, 0..N; the others are never read
    offsets     (B, D) float32, or None for zeros
    precision   of the products: "float32"; on a GPU also "tf32" and "bf16", where embeddings that are equal once
                rounded so are at distance 0
    up          (B, D) float32, or None; not together with offsets
    factors     (B, N, 2) float32, two numbers an example; anything in padding
    returns     (B, N, N) float32 in [0, 2], exactly symmetric, zero diagonal; `inf` wherever a slot is padding

    A zero embedding is at distance 1 from every other; equal embeddings are at distance exactly 0. A pair's distance
    has the same bits whatever its batch (on the CPU: and its slots and neighbours), and is a multiple of 2⁻²⁴. Raises
    TypeError or ValueError, and returns nothing, for wrong dtypes, shapes and counts and where an embedding is NaN or
    infinite. Memory beside the result: N·D floats a task; on a GPU 20 bytes an example.
    """
    rows, used, vectors, counts = _direct_arguments(x, weights, n_examples, offsets, precision, up, factors)
    return _distances("x", rows, used, vectors, counts)


@kernel
def gathered_cosine_distances(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None = None,
    precision: str = "float32",
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """`weighted_cosine_distances` of x = rows[example_rows], which is never built.

    rows          (P, D) float16 or float32
    example_rows  (B, N) int32 or int64 within 0..P-1; anything in padding
    the rest      as in `weighted_cosine_distances`, to the bit
    """
    table, used, vectors, counts = gathered_arguments(
        rows, example_rows, weights, n_examples, offsets, precision, up, factors
    )
    return _distances("rows", table, used, vectors, counts)


class Vectors(NamedTuple):
    """weights, offsets, up and factors, as the docstring above says."""

    weights: NDArray[np.float32]
    offsets: NDArray[np.float32] | None
    up: NDArray[np.float32] | None
    factors: NDArray[np.float32] | None


def gathered_arguments(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None,
    precision: str = "float32",
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> tuple[Array, NDArray[np.int64], Vectors, NDArray[np.int64]]:
    """The table of rows, the rows of each neuron, the vectors and counts of `gathered_cosine_distances`, checked."""
    sizes: Sizes = {}
    table = as_array("rows", rows, "P D", sizes, (torch.float32, torch.float16))
    used = as_array("example_rows", example_rows, "B N", sizes, (torch.int32, torch.int64)).astype(np.int64)
    counts = as_counts(n_examples, sizes)
    vectors = _vectors(weights, offsets, sizes, precision, up, factors, counts)
    wrong = (used < 0) | (used >= sizes["P"])
    wrong &= np.arange(sizes["N"]) < counts[:, None]
    if wrong.any():
        b, i = np.argwhere(wrong)[0]
        raise ValueError(f"example_rows[{b}, {i}] is {used[b, i]}; expected 0..{sizes['P'] - 1} (P - 1)")
    return table, used, vectors, counts


def _direct_arguments(
    x: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None,
    precision: str,
    up: Tensor | None,
    factors: Tensor | None,
) -> tuple[Array, NDArray[np.int64], Vectors, NDArray[np.int64]]:
    """x as a table of rows and the rows of each neuron, then the checked vectors and counts."""
    sizes: Sizes = {}
    array = as_array("x", x, "B N D", sizes, (torch.float32, torch.float16))
    counts = as_counts(n_examples, sizes)
    vectors = _vectors(weights, offsets, sizes, precision, up, factors, counts)
    B, N, D = array.shape
    used = np.arange(B * N, dtype=np.int64).reshape(B, N)
    return array.reshape(B * N, D), used, vectors, counts


def _vectors(
    weights: Tensor,
    offsets: Tensor | None,
    sizes: Sizes,
    precision: str,
    up: Tensor | None,
    factors: Tensor | None,
    counts: NDArray[np.int64],
) -> Vectors:
    if precision != "float32":
        raise ValueError(f"precision is {precision!r}; on the CPU it can only be 'float32'")
    check_gated(offsets, up, factors)
    single = (torch.float32,)
    w, o, v = (
        None if vector is None else as_array(name, vector, "B D", sizes, single)
        for name, vector in (("weights", weights), ("offsets", offsets), ("up", up))
    )
    f = None if factors is None else as_array("factors", factors, "B N 2", sizes, single)
    for name, vector in (("weights", w), ("offsets", o), ("up", v)):
        if vector is not None and not np.isfinite(vector).all():
            b, d = np.argwhere(~np.isfinite(vector))[0]
            raise ValueError(f"{name}[{b}, {d}] is {vector[b, d]}; expected finite numbers")
    if f is not None:
        wrong = ~np.isfinite(f).all(2) & (np.arange(sizes["N"]) < counts[:, None])
        for b, i in np.argwhere(wrong)[:1]:
            raise ValueError(f"factors[{b}, {i}] is {f[b, i].tolist()}; expected finite numbers")
    assert w is not None
    return Vectors(w, o, v, f)


def _distances(
    name: str,
    rows: Array,
    used: NDArray[np.int64],
    vectors: Vectors,
    counts: NDArray[np.int64],
) -> Tensor:
    (B, N), D = used.shape, rows.shape[1]
    result = room((B, N, N), np.float32)
    bad = np.full(B, -1, np.int64)
    bits = rows.view(np.uint16) if rows.dtype == np.float16 else rows  # Numba has no float16 on the CPU
    none = np.zeros((0, D), np.float32)
    offsets, up = (none if vector is None else vector for vector in (vectors.offsets, vectors.up))
    factors = np.zeros((0, 0, 2), np.float32) if vectors.factors is None else vectors.factors
    arrays = bits, used, vectors.weights, offsets, up, factors, counts, result, bad
    for_each_neuron(_distance_kernel, B, *arrays, scratch=lambda: _scratch(N, D))
    for b in np.flatnonzero(bad >= 0)[:1]:
        raise_not_finite(name, rows, used, int(b), int(bad[b]))
    return torch.from_numpy(result)


def _scratch(N: int, D: int) -> tuple[Array, Array]:
    """Embeddings, an odd number of cache lines a row, with what a tile past the edge reads; and a panel of columns."""
    return room((N + COLUMNS, D // 16 * 16 + 16 + 16 * (D // 16 % 2)), np.float32), room(
        (max(D, 1), COLUMNS), np.float32
    )


def raise_not_finite(name: str, rows: Array, used: NDArray[np.int64], b: int, i: int) -> None:
    """Raise ValueError for the embedding of neuron b, example i: an entry of its row is not finite, or it overflows."""
    row = rows[used[b, i]]
    for d in np.flatnonzero(~np.isfinite(row))[:1]:
        place = f"{b}, {i}" if name == "x" else f"{used[b, i]}"
        raise ValueError(f"{name}[{place}, {d}] is {row[d]}; expected finite numbers")
    raise ValueError(f"the embedding of neuron {b}, example {i} overflows float32")


@compiled
def _distance_kernel(
    first: int,
    step: int,
    rows: Array,
    used: Array,
    weights: Array,
    offsets: Array,
    up: Array,
    factors: Array,
    counts: Array,
    result: Array,
    bad: Array,
    e: Array,
    panel: Array,
) -> None:
    B, D = len(used), rows.shape[1]
    for b in range(first, B, step):
        n = counts[b]
        result[b, :, n:] = np.inf
        result[b, n:, :n] = np.inf
        for i in range(n):
            row = e[i, :D]
            if len(up) > 0:
                embed_gated(rows[used[b, i]], weights[b], up[b], factors[b, i], row)
            else:
                embed(rows[used[b, i]], weights[b], offsets[b] if len(offsets) > 0 else offsets.reshape(-1), row)
            if not _normalise(row):
                bad[b] = i
                break
        if bad[b] < 0:
            e[n : n + COLUMNS] = 0.0
            _gram(e, n, D, panel, result[b])


@compiled
def _normalise(row: Array) -> bool:
    """Scale the row to length 1, or leave zeros; False where it is not finite."""
    quick = _sum_of_squares_single(row)
    if SAFE < quick < 1 / SAFE:
        single = np.float32(1.0 / np.sqrt(np.float64(quick)))
        for d in range(row.shape[0]):
            row[d] *= single
        return True
    squares = _sum_of_squares(row)
    if not squares < np.inf:
        return False
    if squares == 0.0:
        return True
    scale = 1.0 / np.sqrt(squares)
    if scale < 1e37:
        single = np.float32(scale)
        for d in range(row.shape[0]):
            row[d] *= single
    else:  # too long for float32
        for d in range(row.shape[0]):
            row[d] = np.float32(row[d] * scale)
    return True


@compiled_sum
def _sum_of_squares_single(row: Array) -> Scalar:
    total = np.float32(0.0)
    for d in range(row.shape[0]):
        total += row[d] * row[d]
    return total


@compiled_sum
def _sum_of_squares(row: Array) -> float:
    """In float64: no overflow, no underflow; NaN or inf exactly where an entry is."""
    total = 0.0
    for d in range(row.shape[0]):
        total += np.float64(row[d]) * np.float64(row[d])
    return total


@compiled
def _gram(e: Array, n: int, D: int, panel: Array, result: Array) -> None:
    """Distances of the first n rows of e, tile by tile from the diagonal down; then what is above it."""
    if D == 0:
        result[:n, :n] = 1.0
    edge = np.empty((ROWS, COLUMNS), np.float32)
    for k in range(0, n if D > 0 else 0, COLUMNS):
        fill_panel(e, k, D, panel)
        for i in range(k, n, ROWS):
            rows, columns = min(ROWS, n - i), min(COLUMNS, n - k)
            inside = rows == ROWS and columns == COLUMNS
            tile = result[i : i + ROWS, k : k + COLUMNS] if inside else edge
            stride = result.shape[1] if inside else COLUMNS
            target = address(result, i, k) if inside else address(edge, 0, 0)
            least = cosine_distance_tile(address(e, i, 0), e.shape[1], address(panel, 0, 0), D, target, stride)
            if least < ROUNDING:
                _meet_equals(tile, e, i, k, D)
            if not inside:
                for p in range(rows):
                    for q in range(columns):
                        result[i + p, k + q] = edge[p, q]
    mirror(result, n)
    for i in range(n):
        result[i, i] = 0.0


@compiled
def _meet_equals(tile: Array, e: Array, i: int, k: int, D: int) -> None:
    """Equal embeddings are at distance 0, not at what rounding leaves."""
    for p in range(ROWS):
        for q in range(min(COLUMNS, i + p - k)):  # below the diagonal
            if tile[p, q] < ROUNDING and _equal(e, i + p, k + q, D):
                tile[p, q] = np.float32(0.0)


@compiled
def _equal(e: Array, p: int, q: int, D: int) -> bool:
    """Whether two unit vectors are the same to the bit; two zero vectors are at distance 1 and never come here."""
    for d in range(D):  # noqa: SIM110 (Numba wants a plain loop)
        if e[p, d] != e[q, d]:
            return False
    return True
