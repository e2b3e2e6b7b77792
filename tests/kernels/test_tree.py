import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from sklearn.metrics import adjusted_rand_score

from polysem.kernels import agglomerative, scc
from polysem.kernels.tree import cut, cut_reference

BOTH = pytest.mark.parametrize("function", [cut, cut_reference])

# examples 0..4; nodes 5 = 3+4, 6 = 1+2, 7 = 0+5, 8 = all
TREE = torch.tensor([[[3.0, 4.0, 0.1, 2], [1.0, 2.0, 0.2, 2], [0.0, 5.0, 0.5, 3], [6.0, 7.0, 0.9, 5]]]).double()


@BOTH
def test_a_threshold_may_be_a_tensor_of_no_dimension(function):
    n = torch.tensor([5], dtype=torch.int32)
    for dtype in (torch.float64, torch.float32, torch.float16):
        got = function(TREE, n, torch.tensor(0.3, dtype=dtype))
        assert got.tolist() == function(TREE, n, 0.3).tolist() == [[0, 1, 1, 2, 2]]


@BOTH
@pytest.mark.parametrize(
    ("threshold", "labels"),
    [
        (-1.0, [0, 1, 2, 3, 4]),
        (0.1, [0, 1, 2, 3, 3]),  # TREE was float32 0.1, a little more
        (0.3, [0, 1, 1, 2, 2]),
        (0.5, [0, 1, 1, 0, 0]),  # a merge at the threshold counts
        (0.8, [0, 1, 1, 0, 0]),
        (float("inf"), [0, 0, 0, 0, 0]),
    ],
)
def test_merges_up_to_the_threshold_count(function, threshold, labels):
    threshold = TREE[0, 0, 2].item() if threshold == 0.1 else threshold
    got = function(TREE, torch.tensor([5]), threshold)
    assert got.dtype == torch.int32
    assert got[0].tolist() == labels


@BOTH
def test_each_neuron_may_have_its_own_threshold(function):
    got = function(TREE.repeat(3, 1, 1), torch.tensor([5, 5, 5]), torch.tensor([0.0, 0.3, 1.0]))
    assert got.tolist() == [[0, 1, 2, 3, 4], [0, 1, 1, 2, 2], [0] * 5]


@BOTH
def test_padding_is_minus_one(function):
    trees = torch.full((3, 2, 4), torch.nan, dtype=torch.float64)
    trees[2, 0] = torch.tensor([0.0, 1.0, 0.5, 2.0])
    got = function(trees, torch.tensor([0, 1, 2]), 0.5)
    assert got.tolist() == [[-1, -1, -1], [0, -1, -1], [0, 0, -1]]


@BOTH
def test_no_rows_may_mean_no_slot_or_one(function):
    nothing = torch.empty(2, 0, 4, dtype=torch.float64)
    assert function(nothing, torch.tensor([0, 0]), 0.5).shape == (2, 0)
    assert function(nothing, torch.tensor([0, 1]), 0.5).tolist() == [[-1], [0]]
    assert function(nothing[:0], torch.empty(0, dtype=torch.int32), 0.5).shape == (0, 0)


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(2, 25),
    n_levels=st.sampled_from([3, 2**20]),
    threshold=st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.98, 1.0, 1.5, 2.0]),
    algorithm=st.sampled_from(["average", "complete", "single", "scc"]),
)
def test_equals_fcluster_and_reference(device, random_distances, seed, width, n_levels, threshold, algorithm):
    distances = random_distances(seed, 2, width, n_levels)
    n_examples = torch.tensor([width, width // 2])
    if algorithm == "scc":
        trees = scc.linkage(distances, n_examples, torch.arange(1, 51, dtype=torch.float64) / 50)
    else:
        trees = agglomerative.linkage(distances, n_examples, algorithm)
    labels = cut(trees.to(device), n_examples, threshold).cpu()
    assert torch.equal(labels, cut_reference(trees, n_examples, threshold))
    for Z, n, label in zip(trees.numpy(), n_examples.tolist(), labels.numpy(), strict=True):
        used = label[:n]
        first_seen = list(dict.fromkeys(used.tolist()))
        assert first_seen == list(range(len(first_seen)))
        assert (label[n:] == -1).all()
        if n > 1:
            theirs = hierarchy.fcluster(Z[: n - 1], threshold, "distance")
            assert adjusted_rand_score(theirs, used) == 1
            assert len(np.unique(theirs)) == len(first_seen)


class TestRefuses:
    @BOTH
    @pytest.mark.parametrize(
        ("row", "column", "value"),
        [
            (0, 0, 5.0),  # a node not made yet
            (0, 0, -1.0),
            (0, 0, float("nan")),
            (1, 0, 3.0),  # used before
            (1, 2, 0.05),  # below the row before
            (3, 2, float("nan")),
        ],
    )
    def test_what_is_not_a_tree(self, function, row, column, value):
        broken = TREE.repeat(2, 1, 1)
        broken[1, row, column] = value
        with pytest.raises(ValueError, match=r"linkage\[1\] is not a tree of n_examples\[1\] leaves"):
            function(broken, torch.tensor([5, 5]), 0.5)

    @BOTH
    def test_a_threshold_that_is_not_a_number(self, function):
        with pytest.raises(ValueError, match="distance_threshold is nan"):
            function(TREE, torch.tensor([5]), float("nan"))
        with pytest.raises(ValueError, match=r"distance_threshold has shape \(2,\); expected \(B\), B=1"):
            function(TREE, torch.tensor([5]), torch.tensor([0.5, 0.5]))

    @BOTH
    def test_wrong_shapes_dtypes_and_counts(self, function):
        with pytest.raises(ValueError, match=r"linkage has shape \(1, 4, 3\)"):
            function(TREE[:, :, :3], torch.tensor([5]), 0.5)
        with pytest.raises(TypeError, match=r"linkage must be torch.float64"):
            function(TREE.float(), torch.tensor([5]), 0.5)
        with pytest.raises(ValueError, match=r"n_examples\[0\] is 6; expected 0..5"):
            function(TREE, torch.tensor([6]), 0.5)
