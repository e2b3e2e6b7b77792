"""Cosine distances between each neuron's dataset examples in one fused step: no embedding is ever written to memory.

    _norm_kernel  a few numbers an example: the length of its embedding, a scale, a mark that equal ones share
    _gram_kernel  one program a neuron and pair of tiles on or below the diagonal: embed both sides as their rows are
                  read, multiply, turn cosines into distances, write tile and mirror image

Both read rows[example_rows] and embed with the same lines, so the lengths are those of the very numbers multiplied:
e = x ⊙ w + o, or x ⊙ (f₀ w + f₁ v) of gated neurons, in float32 (IEEE, unfused), times a power of two that brings its
largest entry near 1 (neither products nor lengths can leave float32's range), rounded to the precision asked for.
Lengths are summed in float64. Costs n² D / 2 multiply-adds a neuron; memory beside the result: 12 bytes an example, and
8 more for x as it is.

Equal embeddings are known by a 32-bit mark of their bits, not by their product, whose rounding grows with D. So that it
grows slowly, float32 products are summed 128 at a time, then those sums: one sum of 768 squares, each rounded to
nearest, was off by up to 1.9e-6 in a simulation of 2000, by more than 1e-6 in 2% of them; in parts, by up to 4e-7.

precision "float32"  on tensor cores too: each operand is the sum of two TF32 numbers, three of their four products are
                     added in float32. The largest error of a distance was 2.1e-7 where true float32 products had
                     2.2e-7, in 0.34 of the time (H100, D = 768, N = 1000, tiles of 64 by 32)
          "tf32"     operands rounded to 10 bits after the point, here, so that nothing is left to the hardware's way
          "bf16"     operands rounded to 7 bits after the point

Tiles have one shape whatever B and N, and so has the order of every sum: a neuron gives the same bytes in any batch.

Tried and dropped (tests/benchmarks/results/launch-shapes.md): float32 in tiles of 128, a tenth less time at N = 1000,
none at 100, and registers spilled on an A100; tf32 and bf16 with 4 warps on tiles of 128, a quarter less time, and 1 kB
spilled a thread.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import check_gated

ROW_DTYPES = (torch.float32, torch.float16)
INDEX_DTYPES = (torch.int32, torch.int64)
NORM_SHAPE = {"ROWS": 8, "BLOCK": 128, "num_warps": 4, "enable_fp_fusion": False}
GRAM_SHAPES = {
    "float32": {"TILE": 64, "BLOCK": 32, "SPAN": 128, "num_warps": 4, "enable_fp_fusion": False},
    "tf32": {"TILE": 128, "BLOCK": 32, "SPAN": 0, "num_warps": 8, "enable_fp_fusion": False},
    "bf16": {"TILE": 64, "BLOCK": 64, "SPAN": 0, "num_warps": 4, "enable_fp_fusion": False},
}
PRECISIONS = tuple(GRAM_SHAPES)
EQUAL_BELOW = tl.constexpr(1e-3)  # with one mark: far above any rounding, and the harm of a mark shared by chance
INTERPRETED = triton.knobs.runtime.interpret  # there a product of bfloat16 is one of their bits
MIX = tl.constexpr(-7046029254386353131)  # 2**64 / golden ratio, odd

Vectors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]  # weights, offsets, up, factors
Lengths = tuple[Tensor, Tensor, Tensor]


def weighted_cosine_distances(
    x: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None = None,
    precision: str = "float32",
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Compute `polysem.kernels.distances.weighted_cosine_distances`; a pair's last bits may depend on its slots.

    precision   "float32", "tf32" or "bf16": of the products; embeddings equal after that rounding are at distance 0
    """
    sizes: Sizes = {}
    table = checked("x", x, "B N D", sizes, ROW_DTYPES, x.device)
    counts = checked_counts(n_examples, sizes, x.device)
    vectors = _vectors(weights, offsets, precision, up, factors, counts, sizes)
    B, N, D = table.shape
    used = torch.arange(B * N, device=x.device).view(B, N)
    return _distances("x", table.view(B * N, D), used, vectors, counts, precision)


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
    """`weighted_cosine_distances` of x = rows[example_rows], which is never built, to the bit."""
    table, used, vectors, counts = gathered_arguments(
        rows, example_rows, weights, n_examples, offsets, precision, up, factors
    )
    return _distances("rows", table, used, vectors, counts, precision)


