import numpy as np
import pytest
import torch
from fastcluster import linkage as fastcluster_linkage
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from polysem.kernels.agglomerative import linkage, linkage_reference
from polysem.kernels.definitions import LINKAGES
from polysem.kernels.distances import weighted_cosine_distances

BOTH = pytest.mark.parametrize("function", [linkage, linkage_reference])
METHOD = pytest.mark.parametrize("method", LINKAGES)
OF_PAIRS = {"average": np.mean, "complete": np.max, "single": np.min}

# 0 and 1 are close, 2 is nearer to 1 than to 0
THREE = torch.tensor([[[0.0, 0.25, 1.0], [0.25, 0.0, 0.5], [1.0, 0.5, 0.0]]])


def assert_tree_of(d, Z, method):
    """Each row joins two clusters that are, by the definition, as near as its height, and none were nearer."""
    n = len(d)
    members = [[i] for i in range(n)]
    live = set(range(n))
    for row, (u, v, height, size) in enumerate(Z):
        u, v = int(u), int(v)
        far = {(a, c): OF_PAIRS[method](d[np.ix_(members[a], members[c])]) for a in live for c in live if a < c}
        assert height == pytest.approx(far[u, v], abs=1e-5)
        assert height == pytest.approx(min(far.values()), abs=1e-5)
        members.append(members[u] + members[v])
        assert size == len(members[-1])
        live = live - {u, v} | {n + row}


@BOTH
@pytest.mark.parametrize(("method", "height"), [("average", 0.75), ("complete", 1.0), ("single", 0.5)])
def test_the_third_of_three_joins_at_mean_largest_or_smallest(function, method, height):
    got = function(THREE, torch.tensor([3]), method)
    assert got[0].tolist() == [[0, 1, 0.25, 2], [2, 3, height, 3]]


@BOTH
@METHOD
def test_none_one_and_two_examples(function, method):
    distances = torch.full((3, 2, 2), 0.5)
    got = function(distances, torch.tensor([0, 1, 2]), method)
    assert got.isnan().all(dim=2).tolist() == [[True], [True], [False]]
    assert got[2].tolist() == [[0, 1, 0.5, 2]]


@BOTH
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 0), (0, 5), (2, 0), (2, 1)])
def test_empty_shapes(function, n_neurons, width):
    got = function(torch.zeros(n_neurons, width, width), torch.zeros(n_neurons, dtype=torch.int32))
    assert got.shape == (n_neurons, max(width - 1, 0), 4)
    assert got.dtype == torch.float64


@METHOD
@pytest.mark.parametrize(("n_neurons", "width"), [(4, 3), (5, 17), (3, 41)])
def test_matches_reference(device, random_distances, n_neurons, width, method):
    distances = random_distances(width, n_neurons, width)
    n_examples = torch.arange(width - n_neurons + 1, width + 1, dtype=torch.int32)
    got = linkage(distances.to(device), n_examples, method).cpu()
    assert_allclose(got, linkage_reference(distances, n_examples, method), atol=1e-5, rtol=0)


@METHOD
@pytest.mark.parametrize("width", [2, 3, 17, 100, 257])
def test_is_the_tree_of_scipy_and_fastcluster(device, clustered_embeddings, width, method):
    n_examples = torch.full((3,), width)
    distances = weighted_cosine_distances(clustered_embeddings(width, 3, width, 768), torch.ones(3, 768), n_examples)
    got = linkage(distances.to(device), n_examples, method).cpu().numpy()
    for d, Z in zip(distances.double().numpy(), got, strict=True):
        assert hierarchy.is_valid_linkage(Z)
        assert hierarchy.is_monotonic(Z)
        condensed = squareform(d)
        for theirs in (hierarchy.linkage(condensed, method), fastcluster_linkage(condensed, method)):
            assert_allclose(Z[:, 2], theirs[:, 2], atol=1e-5, rtol=0)
            for cut in (0.3, 0.5, 0.7, 0.9):
                ours, others = (hierarchy.fcluster(tree, cut, "distance") for tree in (Z, theirs))
                assert adjusted_rand_score(ours, others) == 1


@METHOD
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(2, 12), n_levels=st.sampled_from([1, 2, 5, 2**20]))
def test_ties_give_a_valid_tree(device, random_distances, seed, width, n_levels, method):
    distances = random_distances(seed, 1, width, n_levels)
    Z = linkage(distances.to(device), torch.tensor([width]), method)[0].cpu().numpy()
    assert hierarchy.is_valid_linkage(Z)
    assert hierarchy.is_monotonic(Z)
    assert (Z[:, 0] < Z[:, 1]).all()
    assert_tree_of(distances[0].numpy().astype(np.float64), Z, method)


@METHOD
def test_equal_distances_all_join_there(device, method):
    Z = linkage(torch.ones(1, 100, 100), torch.tensor([100]), method)[0]
    assert hierarchy.is_valid_linkage(Z.numpy())
    assert Z[:, 2].tolist() == [1.0] * 99


