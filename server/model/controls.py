"""Weights of controls: what a neuron would read with if its input weights were chance, or another neuron's.

Clusters of embeddings made with them are no neuron's. What neuron embeddings find beyond these is owed to the weights.
"""

import numpy as np
import torch
from torch import Tensor


def others(layer: int, neurons: Tensor, n_neurons: int, seed: int) -> Tensor:
    """(B,) int64: for each neuron another one of its layer, drawn from all of them with equal chances.

    Each neuron's is the same in any company. A layer of one neuron has no other, and so gives that one.
    """
    steps = [_drawing(seed, layer, j).integers(1, n_neurons) if n_neurons > 1 else 0 for j in neurons.tolist()]
    return (neurons + torch.tensor(steps, dtype=torch.int64, device=neurons.device)) % n_neurons


def orders(layer: int, neurons: Tensor, d_model: int, seed: int) -> Tensor:
    """(B, D) int64: for each neuron an order of the dimensions, the same in any company."""
    found = [_drawing(seed, layer, j).permutation(d_model) for j in neurons.tolist()]
    return torch.from_numpy(np.stack(found)) if found else torch.empty((0, d_model), dtype=torch.int64)


def _drawing(seed: int, layer: int, neuron: int) -> np.random.Generator:
    return np.random.default_rng((seed, layer, neuron))
