"""Tensors on their way between a device and the CPU: copies by way of pinned memory, for which nobody waits.

On a CPU there is nothing to copy.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Values = TypeVar("Values")


class Arriving(NamedTuple, Generic[Values]):
    """Tensors that are being copied to the CPU; event: None where they were there already."""

    values: Values
    event: torch.cuda.Event | None

    def wait(self) -> Values:
        """The tensors, on the CPU."""
        if self.event is not None:
            self.event.synchronize()
        return self.values


def fetch(values: Values, device: torch.device) -> Arriving[Values]:
    """Begin to copy a tensor, or a named tuple of such, to the CPU, after all that the present stream was given.

    None stays None. Nothing waits: copies go to pinned memory.
    """
    if device.type == "cpu":
        return Arriving(values, None)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arriving = _copied(values)
    event.record(torch.cuda.current_stream(device))
    return Arriving(arriving, event)


def _copied(values: Any) -> Any:
    if values is None:
        return None
    if not isinstance(values, Tensor):
        return type(values)(*map(_copied, values))
    room = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return room.copy_(values, non_blocking=True)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to the device by way of pinned memory: nothing waits. On a CPU it is the tensor."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def beside(device: torch.device) -> AbstractContextManager[object]:
    """Enter the device's stream for copies, behind all that the present stream was given; on a CPU nothing is entered.

    What is copied there must be kept until it has arrived.
    """
    if device.type == "cpu":
        return nullcontext()
    stream = _copying(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


@lru_cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