@METHOD
@given(seed=st.integers(0, 2**32 - 1))
def test_distances_one_rounding_apart_give_a_tree_that_never_descends(device, seed, method):
    # means of these round to below their least, so a parent could come out lower than its child
    near = np.random.default_rng(seed).choice(np.float32([0.1, np.nextafter(np.float32(0.1), np.float32(1))]), (40, 40))
    upper = np.triu(near, 1)
    Z = linkage(torch.from_numpy((upper + upper.T)[None]), torch.tensor([40]), method)[0].numpy()
    assert hierarchy.is_valid_linkage(Z)
    assert hierarchy.is_monotonic(Z)
    sizes = np.concatenate([np.ones(40), Z[:, 3]])
    assert (Z[:, 3] == sizes[Z[:, 0].astype(int)] + sizes[Z[:, 1].astype(int)]).all()
    assert_allclose(Z[:, 2], 0.1, atol=1e-6)


@METHOD
def test_duplicates_join_at_zero(device, method):
    Z = linkage(torch.zeros(1, 7, 7), torch.tensor([7]), method)[0]
    assert Z[:, 2].tolist() == [0.0] * 6


def test_negative_zero_is_zero(device):
    distances = THREE.clone()
    distances[0, 0, 1] = distances[0, 1, 0] = -0.0
    assert linkage(distances, torch.tensor([3]))[0, 0].tolist() == [0, 1, 0, 2]


@METHOD
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 20))
def test_order_permutes_the_partition(device, random_distances, seed, width, method):
    distances = random_distances(seed, 1, width)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(width))
    n_examples = torch.tensor([width])
    straight = linkage(distances, n_examples, method)[0].numpy()
    permuted = linkage(distances[:, order][:, :, order], n_examples, method)[0].numpy()
    if width > 1:
        assert_allclose(straight[:, 2], permuted[:, 2], atol=1e-6)
        between = (straight[width // 2 - 1, 2] + straight[-1, 2]) / 2
        a, b = (hierarchy.fcluster(Z, between, "distance") for Z in (straight, permuted))
        assert adjusted_rand_score(a[order.numpy()], b) == 1


@METHOD
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(0, 20))
def test_batch_and_padding_change_no_bit(device, random_distances, seed, width, method):
    alone = random_distances(seed, 1, width)
    batch = random_distances(seed + 1, 4, width + 3)
    batch[2] = torch.nan
    batch[2, :width, :width] = alone[0]
    n_examples = torch.tensor([width + 3, 0, width, 2])
    got = linkage(batch, n_examples, method)[2]
    rows = max(width - 1, 0)
    assert got[:rows].numpy().tobytes() == linkage(alone, n_examples[2:3], method)[0].numpy().tobytes()
    assert got[rows:].isnan().all()


@METHOD
def test_the_diagonal_is_never_read(device, random_distances, method):
    distances, n_examples = random_distances(0, 1, 20), torch.tensor([20])
    want = linkage(distances, n_examples, method)
    distances[0].fill_diagonal_(torch.nan)
    assert torch.equal(linkage(distances, n_examples, method), want)


@METHOD
def test_distances_stay_as_they_are(device, random_distances, method):
    distances = random_distances(0, 2, 30)
    before = distances.clone()
    linkage(distances, torch.tensor([30, 12]), method)
    assert torch.equal(distances, before)


@METHOD
def test_a_thousand_examples_stay_within_tolerance_of_scipy(device, random_distances, method):
    distances = random_distances(0, 1, 1000)
    Z = linkage(distances, torch.tensor([1000]), method)[0].numpy()
    theirs = hierarchy.linkage(squareform(distances[0].double().numpy()), method)
    assert_allclose(Z[:, 2], theirs[:, 2], atol=1e-5, rtol=0)


class TestRefuses:
    @BOTH
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 2.5])
    def test_distances_outside_their_range(self, function, value):
        distances = torch.ones(2, 4, 4)
        distances[1, 2, 1] = value
        with pytest.raises(ValueError, match=rf"distances\[1, 2, 1\] is {value}; expected 0..2"):
            function(distances, torch.tensor([4, 4]))

    def test_distances_that_run_in_a_circle(self):
        distances = torch.ones(1, 4, 4)
        for i in range(4):  # each is nearest to the next, and ever nearer
            distances[0, i, (i + 1) % 4] = 0.5
        with pytest.raises(ValueError, match=r"distances\[0\] is not symmetric"):
            linkage(distances, torch.tensor([4]))

    @BOTH
    def test_an_unknown_method(self, function):
        with pytest.raises(ValueError, match="method is 'ward'; expected one of average, complete, single"):
            function(THREE, torch.tensor([3]), "ward")

    @BOTH
    def test_wrong_shapes_dtypes_and_counts(self, function):
        with pytest.raises(ValueError, match=r"distances has shape \(1, 3, 2\); expected \(B, N, N\), B=1, N=3"):
            function(THREE[:, :, :2], torch.tensor([3]))
        with pytest.raises(TypeError, match=r"distances must be torch.float32, not torch.float64"):
            function(THREE.double(), torch.tensor([3]))
        with pytest.raises(ValueError, match=r"n_examples\[0\] is 4; expected 0..3"):
            function(THREE, torch.tensor([4]))
        with pytest.raises(ValueError, match=r"n_examples has shape \(2,\); expected \(B\), B=1"):
            function(THREE, torch.tensor([3, 3]))
