import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from torch.utils._python_dispatch import TorchDispatchMode

from polysem.kernels import scc
from polysem.kernels.large import embeddings, libraries, neighbour_tree, neighbours
from polysem.kernels.large.embeddings import pair_distances
from polysem.kernels.large.libraries import Cells
from polysem.kernels.tree import cut

from .made_up import LINEAR, UP_TO_TWO, clustered, exact_distances, near_copies, on_a_circle


def nearest(place, x, k):
    found = neighbours.nearest_neighbours(x.to(place.device), k, place.library)
    return tuple(tensor.cpu() for tensor in found)


def scc_linkage(place, x, taus, *arguments):
    return neighbours.scc_linkage(x.to(place.device), taus.to(place.device), *arguments, library=place.library).cpu()


def as_matrix(unit):
    """The distances of all to all, as `nearest_neighbours` measures them, (1, N, N)."""
    n = len(unit)
    distances, columns = neighbours.nearest_neighbours(unit, max(n - 1, 0))
    return torch.zeros(n, n).scatter_(1, columns, distances)[None]


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that torch made meanwhile."""

    n_numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.n_numbers = max(self.n_numbers, made.numel())
        return made


class TestNearestNeighbours:
    @pytest.mark.parametrize(("n_examples", "d_model", "k"), [(2, 3, 1), (5, 3, 4), (17, 48, 5), (300, 64, 25)])
    def test_equal_a_full_sort(self, place, n_examples, d_model, k):
        x = clustered(0, n_examples, d_model)
        distances, columns = nearest(place, x, k)
        want, order = exact_distances(x).fill_diagonal_(torch.inf).sort(1)
        assert (distances.dtype, columns.dtype) == (torch.float32, torch.int64)
        assert torch.equal(columns, order[:, :k])
        torch.testing.assert_close(distances.double(), want[:, :k], atol=5e-7, rtol=0)

    @pytest.mark.parametrize("k", [1, 25])
    def test_are_right_among_near_copies(self, place, k):
        x = near_copies(7, 600, 64)
        _, columns = nearest(place, x, k)
        want, order = exact_distances(x).fill_diagonal_(torch.inf).sort(1)
        assert not (columns == torch.arange(600)[:, None]).any()
        assert (exact_distances(x).gather(1, columns)[:, -1] - want[:, k - 1]).max() < 1.2e-7  # two steps of the grid
        right = [len(np.intersect1d(a, b)) / k for a, b in zip(columns.numpy(), order[:, :k].numpy(), strict=True)]
        assert np.mean(right) > 0.995  # the others are as near on the grid of distances

    def test_are_not_oneself_even_among_copies(self, place):
        distances, columns = nearest(place, on_a_circle(0, 90, 0, 0, 91), 2)
        assert columns.tolist() == [[2, 3], [4, 0], [0, 3], [0, 2], [1, 0]]
        assert (distances[[0, 2, 3]] == 0).all()

    def test_are_not_oneself_in_a_crowd_of_copies(self, place):
        x = on_a_circle(*[10] * 60, *[100] * 3)
        distances, columns = nearest(place, x, 5)
        assert not (columns == torch.arange(63)[:, None]).any()
        assert all(len(set(row)) == 5 for row in columns.tolist())
        assert (columns[:60] < 60).all()
        assert (distances[:60] == 0).all()
        assert columns[60:, :2].tolist() == [[61, 62], [60, 62], [60, 61]]

    def test_zero_embeddings_are_at_distance_one(self, place):
        x = on_a_circle(0, 0, 170, 0, 60)
        x[[1, 3]] = 0.0
        distances, columns = nearest(place, x, 3)
        assert columns.tolist() == [[4, 1, 3], [0, 2, 3], [1, 3, 4], [0, 1, 2], [0, 1, 3]]
        assert (distances[[1, 3]] == 1).all()
        torch.testing.assert_close(distances[0], torch.tensor([0.5, 1.0, 1.0]))
        assert distances[2, 2] > 1

    @pytest.mark.parametrize(("n_zeros", "k"), [(1, 20), (30, 20), (69, 20), (30, 69)])
    def test_equal_a_full_sort_with_zeros(self, place, n_zeros, k):
        x = clustered(9, 70, 6, n_zeros)
        distances, columns = nearest(place, x, k)
        want, order = exact_distances(x).fill_diagonal_(torch.inf).sort(dim=1, stable=True)
        torch.testing.assert_close(distances.double(), want[:, :k], atol=5e-7, rtol=0)
        assert torch.equal(columns, order[:, :k])

    @pytest.mark.parametrize("n_examples", [1, 2, 7])
    def test_only_zero_embeddings(self, place, n_examples):
        distances, columns = nearest(place, torch.zeros(n_examples, 3), n_examples - 1)
        everyone = set(range(n_examples))
        assert [set(row) for row in columns.tolist()] == [everyone - {i} for i in range(n_examples)]
        assert (distances == 1).all()

    def test_are_measured_alike_in_any_company(self, monkeypatch):
        x = clustered(8, 90, 37, n_zeros=2)
        u, v = torch.arange(90), torch.randint(90, (90, 7), generator=torch.Generator().manual_seed(1))
        want = pair_distances(x, u, v)
        alone = [pair_distances(x, u, v[:, j]) for j in range(7)]
        assert torch.equal(want, torch.stack(alone, 1))
        assert torch.equal(want[:, 3], pair_distances(x, v[:, 3], u))
        monkeypatch.setitem(embeddings.PAIRS, "cpu", 3)
        assert torch.equal(want, pair_distances(x, u, v))

    def test_are_measured_a_few_at_once(self):
        x, v = clustered(8, 900, 5), torch.zeros(900, 7, dtype=torch.int64)
        with Largest() as seen:
            pair_distances(x, torch.arange(900), v)
        assert seen.n_numbers <= max(5 * embeddings.PAIRS["cpu"], v.numel())

    def test_are_symmetric_to_the_bit(self):
        d = as_matrix(clustered(1, 100, 33, n_zeros=3))[0]
        assert torch.equal(d, d.T)
        assert torch.equal(d * 2**24, (d * 2**24).round())

    @pytest.mark.parametrize("n_examples", [0, 1, 5])
    def test_none_asked_for(self, place, n_examples):
        distances, columns = nearest(place, clustered(0, n_examples, 4), 0)
        assert distances.shape == columns.shape == (n_examples, 0)

    @pytest.mark.parametrize("k", [-1, 5])
    def test_refuse_more_than_there_are(self, k):
        with pytest.raises(ValueError, match=rf"^k is {k}; expected 0..4 \(N - 1\)$"):
            neighbours.nearest_neighbours(clustered(0, 5, 4), k)

    def test_of_blocks_are_the_same(self, monkeypatch):
        x = clustered(5, 80, 6)
        want = neighbours.nearest_neighbours(x, 9)
        monkeypatch.setattr(libraries, "BLOCK", 200)
        got = neighbours.nearest_neighbours(x, 9)
        assert torch.equal(got[1], want[1])


def test_cuml_is_asked_for_cosines_of_named_rows_and_for_more_than_k(emulated):
    machine = emulated("lowest")
    neighbours.nearest_neighbours(clustered(0, 50, 8), 25, "cuml")
    assert machine.calls == ["cosine 34"]  # oneself, and SPARE
    neighbours.nearest_neighbours(clustered(0, 20, 8), 19, "cuml")
    assert machine.calls[1:] == ["cosine 20"]


@given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(1, 40), k=st.integers(1, 45))
@settings(max_examples=30)
def test_the_graph_has_each_edge_of_a_nearest_neighbour_once(seed, n_examples, k):
    x = clustered(seed, n_examples, 3, n_zeros=2)
    k = min(k, n_examples - 1)
    distances, columns = neighbours.nearest_neighbours(x, k)
    want = {}
    for i in range(n_examples):
        for j, distance in zip(columns[i].tolist(), distances[i].tolist(), strict=True):
            want[min(i, j), max(i, j)] = distance
    low, high, measured = (part.tolist() for part in neighbours.neighbour_graph(x, k))
    assert list(zip(low, high, strict=True)) == sorted(want)
    assert measured == [want[pair] for pair in sorted(want)]


class TestSums:
    def test_by_hand(self, place):
        rows, columns = torch.tensor([2, 0, 2, 0, 1]), torch.tensor([0, 1, 0, 1, 2])
        values = torch.tensor([0.5, -1.0, 0.25, 1.0, 2.0], dtype=torch.float64)
        cells = Cells(*(part.to(place.device) for part in (rows, columns, values)))
        got = libraries.sums(cells, 3, place.library)
        assert [part.tolist() for part in got] == [[0, 1, 2], [1, 2, 0], [0.0, 2.0, 0.75]]  # the sum 0 stays

    def test_are_the_same_bits_by_every_library(self, place):
        generator = torch.Generator().manual_seed(3)
        rows, columns = torch.randint(0, 9, (2, 4000), generator=generator)
        values = torch.randint(-(2**24), 2**24, (4000,), generator=generator).double() * 2**-24
        cells = Cells(*(part.to(place.device) for part in (rows, columns, values)))
        got = libraries.sums(cells, 9, place.library)
        want = libraries.sums(Cells(rows, columns, values), 9, "torch")
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a.cpu(), b)
            assert a.dtype == b.dtype

    def test_of_nothing(self, place):
        nothing = torch.empty(0, dtype=torch.int64, device=place.device)
        got = libraries.sums(Cells(nothing, nothing, nothing.double()), 3, place.library)
        assert [len(part) for part in got] == [0, 0, 0]


class TestScc:
    @pytest.mark.parametrize("until_stable", [False, True])
    @pytest.mark.parametrize(("n_examples", "d_model", "n_zeros"), [(2, 3, 0), (40, 5, 0), (40, 5, 6), (300, 64, 0)])
    def test_with_all_neighbours_equals_the_complete_graph(self, place, until_stable, n_examples, d_model, n_zeros):
        x = clustered(2, n_examples, d_model, n_zeros)  # with negative cosines
        got = scc_linkage(place, x, UP_TO_TWO, n_examples - 1, until_stable)
        want = scc.linkage(as_matrix(x), torch.tensor([n_examples]), UP_TO_TWO, until_stable)[0]
        assert torch.equal(got, want)

    @pytest.mark.parametrize("made_up", [clustered, near_copies])
    def test_is_the_same_tree_by_every_library(self, place, made_up):
        x = made_up(4, 400, 32)
        taus = torch.tensor([1e-4, 1.5e-4, 2e-4, 3e-4, *LINEAR.tolist()], dtype=torch.float64)
        assert torch.equal(scc_linkage(place, x, taus, 9), neighbours.scc_linkage(x, taus, 9, library="torch"))

    def test_a_missing_edge_counts_as_similarity_zero(self, place):
        # One neighbour each: 0 -> 1, 1 -> 0 (10°), 2 -> 1 (30°), 3 -> 2 (35°); the edges 0-1, 1-2 and 2-3 are kept.
        # Round 1, at 0.05: 0 and 1 (0.015). Now 2 is at 1 − cos 30° / 2 = 0.567 from {0, 1} and at 0.181 from 3.
        # Round 2, at 0.19: 2 and 3. Of the four pairs between {0, 1} and {2, 3} only 1-2 is
        # kept: 1 − cos 30° / 4 = 0.7835
        taus = torch.tensor([0.05, 0.19, 0.783, 0.784], dtype=torch.float64)
        got = scc_linkage(place, on_a_circle(0, 10, 40, 75), taus, 1)
        assert got.tolist() == [[0, 1, 0.05, 2], [2, 3, 0.19, 2], [4, 5, 0.784, 4]]

    def test_sub_clusters_without_an_edge_never_merge(self, place):
        x = on_a_circle(0, 1, 90, 92)
        got = scc_linkage(place, x, UP_TO_TWO, 1)
        assert cut(got[None], torch.tensor([4]), 1.99)[0].tolist() == [0, 0, 1, 1]
        got = scc_linkage(place, x, UP_TO_TWO, 2)
        assert cut(got[None], torch.tensor([4]), 1.05)[0].tolist() == [0, 0, 0, 0]

    @pytest.mark.parametrize("degrees", [180, 90])
    def test_edges_of_negative_similarity_and_of_zero_are_edges(self, place, degrees):
        distance = 1 - round(np.cos(np.radians(degrees)), 12)
        taus = torch.tensor([distance - 0.01, min(distance + 0.01, 2.0)], dtype=torch.float64)
        got = scc_linkage(place, on_a_circle(0, degrees), taus)
        assert got.tolist() == [[0, 1, taus[1].item(), 2]]

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, place, n_examples):
        assert scc_linkage(place, clustered(0, n_examples, 4), LINEAR).shape == (0, 4)

    @given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(2, 60), k=st.integers(1, 70))
    @settings(max_examples=30)
    def test_is_a_tree_of_nested_rounds(self, seed, n_examples, k):
        got = neighbours.scc_linkage(clustered(seed, n_examples, 3, n_zeros=2), LINEAR, k)
        assert hierarchy.is_valid_linkage(got.numpy())
        assert hierarchy.is_monotonic(got.numpy())
        assert set(got[:, 2].tolist()) <= {*LINEAR.tolist(), 2.0}

    def test_merges_copies_in_the_first_round(self, place):
        got = scc_linkage(place, on_a_circle(0, 90, 0, 45, 90, 0), UP_TO_TWO[:1], 2)
        assert cut(got[None], torch.tensor([6]), 0.0)[0].tolist() == [0, 1, 0, 2, 1, 0]

    def test_refuses_what_is_not_as_documented(self):
        x = clustered(0, 5, 4)
        with pytest.raises(ValueError, match=r"^k is 0; expected at least 1$"):
            neighbours.scc_linkage(x, LINEAR, 0)
        with pytest.raises(ValueError, match=r"thresholds must increase: 0.5 is followed by 0.4"):
            neighbours.scc_linkage(x, torch.tensor([0.5, 0.4], dtype=torch.float64))


class TestRefuses:
    CALLS = pytest.mark.parametrize(
        "call",
        [
            lambda x, library=None: neighbours.nearest_neighbours(x, 1, library),
            lambda x, library=None: neighbours.scc_linkage(x, LINEAR, library=library),
            lambda x, library=None: neighbour_tree.single_linkage(x, library=library),
        ],
        ids=["nearest_neighbours", "scc_linkage", "single_linkage"],
    )

    @CALLS
    def test_rows_that_are_not_normalised(self, call):
        x = torch.eye(4)
        x[2, 2] = float("nan")
        with pytest.raises(ValueError, match=r"^unit\[2\] has length nan; expected 1, or 0 for a zero embedding$"):
            call(x)
        with pytest.raises(TypeError, match=r"unit must be torch.float32, not torch.float16"):
            call(torch.eye(3).half())

    @CALLS
    def test_a_library_that_does_not_run_there(self, call, monkeypatch):
        with pytest.raises(ValueError, match=r"^cuml does not run on cpu; choose scikit-learn or torch$"):
            call(torch.eye(3), "cuml")
        with pytest.raises(ValueError, match=r"^library is 'faiss'; expected one of cuml, scikit-learn, torch$"):
            call(torch.eye(3), "faiss")
        monkeypatch.setattr(libraries, "is_gpu", lambda device: True)
        with pytest.raises(ValueError, match=r"^scikit-learn does not run on .*; choose cuml or torch$"):
            call(torch.eye(3), "scikit-learn")

    @CALLS
    @pytest.mark.parametrize(
        ("library", "name", "extras"),
        [
            ("scikit-learn", "sklearn.neighbors", "server"),
            ("cuml", "cuml.neighbors", "server,cuda"),
            ("cuml", "cupy", "server,cuda"),
        ],
    )
    def test_missing_libraries_say_what_to_install(self, call, monkeypatch, emulated, library, name, extras):
        if library == "cuml":
            emulated("lowest")
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError, match=rf"which {library} needs: pip install 'polysem\[{extras}\]'$"):
            call(torch.eye(3), library)


class TestDefaultLibrary:
    def test_is_torch_on_the_cpu(self):
        assert libraries.default_library(torch.device("cpu")) == "torch"

    def test_on_a_gpu_is_cuml_where_it_and_cupy_are_installed_and_torch_elsewhere(self, emulated, monkeypatch):
        emulated("lowest")
        assert libraries.default_library(torch.device("cuda")) == "cuml"
        monkeypatch.delitem(sys.modules, "cupy")
        assert libraries.default_library(torch.device("cuda")) == "torch"

    @pytest.mark.parametrize("library", ["torch", "scikit-learn"])
    def test_loads_what_it_needs(self, library):
        libraries.load(library)

    def test_loading_cuml_imports_it_and_cupy(self, emulated, monkeypatch):
        emulated("lowest")
        libraries.load("cuml")
        monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", None)
        with pytest.raises(ModuleNotFoundError, match=r"cupyx.scipy.sparse is not installed, which cuml needs"):
            libraries.load("cuml")
        assert isinstance(sys.modules["cuml"], ModuleType)


@pytest.mark.parametrize(("device", "want"), [("cuda:1", ["cuda:1", "empty", "theirs"]), ("cpu", ["theirs"])])
def test_torchs_cache_is_emptied_on_the_device_before_another_library_takes_memory(monkeypatch, device, want):
    seen = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: seen.append(str(device)) or nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append("empty"))
    with libraries.handed_over(SimpleNamespace(device=torch.device(device))):
        seen.append("theirs")
    assert seen == want


def test_a_round_is_one_pass_unless_it_is_to_be_repeated():
    angles = torch.tensor([0.0, 0.1, 0.3, 0.4])
    unit, threshold = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([1.0], dtype=torch.float64)
    once, again = neighbours.scc_linkage(unit, threshold), neighbours.scc_linkage(unit, threshold, until_stable=True)
    assert once[:2, :2].tolist() == [[0, 1], [2, 3]]
    assert once[2, 2] == 2  # joined after the last round
    assert again[2, 2] == 1
