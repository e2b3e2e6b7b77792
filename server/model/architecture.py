"""What a family of models says of itself: all that the rest of the server asks of one.

The MLP of a layer reads a vector x of the residual stream through a norm, by the input weights of its neurons. A family
says where that is in its modules; `Model` reads it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional


class Sizes(NamedTuple):
    """Of a model; context_length in tokens, n_tokens that it has embeddings of."""

    n_layers: int
    n_neurons_per_layer: int
    d_model: int
    context_length: int
    n_tokens: int


class Mlp(NamedTuple):
    """The MLP of one layer, of N neurons.

    reads      the module whose first input is x (…, D), before its norm
    normalise  x̂ (P, D) float32 of x (P, D): the norm without γ and β
    gamma      (D,) of the norm
    beta       (D,), or None where the norm has none
    weights    (N, D): row j holds the input weights of neuron j; a view
    biases     (N,), or None where the neurons have none
    writes     the module whose first input are the activations (…, N)
    """

    reads: nn.Module
    normalise: Callable[[Tensor], Tensor]
    gamma: Tensor
    beta: Tensor | None
    weights: Tensor
    biases: Tensor | None
    writes: nn.Module


@dataclass(frozen=True)
class Family:
    """A family of models.

    model_type  its name in config.json
    sizes       of the model that a config describes
    mlps        of a model of transformers, without its head: one a layer, in order
    """

    model_type: str
    sizes: Callable[[Any], Sizes]
    mlps: Callable[[Any], Sequence[Mlp]]


def layer_norm(eps: float) -> Callable[[Tensor], Tensor]:
    """LayerNorm without γ and β: mean 0, variance 1."""
    return lambda x: functional.layer_norm(x.float(), x.shape[-1:], eps=eps)
