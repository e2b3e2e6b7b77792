"""Each neuron's highest activation in each context, and the token where it is: the scan's only cost over the model's.

Of both ends, the lowest as well, in the same pass over memory.

key_tokens_reference  NumPy, context by context
key_tokens            CPU: one pass over each context's activations, a block of neurons at a time whose maxima stay in
                      the first cache (Numba) · CUDA: `gpu/key_tokens.py`, one pass in Triton

Tried and dropped on the CPU: torch.max(dim=1), 20 times as long at GPT2-small's 3,072 neurons (6 in bfloat16).
"""

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.arrays import Array
from polysem.kernels.definitions import key_token_arguments
from polysem.kernels.dispatch import kernel
from polysem.kernels.parallel import compiled, for_each_neuron

BLOCK = 1024  # neurons whose maxima and places take 9 kB


def key_tokens_reference(
    activations: Tensor, lengths: Tensor, n_skipped: int, n_ends: int = 1
) -> tuple[Tensor, Tensor]:
    """Compute `key_tokens` from the definition."""
    values, n_tokens = key_token_arguments(activations, lengths, n_skipped, n_ends)
    strongest = torch.empty(n_ends, values.shape[0], values.shape[2])
    where = torch.empty(strongest.shape, dtype=torch.int32)
    for end, sign in enumerate((1, -1)[:n_ends]):
        for row, length in enumerate(n_tokens.tolist()):
            text = sign * values[row, n_skipped:length].float()
            where[end, row] = n_skipped + torch.from_numpy(text.numpy().argmax(0))  # the first of equals; NaN wins
            strongest[end, row] = text.gather(0, (where[end, row].long() - n_skipped)[None])[0]
    return strongest, where


@kernel
def key_tokens(activations: Tensor, lengths: Tensor, n_skipped: int, n_ends: int = 1) -> tuple[Tensor, Tensor]:
    """The strongest activation of each neuron in each context, and its token: the highest; of 2 ends the lowest too.

    activations  (b, T, N) float32 or bfloat16: b contexts, T token slots, N neurons
    lengths      (b,) int64, on the CPU: tokens of each context, n_skipped + 1..T; what is behind them is never read
    n_skipped    tokens at each context's start that cannot be key tokens (BOS), 0..T-1
    n_ends       1, or 2
    returns      (n_ends, b, N) float32, the highest activation and minus the lowest, and their places, int32: the first
                 of equals; NaN where an activation is, whose place is then any

    Raises TypeError or ValueError for wrong dtypes, shapes and lengths. O(b · T · N), one read.
    """
    values, n_tokens = key_token_arguments(activations, lengths, n_skipped, n_ends)
    b, _, N = values.shape
    bits = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
    strongest, where = torch.empty(n_ends, b, N), torch.empty(n_ends, b, N, dtype=torch.int32)
    n_blocks = -(-N // BLOCK)
    arrays = bits.numpy(), n_tokens.numpy(), n_skipped, n_blocks, strongest.numpy(), where.numpy()
    for_each_neuron(_key_tokens_kernel, b * n_blocks, *arrays)
    return strongest, where


@compiled
def _key_tokens_kernel(
    first: int,
    step: int,
    values: Array,
    lengths: Array,
    n_skipped: int,
    n_blocks: int,
    strongest: Array,
    where: Array,
) -> None:
    n_ends = len(strongest)
    single = np.empty(BLOCK, np.float32)
    bad = np.empty(BLOCK, np.bool_)
    for unit in range(first, len(lengths) * n_blocks, step):
        row, begin = unit // n_blocks, unit % n_blocks * BLOCK
        end = min(begin + BLOCK, strongest.shape[2])
        best, place = strongest[0, row, begin:end], where[0, row, begin:end]
        least, place_of_least = strongest[n_ends - 1, row, begin:end], where[n_ends - 1, row, begin:end]
        least[:] = np.inf
        best[:] = -np.inf
        place[:] = n_skipped
        place_of_least[:] = n_skipped
        bad[:] = False
        for t in range(n_skipped, lengths[row]):
            if values.itemsize == 2:
                _widen(values[row, t, begin:end], single)
                _meet(single[: end - begin], np.int32(t), n_ends, best, place, least, place_of_least, bad)
            else:
                _meet(values[row, t, begin:end], np.int32(t), n_ends, best, place, least, place_of_least, bad)
        for j in range(end - begin):
            if n_ends == 2:
                least[j] = np.nan if bad[j] else -least[j]
            if bad[j]:
                best[j] = np.nan


@compiled
def _meet(
    values: Array,
    t: np.int32,
    n_ends: int,
    best: Array,
    place: Array,
    least: Array,
    place_of_least: Array,
    bad: Array,
) -> None:
    if n_ends == 1:
        _raise_maxima(values, t, best, place, bad)
    else:
        _widen_range(values, t, best, place, least, place_of_least, bad)


@compiled
def _widen(half: Array, single: Array) -> None:
    """bfloat16, given as its bits, to float32."""
    bits = single.view(np.uint32)
    for j in range(len(half)):
        bits[j] = np.uint32(half[j]) << np.uint32(16)


@compiled
def _raise_maxima(values: Array, t: np.int32, best: Array, place: Array, bad: Array) -> None:
    for j in range(len(values)):
        higher = values[j] > best[j]
        best[j] = values[j] if higher else best[j]
        place[j] = t if higher else place[j]
        bad[j] |= values[j] != values[j]


@compiled
def _widen_range(
    values: Array, t: np.int32, best: Array, place: Array, least: Array, place_of_least: Array, bad: Array
) -> None:
    for j in range(len(values)):
        higher, lower = values[j] > best[j], values[j] < least[j]
        best[j] = values[j] if higher else best[j]
        place[j] = t if higher else place[j]
        least[j] = values[j] if lower else least[j]
        place_of_least[j] = t if lower else place_of_least[j]
        bad[j] |= values[j] != values[j]
