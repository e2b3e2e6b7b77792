"""Choice of where a kernel runs: where its tensors are."""

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_gpu(tensor: object) -> bool:
    """Whether it lies on a GPU."""
    return isinstance(tensor, Tensor) and tensor.device.type == "cuda"


def kernel(cpu: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate the CPU half of a kernel: it runs if its first tensor is on the CPU.

    With the first tensor on a GPU, the function of the same name in the file of the same name in `kernels/gpu` gets the
    arguments. That file is imported then, since it needs Triton.
    """
    first = next(iter(inspect.signature(cpu).parameters))
    module = f"polysem.kernels.gpu.{cpu.__module__.rpartition('.')[2]}"

    @wraps(cpu)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        half: Any = cpu
        if on_gpu(args[0] if args else kwargs.get(first)):
            half = getattr(import_module(module), cpu.__name__)
        result: Result = half(*args, **kwargs)
        return result

    return run
