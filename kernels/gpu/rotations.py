"""Random rotations on a GPU: the two products of `polysem.kernels.rotations` a null, by the kernel of products.py.

The random numbers are those of the CPU half; the products are rounded in another order, so distances differ in their
last bits. Memory: three arrays of the size of the result.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.gpu.blocks import NO_FUSION
from polysem.kernels.gpu.products import products as multiplied
from polysem.kernels.rotations import check_nulls, orders, rotation

TILE = {"ROWS": 8, "COLUMNS": 128}
OPTIONS = {"num_warps": 4, **NO_FUSION}


def rotated_distances(products: Tensor, n_examples: Tensor, first: int, last: int, seed: int = 0) -> Tensor:
    """Compute `polysem.kernels.rotations.rotated_distances` for tensors of one device."""
    check_nulls(first, last, seed)
    sizes: Sizes = {}
    gram = checked("products", products, "B N N", sizes, (torch.float32,), products.device)
    counts = checked_counts(n_examples, sizes, gram.device)
    B, N = gram.shape[:2]
    n_nulls = last - first
    turn, order = drawn(counts, N, first, last, seed)
    left = turn.transpose(1, 2)[:, None].expand(B, n_nulls, N, N).gather(3, order[:, :, None].expand(-1, -1, N, -1))
    left = left.reshape(B * n_nulls, N, N)
    rotated = multiplied(multiplied(left, turned_products(gram, turn, counts), n_nulls), left)
    return _cosine_distances(rotated, counts, n_nulls).view(B, n_nulls, N, N)


def turned_products(gram: Tensor, turn: Tensor, counts: Tensor) -> Tensor:
    """Q G Qᵀ of each neuron, (B, N, N): what all its nulls are made of."""
    used = torch.arange(gram.shape[1], device=gram.device) < counts[:, None]
    used_gram = gram.where(used[:, :, None] & used[:, None, :], 0.0)
    lower = multiplied(multiplied(turn, used_gram), turn).tril()
    return lower + lower.tril(-1).transpose(1, 2)


def drawn(counts: Tensor, N: int, first: int, last: int, seed: int) -> tuple[Tensor, Tensor]:
    """Each neuron's Q (B, N, N), 0 in padding, and its orders (B, last - first, N), which leave padding alone."""
    sizes, which = counts.cpu().unique(return_inverse=True)
    matrices = torch.zeros(len(sizes), N, N)
    order = torch.arange(N).repeat(len(sizes), last - first, 1)
    for s, n in enumerate(sizes.tolist()):
        matrices[s, :n, :n] = torch.from_numpy(rotation(n, seed))
        order[s, :, :n] = torch.from_numpy(orders(n, first, last, seed))
    which = which.to(counts.device)
    return matrices.to(counts.device)[which], order.to(counts.device)[which]


def _cosine_distances(rotated: Tensor, counts: Tensor, n_nulls: int) -> Tensor:
    M, N = rotated.shape[:2]
    result = torch.empty_like(rotated)
    if result.numel():
        grid = (M * triton.cdiv(N, TILE["ROWS"]),)
        with torch.cuda.device_of(rotated):
            _distances_kernel[grid](rotated, counts, result, N, n_nulls, **TILE, **OPTIONS)
    return result


@triton.jit(do_not_specialize=["N", "n_nulls"])
def _distances_kernel(
    rotated,  # (B * n_nulls, N, N) float32
    counts,  # (B,) int32
    result,  # (B * n_nulls, N, N) float32, out
    N,
    n_nulls,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    blocks = tl.cdiv(N, ROWS)
    m = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    n = tl.load(counts + m // n_nulls)
    rotated += m * N * N
    result += m * N * N
    for start in range(0, N, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        distance = distance_tile(rotated, i, k, n, N)
        distance = tl.where((i < n)[:, None] & (k < n)[None, :], distance, float("inf"))
        tl.store(result + i[:, None] * N + k[None, :], distance, mask=(i < N)[:, None] & (k < N)[None, :])


@triton.jit
def distance_tile(rotated, i, k, n, stride):
    """Cosine distances of rows i and columns k from one null's inner products, of which those above the diagonal are
    not looked at, (R, C) float32."""
    below = i[:, None] >= k[None, :]
    entry = tl.where(below, i[:, None] * stride + k[None, :], k[None, :] * stride + i[:, None])
    product = tl.load(rotated + entry, mask=(i < n)[:, None] & (k < n)[None, :], other=0.0)
    of_i = _inverse_lengths(rotated, i, n, stride)[:, None]
    of_k = _inverse_lengths(rotated, k, n, stride)[None, :]
    distance = 1.0 - product * tl.where(below, of_i, of_k) * tl.where(below, of_k, of_i)
    return tl.where(i[:, None] == k[None, :], 0.0, tl.minimum(tl.maximum(distance, 0.0), 2.0))


@triton.jit
def _inverse_lengths(rotated, i, n, stride):
    """One over each example's length, 0 of a zero embedding."""
    square = tl.load(rotated + i * stride + i, mask=i < n, other=0.0)
    some = square > 0.0
    return tl.where(some, 1.0 / tl.sqrt(tl.where(some, square, 1.0).to(tl.float64)), 0.0).to(tl.float32)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"rotated": "*fp32", "counts": "*i32", "result": "*fp32", "N": "i32", "n_nulls": "i32"}
    yield _distances_kernel, types, TILE, OPTIONS
