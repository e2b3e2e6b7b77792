"""Unit embeddings of one made-up neuron, and their distances."""

import torch

from polysem.kernels.large.embeddings import unit_embeddings

LINEAR = torch.tensor([r / 50 for r in range(1, 51)], dtype=torch.float64)
UP_TO_TWO = torch.linspace(0, 2, 41, dtype=torch.float64)


def clustered(seed, n_examples, d_model, n_zeros=0, spread=1.0):
    """Five centres with noise about them."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, d_model, generator=generator)
    x = centres[torch.randint(5, (n_examples,), generator=generator)]
    x = x + spread * torch.randn(x.shape, generator=generator)
    x[torch.randperm(n_examples, generator=generator)[:n_zeros]] = 0.0
    return unit_embeddings(x, torch.ones(d_model))


def near_copies(seed, n_examples, d_model):
    """Within a cluster all distances are near 2e-4, below what cuML's euclidean distance takes for 0."""
    return clustered(seed, n_examples, d_model, spread=0.015)


def on_a_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def exact_distances(unit):
    """(N, N) float64; 1 from a zero row, 0 on the diagonal."""
    return (1 - unit.double() @ unit.double().T).clamp(0, 2).fill_diagonal_(0)
