"""Encoders made by hand, seeded; and what they do, in float64, written once more."""

import numpy as np
import torch

from polysem.server.latents.encoder import Latents, Origin
from polysem.server.latents.firing import ReLU, TopK


def sae(layer, point, n, d, seed=0, k=None, before_norm=False, dead=(), name="tiny"):
    """An SAE of n latents that subtracts a b_dec. k: of TopK, None for ReLU. dead: latents that never fire."""
    dice = torch.Generator().manual_seed(seed)
    weights = torch.randn((n, d), generator=dice)
    biases = 0.3 * torch.randn(n, generator=dice)
    biases[list(dead)] = -1e6
    fire = ReLU(biases) if k is None else TopK(biases, k)
    origin = Origin("by hand", "relu" if k is None else "topk", f"hook {point}", None, before_norm)
    shift = torch.randn(d, generator=dice)
    return Latents(layer, point, weights, fire, f"{name}-{layer}", f"{seed:064x}", origin, None, shift)


def plain_read(latents: Latents, x):
    """(…, D) float64: x without b_dec."""
    return np.asarray(x, np.float64) - latents.shift.double().numpy()


def plain_activations(latents: Latents, x):
    """(…, F) float64 of vectors x (…, D)."""
    z = plain_read(latents, x) @ latents.weights.double().numpy().T + latents.fire.biases.double().numpy()
    a = np.maximum(z, 0)
    if isinstance(latents.fire, TopK):
        a[z < np.sort(z, axis=-1)[..., -latents.fire.k][..., None]] = 0
    return a
