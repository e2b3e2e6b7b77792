"""Distances on their way into a kernel: each used one is read once, checked, and copied for those that write.

working_copy   what the chain and SCC merge in
check          for those that only read

Both return the numbers of examples to go on with, which is 0 of a neuron in fault (`polysem.kernels.faults`).
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import raise_if_outside

LINE = 32  # entries: rows begin at a cache line of 128 bytes
TILE = {"ROWS": 8, "COLUMNS": 128}
OPTIONS = {"num_warps": 4}


def working_copy(distances: Tensor, n_examples: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The used distances, with `inf` on the diagonal, which is not looked at: (B, N, N up to a multiple of LINE).

    distances (B, N, N) float32, n_examples (B,) int32. Raises ValueError where one is not in 0..2.
    """
    B, N = distances.shape[:2]
    copy = distances.new_empty((B, N, triton.cdiv(N, LINE) * LINE), dtype=dtype)
    return copy, _run(distances, n_examples, copy)


def check(distances: Tensor, n_examples: Tensor) -> Tensor:
    """Raise ValueError unless all used distances, the diagonal too, are in 0..2."""
    return _run(distances, n_examples, None)


def _run(distances: Tensor, n_examples: Tensor, copy: Tensor | None) -> Tensor:
    B, N = distances.shape[:2]
    outside = torch.zeros_like(n_examples)
    if distances.numel():
        grid = (B * triton.cdiv(N, TILE["ROWS"]),)
        target, stride = (distances, 0) if copy is None else (copy, copy.shape[2])
        arguments = distances, n_examples, target, outside, N, stride
        with torch.cuda.device_of(distances):
            _copy_kernel[grid](*arguments, COPY=copy is not None, **TILE, **OPTIONS)
    bad = outside > 0
    faults.check(bad, lambda: raise_if_outside(bad.cpu().numpy(), distances.cpu().numpy(), n_examples.cpu().numpy()))
    return faults.sound(n_examples, bad)


@triton.jit
def _copy_kernel(
    distances,  # (B, N, N) float32
    counts,  # (B,) int32
    copy,  # (B, N, stride) float, out; never touched without COPY
    outside,  # (B,) int32, out: 1 where a distance is not in 0..2, else left alone
    N,
    stride,
    COPY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    blocks = tl.cdiv(N, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)[:, None]
    n = tl.load(counts + b)
    distances += b * N * N
    wrong = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)[None, :]
        wrong |= copy_tile(distances, copy + b * N * stride, rows, columns, n, N, stride, COPY, not COPY)
    if tl.sum(tl.sum(wrong, 1), 0) > 0:
        tl.store(outside + b, 1)


@triton.jit
def copy_tile(
    distances,  # (N, N) of one neuron
    copy,  # (N, stride)
    rows,  # (R, 1)
    columns,  # (1, C)
    n,
    N,
    stride,
    COPY: tl.constexpr,
    DIAGONAL: tl.constexpr,  # it is looked at, too
):
    """Which of the tile's used distances are not in 0..2, (R, C) int32; with COPY, what is merged in."""
    used = (rows < n) & (columns < n)
    value = tl.load(distances + rows * N + columns, mask=used, other=0.0)
    outside = used & ~((value >= 0.0) & (value <= 2.0))
    if COPY:
        value = tl.where(rows == columns, float("inf"), tl.abs(value))  # -0.0 becomes 0.0, whose bits come first
        tl.store(copy + rows * stride + columns, value.to(copy.dtype.element_ty), mask=used)
    if not DIAGONAL:
        outside &= rows != columns
    return outside.to(tl.int32)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"distances": "*fp32", "counts": "*i32", "outside": "*i32", "N": "i32"}
    for target in ("*fp32", "*fp64"):
        yield _copy_kernel, types | {"copy": target, "stride": "i32:16"}, {"COPY": True, **TILE}, OPTIONS
    yield _copy_kernel, types | {"copy": "*fp32", "stride": "i32:16"}, {"COPY": False, **TILE}, OPTIONS
