"""Two batches under way on a GPU, each on a stream of its own, and their results on the way to the CPU.

The matrix products of one batch go on while the other's trees, which wait for memory, are made.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

N_LANES = 2
Values = TypeVar("Values")


def lanes(device: torch.device) -> list[AbstractContextManager[object]]:
    """The lanes of a device, to be entered in turn; on a CPU there is one, and nothing to enter."""
    return [nullcontext()] if device.type == "cpu" else [torch.cuda.stream(stream) for stream in _streams(device)]


@lru_cache
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """Make them once: a new stream finds no memory in torch's cache."""
    return [torch.cuda.Stream(device) for _ in range(N_LANES)]  # type: ignore[no-untyped-call]


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
