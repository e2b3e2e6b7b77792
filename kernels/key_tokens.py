"""Each neuron's highest activation in each context, and the token where it is: the scan's only cost over the model's.

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


def key_tokens_reference(activations: Tensor, lengths: Tensor, n_skipped: int) -> tuple[Tensor, Tensor]:
    """As `key_tokens`, from the definition."""
    values, n_tokens = key_token_arguments(activations, lengths, n_skipped)
    highest = torch.empty(values.shape[0], values.shape[2])
    where = torch.empty(highest.shape, dtype=torch.int32)
    for row, length in enumerate(n_tokens.tolist()):
        text = values[row, n_skipped:length].float()
        where[row] = n_skipped + torch.from_numpy(text.numpy().argmax(0))  # the first of equals; NaN wins
        highest[row] = text.gather(0, (where[row].long() - n_skipped)[None])[0]
    return highest, where


@kernel
def key_tokens(activations: Tensor, lengths: Tensor, n_skipped: int) -> tuple[Tensor, Tensor]:
    """Highest activation of each neuron in each context, and its token.

    activations  (b, T, N) float32 or bfloat16: b contexts, T token slots, N neurons
    lengths      (b,) int64, on the CPU: tokens of each context, n_skipped + 1..T; what is behind them is never read
    n_skipped    tokens at each context's start that are no text (BOS), 0..T-1
    returns      highest (b, N) float32, and its place (b, N) int32: the first of equals; NaN where an activation is,
                 whose place is then any

    Raises TypeError or ValueError for wrong dtypes, shapes and lengths. O(b · T · N), one read.
    """
    values, n_tokens = key_token_arguments(activations, lengths, n_skipped)
    b, _, N = values.shape
    bits = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
    highest, where = torch.empty(b, N), torch.empty(b, N, dtype=torch.int32)
    n_blocks = -(-N // BLOCK)
    arrays = bits.numpy(), n_tokens.numpy(), n_skipped, n_blocks, highest.numpy(), where.numpy()
    for_each_neuron(_key_tokens_kernel, b * n_blocks, *arrays)
    return highest, where


@compiled
def _key_tokens_kernel(
    first: int,
    step: int,
    values: Array,
    lengths: Array,
    n_skipped: int,
    n_blocks: int,
    highest: Array,
    where: Array,
) -> None:
    single = np.empty(BLOCK, np.float32)
    bad = np.empty(BLOCK, np.bool_)
    for unit in range(first, len(lengths) * n_blocks, step):
        row, begin = unit // n_blocks, unit % n_blocks * BLOCK
        end = min(begin + BLOCK, highest.shape[1])
        best, place = highest[row, begin:end], where[row, begin:end]
        best[:] = -np.inf
        place[:] = n_skipped
        bad[:] = False
        for t in range(n_skipped, lengths[row]):
            if values.itemsize == 2:
                _widen(values[row, t, begin:end], single)
                _raise_maxima(single[: end - begin], np.int32(t), best, place, bad)
            else:
                _raise_maxima(values[row, t, begin:end], np.int32(t), best, place, bad)
        for j in range(end - begin):
            if bad[j]:
                best[j] = np.nan


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
