"""Where one large neuron's neighbours are searched, and by which library."""

import importlib.util
import sys
from typing import NamedTuple

import pytest
import torch

from polysem.kernels.large import libraries

from . import emulated_cuml


class Place(NamedTuple):
    device: str
    library: str


@pytest.fixture
def emulated(monkeypatch):
    """A function that puts cuML and CuPy, as emulated, in the place of the packages; the CPU counts as a GPU."""

    def start(ties):
        monkeypatch.setattr(emulated_cuml.MACHINE, "ties", ties)
        monkeypatch.setattr(emulated_cuml.MACHINE, "calls", [])
        for name, module in emulated_cuml.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(libraries, "is_gpu", lambda device: True)
        return emulated_cuml.MACHINE

    return start


CUDA = pytest.mark.gpu
PLACES = ["torch", "scikit-learn", *(f"cuml, {ties} of equals first" for ties in ("lowest", "highest", "shuffled"))]


@pytest.fixture(params=[*PLACES, pytest.param("cuda torch", marks=CUDA), pytest.param("cuda cuml", marks=CUDA)])
def place(request, emulated):
    """The libraries on the CPU, cuML emulated there with each order of ties, and those of a GPU."""
    where, *ties = request.param.split(", ")
    if ties:
        emulated(ties[0].split()[0])
    device, library = where.split() if where.startswith("cuda") else ("cpu", where)
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if where == "cuda cuml" and importlib.util.find_spec("cuml") is None:
        pytest.skip("needs cuML: make gpu-cuml")
    return Place(device, library)
