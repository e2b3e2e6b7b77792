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


def key_tokens(activations: Tensor, lengths: Tensor, n_skipped: int, n_ends: int = 1) -> tuple[Tensor, Tensor]:
    """Compute `polysem.kernels.key_tokens.key_tokens`."""
    activations, lengths = key_token_arguments(activations, lengths, n_skipped, n_ends)
    lengths = lengths.to(activations.device, non_blocking=True)
    b, T, N = activations.shape
    strongest = torch.empty((n_ends, b, N), device=activations.device)
    where = torch.empty_like(strongest, dtype=torch.int32)
    if strongest.numel():
        blocks = triton.cdiv(N, TILE["COLS"])
        arguments = activations, lengths, strongest, where, n_skipped, T, N, b * N
        with torch.cuda.device_of(activations):
            _key_tokens_kernel[(b * blocks,)](*arguments, BOTH=n_ends == 2, **TILE, **OPTIONS)
    return strongest, where


@triton.jit(do_not_specialize=["n_skipped", "T"])
def _key_tokens_kernel(
    activations,  # (b, T, N)
    lengths,  # (b,) int64
    strongest,  # (1 or 2, b, N) float32, out
    where,  # (1 or 2, b, N) int32, out
    n_skipped,
    T,
    N,
    end,  # numbers of one end
    BOTH: tl.constexpr,
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
    least = tl.full([ROWS, COLS], float("inf"), tl.float32)
    place_of_least = tl.full([ROWS, COLS], n_skipped, tl.int32)
    bad = tl.zeros([ROWS, COLS], tl.int32)
    for begin in range(n_skipped, length, ROWS):
        t = begin + tl.arange(0, ROWS)[:, None]
        read = (t < length) & (column < N)[None, :]
        value = tl.load(activations + t.to(tl.int64) * N, mask=read, other=float("-inf")).to(tl.float32)
        higher = value > best
        best = tl.where(higher, value, best)
        place = tl.where(higher, t, place)
        if BOTH:
            lower = (value < least) & read
            least = tl.where(lower, value, least)
            place_of_least = tl.where(lower, t, place_of_least)
        bad |= (value != value).to(tl.int32)
    most = tl.max(best, 0)
    first = tl.min(tl.where(best == most[None, :], place, 0x7FFFFFFF), 0)
    most = tl.where(tl.max(bad, 0) > 0, float("nan"), most)
    at = row * N + column
    tl.store(strongest + at, most, mask=column < N)
    tl.store(where + at, first, mask=column < N)
    if BOTH:
        lowest = tl.min(least, 0)
        first = tl.min(tl.where(least == lowest[None, :], place_of_least, 0x7FFFFFFF), 0)
        lowest = tl.where(tl.max(bad, 0) > 0, float("nan"), -lowest)
        tl.store(strongest + end + at, lowest, mask=column < N)
        tl.store(where + end + at, first, mask=column < N)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {"lengths": "*i64", "strongest": "*fp32", "where": "*i32", "n_skipped": "i32", "T": "i32", "N": "i32:16"}
    for dtype in ("*fp32", "*bf16"):
        for both in (False, True):
            given = types | {"activations": dtype, "end": "i32:16"}
            yield _key_tokens_kernel, given, TILE | {"BOTH": both}, OPTIONS
