import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import fcluster
from sklearn.metrics import silhouette_score

from polysem.kernels import agglomerative, scc
from polysem.kernels.metrics import cluster_metrics
from polysem.kernels.silhouettes import cut_silhouettes, cut_silhouettes_reference
from polysem.kernels.tree import cut

BOTH = pytest.mark.parametrize("function", [cut_silhouettes, cut_silhouettes_reference])
NAN = float("nan")
# two pairs, 0.25 and 0.5 wide, one from the other at 1
FOUR = torch.tensor([[[0, 0.25, 1, 1], [0.25, 0, 1, 1], [1, 1, 0, 0.5], [1, 1, 0.5, 0]]])


@BOTH
def test_two_pairs(function):
    trees = agglomerative.linkage(FOUR, torch.tensor([4]))
    # a pair and two singletons: (1 - .25) / 1 and 0; two pairs: .75 and .5; one cluster: undefined
    assert_allclose(function(FOUR, trees, torch.tensor([4])), [[2 * 0.75 / 4, (0.75 + 0.5) / 2, NAN]])


@BOTH
def test_merges_at_equal_heights_share_the_silhouette_of_their_cut(function):
    d = FOUR.clone()
    d[d == 0.5] = 0.25
    assert_allclose(function(d, agglomerative.linkage(d, torch.tensor([4])), torch.tensor([4])), [[0.75, 0.75, NAN]])


@BOTH
def test_one_cluster_at_every_height_has_none(function):
    d = torch.ones(1, 5, 5) - torch.eye(5)
    assert function(d, agglomerative.linkage(d, torch.tensor([5])), torch.tensor([5])).isnan().all()


@BOTH
def test_none_one_and_two_examples(function):
    d, n_examples = torch.full((3, 2, 2), 0.5), torch.tensor([0, 1, 2])
    assert function(d, agglomerative.linkage(d, n_examples), n_examples).isnan().all()
    assert function(torch.zeros(2, 0, 0), torch.zeros(2, 0, 4).double(), torch.tensor([0, 0])).shape == (2, 0)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(0, 16), n_levels=st.sampled_from([2, 6, 2**20]))
def test_matches_the_reference_and_every_cut(random_distances, seed, width, n_levels):
    distances = random_distances(seed, 3, width, n_levels)
    n_examples = torch.tensor([width, width // 2, min(width, 3)])
    trees = agglomerative.linkage(distances, n_examples)
    got = cut_silhouettes(distances, trees, n_examples)
    assert_allclose(got, cut_silhouettes_reference(distances, trees, n_examples), atol=1e-12)
    for row in range(0, max(width - 1, 0), 5):
        heights = trees[:, row, 2].nan_to_num(nan=3.0)
        of_cut = cluster_metrics(distances, cut(trees, n_examples, heights), n_examples).silhouette
        padding = torch.tensor(row) >= n_examples - 1
        assert_allclose(got[:, row], of_cut.masked_fill(padding, torch.nan), atol=1e-12)


@pytest.mark.parametrize("width", [3, 17, 100])
def test_is_the_silhouette_of_scikit_learn_at_every_height(random_distances, width):
    distances, n_examples = random_distances(width, 1, width), torch.tensor([width])
    trees = agglomerative.linkage(distances, n_examples)
    got = cut_silhouettes(distances, trees, n_examples)[0]
    d = distances[0].double().numpy()
    for row in range(0, width - 2, max(width // 12, 1)):
        labels = fcluster(trees[0].numpy(), trees[0, row, 2].item(), "distance")
        assert got[row].item() == pytest.approx(silhouette_score(d, labels, metric="precomputed"), abs=1e-9)


def test_rounds_of_scc_are_cuts_too(random_distances):
    distances, n_examples = random_distances(3, 2, 30), torch.tensor([30, 11])
    trees = scc.linkage(distances, n_examples, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    want = cut_silhouettes_reference(distances, trees, n_examples)
    assert_allclose(cut_silhouettes(distances, trees, n_examples), want, atol=1e-12)


def test_batch_and_padding_change_no_bit(random_distances):
    distances, n_examples = random_distances(0, 3, 40), torch.tensor([40, 23, 5])
    trees = agglomerative.linkage(distances, n_examples)
    spoilt = distances.clone()
    spoilt[1, 23:] = spoilt[1, :, 23:] = torch.nan
    together = cut_silhouettes(spoilt, trees, n_examples)
    alone = cut_silhouettes(distances[1:2, :23, :23].contiguous(), trees[1:2, :22].contiguous(), n_examples[1:2])
    assert np.array_equal(together[1, :22], alone[0], equal_nan=True)


@BOTH
def test_wrong_distances_and_trees_are_refused(function):
    n_examples = torch.tensor([4])
    trees = agglomerative.linkage(FOUR, n_examples)
    with pytest.raises(ValueError, match=r"distances\[0, 0, 1\] is 2.5; expected 0..2"):
        function(torch.where(FOUR == 0.25, 2.5, FOUR), trees, n_examples)
    with pytest.raises(ValueError, match=r"linkage\[0\] is not a tree of n_examples\[0\] leaves"):
        function(FOUR, torch.zeros_like(trees), n_examples)
