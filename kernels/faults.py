"""Faults of values on a device: looked at one by one, or all together once a batch.

To look at a value of a GPU is to wait for all that was launched before. So inside `collected` a check only adds to a
flag on the device, and its kernel goes on as if a neuron in fault had no examples. The caller reads the flag with the
results, and asks the kernels again, outside of `collected`, for what was wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class Faults:
    """The checks of a batch, and whether any of them found something."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def add(self, bad: Tensor) -> None:
        """Add a check, bool of any shape; nothing waits."""
        self._found.append(bad.any())

    @property
    def found(self) -> Tensor | None:
        """() bool on the batch's device: whether any check found something; None where nothing was checked."""
        return torch.stack(self._found).any() if self._found else None

    def __bool__(self) -> bool:
        """Wait for the device: did any?"""
        found = self.found
        return found is not None and bool(found)


_COLLECTED: ContextVar[Faults | None] = ContextVar("faults", default=None)


@contextmanager
def collected() -> Iterator[Faults]:
    """Inside, `check` raises nothing and waits for nothing."""
    faults = Faults()
    token = _COLLECTED.set(faults)
    try:
        yield faults
    finally:
        _COLLECTED.reset(token)


def check(bad: Tensor, explain: Callable[[], object]) -> None:
    """Call `explain`, which raises what was wrong, if any of `bad` is true; inside `collected` remember it."""
    faults = _COLLECTED.get()
    if faults is not None:
        faults.add(bad)
    elif bad.any():
        explain()


def sound(n_examples: Tensor, bad: Tensor) -> Tensor:
    """n_examples (B,), 0 for the neurons in `bad` (B,) bool: what goes on then reads nothing of them."""
    return n_examples.where(~bad, 0)
