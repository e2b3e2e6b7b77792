"""Work that a context costs beside the model: passes over key activations (C, J) of C contexts and J neurons, a block
of neurons at a time, so that memory is read once and what is made of a block stays in the first cache. And what is
taken out of activations, on a CPU without torch's threads: small work waits for them where others use the machine.

column_sums       maximum, total and number of positive ones of each neuron
transposed        (J, C), each neuron's in one run
add_to_histogram  a bin of each neuron for each positive one
maxima            the highest of each neuron
at_least          where key activations are positive and reach a threshold
around            activations of a neuron on both sides of a token

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


def maxima(strength: Tensor) -> Tensor:
    """Return the highest entries (N,) of the columns of strength (b, N)."""
    return strength.amax(0) if strength.device.type != "cpu" else torch.from_numpy(strength.numpy().max(0))


def at_least(strength: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column (n,) int64 of each positive entry of strength (b, N) that reaches its column's least (N,).

    On a GPU the host waits for their number.
    """
    if strength.device.type != "cpu":
        slots, neurons = ((strength > 0) & (strength >= least)).nonzero(as_tuple=True)
        return slots, neurons
    values = strength.numpy()
    rows, columns = ((values > 0) & (values >= least.numpy())).nonzero()
    return torch.from_numpy(rows), torch.from_numpy(columns)


def around(
    activations: Tensor, slots: Tensor, positions: Tensor, neurons: Tensor, lengths: Tensor, before: int, after: int
) -> Tensor:
    """Return activations (n, before + 1 + after) of neurons around tokens, 0 outside of their contexts.

    activations                (b, T, N); what is returned has its dtype
    slots, positions, neurons  (n,) int64: row, token and neuron
    lengths                    (n,) int64 tokens of each one's context
    """
    if activations.device.type != "cpu" or activations.dtype != torch.float32:
        return gather_around(activations, slots, positions, neurons, lengths, before, after)
    made = torch.empty(len(slots), before + 1 + after)
    which = slots.numpy(), positions.numpy(), neurons.numpy(), lengths.numpy()
    for_each_neuron(_around, len(slots), activations.numpy(), *which, before, made.numpy())
    return made


def gather_around(
    activations: Tensor, slots: Tensor, positions: Tensor, neurons: Tensor, lengths: Tensor, before: int, after: int
) -> Tensor:
    """Return the same by torch, of any dtype and on any device."""
    near = positions[:, None] + torch.arange(-before, after + 1, device=activations.device)
    outside = (near < 0) | (near >= lengths[:, None])
    return activations[slots[:, None], near.masked_fill(outside, 0), neurons[:, None]].masked_fill(outside, 0)


@compiled
def _around(
    first: int,
    step: int,
    activations: Array,
    slots: Array,
    positions: Array,
    neurons: Array,
    lengths: Array,
    before: int,
    made: Array,
) -> None:
    n, width = made.shape
    for i in range(n * first // step, n * (first + 1) // step):
        for k in range(width):
            t = positions[i] - before + k
            inside = (t >= 0) & (t < lengths[i])
            made[i, k] = activations[slots[i], t, neurons[i]] if inside else np.float32(0)


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
