"""What is asked of cuML and CuPy is what they take, and the emulation does what their sources say."""

import inspect
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from . import emulated_cuml, signatures
from .emulated_cuml import AgglomerativeClustering, DeviceArray, NearestNeighbors
from .made_up import exact_distances, near_copies

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
RECORDED = json.loads((HERE / "signatures.json").read_text())
SITE = os.environ.get("POLYSEM_CUML_SITE")


def emulated(call):
    """The function or class of that name."""
    module, _, rest = call.rpartition(".")
    made = emulated_cuml.modules()
    names = [rest]
    while module not in made:
        module, _, name = module.rpartition(".")
        names.insert(0, name)
    value = made[module]
    for name in names:
        value = getattr(value, name)
    return value.__init__ if inspect.isclass(value) else value


@pytest.mark.parametrize("call", RECORDED)
def test_the_emulation_takes_the_arguments_that_the_package_takes(call):
    assert signatures.plain(str(inspect.signature(emulated(call)))) == RECORDED[call]["signature"]


def test_the_table_has_every_call_of_the_emulation_so_of_ours():
    offered = {
        f"{module}.{name}"
        for module, made in emulated_cuml.modules().items()
        for name, value in vars(made).items()
        if callable(value)
    }
    assert offered == {call for call in RECORDED if not call.endswith((".fit", ".kneighbors", ".tocsr", ".tocoo"))}


def test_the_metrics_that_are_asked_for_are_known():
    assert "cosine" in RECORDED["cuml.neighbors.NearestNeighbors"]["metrics"]
    assert "euclidean" in RECORDED["cuml.cluster.AgglomerativeClustering"]["metrics"]


def test_only_one_file_knows_cuml_and_cupy():
    knows = re.compile(r"""(?:import|from|\(["'])\s*(?:cuml|cupy)""")
    files = [path for room in ("kernels", "server", "client", "proto") for path in (ROOT / room).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if knows.search(path.read_text())}
    assert found == {"kernels/large/libraries.py"}


def test_the_page_on_cuml_has_every_call():
    page = (ROOT / "docs" / "cuml.md").read_text()
    missing = [call for call in RECORDED if f"`{call.rpartition('.')[2]}" not in page]
    assert missing == []


@pytest.mark.skipif(SITE is None, reason="make cuml-signatures installs the packages")
def test_the_table_is_what_the_installed_packages_say():
    assert signatures.installed(Path(SITE)) == RECORDED


# ---- The emulation, by hand


def device(*rows):
    return DeviceArray(np.array(rows, np.float32))


@pytest.fixture(autouse=True)
def lowest_first(monkeypatch):
    monkeypatch.setattr(emulated_cuml.MACHINE, "ties", "lowest")


def found(x, k, metric, named):
    model = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(x)
    return model.kneighbors(x if named else None, return_distance=False).values.tolist()


def test_small_euclidean_distances_are_0_where_norms_are_equal():
    near = np.array([[1, 1.02], [1.02, 1]], np.float32)  # squared 8e-4
    apart = np.array([[1, 1.04], [1.04, 1]], np.float32)  # 3.2e-3
    other = np.array([[1, 1.02], [1.02, 1.001]], np.float32)  # 7.6e-4, but of another norm
    of = [emulated_cuml.distances("euclidean", x, x)[0, 1] for x in (near, apart, other)]
    assert of == [0, pytest.approx(0.0566, rel=1e-3), pytest.approx(0.0276, rel=1e-2)]
    assert emulated_cuml.distances("cosine", near, near)[0, 1] == pytest.approx(1.96e-4, rel=1e-2)


def test_without_rows_the_first_column_is_dropped_whoever_it_is(monkeypatch):
    x = device([1, 0], [1, 0], [0, 1])
    assert found(x, 1, "euclidean", named=False) == [[1], [0], [0]]  # a second distance is 0: oneself is swapped first
    rounded = np.array([[1e-7, 0, 1], [0, 1e-7, 1], [1, 1, 0]])
    monkeypatch.setattr(emulated_cuml, "distances", lambda metric, a, b: rounded)
    assert found(x, 1, "cosine", named=False) == [[0], [1], [0]]  # oneself at 1e-7, and no second distance is 0


def test_of_near_copies_the_euclidean_search_finds_few_of_the_nearest_and_cosine_nearly_all(monkeypatch):
    monkeypatch.setattr(emulated_cuml.MACHINE, "ties", "shuffled")
    x = near_copies(7, 1000, 256)
    want = exact_distances(x).fill_diagonal_(np.inf).topk(25, largest=False).indices.numpy()
    right = {}
    for metric in ("euclidean", "cosine"):
        rows = found(DeviceArray(x.numpy()), 34, metric, named=True)
        mine = [[j for j in row if j != i][:25] for i, row in enumerate(rows)]
        right[metric] = np.mean([len(np.intersect1d(a, b)) / 25 for a, b in zip(mine, want, strict=True)])
    assert right["euclidean"] < 0.2  # 0.15
    assert right["cosine"] > 0.99


def test_named_rows_find_themselves():
    assert found(device([1, 0], [0, 1], [1, 1]), 2, "cosine", named=True) == [[0, 2], [1, 2], [2, 0]]


def test_more_neighbours_than_rows_are_refused():
    x = device([1, 0], [0, 1])
    with pytest.raises(ValueError, match="n_neighbors must be <= number of samples in index"):
        found(x, 2, "cosine", named=False)
    assert found(x, 2, "cosine", named=True) == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("ties", "want"), [("lowest", [0, 1]), ("highest", [3, 2])])
def test_equals_come_in_the_machines_order(monkeypatch, ties, want):
    monkeypatch.setattr(emulated_cuml.MACHINE, "ties", ties)
    assert found(device(*[[1, 0]] * 4), 2, "cosine", named=True)[0] == want


@pytest.mark.parametrize(("n", "c", "k"), [(1000, 15, 24), (1024, 15, 25), (8, 0, 3), (8, -9, 2), (8, 15, 8)])
def test_the_tree_is_of_so_many_neighbours(n, c, k):
    assert emulated_cuml.n_nearest(n, c) == k


def test_the_trees_children_join_the_parts_that_neighbours_leave():
    x = device([0, 0], [0, 1], [9, 0], [9, 1], [0, 50])
    model = AgglomerativeClustering(metric="euclidean", c=-2).fit(x)  # one neighbour each
    assert model.children_.dtype == np.int32
    assert [sorted(row) for row in model.children_.values.tolist()] == [[0, 1], [2, 3], [5, 6], [4, 7]]
    assert not hasattr(model, "distances_")


def test_arrays_of_the_device_do_not_become_numpys():
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(device([1, 0]))
