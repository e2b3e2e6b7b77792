"""Key tokens on a GPU: a program a context and COLS neurons reads their activations once, ROWS tokens at a time.

Beside torch's own `max(dim=1)` it needs no copy with the padding filled in, and no second pass for the place.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels.definitions import key_token_arguments

TILE = {"ROWS": 32, "COLS": 64}
OPTIONS = {"num_warps": 4}


def key_tokens(activations: Tensor, lengths: Tensor, n_skipped: int) -> tuple[Tensor, Tensor]:
    """As `polysem.kernels.key_tokens.key_tokens`."""
    activations, lengths = key_token_arguments(activations, lengths, n_skipped)
    lengths = lengths.to(activations.device, non_blocking=True)
    b, T, N = activations.shape
    highest = torch.empty((b, N), device=activations.device)
    where = torch.empty_like(highest, dtype=torch.int32)
    if highest.numel():
        blocks = triton.cdiv(N, TILE["COLS"])
        arguments = activations, lengths, highest, where, n_skipped, T, N
        with torch.cuda.device_of(activations):
            _key_tokens_kernel[(b * blocks,)](*arguments, **TILE, **OPTIONS)
    return highest, where


@triton.jit(do_not_specialize=["n_skipped", "T"])
def _key_tokens_kernel(
    activations,  # (b, T, N)
    lengths,  # (b,) int64
    highest,  # (b, N) float32, out
    where,  # (b, N) int32, out
    n_skipped,
    T,
    N,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    blocks = tl.cdiv(N, COLS)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * COLS + tl.arange(0, COLS)
    length = tl.load(lengths + row).to(tl.int32)
    activations += row * T * N + column[None, :]
    best = tl.full([ROWS, COLS], float("-inf"), tl.float32)  # each thread's own: the first of equals
    place = tl.full([ROWS, COLS], n_skipped, tl.int32)
    bad = tl.zeros([ROWS, COLS], tl.int32)
    for begin in range(n_skipped, length, ROWS):
        t = begin + tl.arange(0, ROWS)[:, None]
        read = (t < length) & (column < N)[None, :]
        value = tl.load(activations + t.to(tl.int64) * N, mask=read, other=float("-inf")).to(tl.float32)
        higher = value > best
        best = tl.where(higher, value, best)
        place = tl.where(higher, t, place)
        bad |= (value != value).to(tl.int32)
    most = tl.max(best, 0)
    first = tl.min(tl.where(best == most[None, :], place, 0x7FFFFFFF), 0)
    most = tl.where(tl.max(bad, 0) > 0, float("nan"), most)
    tl.store(highest + row * N + column, most, mask=column < N)
    tl.store(where + row * N + column, first, mask=column < N)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"lengths": "*i64", "highest": "*fp32", "where": "*i32", "n_skipped": "i32", "T": "i32", "N": "i32:16"}
    for dtype in ("*fp32", "*bf16"):
        yield _key_tokens_kernel, types | {"activations": dtype}, TILE, OPTIONS
