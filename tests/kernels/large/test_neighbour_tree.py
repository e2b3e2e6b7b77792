import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import squareform

from polysem.kernels.large import neighbour_tree, trees
from polysem.kernels.large.neighbours import neighbour_graph

from .made_up import clustered, exact_distances, near_copies, on_a_circle

FAR_APART = (0, 1, 2, 90, 91, 92, 180, 181, 182)


def tree_of(place, x, k):
    return neighbour_tree.single_linkage(x.to(place.device), k, place.library).cpu()


def exact_tree(x):
    return hierarchy.linkage(squareform(exact_distances(x).numpy(), checks=False), "single")


@pytest.mark.parametrize(("n_examples", "d_model"), [(2, 3), (3, 5), (17, 48), (100, 64), (300, 31)])
def test_with_enough_neighbours_equals_scipy(place, n_examples, d_model):
    x = clustered(3, n_examples, d_model)
    got, want = tree_of(place, x, n_examples - 1).numpy(), exact_tree(x)
    np.testing.assert_allclose(got[:, 2], want[:, 2], atol=5e-7)
    np.testing.assert_array_equal(got[:, [0, 1, 3]], want[:, [0, 1, 3]])


@pytest.mark.parametrize("k", [2, 5, 9, 18])
def test_the_trees_own_number_of_neighbours_counts(emulated, k):
    machine = emulated("lowest")
    neighbour_tree.single_linkage(clustered(0, 19, 8), k, "cuml")
    assert machine.calls[-1] == f"tree {k + 1}"  # oneself among them


def test_parts_of_the_graph_are_joined_at_their_closest_pairs(place):
    got = tree_of(place, on_a_circle(*FAR_APART), 1)
    at = [1 - np.cos(np.radians(a)) for a in (*[1] * 6, 88, 88)]
    torch.testing.assert_close(got[:, 2], torch.tensor(at), atol=1e-6, rtol=0)
    assert sorted(got[:, 3].tolist()) == [2, 2, 2, 3, 3, 3, 6, 9]


@pytest.mark.parametrize("made_up", [clustered, near_copies])
@pytest.mark.parametrize("k", [1, 4, 15])
def test_no_height_is_below_the_exact_trees(place, made_up, k):
    x = made_up(5, 200, 16)
    got = tree_of(place, x, k)
    assert hierarchy.is_valid_linkage(got.numpy())
    assert hierarchy.is_monotonic(got.numpy())
    assert (np.sort(got[:, 2].numpy()) >= exact_tree(x)[:, 2] - 2e-7).all()


@pytest.mark.parametrize("library", ["torch", "scikit-learn"])
@pytest.mark.parametrize("n_zeros", [0, 3])
def test_is_the_minimum_spanning_tree_of_the_graph(library, n_zeros):
    """SciPy's forest of the same edges, where the graph hangs together."""
    x = clustered(6, 150, 8, n_zeros)
    low, high, distances = neighbour_graph(x, 12, library)
    weights = distances.numpy() + 1e-9  # to SciPy a 0 is no edge
    forest = minimum_spanning_tree(coo_matrix((weights, (low.numpy(), high.numpy())), shape=(150, 150)))
    assert forest.nnz == 149
    got = neighbour_tree.single_linkage(x, 12, library)
    np.testing.assert_allclose(got[:, 2], np.sort(forest.data), atol=1e-7)


@pytest.mark.parametrize(("n_examples", "n_zeros"), [(2, 1), (2, 2), (3, 2), (60, 1), (60, 11), (60, 59), (60, 60)])
def test_with_zero_embeddings_no_height_is_above_one(place, n_examples, n_zeros):
    x = clustered(4, n_examples, 5, n_zeros)
    got, want = tree_of(place, x, n_examples - 1), exact_tree(x)
    assert hierarchy.is_valid_linkage(got.numpy())
    assert (got[:, 2] <= 1).all()
    np.testing.assert_allclose(got[:, 2], want[:, 2], atol=5e-7)


def test_copies_merge_at_zero(place):
    got = tree_of(place, on_a_circle(0, 60, 0, 60, 0), 4)
    assert got[:, 2].tolist()[:3] == [0, 0, 0]
    assert got[3, 2:].tolist() == pytest.approx([0.5, 5], abs=1e-6)


@pytest.mark.parametrize("n_examples", [0, 1])
def test_none_and_one(place, n_examples):
    assert tree_of(place, clustered(0, n_examples, 4), 3).shape == (0, 4)


def test_refuses_less_than_one_neighbour():
    with pytest.raises(ValueError, match=r"^k is 0; expected at least 1$"):
        neighbour_tree.single_linkage(torch.eye(3), 0)


@given(seed=st.integers(0, 2**32 - 1), n_examples=st.integers(2, 60), k=st.integers(1, 70))
@settings(max_examples=30)
def test_with_all_neighbours_is_the_exact_tree(seed, n_examples, k):
    x = clustered(seed, n_examples, 3, n_zeros=2)
    got = neighbour_tree.single_linkage(x, k)
    assert hierarchy.is_valid_linkage(got.numpy())
    exact = trees.single_linkage(x)
    assert (got[:, 2] >= exact[:, 2]).all()
    if k >= n_examples - 1:
        assert torch.equal(got[:, 2], exact[:, 2])


class TestCumlsTree:
    """Where its children are not those of the shortest tree, it is still a tree, with heights that are distances."""

    @pytest.fixture
    def linkage(self, emulated, monkeypatch):
        emulated("lowest")

        def of(children, x, k):
            monkeypatch.setattr(neighbour_tree, "cuml_children", lambda unit, k: torch.tensor(children))
            return neighbour_tree.single_linkage(x, k, "cuml")

        return of

    @pytest.mark.parametrize("k", [1, 3])
    def test_each_merge_is_at_the_closest_pair_of_its_children(self, linkage, k):
        # At 0°, 10°, 30°, 60°: 0 and 1 should be first. With k = 1 the graph has 0-1, 1-2, 2-3: none joins 0 and 2.
        got = linkage([[0, 2], [1, 4], [3, 5]], on_a_circle(0, 10, 30, 60), k)
        assert hierarchy.is_valid_linkage(got.numpy())
        at = [1 - np.cos(np.radians(a)) for a in (10, 30, 30)]  # 0-1, 0-2, 2-3
        torch.testing.assert_close(got[:, 2], torch.tensor(at), atol=1e-6, rtol=0)

    def test_small_blocks_change_nothing(self, linkage, monkeypatch):
        x = on_a_circle(*FAR_APART)
        children = [[0, 8], [1, 9], [2, 10], [3, 4], [12, 5], [7, 6], [13, 14], [15, 11]]
        want = linkage(children, x, 1)
        monkeypatch.setattr(neighbour_tree, "BLOCK", 2)
        assert torch.equal(linkage(children, x, 1), want)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=70), st.data())
@settings(max_examples=50)
def test_a_range_maximum_is_that_of_the_range(values, data):
    ends = st.integers(0, len(values))
    pairs = data.draw(st.lists(st.tuples(ends, ends).filter(lambda p: p[0] != p[1]), min_size=1, max_size=20))
    begin, end = torch.tensor([sorted(pair) for pair in pairs]).T
    got = neighbour_tree._range_maximum(torch.tensor(values), begin, end)
    assert got.tolist() == [max(values[min(pair) : max(pair)]) for pair in pairs]