def gathered_arguments(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    n_examples: Tensor,
    offsets: Tensor | None,
    precision: str = "float32",
    up: Tensor | None = None,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Vectors, Tensor]:
    """The table of rows, the rows of each neuron, the vectors and counts of `gathered_cosine_distances`, checked."""
    sizes: Sizes = {}
    table = checked("rows", rows, "P D", sizes, ROW_DTYPES, rows.device)
    used = checked("example_rows", example_rows, "B N", sizes, INDEX_DTYPES, rows.device)
    counts = checked_counts(n_examples, sizes, rows.device)
    vectors = _vectors(weights, offsets, precision, up, factors, counts, sizes)
    wrong = ((used < 0) | (used >= sizes["P"])) & _is_used(counts, sizes["N"])

    def explain() -> None:
        b, i = wrong.nonzero()[0].tolist()
        raise ValueError(f"example_rows[{b}, {i}] is {used[b, i]}; expected 0..{sizes['P'] - 1} (P - 1)")

    faults.check(wrong, explain)
    return table, used, vectors, faults.sound(counts, wrong.any(1))


def _vectors(
    weights: Tensor,
    offsets: Tensor | None,
    precision: str,
    up: Tensor | None,
    factors: Tensor | None,
    counts: Tensor,
    sizes: Sizes,
) -> Vectors:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    check_gated(offsets, up, factors)
    single, device = (torch.float32,), counts.device
    w = checked("weights", weights, "B D", sizes, single, device)
    o = None if offsets is None else checked("offsets", offsets, "B D", sizes, single, device)
    v = None if up is None else checked("up", up, "B D", sizes, single, device)
    f = None if factors is None else checked("factors", factors, "B N 2", sizes, single, device)
    for name, vector in (("weights", w), ("offsets", o), ("up", v)):
        if vector is not None:
            faults.check(~vector.isfinite(), partial(_raise_first, name, vector))
    if f is not None:
        faults.check(~f.isfinite().all(2) & _is_used(counts, f.shape[1]), partial(_raise_factors, f, counts))
    return w, o, v, f


def _raise_first(name: str, vector: Tensor) -> NoReturn:
    b, d = (~vector.isfinite()).nonzero()[0].tolist()
    raise ValueError(f"{name}[{b}, {d}] is {vector[b, d]}; expected finite numbers")


def _raise_factors(factors: Tensor, counts: Tensor) -> NoReturn:
    wrong = ~factors.isfinite().all(2) & _is_used(counts, factors.shape[1])
    b, i = wrong.nonzero()[0].tolist()
    raise ValueError(f"factors[{b}, {i}] is {factors[b, i].tolist()}; expected finite numbers")


def _pointers(vectors: Vectors) -> tuple[Tensor, Tensor, Tensor]:
    """weights, what takes the second place (offsets or up), and factors; the weights where nothing is read."""
    w, o, v, f = vectors
    second = v if o is None else o
    return w, w if second is None else second, w if f is None else f


def _is_used(counts: Tensor, N: int) -> Tensor:
    return torch.arange(N, device=counts.device) < counts[:, None]


def _distances(name: str, rows: Tensor, used: Tensor, vectors: Vectors, counts: Tensor, precision: str) -> Tensor:
    B, N = used.shape
    result = rows.new_empty((B, N, N), dtype=torch.float32)
    if result.numel():
        lengths = _lengths(rows, used, vectors, counts, precision)
        wrong = lengths[0].isnan() & _is_used(counts, N)

        def explain() -> None:
            b, i = wrong.nonzero()[0].tolist()
            raise_not_finite(name, rows, used, b, i)

        faults.check(wrong, explain)
        _gram(rows, used, vectors, counts, lengths, result, precision)
    return result


