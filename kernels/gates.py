"""The two numbers that the embedding of a gated neuron has of each example: its up value u and its gate g.

gated_factors_reference  float64: says what is meant
gated_factors            CPU: two float32 dot products an example (Numba) · CUDA: `gpu/gates.py`, the same in Triton

They stand in the order in which the distances take them: e = x ⊙ (u · weights + g · up).
"""

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.arrays import Array, Scalar
from polysem.kernels.definitions import gate_arguments
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, compiled_sum, for_each_neuron
from polysem.kernels.rows import widen


def gated_factors_reference(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    up: Tensor,
    biases: Tensor,
    n_examples: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """Compute `gated_factors` in float64, rounded to float32 at the end."""
    x, used, w, v, b, counts, s = gate_arguments(rows, example_rows, weights, up, biases, n_examples, scales)
    result = torch.zeros(*used.shape, 2)
    for neuron, n in enumerate(counts.tolist()):
        mine = used[neuron, :n].long()
        examples = x[mine].double() * (1.0 if s is None else s[mine, None].double())
        result[neuron, :n, 0] = examples @ v[neuron].double() + b[neuron, 1]
        result[neuron, :n, 1] = examples @ w[neuron].double() + b[neuron, 0]
    return result


@kernel
def gated_factors(
    rows: Tensor,
    example_rows: Tensor,
    weights: Tensor,
    up: Tensor,
    biases: Tensor,
    n_examples: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """u = x · up + biases[:, 1] and g = x · weights + biases[:, 0] of each example x = rows[example_rows].

    rows          (P, D) float16 or float32
    example_rows  (B, N) int32 or int64 within 0..P-1; anything in padding
    weights, up   (B, D) float32
    biases        (B, 2) float32: of the gate, of up
    n_examples    (B,) int32 or int64, 0..N
    scales        (P,) float32 that rows are to be multiplied by, or None for ones
    returns       (B, N, 2) float32: u, g; 0 in padding. The same bits in any batch

    Raises TypeError or ValueError for wrong dtypes, shapes and counts. 2 · N · D multiply-adds a neuron.
    """
    x, used, w, v, b, counts, s = gate_arguments(rows, example_rows, weights, up, biases, n_examples, scales)
    result = torch.zeros(*used.shape, 2)
    bits = x.view(torch.uint16) if x.dtype == torch.float16 else x
    factors = torch.ones(0) if s is None else s
    arrays = (tensor.numpy() for tensor in (bits, used, w, v, b, counts, factors, result))
    for_each_neuron(_gates_kernel, len(used), *arrays, scratch=lambda: (np.empty(x.shape[1], np.float32),))
    return result


@compiled
def _gates_kernel(
    first: int,
    step: int,
    rows: Array,
    used: Array,
    weights: Array,
    up: Array,
    biases: Array,
    counts: Array,
    scales: Array,
    result: Array,
    row: Array,
) -> None:
    for b in range(first, len(used), step):
        for i in range(counts[b]):
            if rows.itemsize == 2:
                widen(rows[used[b, i]], row)
            else:
                row[:] = rows[used[b, i]]
            scale = scales[used[b, i]] if len(scales) > 0 else np.float32(1.0)
            result[b, i, 0] = _product(row, up[b]) * scale + biases[b, 1]
            result[b, i, 1] = _product(row, weights[b]) * scale + biases[b, 0]


@compiled_sum
def _product(a: Array, b: Array) -> Scalar:
    total = np.float32(0.0)
    for d in range(a.shape[0]):
        total += a[d] * b[d]
    return total
