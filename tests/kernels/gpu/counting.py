"""Counts launches and waits for the device, on CPU tensors that stand for a GPU's."""

from collections import Counter
from types import TracebackType
from typing import Any, Self

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode

# what needs a value, or a number of values, of the device before the host can go on
WAITING = "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"
VIEWS = ("view", "expand", "slice", "select", "unbind", "detach", "transpose", "unsqueeze", "squeeze", "alias", "t.")


class Counted(TorchDispatchMode):
    """Counts within itself, by name; `.cpu()` and `.numpy()` of CPU tensors copy nothing, so they are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self._run = triton.runtime.interpreter.GridExecutor.__call__

    def __enter__(self) -> Self:
        def run(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.launches[executor.fn.__name__] += 1
            with torch.utils._python_dispatch._disable_current_modes():  # the interpreter's own work
                return self._run(executor, *args, **kwargs)

        triton.runtime.interpreter.GridExecutor.__call__ = run
        return super().__enter__()

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(type_, error, traceback)
        triton.runtime.interpreter.GridExecutor.__call__ = self._run

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__
        if name.startswith(WAITING) or (name.startswith("index.") and _by_mask(args)):
            self.waits[name] += 1
        elif not name.startswith(VIEWS):
            self.launches[name] += 1
        return function(*args, **(kwargs or {}))


def _by_mask(args: Any) -> bool:
    return any(isinstance(of, torch.Tensor) and of.dtype == torch.bool for of in args[1] if of is not None)
