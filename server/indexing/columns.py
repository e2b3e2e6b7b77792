"""Work that a context costs beside the model: passes over key activations (C, J) of C contexts and J neurons, a block
of neurons at a time, so that memory is read once and what is made of a block stays in the first cache.

column_sums       maximum, total and number of positive ones of each neuron
transposed        (J, C), each neuron's in one run
add_to_histogram  a bin of each neuron for each positive one

Tried and dropped: NumPy's reductions and its copy of the transpose, and torch's bincount, on the CPU
(tests/benchmarks/contexts.py).
"""

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.parallel import compiled, for_each_neuron
from polysem.proto.arrays import Array

BLOCK = 64  # neurons: whole cache lines of floats, and their histograms take 32 kB


def column_sums(strength: Array) -> tuple[Array, Array, Array]:
    """Return maximum (J,) float32, total (J,) float64, n_positive (J,) int64 of the columns of strength (C, J) float32.

    The total is of contexts in their order; not finite where any value is not. Cost: one read.
    """
    J = strength.shape[1]
    maximum, total, n_positive = np.full(J, -np.inf, np.float32), np.zeros(J), np.zeros(J, np.int64)
    for_each_neuron(_column_sums, -(-J // BLOCK), strength, maximum, total, n_positive)
    return maximum, total, n_positive


def transposed(values: Array) -> Array:
    """Return a contiguous copy (J, C) of values (C, J) float32."""
    made = np.empty(values.shape[::-1], values.dtype)
    for_each_neuron(_transposed, -(-len(made) // BLOCK), values, made)
    return made


def add_to_histogram(histogram: Tensor, strength: Tensor, maximum: Tensor) -> None:
    """Add one to the bin of each positive strength, of equal bins from 0 to the neuron's maximum.

    histogram  (N, bins) int64, changed in place
    strength   (b, N) float32, at most the maximum where positive
    maximum    (N,) float32
    """
    if histogram.device.type == "cpu":
        arrays = histogram.numpy(), strength.numpy(), maximum.numpy()
        for_each_neuron(_add_to_histogram, -(-len(histogram) // BLOCK), *arrays)
    else:
        scatter_to_histogram(histogram, strength, maximum)


def scatter_to_histogram(histogram: Tensor, strength: Tensor, maximum: Tensor) -> None:
    """Do the same on a GPU, without waiting for it: what is not positive adds nothing, wherever."""
    n_bins = histogram.shape[1]
    bins = (strength / maximum * n_bins).long().clamp(0, n_bins - 1)
    bins += torch.arange(len(histogram), device=histogram.device) * n_bins
    histogram.view(-1).scatter_add_(0, bins.flatten(), (strength > 0).long().flatten())


@compiled
def _column_sums(first: int, step: int, strength: Array, maximum: Array, total: Array, n_positive: Array) -> None:
    J = strength.shape[1]
    for block in range(first, -(-J // BLOCK), step):
        begin, end = block * BLOCK, min((block + 1) * BLOCK, J)
        most, added, n = maximum[begin:end], total[begin:end], n_positive[begin:end]
        for c in range(len(strength)):
            values = strength[c, begin:end]
            for j in range(len(values)):
                most[j] = values[j] if values[j] > most[j] else most[j]
                added[j] += np.float64(values[j])
                n[j] += values[j] > 0


@compiled
def _transposed(first: int, step: int, values: Array, made: Array) -> None:
    C, J = values.shape
    for block in range(first, -(-J // BLOCK), step):
        begin, end = block * BLOCK, min((block + 1) * BLOCK, J)
        for c0 in range(0, C, BLOCK):
            for j in range(begin, end):
                for c in range(c0, min(c0 + BLOCK, C)):
                    made[j, c] = values[c, j]


@compiled
def _add_to_histogram(first: int, step: int, histogram: Array, strength: Array, maximum: Array) -> None:
    N, n_bins = histogram.shape
    for block in range(first, -(-N // BLOCK), step):
        for c in range(len(strength)):
            for j in range(block * BLOCK, min((block + 1) * BLOCK, N)):
                if strength[c, j] > 0:
                    histogram[j, min(int(strength[c, j] / maximum[j] * n_bins), n_bins - 1)] += 1
