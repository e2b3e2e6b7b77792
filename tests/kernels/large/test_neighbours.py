import sys
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse
import sklearn.cluster
import sklearn.neighbors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from polysem.kernels import scc
from polysem.kernels.large import neighbours
from polysem.kernels.large.embeddings import unit_embeddings
from polysem.kernels.tree import cut

LINEAR = torch.tensor([r / 50 for r in range(1, 51)], dtype=torch.float64)
UP_TO_TWO = torch.linspace(0, 2, 41, dtype=torch.float64)


class BruteForceNeighbors:
    """scikit-learn's search behind as much of cuML's interface as we use, with its types."""

    def __init__(self, *, n_neighbors, metric, algorithm):
        self.model = sklearn.neighbors.NearestNeighbors(n_neighbors=n_neighbors, metric=metric, algorithm=algorithm)

    def fit(self, x):
        assert x.dtype == np.float32
        self.model.fit(x)
        return self

    def kneighbors(self, *, return_distance):
        assert not return_distance
        return self.model.kneighbors(return_distance=False).astype(np.int64)


class ChildrenOnlyClustering:
    """SciPy's tree behind as much of cuML's interface as we use: children of int32 in no order, and no heights."""

    def __init__(self, *, metric, linkage):
        assert (metric, linkage) == ("euclidean", "single")

    def fit(self, x):
        children = hierarchy.linkage(np.asarray(x, np.float64), "single")[:, :2].astype(np.int32)
        children[::2] = children[::2, ::-1]
        self.children_ = children
        return self


