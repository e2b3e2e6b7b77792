"""The gate and up values of gated neurons on a GPU: a program ROWS examples of a neuron, BLOCK numbers at a time."""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels.definitions import gate_arguments

SHAPE = {"ROWS": 8, "BLOCK": 128}
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def gated_factors(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    up: Tensor,
    biases: Tensor,
    n_examples: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """Compute `polysem.kernels.gates.gated_factors`."""
    x, used, w, v, b, counts, s = gate_arguments(rows, example_rows, weights, up, biases, n_examples, scales)
    B, N = used.shape
    result = torch.zeros(B, N, 2, device=x.device)
    if result.numel():
        arguments = x, used, w, v, b, counts, b if s is None else s, result, N, x.shape[1]
        with torch.cuda.device_of(x):
            _gates_kernel[(B * triton.cdiv(N, SHAPE["ROWS"]),)](*arguments, SCALED=s is not None, **SHAPE, **OPTIONS)
    return result


@triton.jit
def _gates_kernel(
    rows,  # (P, D) float16 or float32
    used,  # (B, N) int32 or int64
    weights,  # (B, D) float32
    up,  # (B, D) float32
    biases,  # (B, 2) float32
    counts,  # (B,) int64
    scales,  # (P,) float32, never read unless SCALED
    result,  # (B, N, 2) float32, out
    N,
    D,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(N, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    read = i < tl.load(counts + b)
    row = tl.load(used + b * N + i, mask=read, other=0).to(tl.int64)
    gates = tl.zeros([ROWS, BLOCK], tl.float32)
    ups = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        inside = d < D
        x = tl.load(rows + row[:, None] * D + d[None, :], mask=read[:, None] & inside[None, :], other=0.0)
        x = x.to(tl.float32)
        gates += x * tl.load(weights + b * D + d, mask=inside, other=0.0)[None, :]
        ups += x * tl.load(up + b * D + d, mask=inside, other=0.0)[None, :]
    gate = tl.sum(gates, 1)
    up_value = tl.sum(ups, 1)
    if SCALED:
        scale = tl.load(scales + row, mask=read, other=0.0)
        gate *= scale
        up_value *= scale
    at = result + (b * N + i) * 2
    tl.store(at, up_value + tl.load(biases + b * 2 + 1), mask=read)
    tl.store(at + 1, gate + tl.load(biases + b * 2), mask=read)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way in which the kernel is launched, for compiling ahead of time."""
    types = {"weights": "*fp32", "up": "*fp32", "biases": "*fp32", "counts": "*i64", "scales": "*fp32"}
    types |= {"result": "*fp32", "N": "i32", "D": "i32:16"}
    for scaled in (False, True):
        for rows, used in (("*fp16", "*i64"), ("*fp32", "*i32")):
            yield _gates_kernel, types | {"rows": rows, "used": used}, SHAPE | {"SCALED": scaled}, OPTIONS
