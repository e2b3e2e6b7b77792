import pytest
import torch

from polysem.kernels import agglomerative, metrics, scc, tree
from polysem.kernels.clusterings import hac_clusterings, scc_clusterings

ROUNDS = torch.tensor([0.3, 0.6, 1.2], dtype=torch.float64)


def assert_is_what_the_kernels_give(got, d, n, cut, trees):
    labels = tree.cut(trees, n, cut)
    want = trees, labels, metrics.tree_metrics(d, trees, labels, n)
    for ours, theirs in zip(flat(*got), flat(*want), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()


def flat(trees, labels, measured):
    return trees, labels, *measured.clusters, *measured.nodes


@pytest.mark.parametrize("n_levels", [2, 2**20])
@pytest.mark.parametrize("width", [1, 2, 17, 40])
def test_a_call_gives_tree_cut_and_metrics(random_distances, width, n_levels):
    d, n = random_distances(width, 4, width, n_levels), torch.tensor([width, 0, 1, width // 2])
    cuts = torch.tensor([0.5, 0.5, 0.5, 0.9], dtype=torch.float64)
    for method in ("average", "complete", "single"):
        got = hac_clusterings(d, n, cuts, method)
        assert_is_what_the_kernels_give(got, d, n, cuts, agglomerative.linkage(d, n, method))
    for until_stable in (False, True):
        got = scc_clusterings(d, n, 0.6, ROUNDS, until_stable)
        assert_is_what_the_kernels_give(got, d, n, 0.6, scc.linkage(d, n, ROUNDS, until_stable))


def test_wrong_arguments_are_refused():
    d, n = torch.zeros(1, 3, 3), torch.tensor([3])
    with pytest.raises(ValueError, match="method is 'ward'"):
        hac_clusterings(d, n, 0.5, "ward")
    with pytest.raises(ValueError, match="thresholds must increase"):
        scc_clusterings(d, n, 0.5, ROUNDS.flip(0))
    with pytest.raises(ValueError, match="distance_threshold is nan"):
        hac_clusterings(d, n, float("nan"))
