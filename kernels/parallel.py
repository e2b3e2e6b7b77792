"""Compilation of the CPU halves, and how they share the cores: one neuron is the unit of work.

Every kernel is `kernel(first, step, *arrays)` and does neurons first, first + step, …: plain Numba, the GIL released
throughout, spread over the calling thread and a pool of Python threads. One neuron's arithmetic never depends on its
batch, nor on the number of threads. `torch.get_num_threads()` says how many threads work.

Numba's cache knows a kernel by its own file only: after changing a compiled function that another file calls (`root`,
`is_tree`), remove kernels/__pycache__.

Tried and dropped: Numba's own `prange`. Its default threading layer ends the process when two Python threads enter it
at once, and each kernel takes longer to compile. This pool may be entered from any number of threads. A future for each
task while the caller only waits: waking threads took a tenth of the time of 300 neurons of some 40 examples.
"""

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

TASKS_PER_THREAD = 4  # evens out neurons of unlike sizes; more would queue for the GIL more often


def compiled(function: Function) -> Function:
    """Numba, without the GIL, IEEE arithmetic as written."""
    return _jit(function)


def compiled_sum(function: Function) -> Function:
    """The same, but a loop's sum may be split over SIMD lanes, always in one way: for the sums inside a kernel."""
    return _jit(function, fastmath={"reassoc", "contract", "nsz"})


def _jit(function: Function, **options: Any) -> Function:
    """Compiled, and kept for other processes where any folder can be written for that."""
    try:
        return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function))
    except RuntimeError:  # no folder can
        return cast(Function, numba.njit(nogil=True, error_model="numpy", **options)(function))


@lru_cache(maxsize=1)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="polysem-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has none of its parent's threads


def room(shape: tuple[int, ...], dtype: type) -> Array:
    """np.empty, if it is large in huge pages (Linux): rows and columns of a matrix then share far fewer of them.

    NumPy asks for huge pages from 4 MiB on, and those at its ends may not be whole.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes < 1 << 20:
        return np.empty(shape, dtype)
    held = np.empty(max(n_bytes, 1 << 22) + (1 << 21), np.uint8)
    return held[-held.ctypes.data % (1 << 21) :][:n_bytes].view(dtype).reshape(shape)


def for_each_neuron(
    kernel: Callable[..., None], n_neurons: int, *arrays: object, scratch: Callable[[], tuple[Array, ...]] = tuple
) -> None:
    """Run `kernel(first, step, *arrays, *scratch())` over all neurons on every core; returns when all are done."""
    n_threads = torch.get_num_threads()
    n_tasks = min(n_neurons, n_threads * TASKS_PER_THREAD if n_threads > 1 else 1)
    if n_tasks == 1:
        kernel(0, 1, *arrays, *scratch())
        return
    tasks = itertools.count()  # next() is one step of the interpreter's, so each task is given out once

    def work() -> None:
        made = scratch()
        while (first := next(tasks)) < n_tasks:
            kernel(first, n_tasks, *arrays, *made)

    others = [_pool(n_threads - 1).submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        for other in others:
            if not other.cancel():  # what has not begun by now finds nothing left to do
                other.result()
