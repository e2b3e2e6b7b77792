"""Effects of directions of the residual stream on the logits of a vocabulary.

logit_effects_reference  NumPy float64: says what is meant
logit_effects            CPU: float32 products in the tiles of gram.py, a panel of tokens at a time, then one pass a
                         neuron over its V logits for the moments and one for lists and histogram (Numba)
                         CUDA: `gpu/logit_effects.py`, the same by tiles in Triton, and torch

A product's terms are added in one order, moments are in float64: a direction gives the same bytes in any batch.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.arrays import Array, Scalar
from polysem.kernels.definitions import EFFECT_BINS, LogitEffects, effect_arguments
from polysem.kernels.dispatch import kernel
from polysem.kernels.gram import COLUMNS, ROWS, address, fill_panel, product_tile
from polysem.kernels.parallel import compiled, compiled_sum, for_each_neuron, room

TOKENS_AT_ONCE = 4096  # rows of the unembedding that are made float32 together
ROOM = 128 * 2**20  # bytes of logits held at once


def logit_effects_reference(directions: Tensor, unembedding: Tensor, n_listed: int) -> LogitEffects:
    """Compute `logit_effects` in float64, rounded to float32 at the end."""
    d, u, K = effect_arguments(directions, unembedding, n_listed)
    rows: list[Any] = []
    for logits in d.double().numpy() @ u.double().numpy().T:
        if logits.min() == logits.max():
            none = np.full(K, np.nan)
            rows.append((np.arange(K), np.arange(K), none, none, np.nan, np.nan, np.zeros(EFFECT_BINS)))
            continue
        effects = (logits - logits.mean()) / logits.std()
        order = np.argsort(-effects, kind="stable")[:K], np.argsort(effects, kind="stable")[:K]
        counts, _ = np.histogram(effects, EFFECT_BINS)
        moments = (effects**3).mean(), (effects**4).mean() - 3
        rows.append((*order, effects[order[0]], effects[order[1]], *moments, counts))
    nothing = [np.zeros((0, K))] * 4 + [np.zeros(0)] * 2 + [np.zeros((0, EFFECT_BINS))]
    columns: list[Array] = [np.array(column) for column in zip(*rows, strict=True)] if rows else nothing
    first, last, high, low, skewness, kurtosis, histogram = columns
    return LogitEffects(
        torch.from_numpy(np.stack([first, last], 1).astype(np.int32)),
        torch.from_numpy(np.stack([high, low], 1).astype(np.float32)),
        torch.from_numpy(skewness.astype(np.float32)),
        torch.from_numpy(kurtosis.astype(np.float32)),
        torch.from_numpy(histogram.astype(np.int32)),
    )


@kernel
def logit_effects(directions: Tensor, unembedding: Tensor, n_listed: int) -> LogitEffects:
    """Effects of B directions on the logits of V tokens: unembedding · direction, as z-scores over the tokens.

    directions   (B, D) float32, finite; their lengths do not matter, but 0 has no effects
    unembedding  (V, D) float32, float16 or bfloat16, finite: a row a token; products are in float32 in any case
    n_listed     K >= 1: tokens in each list, at most V

    Raises TypeError or ValueError for wrong dtypes and shapes, ValueError where a logit is NaN or infinite.
    V · D multiply-adds a direction. Memory beside the result: 128 MiB of logits, and 4,096 rows of the unembedding.
    """
    d, u, K = effect_arguments(directions, unembedding, n_listed)
    B, V = len(d), len(u)
    tokens, effects = np.zeros((B, 2, K), np.int32), np.full((B, 2, K), np.nan, np.float32)
    moments, histogram = np.full((B, 2), np.nan, np.float32), np.zeros((B, EFFECT_BINS), np.int32)
    bad = np.zeros(B, np.bool_)
    step = max(ROWS, ROOM // (4 * V) // ROWS * ROWS)
    for b in range(0, B, step):
        part = slice(b, b + step)
        logits = _logits(d[part].numpy(), u)
        for_each_neuron(
            _summary_kernel,
            len(logits),
            *(logits, tokens[part], effects[part], moments[part], histogram[part], bad[part]),
        )
    for b in np.flatnonzero(bad)[:1]:
        raise ValueError(f"a logit of directions[{b}] is not finite; expected finite numbers")
    skewness, kurtosis = (torch.from_numpy(column) for column in moments.T.copy())
    of_lists = torch.from_numpy(tokens), torch.from_numpy(effects)
    return LogitEffects(*of_lists, skewness, kurtosis, torch.from_numpy(histogram))


def _logits(d: Array, u: Tensor) -> Array:
    """(b, V) float32 of directions (b, D)."""
    rows = np.zeros((-(-len(d) // ROWS) * ROWS, d.shape[1]), np.float32)
    rows[: len(d)] = d
    logits = room((len(d), len(u)), np.float32)
    for first in range(0, len(u), TOKENS_AT_ONCE):
        block = u[first : first + TOKENS_AT_ONCE].float().numpy()
        arrays = rows, block, first, logits
        for_each_neuron(_product_kernel, -(-len(block) // COLUMNS), *arrays, scratch=lambda: _scratch(d.shape[1]))
    return logits


def _scratch(D: int) -> tuple[Array, Array, Array]:
    """The rows of a panel that reaches past the last token; a panel; a tile."""
    return np.zeros((COLUMNS, D), np.float32), room((D, COLUMNS), np.float32), np.empty((ROWS, COLUMNS), np.float32)


@compiled
def _product_kernel(
    first: int,
    step: int,
    rows: Array,
    block: Array,
    begin: int,
    logits: Array,
    edge: Array,
    panel: Array,
    tile: Array,
) -> None:
    """Fill the logits of the block's tokens, of which `begin` is the first; a panel of tokens is the unit of work."""
    n, D = block.shape
    for p in range(first, -(-n // COLUMNS), step):
        k = p * COLUMNS
        columns = min(COLUMNS, n - k)
        if columns == COLUMNS:
            fill_panel(block, k, D, panel)
        else:
            edge[:columns] = block[k:]
            fill_panel(edge, 0, D, panel)
        for i in range(0, len(rows), ROWS):
            product_tile(address(rows, i, 0), D, address(panel, 0, 0), D, address(tile, 0, 0), COLUMNS)
            for r in range(min(ROWS, len(logits) - i)):
                logits[i + r, begin + k : begin + k + columns] = tile[r, :columns]


@compiled
def _summary_kernel(
    first: int,
    step: int,
    logits: Array,
    tokens: Array,
    effects: Array,
    moments: Array,
    histogram: Array,
    bad: Array,
) -> None:
    for b in range(first, len(logits), step):
        x = logits[b]
        mean = _mean(x)
        if not abs(mean) < np.inf:
            bad[b] = True
            continue
        _list(x, np.float32(1.0), tokens[b, 0], effects[b, 0])
        _list(x, np.float32(-1.0), tokens[b, 1], effects[b, 1])
        most, least = np.float64(effects[b, 0, 0]), -np.float64(effects[b, 1, 0])
        if most == least:
            effects[b] = np.nan
            continue
        second, third, fourth = _moments(x, mean)
        deviation = np.sqrt(second)
        moments[b, 0] = third / deviation**3
        moments[b, 1] = fourth / deviation**4 - 3.0
        for i in range(effects.shape[2]):
            effects[b, 0, i] = (effects[b, 0, i] - mean) / deviation
            effects[b, 1, i] = (-effects[b, 1, i] - mean) / deviation
        n = histogram.shape[1]
        for v in range(len(x)):
            histogram[b, min(int((x[v] - least) * (n / (most - least))), n - 1)] += 1


@compiled_sum
def _mean(x: Array) -> Scalar:
    total = 0.0
    for v in range(len(x)):
        total += x[v]
    return total / len(x)


@compiled_sum
def _moments(x: Array, mean: Scalar) -> Scalar:
    """The second, third and fourth central moment."""
    second, third, fourth = 0.0, 0.0, 0.0
    for v in range(len(x)):
        centred = x[v] - mean
        square = centred * centred
        second += square
        third += square * centred
        fourth += square * square
    return second / len(x), third / len(x), fourth / len(x)


@compiled
def _list(x: Array, sign: Scalar, tokens: Array, values: Array) -> None:
    """The tokens of the largest sign · x and that number of each, largest first; of equals the lower token first."""
    held = 0
    for v in range(len(x)):
        value = sign * x[v]
        if held == len(values) and not value > values[held - 1]:
            continue
        held = min(held + 1, len(values))
        place = held - 1
        while place > 0 and value > values[place - 1]:
            values[place], tokens[place] = values[place - 1], tokens[place - 1]
            place -= 1
        values[place], tokens[place] = value, v
