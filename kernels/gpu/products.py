"""Means and inner products on a GPU. For what is meant see `polysem.kernels.products`.

products           C = A Bᵀ of many small matrices, one Triton program a tile of 64 × 64; used by rotations too
mean_embeddings    torch, example after example in float64: the bytes of the CPU half
gathered_products  torch builds a chunk of embeddings (`ROOM` bytes), then the kernel

Tiles have one shape whatever the batch, and sums one order: a neuron gives the same bytes in any batch, as no library's
batched product promises. float32 operands are two TF32 numbers each on tensor cores, as in distances.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.gpu.distances import gathered_arguments, raise_not_finite

ROOM = 256 * 2**20
SHAPE = {"TILE": 64, "BLOCK": 32, "num_warps": 4, "enable_fp_fusion": False}


def mean_embeddings(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Compute `polysem.kernels.products.mean_embeddings`, to the byte."""
    table, used, (w, o, *_), counts = gathered_arguments(rows, example_rows, weights, n_examples, offsets)
    total = torch.zeros_like(w, dtype=torch.float64)
    for i in range(used.shape[1]):
        read = counts > i
        row = _embedded(table, used[:, i : i + 1], read[:, None], w, o)
        _check(table, used, row, i)
        total += row[:, 0]
    return (total / counts.clamp(min=1)[:, None]).float()


def gathered_products(
    rows: Tensor, example_rows: Tensor, weights: Tensor, n_examples: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Compute `polysem.kernels.products.gathered_products` for tensors of one device."""
    table, used, (w, o, *_), counts = gathered_arguments(rows, example_rows, weights, n_examples, offsets)
    (B, N), D = used.shape, table.shape[1]
    result = torch.zeros((B, N, N), device=table.device)
    step = max(1, ROOM // (4 * max(N * D, 1)))
    for b in range(0, B if result.numel() * D else 0, step):
        part = slice(b, b + step)
        read = torch.arange(N, device=table.device) < counts[part, None]
        e = _embedded(table, used[part], read, w[part], None if o is None else o[part])
        _check(table, used[part], e)
        exponent = e.abs().amax((1, 2)).frexp().exponent
        lower = products(torch.ldexp(e, -exponent[:, None, None]), torch.ldexp(e, -exponent[:, None, None])).tril()
        result[part] = lower + lower.tril(-1).transpose(1, 2)
    return result


def _embedded(table: Tensor, used: Tensor, read: Tensor, w: Tensor, o: Tensor | None) -> Tensor:
    """(b, n, D) float32, 0 where nothing is to be read."""
    if len(table) == 0:
        return w.new_zeros((*used.shape, w.shape[1]))
    x = table[used.where(read, 0).long()].float()
    e = x * w[:, None]
    if o is not None:
        e = e + o[:, None]
    return e.where(read[:, :, None], 0.0)


def _check(table: Tensor, used: Tensor, e: Tensor, first: int = 0) -> None:
    wrong = ~e.isfinite().all(2)

    def explain() -> None:
        b, i = wrong.nonzero()[0].tolist()
        raise_not_finite("rows", table, used, b, first + i)

    faults.check(wrong, explain)


def products(a: Tensor, b: Tensor, repeat: int = 1) -> Tensor:
    """a[m] · b[m // repeat]ᵀ: (M, n, k) and (M / repeat, l, k) float32 give (M, n, l) float32."""
    M, n, k = a.shape
    rows = b.shape[1]
    result = a.new_zeros((M, n, rows))
    if result.numel() and k:
        tiles = triton.cdiv(n, SHAPE["TILE"]), triton.cdiv(rows, SHAPE["TILE"])
        with torch.cuda.device_of(a):
            _products_kernel[(M * tiles[0] * tiles[1],)](
                a.contiguous(), b.contiguous(), result, n, rows, k, repeat, *tiles, **SHAPE
            )
    return result


@triton.jit(do_not_specialize=["n", "l", "k", "repeat", "tiles_n", "tiles_l"])
def _products_kernel(
    a,  # (M, n, k) float32
    b,  # (M / repeat, l, k) float32
    result,  # (M, n, l) float32, out
    n,
    l,  # noqa: E741
    k,
    repeat,
    tiles_n,
    tiles_l,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tile = tl.program_id(0) % (tiles_n * tiles_l)
    m = (tl.program_id(0) // (tiles_n * tiles_l)).to(tl.int64)
    i = tile // tiles_l * TILE + tl.arange(0, TILE)
    j = tile % tiles_l * TILE + tl.arange(0, TILE)
    total = product_tile(a + m * n * k, k, b + m // repeat * l * k, k, i, j, n, l, k, TILE, BLOCK)
    inside = (i < n)[:, None] & (j < l)[None, :]
    tl.store(result + m * n * l + i[:, None] * l + j[None, :], total, mask=inside)


@triton.jit
def product_tile(a, a_stride, b, b_stride, i, j, n, l, k, TILE: tl.constexpr, BLOCK: tl.constexpr):  # noqa: E741
    """a[i] · b[j]ᵀ of a (n, k) and b (l, k) whose rows begin so many entries apart, (TILE, TILE) float32."""
    total = tl.zeros([TILE, TILE], tl.float32)
    for start in range(0, k, BLOCK):
        d = start + tl.arange(0, BLOCK)
        left = tl.load(a + i[:, None] * a_stride + d[None, :], mask=(i < n)[:, None] & (d < k)[None, :], other=0.0)
        right = tl.load(b + j[:, None] * b_stride + d[None, :], mask=(j < l)[:, None] & (d < k)[None, :], other=0.0)
        # added in float32 span by span: one sum of many products would be off by more
        total += tl.dot(left, tl.trans(right), input_precision="tf32x3")
    return total


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"a": "*fp32", "b": "*fp32", "result": "*fp32"}
    types |= dict.fromkeys(("n", "l", "k", "repeat", "tiles_n", "tiles_l"), "i32")
    constants = {name: SHAPE[name] for name in ("TILE", "BLOCK")}
    yield _products_kernel, types, constants, {key: SHAPE[key] for key in ("num_warps", "enable_fp_fusion")}
