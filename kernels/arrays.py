"""Checks that every kernel makes of its tensors, and what it says when they do not fit.

The GPU halves ask with `checked`; for the CPU halves tensors become NumPy arrays, without a copy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polysem.kernels import faults

Array = NDArray[Any]
Scalar = Any  # inside a kernel: whichever of Python's and NumPy's numbers it happens to be
Sizes = dict[str, int]  # shape letter -> size, filled as arguments are met


def checked(
    name: str, tensor: Tensor, shape: str, sizes: Sizes, dtypes: Sequence[torch.dtype], device: torch.device
) -> Tensor:
    """The tensor itself, C-ordered (copied only where it is not) and without its gradient.

    shape is written in the letters of the docstrings, "B N N" or "B N 2"; a letter met before must have the same size
    again.
    Raises TypeError (not a tensor, wrong dtype), ValueError (shape, device).
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch tensor, not {type(tensor).__name__}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; expected {device}: all tensors of a call share one device")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, not {tensor.dtype}")
    letters = shape.split()
    if len(letters) != tensor.ndim or any(
        (int(letter) if letter.isdigit() else sizes.setdefault(letter, size)) != size
        for letter, size in zip(letters, tensor.shape, strict=True)
    ):
        known = ", ".join(f"{letter}={sizes[letter]}" for letter in dict.fromkeys(letters) if letter in sizes)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({', '.join(letters)}), {known}")
    tensor = tensor.detach() if tensor.requires_grad else tensor  # each step that torch takes asks for the GIL anew
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def as_array(name: str, tensor: Tensor, shape: str, sizes: Sizes, dtypes: Sequence[torch.dtype]) -> Array:
    """A checked CPU tensor's own memory."""
    return checked(name, tensor, shape, sizes, dtypes, torch.device("cpu")).numpy()


def as_counts(n_examples: Tensor, sizes: Sizes) -> NDArray[np.int64]:
    """n_examples (B,) int32 or int64 as int64, each checked to be within 0..N."""
    counts = as_array("n_examples", n_examples, "B", sizes, (torch.int32, torch.int64)).astype(np.int64)
    wrong = np.flatnonzero((counts < 0) | (counts > sizes["N"]))
    if wrong.size:
        raise ValueError(f"n_examples[{wrong[0]}] is {counts[wrong[0]]}; expected 0..{sizes['N']} (N)")
    return counts


def as_distances(distances: Tensor, sizes: Sizes) -> NDArray[np.float32]:
    """distances (B, N, N) float32; their values are checked by `raise_if_outside` once a kernel has met them."""
    return as_array("distances", distances, "B N N", sizes, (torch.float32,))


def check_distances(distances: NDArray[np.float32], n_examples: NDArray[np.int64]) -> None:
    """For the references: every used distance lies in 0..2."""
    bad = [
        not ((used := block[:n, :n]) >= 0).all() or not (used <= 2).all()
        for block, n in zip(distances, n_examples, strict=True)
    ]
    raise_if_outside(np.array(bad, bool), distances, n_examples)


def raise_if_outside(bad: Array, distances: NDArray[np.float32], n_examples: NDArray[np.int64]) -> None:
    """Raise for the first neuron in `bad` (B,) bool, naming its first distance that is not within 0..2."""
    for b in np.flatnonzero(bad)[:1]:
        used = distances[b, : n_examples[b], : n_examples[b]]
        wrong = np.argwhere(~((used >= 0) & (used <= 2)))
        if not wrong.size:
            raise ValueError(f"distances[{b}] is not symmetric")
        i, k = wrong[0]
        raise ValueError(f"distances[{b}, {i}, {k}] is {used[i, k]}; expected 0..2")


def checked_counts(n_examples: Tensor, sizes: Sizes, device: torch.device) -> Tensor:
    """`as_counts` on any device: int32."""
    counts = checked("n_examples", n_examples, "B", sizes, (torch.int32, torch.int64), device)
    bad = (counts < 0) | (counts > sizes["N"])
    faults.check(bad, lambda: as_counts(counts.cpu(), sizes))
    return faults.sound(counts, bad).int()
