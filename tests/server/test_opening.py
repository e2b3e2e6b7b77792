"""What a server makes ready before it says so: which library searches nearest neighbours, and that it is imported."""

import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from polysem.client import Client
from polysem.kernels.large import libraries
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server import opening, settings

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CUML = ("cupy", "cupyx", "cupyx.scipy", "cupyx.scipy.sparse", "cuml", "cuml.neighbors", "cuml.cluster")


def index_of(*n_examples, gate=()):
    """An index of neurons with so many examples, on two sides if `gate` names some."""
    sides = {"up": np.array([n_examples])} | ({"gate": np.array([gate])} if gate else {})
    return SimpleNamespace(
        info=SimpleNamespace(sides=tuple(sides)), of=lambda side: SimpleNamespace(n_examples=sides[side])
    )


@pytest.fixture
def cuml(monkeypatch):
    """Packages of cuML and CuPy that can be imported and do nothing."""
    for name in CUML:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def chosen(device, *indexes, **flags):
    return opening.named_library(settings.read(**flags), device) or opening.automatic_library(device, indexes)


def test_without_large_neurons_nothing_is_imported(monkeypatch):
    monkeypatch.setattr(libraries, "import_module", pytest.fail)
    assert chosen(GPU, index_of(3, 4096), index_of(0)) == "torch"
    assert chosen(CPU, index_of(5000)) == "torch"


def test_large_neurons_on_a_gpu_are_cumls_where_it_is_installed(cuml, monkeypatch):
    assert chosen(GPU, index_of(3, 4096), index_of(4097)) == "cuml"
    assert chosen(GPU, index_of(3, 4096, gate=(9, 4097))) == "cuml"
    monkeypatch.delitem(sys.modules, "cuml")
    assert chosen(GPU, index_of(4097)) == "torch"


def test_an_installed_cuml_that_cannot_be_imported_is_done_without(cuml, monkeypatch, caplog):
    def import_module(name):
        raise RuntimeError(f"{name}: the driver is too old")

    monkeypatch.setattr(libraries, "import_module", import_module)
    with caplog.at_level(logging.WARNING):
        assert chosen(GPU, index_of(4097)) == "torch"
    assert "cuml cannot be imported, so torch searches nearest neighbours: cupy: the driver is too old" in caplog.text
    with pytest.raises(FailedPrecondition, match=r"^setting neighbour_library: cupy: the driver is too old$"):
        chosen(GPU, index_of(4097), neighbour_library="cuml")


@pytest.mark.parametrize("name", ["torch", "scikit-learn"])
def test_the_settings_name_another(name):
    assert chosen(CPU, index_of(7), neighbour_library=name) == name


def test_one_that_is_not_installed_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(FailedPrecondition, match=r"which scikit-learn needs: pip install 'polysem\[server\]'$"):
        chosen(CPU, index_of(7), neighbour_library="scikit-learn")


def test_one_that_does_not_run_there_is_told():
    with pytest.raises(
        InvalidArgument, match=r"^setting neighbour_library: cuml does not run on cpu; choose scikit-learn or torch$"
    ) as raised:
        chosen(CPU, index_of(7), neighbour_library="cuml")
    assert raised.value.field == "neighbour_library"


def test_a_wrong_one_is_told_before_an_index_is_built(monkeypatch):
    monkeypatch.setattr(opening.demo_indexes, "ensure", pytest.fail)
    with pytest.raises(InvalidArgument, match="cuml does not run on cpu"):
        opening.open_engine(settings.read(device="cpu", neighbour_library="cuml"))


def test_one_that_there_is_not_is_told():
    with pytest.raises(InvalidArgument, match=r"setting neighbour_library: .*'faiss'"):
        settings.read(neighbour_library="faiss")


def test_a_server_says_and_uses_the_one_that_it_was_given(served):
    with served(neighbour_library="scikit-learn") as target, Client(target, token="") as client:
        assert client.info().neighbour_library == "scikit-learn"
        for neuron in client.cluster("0.0-9", algorithm="scc", neighbours=5):
            assert (neuron.method, neuron.library) == ("neighbours", "scikit-learn")


def test_what_large_neurons_need_is_compiled_and_imported_before_the_engine_is_there(index_folder, monkeypatch):
    ready = []
    monkeypatch.setattr(opening, "warm_up_large", lambda device, library: ready.append((device.type, library)))
    opening.open_engine(settings.read(index=[index_folder], device="cpu", neighbour_library="scikit-learn"))
    assert ready == [("cpu", "scikit-learn")]


def test_a_process_with_one_user_compiles_what_it_needs_when_it_needs_it(index_folder, monkeypatch):
    for name in ("warm_up", "warm_up_large", "warm_beside"):
        monkeypatch.setattr(opening, name, pytest.fail)
    opening.open_engine(settings.read(index=[index_folder], device="cpu"), warm=False)
