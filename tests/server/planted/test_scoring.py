"""Scores of planted clusterings: by hand, then against SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from polysem.kernels import scc
from polysem.server.planted.scoring import at_numbers_of_clusters, at_suggested_cut, pair_auc, scores

ALGORITHMS = ["hac", "scc", "components"]


def matrix(*above):
    """(1, n, n) of what is above the diagonal, row by row."""
    n = int((1 + (1 + 8 * len(above)) ** 0.5) / 2)
    d = np.zeros((1, n, n))
    d[0][np.triu_indices(n, 1)] = above
    return d + d.transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("above", "truth", "wanted"),
    [
        ((0.2, 0.5, 0.1), [0, 0, 1], 0.5),  # the pair of one source is nearer than one of two others
        ((0.1, 0.5, 0.4), [0, 0, 1], 1.0),
        ((0.9, 0.5, 0.4), [0, 0, 1], 0.0),
        ((0.5, 0.5, 0.4), [0, 0, 1], 0.25),  # a tie counts half
        ((0.1, 0.2, 0.3), [0, 0, 0], np.nan),
        ((0.1, 0.2, 0.3), [0, 1, 2], np.nan),
    ],
)
def test_auc_by_hand(above, truth, wanted):
    assert_allclose(pair_auc(matrix(*above), [np.array(truth)]), [wanted])


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 20), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_auc_is_scikit_learns(n, m, seed):
    drawing = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(m).clip(max=1), drawing.integers(0, m, n), [0]])
    d = drawing.integers(0, 8, (len(truth),) * 2) / 8  # with ties
    d = (d + d.T)[None]
    i, k = np.triu_indices(len(truth), 1)
    assert_allclose(pair_auc(d, [truth]), [roc_auc_score(truth[i] == truth[k], -d[0, i, k])])


def tree(*rows):
    return torch.tensor([rows], dtype=torch.float64)


# 0 and 1 join, 2 and 3, then all
PAIRS = tree((0, 1, 0.1, 2), (2, 3, 0.2, 2), (4, 5, 0.9, 4))


def test_numbers_of_clusters_by_hand():
    n = torch.tensor([4])
    found = at_numbers_of_clusters(PAIRS, n, [np.array([0, 0, 1, 1])])[0]
    assert found.shape == (11,)
    assert found[0] == 1.0  # two
    assert_allclose(found[1], adjusted_rand_score([0, 0, 1, 1], [0, 0, 1, 2]))  # three
    assert_array_equal(found[2:], 0.0)  # four, and there are no more


def test_merges_of_one_height_are_cut_together():
    z = tree((0, 1, 0.5, 2), (2, 3, 0.5, 2), (4, 5, 0.5, 4))
    assert_array_equal(at_numbers_of_clusters(z, torch.tensor([4]), [np.array([0, 0, 1, 1])])[0], 0.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.sampled_from(["average", "single", "scc"]), st.integers(0, 2**32 - 1))
def test_numbers_of_clusters_are_scipys_and_their_ari_is_scikit_learns(n, method, seed):
    drawing = np.random.default_rng(seed)
    d = drawing.integers(1, 9, (n, n)).astype(np.float32) / 8
    d = np.triu(d, 1) + np.triu(d, 1).T
    if method == "scc":
        thresholds = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64)
        z = scc.linkage(torch.from_numpy(d)[None], torch.tensor([n]), thresholds)[0].numpy()
    else:
        z = linkage(d[np.triu_indices(n, 1)].astype(float), method)
    truth = drawing.integers(0, 3, n)
    found = at_numbers_of_clusters(torch.from_numpy(z)[None], torch.tensor([n]), [truth])[0]
    wanted = [adjusted_rand_score(truth, fcluster(z, k, "maxclust")) for k in range(2, 13)]
    assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("significant", "wanted"),
    [([False, False, False], 0.0), ([False, False, True], 1.0)],
)
def test_the_suggested_cut_by_hand(significant, wanted):
    truth = np.array([0, 0, 1, 1])
    assert at_suggested_cut(PAIRS.numpy(), np.array([significant]), [truth]) == [wanted]


def clouds(seed, sizes, spread, d_model=12):
    """Embeddings of clouds around random directions, and which is whose."""
    drawing = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = drawing.normal(size=(len(sizes), d_model))
    e = centres[truth] + spread * drawing.normal(size=(len(truth), d_model))
    return torch.from_numpy(e.astype(np.float32)), truth


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_clouds_far_apart_are_found(algorithm):
    e, truth = clouds(0, (20, 20, 20), 0.05)
    found = scores([e], [truth], [algorithm], 1)[algorithm]
    assert [float(of[0]) for of in found] == [1.0, 1.0, 1.0, 1.0]


def test_a_truth_that_is_not_there_is_not_found():
    e, _ = clouds(1, (60,), 1.0)
    found = scores([e], [np.arange(60) % 2], ALGORITHMS, 1)
    for of in found.values():
        assert abs(of.at_true[0]) < 0.05
        assert of.best[0] < 0.15
        assert of.suggested[0] < 0.15
        assert abs(of.auc[0] - 0.5) < 0.05


def test_scores_do_not_depend_on_what_else_is_scored():
    mixed = [clouds(seed, sizes, 0.5) for seed, sizes in enumerate([(12, 12), (20, 20, 20), (10, 10)])]
    together = scores([e for e, _ in mixed], [truth for _, truth in mixed], ALGORITHMS, 3)
    for i, (e, truth) in enumerate(mixed):
        alone = scores([e], [truth], ALGORITHMS, 1)
        for algorithm in ALGORITHMS:
            assert_array_equal([of[i] for of in together[algorithm]], [of[0] for of in alone[algorithm]])


def test_only_so_many_are_cut_as_suggested_as_were_asked_for():
    mixed = [clouds(seed, (12, 12), 0.5) for seed in range(3)]
    found = scores([e for e, _ in mixed], [truth for _, truth in mixed], ["hac"], 1)["hac"]
    assert_array_equal(np.isnan(found.suggested), [False, True, True])
    assert np.isfinite([found.at_true, found.best, found.auc]).all()
