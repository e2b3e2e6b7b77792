"""Effects of directions on the logits of a vocabulary, on a GPU. For what is meant see `polysem.kernels.logit_effects`.

Directions come in groups of ROWS, filled up with zeros, so that every product, sum and sort has one shape, and with it
one order of adding: a direction gives the same bytes in any batch.
"""

import torch
from torch import Tensor

from polysem.kernels.definitions import EFFECT_BINS, LogitEffects, effect_arguments
from polysem.kernels.gpu.products import products

ROWS = 32
TOKENS_AT_ONCE = 16384  # rows of the unembedding that are made float32 together


def logit_effects(directions: Tensor, unembedding: Tensor, n_listed: int) -> LogitEffects:
    """Compute `polysem.kernels.logit_effects.logit_effects`.

    Memory beside the result: about 50 bytes for each of ROWS · V logits, and 16,384 rows of the unembedding in float32.
    """
    d, u, K = effect_arguments(directions, unembedding, n_listed)
    parts = [_effects(d[b : b + ROWS], u, K, b) for b in range(0, len(d), ROWS)] or [_effects(d, u, K, 0)]
    return LogitEffects(*(torch.cat(column)[: len(d)] for column in zip(*parts, strict=True)))


def _effects(d: Tensor, u: Tensor, K: int, first: int) -> LogitEffects:
    """Compute those of at most ROWS directions, of which `first` is the first."""
    n, V = len(d), len(u)
    rows = d.new_zeros((1, ROWS, d.shape[1]))
    rows[0, :n] = d
    logits = d.new_empty((ROWS, V))
    for v in range(0, V, TOKENS_AT_ONCE):
        block = u[v : v + TOKENS_AT_ONCE].float()
        logits[:, v : v + TOKENS_AT_ONCE] = products(rows, block[None])[0]
    x = logits.double()
    mean = x.mean(1, keepdim=True)
    for b in (~mean[:n, 0].isfinite()).nonzero()[:1, 0].tolist():
        raise ValueError(f"a logit of directions[{first + b}] is not finite; expected finite numbers")
    least, most = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    flat = least == most
    centred = x - mean
    square = centred.square()
    second = square.mean(1)
    deviation = second.sqrt().where(~flat[:, 0], torch.nan)
    skewness = (square * centred).mean(1) / deviation**3
    kurtosis = square.square().mean(1) / deviation**4 - 3.0
    logits += 0.0  # -0 is 0 to a sort
    tokens = torch.stack([logits.sort(dim=1, descending=down, stable=True).indices[:, :K] for down in (True, False)], 1)
    effects = centred.gather(1, tokens.flatten(1)).view(tokens.shape) / deviation[:, None, None]
    places = ((x - least) * (EFFECT_BINS / (most - least))).nan_to_num().long().clamp(max=EFFECT_BINS - 1)
    histogram = torch.zeros((ROWS, EFFECT_BINS), dtype=torch.int32, device=d.device)
    histogram.scatter_add_(1, places, (~flat).int().expand(ROWS, V))
    found = LogitEffects(tokens.int(), effects.float(), skewness.float(), kurtosis.float(), histogram)
    return LogitEffects(*(column[:n] for column in found))
