"""The encoder of one sparse autoencoder (SAE) or transcoder: what it reads of a model, and how its latents fire.

    read         = normalise(x) − b_dec, each only where this encoder has it
    z            = W_enc · read
    activations  = fire(z), which adds the biases and knows the thresholds

A latent's embedding is read ⊙ W_enc[:, f].
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from polysem.server.latents.firing import Firing

# Where an encoder reads, each with its name in TransformerLens:
POINTS = (
    "resid_pre",  # blocks.L.hook_resid_pre: the residual stream before the layer
    "resid_mid",  # blocks.L.hook_resid_mid: between attention and MLP, where they are not parallel
    "resid_post",  # blocks.L.hook_resid_post: behind the layer
    "mlp_in",  # blocks.L.mlp.hook_in: what the MLP's matrices read, γ and β of the norm applied
    "mlp_normalised",  # blocks.L.ln2.hook_normalized: the same without γ and β
    "mlp_out",  # blocks.L.hook_mlp_out: what the MLP adds to the residual stream, behind any norm
    "attn_out",  # blocks.L.hook_attn_out: what attention adds to it, behind any norm
)
Normalise = Callable[[Tensor], Tensor]


class Origin(NamedTuple):
    """Facts about an encoder's files, for messages and provenance.

    format       its files' format, such as "SAELens"
    kind         "relu", "jumprelu", "topk" or "gated"
    hook         where it reads, as its files name it
    model        the model it was trained on, as its files name it; None where they do not
    before_norm  an mlp_out or attn_out is read before the norm that some families (Gemma 2, OLMo 2) have behind it
    """

    format: str
    kind: str
    hook: str
    model: str | None = None
    before_norm: bool = False


@dataclass(frozen=True, eq=False)
class Latents:
    """One encoder of F latents, which reads vectors of D elements at one layer.

    layer      from 0
    point      one of POINTS
    weights    (F, D) float32: row f is W_enc[:, f] as it acts on what `read` returns
    fire       activations (P, F) of W_enc · read (P, F)
    name       its folder's name, to be shown
    sha256     of its files
    normalise  (P, D) of x (P, D) float32; None: x as it is
    shift      (D,) float32, what is then subtracted: b_dec; None: nothing
    """

    layer: int
    point: str
    weights: Tensor
    fire: Firing
    name: str
    sha256: str
    origin: Origin
    normalise: Normalise | None = None
    shift: Tensor | None = None

    def read(self, x: Tensor) -> Tensor:
        """Return the vectors (P, D) float32 that the weights multiply, of vectors x (P, D) of the model."""
        x = x.float()
        read = x if self.normalise is None else self.normalise(x)
        return read if self.shift is None else read - self.shift

    def activations(self, read: Tensor) -> Tensor:
        """Return activations (P, F) float32 of what `read` returned (P, D); zero where a latent does not fire.

        Cost: P·F·D multiply-adds, and P·F floats, twice while they are made.
        """
        return self.fire(functional.linear(read, self.weights))

    def to(self, device: torch.device) -> "Latents":
        """Return the same with its tensors on `device`."""
        shift = None if self.shift is None else self.shift.to(device)
        return replace(self, weights=self.weights.to(device), fire=self.fire.to(device), shift=shift)
