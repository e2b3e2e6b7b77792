"""Tiles of a float32 matrix product and square transpositions, written out as vector instructions.

What Numba makes of loops keeps neither a tile of sums in registers nor its vectors at the machine's full width. These
are the same loops as LLVM instructions with vectors of W floats: an inner product adds its D terms one after another,
so it has the same bits wherever the tile stands and whichever of the two rows is the column.

Tried on one core with AVX-512 (N = 1000, D = 768, triangle of tiles): 12 x 2 vectors 189 GFLOP/s, 14 x 2 194, 6 x 4
191, 8 x 3 172, 4 x 2 128; 6 x 2 vectors of 8 floats 109; MKL's product 196 and OpenBLAS's 303 for a whole matrix of
which OpenBLAS computes half. Scalar 4 x 4 tiles that LLVM was left to vectorise: 77 to 85.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from polysem.kernels.arrays import Array, Scalar
from polysem.kernels.parallel import compiled

instructions: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic  # mypy would ask for the context too


def _shape() -> tuple[int, int, int]:
    """Rows of a tile, vectors of a row, floats of a vector, for this machine's registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 12, 2, 16  # 24 sums of 32 registers
    if features.get("avx2"):
        return 6, 2, 8  # 12 of 16
    return 4, 2, 4


ROWS, VECTORS, WIDTH = _shape()
COLUMNS = VECTORS * WIDTH

SINGLE = ir.FloatType()
VECTOR = ir.VectorType(SINGLE, WIDTH)
INT32 = ir.IntType(32)


def _offset(builder: Any, pointer: Any, *offsets: Any) -> Any:
    for offset in offsets:
        pointer = builder.gep(pointer, [offset])
    return pointer


def _load(builder: Any, pointer: Any) -> Any:
    return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, VECTOR.as_pointer()), align=4)


def _every(value: float) -> Any:
    return ir.Constant(VECTOR, [value] * WIDTH)


def _broadcast(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, WIDTH), [0] * WIDTH))


@instructions
def cosine_distance_tile(
    _context: Any, rows: Any, stride: Any, panel: Any, depth: Any, tile: Any, tile_stride: Any
) -> tuple[Any, Callable[..., Any]]:
    """tile[r, q] = 1 - rows[r] · panel[:, q], cut to 0..2; the least of them. Rows, panel and tile are addresses.

    rows   ROWS rows of `depth` float32, each `stride` floats after the one before
    panel  (depth, COLUMNS) float32, depth >= 1
    tile   ROWS rows of COLUMNS float32, each `tile_stride` floats after the one before; written
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        least = _every(2.0)
        for product, place in _products(builder, arguments):
            distance = _larger(builder, builder.fsub(_every(1.0), product), _every(0.0))
            distance = _smaller(builder, distance, _every(2.0))
            least = _smaller(builder, least, distance)
            _store(builder, distance, place)
        half = WIDTH // 2
        while half:
            least = _smaller(builder, least, _pick(builder, least, least, [j ^ half for j in range(WIDTH)]))
            half //= 2
        return builder.extract_element(least, ir.Constant(INT32, 0))

    return types.float32(*TILE_ARGUMENTS), generate


@instructions
def product_tile(
    _context: Any, rows: Any, stride: Any, panel: Any, depth: Any, tile: Any, tile_stride: Any
) -> tuple[Any, Callable[..., Any]]:
    """tile[r, q] = rows[r] · panel[:, q]; the arguments are those of `cosine_distance_tile`."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        for product, place in _products(builder, arguments):
            _store(builder, product, place)
        return _context.get_dummy_value()

    return types.void(*TILE_ARGUMENTS), generate


TILE_ARGUMENTS = types.uintp, types.intp, types.uintp, types.intp, types.uintp, types.intp