@pytest.fixture(params=["scikit-learn", "cuML's interface", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The CPU with its libraries, with others in the place of cuML and CuPy, and a GPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        pytest.importorskip("cuml")
        return "cuda"
    if request.param == "cuML's interface":
        cuml, cupy, cupyx = ModuleType("cuml"), ModuleType("cupy"), ModuleType("cupyx")
        cupy.from_dlpack = np.from_dlpack
        cupyx.scipy = ModuleType("cupyx.scipy")
        cupyx.scipy.sparse = scipy.sparse
        cuml.neighbors, cuml.cluster = ModuleType("cuml.neighbors"), ModuleType("cuml.cluster")
        cuml.neighbors.NearestNeighbors = BruteForceNeighbors
        cuml.cluster.AgglomerativeClustering = ChildrenOnlyClustering
        for module in (cuml, cupy, cupyx, cuml.neighbors, cuml.cluster, cupyx.scipy):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", scipy.sparse)
        monkeypatch.setattr(neighbours, "on_gpu", lambda tensor: True)
    return "cpu"


def clustered(seed, n_examples, d_model, n_zeros=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, d_model, generator=generator)
    x = centres[torch.randint(5, (n_examples,), generator=generator)]
    x = x + torch.randn(x.shape, generator=generator)
    x[torch.randperm(n_examples, generator=generator)[:n_zeros]] = 0.0
    return unit_embeddings(x, torch.ones(d_model))


def on_a_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def exact_distances(unit):
    return (1 - unit.double() @ unit.double().T).clamp(0, 2).fill_diagonal_(0)


def as_matrix(unit):
    """The distances of all to all, as `nearest_neighbours` measures them, (1, N, N)."""
    n = len(unit)
    distances, columns = neighbours.nearest_neighbours(unit, max(n - 1, 0))
    return torch.zeros(n, n).scatter_(1, columns, distances)[None]


class TestNearestNeighbours:
    @pytest.mark.parametrize(("n_examples", "d_model", "k"), [(2, 3, 1), (5, 3, 4), (17, 48, 5), (300, 64, 25)])
    def test_equal_a_full_sort(self, device, n_examples, d_model, k):
        x = clustered(0, n_examples, d_model)
        distances, columns = (tensor.cpu() for tensor in neighbours.nearest_neighbours(x.to(device), k))
        want, order = exact_distances(x).fill_diagonal_(torch.inf).sort(1)
        assert (distances.dtype, columns.dtype) == (torch.float32, torch.int64)
        assert torch.equal(columns, order[:, :k])
        torch.testing.assert_close(distances.double(), want[:, :k], atol=5e-7, rtol=0)

    def test_are_not_oneself_even_among_copies(self, device):
        x = on_a_circle(0, 90, 0, 0, 91)
        distances, columns = neighbours.nearest_neighbours(x.to(device), 2)
        assert [sorted(row) for row in columns.tolist()][:4:2] == [[2, 3], [0, 3]]
        assert (distances[[0, 2, 3]] == 0).all()
        assert columns[1, 0] == 4

    def test_zero_embeddings_are_at_distance_one(self, device):
        x = on_a_circle(0, 0, 170, 0, 60)
        x[[1, 3]] = 0.0
        distances, columns = (tensor.cpu() for tensor in neighbours.nearest_neighbours(x.to(device), 3))
        assert columns.tolist() == [[4, 1, 3], [0, 2, 3], [1, 3, 4], [0, 1, 2], [0, 1, 3]]
        assert (distances[[1, 3]] == 1).all()
        torch.testing.assert_close(distances[0], torch.tensor([0.5, 1.0, 1.0]))
        assert distances[2, 2] > 1

    @pytest.mark.parametrize("n_examples", [1, 2, 7])
    def test_only_zero_embeddings(self, device, n_examples):
        distances, columns = neighbours.nearest_neighbours(torch.zeros(n_examples, 3, device=device), n_examples - 1)
        everyone = set(range(n_examples))
        assert [set(row) for row in columns.tolist()] == [everyone - {i} for i in range(n_examples)]
        assert (distances == 1).all()

    def test_are_symmetric_to_the_bit(self, device):
        d = as_matrix(clustered(1, 100, 33, n_zeros=3).to("cpu"))[0]
        assert torch.equal(d, d.T)
        assert torch.equal(d * 2**24, (d * 2**24).round())

    @pytest.mark.parametrize("n_examples", [0, 1, 5])
    def test_none_asked_for(self, device, n_examples):
        distances, columns = neighbours.nearest_neighbours(clustered(0, n_examples, 4).to(device), 0)
        assert distances.shape == columns.shape == (n_examples, 0)

    @pytest.mark.parametrize("k", [-1, 5])
    def test_refuse_more_than_there_are(self, k):
        with pytest.raises(ValueError, match=rf"^k is {k}; expected 0..4 \(N - 1\)$"):
            neighbours.nearest_neighbours(clustered(0, 5, 4), k)


class TestScc:
    @pytest.mark.parametrize("until_stable", [False, True])
    @pytest.mark.parametrize(("n_examples", "d_model", "n_zeros"), [(2, 3, 0), (40, 5, 0), (40, 5, 6), (300, 64, 0)])
    def test_with_all_neighbours_equals_the_complete_graph(self, device, until_stable, n_examples, d_model, n_zeros):
        x = clustered(2, n_examples, d_model, n_zeros)  # with negative cosines
        got = neighbours.scc_linkage(x.to(device), UP_TO_TWO.to(device), n_examples - 1, until_stable).cpu()
        want = scc.linkage(as_matrix(x), torch.tensor([n_examples]), UP_TO_TWO, until_stable)[0]
        assert torch.equal(got, want)

    def test_a_missing_edge_counts_as_similarity_zero(self, device):
        # One neighbour each: 0 -> 1, 1 -> 0 (10°), 2 -> 1 (30°), 3 -> 2 (35°); the edges 0-1, 1-2 and 2-3 are kept.
        # Round 1, at 0.05: 0 and 1 (0.015). Now 2 is at 1 − cos 30° / 2 = 0.567 from {0, 1} and at 0.181 from 3.
        # Round 2, at 0.19: 2 and 3. Of the four pairs between {0, 1} and {2, 3} only 1-2 is
        # kept: 1 − cos 30° / 4 = 0.7835
        taus = torch.tensor([0.05, 0.19, 0.783, 0.784], dtype=torch.float64)
        got = neighbours.scc_linkage(on_a_circle(0, 10, 40, 75).to(device), taus.to(device), 1)
        assert got.tolist() == [[0, 1, 0.05, 2], [2, 3, 0.19, 2], [4, 5, 0.784, 4]]

    def test_sub_clusters_without_an_edge_never_merge(self, device):
        x = on_a_circle(0, 1, 90, 92)
        got = neighbours.scc_linkage(x.to(device), UP_TO_TWO.to(device), 1).cpu()
        assert cut(got[None], torch.tensor([4]), 1.99)[0].tolist() == [0, 0, 1, 1]
        got = neighbours.scc_linkage(x.to(device), UP_TO_TWO.to(device), 2).cpu()
        assert cut(got[None], torch.tensor([4]), 1.05)[0].tolist() == [0, 0, 0, 0]

    @pytest.mark.parametrize("degrees", [180, 90])
    def test_edges_of_negative_similarity_and_of_zero_are_edges(self, device, degrees):
        distance = 1 - round(np.cos(np.radians(degrees)), 12)
        taus = torch.tensor([distance - 0.01, min(distance + 0.01, 2.0)], dtype=torch.float64)
        got = neighbours.scc_linkage(on_a_circle(0, degrees).to(device), taus.to(device))
        assert got.tolist() == [[0, 1, taus[1].item(), 2]]

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, device, n_examples):
        assert neighbours.scc_linkage(clustered(0, n_examples, 4).to(device), LINEAR.to(device)).shape == (0, 4)

    @given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(2, 60), k=st.integers(1, 70))
    @settings(max_examples=30)
    def test_is_a_tree_of_nested_rounds(self, seed, n_examples, k):
        got = neighbours.scc_linkage(clustered(seed, n_examples, 3, n_zeros=2), LINEAR, k)
        assert hierarchy.is_valid_linkage(got.numpy())
        assert hierarchy.is_monotonic(got.numpy())
        assert set(got[:, 2].tolist()) <= {*LINEAR.tolist(), 2.0}

    def test_merges_copies_in_the_first_round(self, device):
        x = on_a_circle(0, 90, 0, 45, 90, 0)
        got = neighbours.scc_linkage(x.to(device), UP_TO_TWO[:1].to(device), 2).cpu()
        assert cut(got[None], torch.tensor([6]), 0.0)[0].tolist() == [0, 1, 0, 2, 1, 0]

    def test_refuses_what_is_not_as_documented(self):
        x = clustered(0, 5, 4)
        with pytest.raises(ValueError, match=r"^k is 0; expected at least 1$"):
            neighbours.scc_linkage(x, LINEAR, 0)
        with pytest.raises(ValueError, match=r"thresholds must increase: 0.5 is followed by 0.4"):
            neighbours.scc_linkage(x, torch.tensor([0.5, 0.4], dtype=torch.float64))


