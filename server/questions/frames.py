"""Frames: what is subtracted from a neuron's embeddings, and what divides them, before cosines.

An embedding is e = x̂ ⊙ weights + offsets, so a frame is other weights and offsets:

raw           as they are
centred       e − mean of e over the corpus: offsets −m ⊙ weights, with m the layer's mean x̂
standardised  h divided by its deviation as well, then multiplied by the weights
own           e − mean of e over the neuron's own dataset examples, by `significance.centring_offsets`

The weights of a gated neuron are another for each example, and so is the scale of an x̂ that no norm bounds; there
`layer_frame` changes x̂ itself, whose embeddings are then held in memory. A gated neuron's gate and up values stay those
of x̂ as it is.
"""

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.index.format import Index
from polysem.server.model.model import EmbeddingWeights, Model

OF_LAYERS = ("centred", "standardised")


def check_frame(index: Index, choice: EmbeddingChoice) -> None:
    """Raise FailedPrecondition where the index holds no means for the frame."""
    if choice.frame in OF_LAYERS and not index.has_moments:
        raise FailedPrecondition(
            f"the index {index.info.name!r} was made by version {index.info.software_version} and holds no mean of its "
            f"layers' x̂, so it has no frame {choice.frame!r}; use raw or own, or index the corpus anew"
        )


def weights(model: Model, index: Index, layer: int, neurons: Tensor, choice: EmbeddingChoice) -> EmbeddingWeights:
    """Return how neurons (B,) int64 embed x̂ in the frame; in `own`, and gated neurons, as in `raw`, to go on from."""
    how = model.embedding_weights(layer, neurons, choice)
    if choice.frame not in OF_LAYERS or how.up is not None or index.layer(layer).scales is not None:
        return how
    mean, factor = _moments(model, index, layer, choice)
    framed = how.weights * factor
    return EmbeddingWeights(framed, -mean * framed)


def layer_frame(model: Model, index: Index, layer: int, choice: EmbeddingChoice, x: Tensor) -> Tensor:
    """x̂ (…, D) float32 in the layer's frame."""
    if choice.frame not in OF_LAYERS:
        return x
    mean, factor = _moments(model, index, layer, choice)
    return (x - mean) * factor


def _moments(model: Model, index: Index, layer: int, choice: EmbeddingChoice) -> tuple[Tensor, Tensor]:
    """Return what is subtracted from x̂, and what it is then multiplied by, (D,) each, on the model's device.

    In mode `raw` h = γ ⊙ x̂ + β, whose deviation is that of x̂ times γ (of signs cosines know nothing).
    """
    mean, deviation = (np.array(values) for values in index.moments(layer))
    factor = torch.ones(len(mean))
    if choice.frame == "standardised":
        factor = _inverse(deviation)
        gamma = model.gamma(layer)
        if choice.layer_norm == "raw" and gamma is not None:
            factor = factor * _inverse(gamma.float().abs().cpu().numpy())
    return torch.from_numpy(mean).to(model.device), factor.to(model.device)


def _inverse(values: Array) -> Tensor:
    """1 / values, 0 where they are 0: what never varies says nothing."""
    return torch.from_numpy(np.divide(1, values, out=np.zeros_like(values), where=values > 0))