def _lengths(rows: Tensor, used: Tensor, vectors: Vectors, counts: Tensor, precision: str) -> Lengths:
    """Inverse length (NaN where not finite, 0 for a zero embedding), scale, mark, each (B, N)."""
    B, N = used.shape
    inverse, scale = torch.zeros((2, B, N), device=rows.device).unbind()
    mark = torch.zeros_like(inverse, dtype=torch.int32)
    grid = (B * triton.cdiv(N, NORM_SHAPE["ROWS"]),)
    arguments = rows, used, *_pointers(vectors), counts, inverse, scale, mark, N, rows.shape[1]
    with torch.cuda.device_of(rows):
        _norm_kernel[grid](*arguments, **_kind(vectors), PRECISION=precision, **NORM_SHAPE)
    return inverse, scale, mark


def _gram(
    rows: Tensor, used: Tensor, vectors: Vectors, counts: Tensor, lengths: Lengths, result: Tensor, precision: str
) -> None:
    B, N = used.shape
    shape = GRAM_SHAPES[precision]
    tiles = triton.cdiv(N, shape["TILE"])
    pairs = torch.tril_indices(tiles, tiles, dtype=torch.int32, device=rows.device)
    arguments = (
        rows, used, *_pointers(vectors), counts, *lengths, pairs, result, N, rows.shape[1], pairs.shape[1],
    )  # fmt: skip
    halves = precision == "bf16" and not INTERPRETED
    constants = _kind(vectors) | {"PRECISION": precision, "HALVES": halves}
    with torch.cuda.device_of(rows):
        _gram_kernel[(B * pairs.shape[1],)](*arguments, **constants, **shape)


def _kind(vectors: Vectors) -> dict[str, Any]:
    """The kernels' constants."""
    _, offsets, up, _ = vectors
    return {"OFFSETS": offsets is not None, "GATED": up is not None}


def raise_not_finite(name: str, rows: Tensor, used: Tensor, b: int, i: int) -> NoReturn:
    row = rows[used[b, i].long()].cpu()
    for d in (~row.isfinite()).nonzero().flatten().tolist()[:1]:
        place = f"{b}, {i}" if name == "x" else f"{used[b, i]}"
        raise ValueError(f"{name}[{place}, {d}] is {row[d]}; expected finite numbers")
    raise ValueError(f"the embedding of neuron {b}, example {i} overflows float32")


@triton.jit
def _embedded(
    rows,  # (P, D) float16 or float32
    begins,  # (R,) int64: where each row begins
    read,  # (R,) bool: which to read; the others are taken for zeros
    weights,  # (D,) float32
    second,  # (D,) float32: offsets, or up
    f0,  # (R,) float32
    f1,  # (R,) float32
    d,  # (BLOCK,) int32
    D,
    OFFSETS: tl.constexpr,
    GATED: tl.constexpr,
):
    """x ⊙ w + o, or x ⊙ (f0 w + f1 v) where GATED, (R, BLOCK) float32."""
    inside = d < D
    x = tl.load(rows + begins[:, None] + d[None, :], mask=read[:, None] & inside[None, :], other=0.0)
    w = tl.load(weights + d, mask=inside, other=0.0)[None, :]
    if GATED:
        w = f0[:, None] * w + f1[:, None] * tl.load(second + d, mask=inside, other=0.0)[None, :]
    e = x.to(tl.float32) * w
    if OFFSETS:
        e += tl.load(second + d, mask=inside, other=0.0)[None, :]
    return e


@triton.jit
def _factors(factors, at, read, GATED: tl.constexpr):
    """The two numbers of each example, (R,) each; not read unless GATED."""
    if GATED:
        f0 = tl.load(factors + at * 2, mask=read, other=0.0)
        f1 = tl.load(factors + at * 2 + 1, mask=read, other=0.0)
    else:
        f0 = tl.zeros(at.shape, tl.float32)
        f1 = f0
    return f0, f1


