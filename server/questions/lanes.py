"""Two batches under way on a GPU, each on a stream of its own.

The matrix products of one batch go on while the other's trees, which wait for memory, are made.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch

N_LANES = 2


def lanes(device: torch.device) -> list[AbstractContextManager[object]]:
    """The lanes of a device, to be entered in turn; on a CPU there is one, and nothing to enter."""
    return [nullcontext()] if device.type == "cpu" else [torch.cuda.stream(stream) for stream in _streams(device)]


@lru_cache
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """Make them once: a new stream finds no memory in torch's cache."""
    return [torch.cuda.Stream(device) for _ in range(N_LANES)]  # type: ignore[no-untyped-call]
