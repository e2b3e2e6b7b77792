"""Firing of a neuron, and the feature cluster that a token then falls in."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from polysem.proto.arrays import Array, IntArray
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.server.index.format import Index
from polysem.server.model.model import EmbeddingWeights, Model
from polysem.server.questions import frames
from polysem.server.questions.resident import device_batches


@dataclass(frozen=True)
class NearestClusters:
    """The clusters with the smallest mean distance to their members, of neurons that fire at
    min_activation_fraction of their maximum or more."""

    model: Model
    index: Index
    choice: EmbeddingChoice
    clustering: Clustering
    min_activation_fraction: float

    def fires(self, activations: Array, maximum: Array) -> Array:
        """(…,) bool of activations (…,), given the neurons' maxima over the corpus (…,)."""
        strength, most = self.index.sign * activations, self.index.sign * maximum
        return (strength > 0) & (strength >= np.float32(self.min_activation_fraction) * most)

    def __call__(self, neuron: IntArray, labels: Array, xhat: Tensor) -> tuple[Array, Array]:
        """Return cluster, −1 beyond the threshold, and smallest mean distance (F,) of tokens with x̂ (F, D).

        neuron  (1, 2)
        labels  (n,) of its examples

        The mean distance to a cluster's members is 1 − ⟨unit embedding, mean of theirs⟩.
        """
        (batch,) = device_batches(self.model, self.index, neuron, self.choice)
        rows, scales = batch.rows[batch.example_rows[0]].double(), batch.scales
        if scales is not None:
            rows = rows * scales[batch.example_rows[0]][:, None]
        members = _units(rows, batch.how)  # (n, D)
        which = torch.from_numpy(labels.astype(np.int64)).to(members.device)
        sums = torch.zeros((int(labels.max()) + 1, members.shape[1]), dtype=torch.float64, device=members.device)
        means = sums.index_add(0, which, members) / torch.bincount(which)[:, None]  # (C, D)
        mean_distances = 1 - _units(self._framed(neuron, xhat), batch.how) @ means.T  # (F, C)
        least, nearest = (found.cpu().numpy() for found in mean_distances.min(dim=1))
        return np.where(least <= self.clustering.distance_threshold, nearest, -1), least.clip(0, 2)

    def _framed(self, neuron: IntArray, xhat: Tensor) -> Tensor:
        """Return what the weights embed of tokens with x̂ (F, D): x̂, or the embedding in the layer's frame."""
        if self.choice.frame == "raw" or not self.model.weights_vary(self.choice):
            return xhat
        layer, j = neuron[0].tolist()
        how = frames.weights(self.model, self.index, layer, torch.tensor([j]), self.choice).double()
        x = frames.layer_frame(self.model, self.index, layer, self.choice, xhat.double())
        return _embedded(x, how, xhat.double())


def _units(xhat: Tensor, how: EmbeddingWeights) -> Tensor:
    """(P, D) float64 unit embeddings of x̂ (P, D) by one neuron; 0 where the embedding is."""
    x = xhat.double()
    return functional.normalize(_embedded(x, how.double(), x), dim=1)


def _embedded(x: Tensor, how: EmbeddingWeights, read: Tensor) -> Tensor:
    """(P, D) float64 embeddings of x (P, D) by one neuron, whose gates are those of x̂ as it is, `read` (P, D)."""
    weights, offsets, up, biases = how
    if up is not None and biases is not None:
        weights = (read @ up.T + biases[:, 1]) * weights + (read @ weights.T + biases[:, 0]) * up
    e = x * weights
    return e if offsets is None else e + offsets
