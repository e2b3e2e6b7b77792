"""Interface of a model family: all that the rest of the server asks of one.

The MLP of a layer reads a vector x of the residual stream, most often through a norm, by the input weights of its
neurons. A family says where that is in its modules; `Model` reads it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Normalise = Callable[[Tensor], Tensor]


class Sizes(NamedTuple):
    """The sizes of a model; context_length in tokens, n_tokens that it has embeddings of."""

    n_layers: int
    n_neurons_per_layer: int
    d_model: int
    context_length: int
    n_tokens: int


class LinearNorm(NamedTuple):
    """A norm with its scale held fixed, which is linear: what it makes of a direction, up to a positive factor.

    gamma    (D,), or None where it has none
    centred  whether it subtracts the mean, as LayerNorm does
    """

    gamma: Tensor | None
    centred: bool

    def __call__(self, directions: Tensor) -> Tensor:
        """Return what becomes of directions (B, D)."""
        if self.centred:
            directions = directions - directions.mean(-1, keepdim=True)
        return directions if self.gamma is None else directions * self.gamma.to(directions)


class Mlp(NamedTuple):
    """The MLP of one layer, of N neurons.

    reads      the module whose first input is x (…, D), before its norm
    normalise  x̂ (P, D) float32 of x (P, D): the norm without γ and β
    gamma      (D,) of the norm, or None where it has none
    beta       (D,), or None where the norm has none; a gated MLP's has none
    weights    (N, D): row j holds the input weights of neuron j, of a gated MLP those of its gate; a view
    biases     (N,), or None where the neurons have none
    writes     the module whose first input are the activations (…, N)
    out        (N, D): row j holds the output weights of neuron j, what it adds at activation 1; a view
    passes     norms that this passes on its way through the residual stream to the final norm
    up         (N, D): of a gated MLP, the weights that the gate multiplies
    up_biases  (N,), or None
    """

    reads: nn.Module
    normalise: Normalise
    gamma: Tensor | None
    beta: Tensor | None
    weights: Tensor
    biases: Tensor | None
    writes: nn.Module
    out: Tensor
    passes: tuple[LinearNorm, ...] = ()
    up: Tensor | None = None
    up_biases: Tensor | None = None


class Final(NamedTuple):
    """The part of a model between the last layer and the unembedding.

    norm     the final norm, or None
    project  (D', D): a matrix behind it, or None
    divisor  of the logits
    softcap  c where logits y become c · tanh(y / c), or None
    """

    norm: LinearNorm | None
    project: Tensor | None = None
    divisor: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class Family:
    """A family of models.

    model_type  its name in config.json
    sizes       of the model that a config describes
    mlps        of a model of transformers, without its head: one a layer, in order
    final       what such a model ends in
    gated       an activation is act(g) · u
    bounded     a norm bounds what the MLP reads
    refuses     what in a config makes it a model that is not read, in words; None: nothing
    """

    model_type: str
    sizes: Callable[[Any], Sizes]
    mlps: Callable[[Any], Sequence[Mlp]]
    final: Callable[[Any], Final]
    gated: bool = False
    bounded: bool = True
    refuses: Callable[[Any], str | None] = lambda config: None


def layer_norm(eps: float) -> Normalise:
    """LayerNorm without γ and β: mean 0, variance 1."""
    return lambda x: functional.layer_norm(x.float(), x.shape[-1:], eps=eps)


def rms_norm(eps: float) -> Normalise:
    """RMSNorm without γ: mean square 1."""

    def normalise(x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

    return normalise


def no_norm(x: Tensor) -> Tensor:
    """The vector as it is."""
    return x.float()