@triton.jit
def _rounded(e, PRECISION: tl.constexpr):
    """Round as the products do: to the nearest, of two to the even one."""
    if PRECISION == "float32":
        return e
    DROPPED: tl.constexpr = 13 if PRECISION == "tf32" else 16
    bits = e.to(tl.int32, bitcast=True)
    bits += (1 << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1)
    return (bits & -(1 << DROPPED)).to(tl.float32, bitcast=True)


@triton.jit
def _norm_kernel(
    rows,  # (P, D) float16 or float32
    used,  # (B, N) int32 or int64
    weights,  # (B, D) float32
    second,  # (B, D) float32: offsets with OFFSETS, up with GATED, else never read
    factors,  # (B, N, 2) float32, never read unless GATED
    counts,  # (B,) int32
    inverse,  # (B, N) float32, out
    scale,  # (B, N) float32, out
    mark,  # (B, N) int32, out
    N,
    D,
    OFFSETS: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(N, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    read = i < tl.load(counts + b)
    begins = tl.load(used + b * N + i, mask=read, other=0).to(tl.int64) * D
    f0, f1 = _factors(factors, b * N + i, read, GATED)
    weights += b * D
    second += b * D

    magnitudes = tl.zeros([ROWS, BLOCK], tl.int32)  # bits without sign: ordered as the numbers, then inf, then NaN
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        e = _embedded(rows, begins, read, weights, second, f0, f1, d, D, OFFSETS, GATED)
        magnitudes = tl.maximum(magnitudes, e.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    largest = tl.max(magnitudes, 1)
    exponent = tl.minimum(tl.maximum(254 - (largest >> 23), 1), 253)  # that of the inverse, held to normal numbers
    factor = (exponent << 23).to(tl.float32, bitcast=True)

    squares = tl.zeros([ROWS, BLOCK], tl.float64)
    marks = tl.zeros([ROWS, BLOCK], tl.int64)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        e = _embedded(rows, begins, read, weights, second, f0, f1, d, D, OFFSETS, GATED)
        e = _rounded(e * factor[:, None], PRECISION)
        squares += e.to(tl.float64) * e.to(tl.float64)
        bits = tl.where(e == 0.0, 0.0, e).to(tl.int32, bitcast=True)  # -0.0 equals 0.0
        mixed = (d + 1).to(tl.int64) * MIX
        mixed = (mixed ^ (mixed >> 32)) * MIX | 1
        marks += bits.to(tl.int64) * mixed[None, :]
    total = tl.sum(squares, 1)
    length = tl.where(largest < 0x7F800000, 1.0 / tl.sqrt(tl.where(total > 0.0, total, 1.0)), float("nan"))
    at = b * N + i
    tl.store(inverse + at, tl.where(largest == 0, 0.0, length).to(tl.float32), mask=read)
    tl.store(scale + at, factor, mask=read)
    tl.store(mark + at, (tl.sum(marks, 1) >> 32).to(tl.int32), mask=read)


@triton.jit
def _gram_kernel(
    rows,  # (P, D) float16 or float32
    used,  # (B, N) int32 or int64
    weights,  # (B, D) float32
    second,  # (B, D) float32: offsets with OFFSETS, up with GATED, else never read
    factors,  # (B, N, 2) float32, never read unless GATED
    counts,  # (B,) int32
    inverse,  # (B, N) float32
    scale,  # (B, N) float32
    mark,  # (B, N) int32
    pairs,  # (2, n_pairs) int32: tile row, tile column
    result,  # (B, N, N) float32, out
    N,
    D,
    n_pairs,
    OFFSETS: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
    HALVES: tl.constexpr,  # operands are bfloat16
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,  # so many products are summed one after the other, then such sums; 0 for all
):
    b = (tl.program_id(0) // n_pairs).to(tl.int64)
    pair = tl.program_id(0) % n_pairs
    first = tl.load(pairs + pair) * TILE
    i = first + tl.arange(0, TILE)
    k = tl.load(pairs + n_pairs + pair) * TILE + tl.arange(0, TILE)
    n = tl.load(counts + b)
    at_i = b * N + i
    at_k = b * N + k
    begins_i = tl.load(used + at_i, mask=i < n, other=0).to(tl.int64) * D
    begins_k = tl.load(used + at_k, mask=k < n, other=0).to(tl.int64) * D
    scale_i = tl.load(scale + at_i, mask=i < n, other=0.0)[:, None]
    scale_k = tl.load(scale + at_k, mask=k < n, other=0.0)[:, None]
    f0_i, f1_i = _factors(factors, at_i, i < n, GATED)
    f0_k, f1_k = _factors(factors, at_k, k < n, GATED)
    weights += b * D
    second += b * D

    finished = tl.zeros([TILE, TILE], tl.float32)
    products = tl.zeros([TILE, TILE], tl.float32)
    for start in range(0, tl.where(first < n, D, 0), BLOCK):  # nothing to do where all is padding
        d = start + tl.arange(0, BLOCK)
        e_i = _embedded(rows, begins_i, i < n, weights, second, f0_i, f1_i, d, D, OFFSETS, GATED) * scale_i
        e_k = _embedded(rows, begins_k, k < n, weights, second, f0_k, f1_k, d, D, OFFSETS, GATED) * scale_k
        if HALVES:
            products = tl.dot(e_i.to(tl.bfloat16), tl.trans(e_k.to(tl.bfloat16)), products)  # the cast rounds alike
        else:
            e_i, e_k = _rounded(e_i, PRECISION), _rounded(e_k, PRECISION)
            products = tl.dot(e_i, tl.trans(e_k), products, input_precision="tf32" if PRECISION == "tf32" else "tf32x3")
        if SPAN > 0:  # noqa: SIM102 (known to the compiler; what follows is not)
            if start % SPAN == SPAN - BLOCK:
                finished += products
                products = tl.zeros([TILE, TILE], tl.float32)

    inverse_i = tl.load(inverse + at_i, mask=i < n, other=0.0)[:, None]
    inverse_k = tl.load(inverse + at_k, mask=k < n, other=0.0)[None, :]
    cosine = (finished + products) * (inverse_i * inverse_k)
    distance = 1.0 - tl.minimum(tl.maximum(cosine, -1.0), 1.0)
    mark_i = tl.load(mark + at_i, mask=i < n, other=0)[:, None]
    mark_k = tl.load(mark + at_k, mask=k < n, other=0)[None, :]
    i, k = i[:, None], k[None, :]
    equal = (mark_i == mark_k) & (distance < EQUAL_BELOW)
    distance = tl.where(equal | (i == k), 0.0, distance)
    distance = tl.where((i < n) & (k < n), distance, float("inf"))
    result += b * N * N
    tl.store(result + i * N + k, distance, mask=(i < N) & (k <= i))
    tl.store(result + k * N + i, distance, mask=(i < N) & (k < i))  # the mirror image, from the same registers


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way in which the kernels are launched, for compiling ahead of time."""
    pointers = {"weights": "*fp32", "second": "*fp32", "factors": "*fp32", "counts": "*i32", "inverse": "*fp32"}
    pointers |= {"scale": "*fp32", "mark": "*i32", "N": "i32", "D": "i32:16"}
    gram = {"pairs": "*i32", "result": "*fp32", "n_pairs": "i32"}
    for precision, shape in GRAM_SHAPES.items():
        chosen = {"PRECISION": precision, "OFFSETS": False, "GATED": False}
        given = {"rows": "*fp16", "used": "*i32"} | pointers
        halves = {"HALVES": precision == "bf16"}
        for gated in ({"GATED": False}, {"GATED": True}):
            yield _norm_kernel, given, *_split(chosen | gated | NORM_SHAPE)
            yield _gram_kernel, given | gram, *_split(chosen | gated | halves | shape)
        given |= {"rows": "*fp32", "used": "*i64"}
        yield _gram_kernel, given | gram, *_split(chosen | halves | shape | {"OFFSETS": True})


def _split(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The kernel's constants, and the compiler's options."""
    return {k: v for k, v in arguments.items() if k.isupper()}, {k: v for k, v in arguments.items() if not k.isupper()}