def _products(builder: Any, arguments: Any) -> list[tuple[Any, Any]]:
    """The sums of products of a tile, a vector each, and where in the tile each belongs."""
    rows, stride, panel, depth, tile, tile_stride = arguments
    rows, panel, tile = (builder.inttoptr(address, SINGLE.as_pointer()) for address in (rows, panel, tile))

    def number(value: int) -> Any:
        return ir.Constant(depth.type, value)

    starts = [_offset(builder, rows, builder.mul(stride, number(r))) for r in range(ROWS)]
    places = [(r, v) for r in range(ROWS) for v in range(VECTORS)]
    before = builder.block
    loop, end = builder.append_basic_block("along_depth"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    d = builder.phi(depth.type)
    d.add_incoming(number(0), before)
    sums = {place: builder.phi(VECTOR) for place in places}
    line = _offset(builder, panel, builder.mul(d, number(COLUMNS)))
    columns = [_load(builder, _offset(builder, line, number(v * WIDTH))) for v in range(VECTORS)]
    values = [_broadcast(builder, builder.load(_offset(builder, start, d), align=4)) for start in starts]
    for (r, v), total in sums.items():
        product = builder.fmul(values[r], columns[v], flags=("contract",))
        total.add_incoming(_every(0.0), before)
        total.add_incoming(builder.fadd(total, product, flags=("contract",)), loop)
    following = builder.add(d, number(1))
    d.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, end)
    builder.position_at_end(end)
    found = []
    for (r, v), total in sums.items():
        row = _offset(builder, tile, builder.mul(tile_stride, number(r)))
        found.append((total.incomings[1][0], _offset(builder, row, number(v * WIDTH))))
    return found


@instructions
def transpose_square(
    _context: Any, source: Any, source_stride: Any, target: Any, target_stride: Any
) -> tuple[Any, Callable[..., Any]]:
    """target[q, p] = source[p, q] for p, q < WIDTH: float32 at two addresses, rows `stride` floats apart."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, source_stride, target, target_stride = arguments
        source, target = (builder.inttoptr(address, SINGLE.as_pointer()) for address in (source, target))

        def row(start: Any, stride: Any, p: int) -> Any:
            return _offset(builder, start, builder.mul(stride, ir.Constant(stride.type, p)))

        rows = [_load(builder, row(source, source_stride, p)) for p in range(WIDTH)]
        step = 1
        while step < WIDTH:  # swap the off-diagonal quarters of all squares of side 2 · step
            for p in (p for p in range(WIDTH) if not p & step):
                a, b = rows[p], rows[p + step]
                rows[p] = _pick(builder, a, b, [j if not j & step else WIDTH + j - step for j in range(WIDTH)])
                rows[p + step] = _pick(builder, a, b, [j + step if not j & step else WIDTH + j for j in range(WIDTH)])
            step *= 2
        for p in range(WIDTH):
            _store(builder, rows[p], row(target, target_stride, p))
        return _context.get_dummy_value()

    return types.void(types.uintp, types.intp, types.uintp, types.intp), generate


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _pick(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, WIDTH), places))


@compiled
def address(array: Array, i: int, k: int) -> Scalar:
    return array.ctypes.data + np.uintp(array.itemsize * (i * array.shape[1] + k))


@compiled
def fill_panel(e: Array, k: int, D: int, panel: Array) -> None:
    """panel[d, q] = e[k + q, d]."""
    whole = D // WIDTH * WIDTH
    for q in range(0, COLUMNS, WIDTH):
        for d in range(0, whole, WIDTH):
            transpose_square(address(e, k + q, d), e.shape[1], address(panel, d, q), COLUMNS)
    for d in range(whole, D):
        for q in range(COLUMNS):
            panel[d, q] = e[k + q, d]


@compiled
def mirror(result: Array, n: int) -> None:
    """Copy what is above the diagonal to below it."""
    whole = n // WIDTH * WIDTH
    for i in range(0, whole, WIDTH):
        for k in range(0, i, WIDTH):
            transpose_square(address(result, i, k), result.shape[1], address(result, k, i), result.shape[1])
    for i in range(n):
        for k in range(i // WIDTH * WIDTH if i < whole else 0, i):
            result[k, i] = result[i, k]
