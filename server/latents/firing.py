"""Kinds of encoders: which latents fire at which pre-activations, and how strongly.

Each is called with z (P, F) float32, W_enc · read without biases, and returns activations (P, F), in the place of z.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Firing(Protocol):
    """A kind of encoder with its parameters."""

    def __call__(self, z: Tensor) -> Tensor:
        """Return activations (P, F) of z (P, F)."""

    def to(self, device: torch.device) -> "Firing":
        """Return the same with its tensors on `device`."""


@dataclass(frozen=True, eq=False)
class ReLU:
    """Latents fire above 0. biases (F,)."""

    biases: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return max(z + b, 0)."""
        return z.add_(self.biases).relu_()

    def to(self, device: torch.device) -> "ReLU":
        """Return the same with its tensors on `device`."""
        return ReLU(self.biases.to(device))


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """Latents fire above 0 and above a threshold of their own. biases, thresholds (F,)."""

    biases: Tensor
    thresholds: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return z + b where that is above 0 and the threshold."""
        z.add_(self.biases)
        return z.masked_fill_(z <= self.thresholds, 0).relu_()

    def to(self, device: torch.device) -> "JumpReLU":
        """Return the same with its tensors on `device`."""
        return JumpReLU(self.biases.to(device), self.thresholds.to(device))


@dataclass(frozen=True, eq=False)
class TopK:
    """The k latents with the largest pre-activations fire, as far as they are above 0. biases (F,)."""

    biases: Tensor
    k: int

    def __call__(self, z: Tensor) -> Tensor:
        """Return max(z + b, 0) of the k largest of each row."""
        z.add_(self.biases)
        values, latents = z.topk(self.k, dim=-1, sorted=False)
        return z.zero_().scatter_(-1, latents, values.relu_())

    def to(self, device: torch.device) -> "TopK":
        """Return the same with its tensors on `device`."""
        return TopK(self.biases.to(device), self.k)


@dataclass(frozen=True, eq=False)
class Gated:
    """Latents fire where z plus one bias is above 0, by a scale of z plus another bias. All (F,).

    scales  exp(r_mag)
    """

    gate_biases: Tensor
    scales: Tensor
    biases: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return max(z · scale + b, 0) where z + b_gate is above 0."""
        shut = z + self.gate_biases <= 0
        return z.mul_(self.scales).add_(self.biases).relu_().masked_fill_(shut, 0)

    def to(self, device: torch.device) -> "Gated":
        """Return the same with its tensors on `device`."""
        return Gated(self.gate_biases.to(device), self.scales.to(device), self.biases.to(device))
