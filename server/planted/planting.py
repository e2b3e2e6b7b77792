"""The embeddings of a mixture's examples, as those of one neuron into which several units are planted.

units    z = Σ z_i: the embedding is the sum of the units' own, e = Σ e_i
weights  one neuron whose weights and biases are the sums of the units'

For neurons that are not gated the two are the same, and so they are for the embeddings pre_mlp, gate and up.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.index.format import Index
from polysem.server.model.model import EmbeddingWeights, Model
from polysem.server.planted.mixtures import Mixture
from polysem.server.questions import frames

Planting = Literal["units", "weights"]
PLANTINGS: tuple[Planting, ...] = get_args(Planting)


def planted_embeddings(
    model: Model, index: Index, mixture: Mixture, choice: EmbeddingChoice, planting: Planting = "units"
) -> Tensor:
    """(n, D) float32 of the mixture's n examples, in the frame of `choice`; on the model's device.

    Raises InvalidArgument for an embedding that the model's neurons do not have, FailedPrecondition for a frame that
    the index does not hold.
    """
    frames.check_frame(index, choice)
    how = model.embedding_weights(mixture.layer, torch.tensor(mixture.neurons), choice)
    if choice.embedding == "pre_mlp":
        how = EmbeddingWeights(*(None if of is None else of[:1] for of in how))  # type: ignore[arg-type]
    elif planting == "weights":
        how = EmbeddingWeights(*(None if of is None else of.sum(0, keepdim=True) for of in how))  # type: ignore[arg-type]
    of_layer = choice.frame in frames.OF_LAYERS
    x = frames.layer_frame(model, index, mixture.layer, choice, mixture.x)
    e = x * _vectors(mixture.x, how)
    if how.offsets is not None and not of_layer:  # subtracting a mean takes them away
        e = e + how.offsets.sum(0)
    return e - e.mean(0) if choice.frame == "own" else e


def _vectors(x: Tensor, how: EmbeddingWeights) -> Tensor:
    """(n, D), or (1, D) of all: what x̂ is multiplied by, summed over units."""
    if how.up is None or how.biases is None:
        return how.weights.sum(0, keepdim=True)
    u, g = x @ how.up.T + how.biases[:, 1], x @ how.weights.T + how.biases[:, 0]  # (n, m)
    return u @ how.weights + g @ how.up
