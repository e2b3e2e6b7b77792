"""Where the GPU halves run: on a GPU where there is one, else in Triton's interpreter, on CPU tensors.

Triton reads TRITON_INTERPRET when it is imported and again at each `triton.jit`, so it is set here, before a test of
this folder imports either; where other tests did before, these are skipped. Without Triton there is nothing to collect.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
TOO_LATE = not HAS_GPU and "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not HAS_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device() -> str:
    if TOO_LATE:
        pytest.skip("Triton was imported without its interpreter: run these tests by themselves")
    if not HAS_GPU:
        overflow_goes_unchecked()
    return "cuda" if HAS_GPU else "cpu"


def overflow_goes_unchecked() -> None:
    """Leave out a third of the interpreter's work: sums of integers that it compares with bounds, and then drops."""
    from triton.runtime.interpreter import interpreter_builder

    assert not interpreter_builder.options.debug  # else it would tell
    interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)


@pytest.fixture(scope="session")
def ragged_counts() -> Callable[..., Tensor]:
    """(B,) int32 within 0..N: all slots, none, one, two, then ever fewer than all."""

    def make(n_neurons: int, width: int) -> Tensor:
        counts = [width, 0, 1, 2, *range(width - 1, width - 1 - n_neurons, -1)][:n_neurons]
        return torch.tensor(counts, dtype=torch.int32).clamp(0, width)

    return make


@pytest.fixture(scope="session")
def spoil_padding() -> Callable[..., Tensor]:
    """A copy of (B, N, …) with `garbage` in every slot that n_examples leaves unused; with `square`, columns too."""

    def spoil(tensor: Tensor, n_examples: Tensor, garbage: float = float("nan"), *, square: bool = False) -> Tensor:
        result = tensor.clone()
        for b, n in enumerate(n_examples.tolist()):
            result[b, n:] = garbage
            if square:
                result[b, :, n:] = garbage
        return result

    return spoil