class TestSingleLinkage:
    @pytest.mark.parametrize(("n_examples", "d_model"), [(2, 3), (3, 5), (17, 48), (100, 64), (400, 31)])
    def test_equals_scipy(self, device, n_examples, d_model):
        x = clustered(3, n_examples, d_model)
        got = neighbours.single_linkage(x.to(device)).cpu().numpy()
        want = hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "single")
        np.testing.assert_allclose(got[:, 2], want[:, 2], atol=5e-7)
        np.testing.assert_array_equal(got[:, [0, 1, 3]], want[:, [0, 1, 3]])

    @pytest.mark.parametrize(("n_examples", "n_zeros"), [(2, 1), (2, 2), (3, 2), (60, 1), (60, 11), (60, 59), (60, 60)])
    def test_with_zero_embeddings_heights_equal_scipy(self, device, n_examples, n_zeros):
        x = clustered(4, n_examples, 2, n_zeros)  # on a circle, so that some are at more than 1
        got = neighbours.single_linkage(x.to(device)).cpu().numpy()
        want = hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "single")
        assert hierarchy.is_valid_linkage(got)
        np.testing.assert_allclose(got[:, 2], want[:, 2], atol=5e-7)

    def test_copies_merge_at_zero(self, device):
        got = neighbours.single_linkage(on_a_circle(0, 60, 0, 60, 0).to(device))
        assert got[:, 2].tolist()[:3] == [0, 0, 0]
        assert got[3, 2:].tolist() == pytest.approx([0.5, 5], abs=1e-6)

    @pytest.mark.parametrize("n_examples", [0, 1])
    def test_none_and_one(self, device, n_examples):
        assert neighbours.single_linkage(clustered(0, n_examples, 4).to(device)).shape == (0, 4)

    def test_blocks_change_nothing(self, device, monkeypatch):
        x = clustered(5, 80, 6).to(device)
        want = neighbours.single_linkage(x)
        monkeypatch.setattr(neighbours, "BLOCK", 50)
        assert torch.equal(neighbours.single_linkage(x), want)

    def test_another_spanning_tree_is_labelled_by_its_closest_pairs(self, device, monkeypatch):
        """A library's tree that is not the shortest still gives a tree, its merges where their closest pairs are."""
        children = np.array([[0, 2], [1, 4], [3, 5]], np.int32)  # at 0°, 10°, 30°, 60°: 0 and 1 should be first
        modules = neighbours.modules_of(torch.eye(4))
        cluster = ModuleType("cluster")
        cluster.AgglomerativeClustering = lambda **options: type(
            "Fixed", (), {"fit": lambda self, x: self, "children_": children}
        )()
        monkeypatch.setattr(neighbours, "modules_of", lambda tensor: modules._replace(cluster=cluster))
        got = neighbours.single_linkage(on_a_circle(0, 10, 30, 60))
        assert hierarchy.is_valid_linkage(got.numpy())
        assert hierarchy.is_monotonic(got.numpy())
        pairs = [10, 30, 30]  # 0-1, 0-2, 2-3
        torch.testing.assert_close(
            got[:, 2], torch.tensor([1 - np.cos(np.radians(a)) for a in pairs]), atol=1e-6, rtol=0
        )


class TestRefuses:
    CALLS = pytest.mark.parametrize(
        "call",
        [
            lambda x: neighbours.nearest_neighbours(x, 1),
            lambda x: neighbours.scc_linkage(x, LINEAR),
            neighbours.single_linkage,
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
    @pytest.mark.parametrize(
        ("gpu", "name", "extras"),
        [(False, "sklearn.neighbors", "server"), (True, "cuml.cluster", "server,cuda"), (True, "cupy", "server,cuda")],
    )
    def test_missing_libraries_say_what_to_install(self, call, monkeypatch, gpu, name, extras):
        for module in ("cuml", "cuml.cluster", "cuml.neighbors"):
            monkeypatch.setitem(sys.modules, module, ModuleType(module))
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(neighbours, "on_gpu", lambda tensor: gpu)
        with pytest.raises(ModuleNotFoundError, match=rf"needs?: pip install 'polysem\[{extras}\]'$"):
            call(torch.eye(3))
