import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import kstest
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_distances

from polysem.kernels.rotations import orders, rotation
from polysem.kernels.significance import gathered_rotation_test, rotation_test, rotation_test_reference

BOTH = pytest.mark.parametrize("function", [rotation_test, rotation_test_reference])


def best_silhouette_by_others(e):
    """Of rows e: scikit-learn's distances and silhouettes, SciPy's tree and cuts."""
    d = np.clip(cosine_distances(e), 0, 2)
    np.fill_diagonal(d, 0)
    d = (d + d.T) / 2
    tree = linkage(squareform(d), "average")
    cuts = [fcluster(tree, height, "distance") for height in tree[:-1, 2]]
    return max(silhouette_score(d, labels, metric="precomputed") for labels in cuts if labels.max() > 1)


def planted(seed, n_sets, n, n_clusters, spread, d_model=50):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_sets, n_clusters, d_model))[:, np.arange(n) % n_clusters]
    return torch.from_numpy(centres + spread * rng.normal(size=(n_sets, n, d_model))).float()


@BOTH
@pytest.mark.parametrize("centre", [True, False])
def test_statistic_and_p_are_those_of_rows_rotated_and_clustered_by_others(function, centre):
    e = np.random.default_rng(0).normal(0.3, 1.0, (12, 7)).astype(np.float32)
    got = function(torch.from_numpy(e)[None], torch.tensor([12]), 19, 4, centre=centre)
    rows = e.astype(np.float64) - (e.mean(0) if centre else 0.0)
    q = rotation(12, 4)
    nulls = [best_silhouette_by_others(q.T @ (q @ rows)[np.argsort(order)]) for order in orders(12, 0, 19, 4)]
    best = best_silhouette_by_others(rows)
    assert got.best_silhouette.item() == pytest.approx(best, abs=1e-5)
    assert got.null_mean.item() == pytest.approx(np.mean(nulls), abs=1e-5)
    assert got.null_sd.item() == pytest.approx(np.std(nulls, ddof=1), abs=1e-5)
    assert got.p_value.item() == (1 + sum(null >= best - 1e-5 for null in nulls)) / 20
    assert [field.dtype for field in got] == [torch.float64] * 4


@BOTH
def test_on_a_line_no_rotation_is_worse(function):
    """On a line every centred set has two clusters, opposite each other."""
    e = torch.tensor([[[1.0], [1.1], [5.0], [5.2], [5.4]]])
    got = function(e, torch.tensor([5]), 9)
    assert got.best_silhouette.item() == pytest.approx(1.0, abs=1e-5)
    assert got.p_value.item() >= 0.9  # but for rotations that leave one example alone, which scores 0


@BOTH
def test_fewer_than_three_examples_have_no_test(function):
    e = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    got = function(e, torch.tensor([0, 1, 2]), 5)
    assert all(field.isnan().all() for field in got)
    assert not any(field.isnan().any() for field in function(e, torch.tensor([3, 3, 3]), 5))


@BOTH
def test_examples_that_are_all_equal_are_not_significant(function):
    got = function(torch.full((1, 6, 5), 0.37), torch.tensor([6]), 19)
    assert got.best_silhouette.item() == 0
    assert got.p_value.item() == 1


@BOTH
def test_empty_shapes(function):
    assert all(len(field) == 0 for field in function(torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.int32), 3))
    assert all(field.isnan().all() for field in function(torch.zeros(2, 0, 3), torch.zeros(2, dtype=torch.int32), 3))


def test_one_rotation_has_no_deviation():
    got = rotation_test(planted(0, 1, 20, 2, 0.5), torch.tensor([20]), 1)
    assert got.p_value.item() == 0.5
    assert got.null_sd.isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("method", ["average", "complete", "single"])
def test_matches_the_reference(dtype, method):
    e = planted(1, 3, 13, 2, 1.0).to(dtype)
    n_examples = torch.tensor([13, 8, 3], dtype=torch.int32)
    got = rotation_test(e, n_examples, 9, 7, method=method)
    want = rotation_test_reference(e, n_examples, 9, 7, method=method)
    for ours, theirs in zip(got, want, strict=True):
        assert_allclose(ours, theirs, atol=1e-4)


def test_batch_and_padding_change_no_bit():
    e, n_examples = planted(2, 4, 40, 3, 1.0), torch.tensor([40, 25, 7, 2])
    together = rotation_test(e, n_examples, 30)
    alone = rotation_test(e[1:2, :25].contiguous(), n_examples[1:2], 30)
    for of_all, of_one in zip(together, alone, strict=True):
        assert of_all[1].item() == of_one[0].item()


def test_gathered_rows_are_embedded_then_tested():
    e, weights = (
        planted(3, 2, 20, 2, 1.0, d_model=9),
        torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) + 0.5,
    )
    rows = torch.cat([torch.zeros(1, 9), e.flatten(0, 1)])
    used = torch.arange(1, 41, dtype=torch.int32).view(2, 20)
    n_examples, offsets = torch.tensor([20, 13]), torch.full((2, 9), 0.25)
    got = gathered_rotation_test(rows, used, weights, n_examples, offsets, 19, 1)
    want = rotation_test(e * weights[:, None] + offsets[:, None], n_examples, 19, 1)
    for ours, theirs in zip(got, want, strict=True):
        assert_allclose(ours, theirs, atol=1e-5)


def test_a_mean_far_away_changes_nothing_when_it_is_subtracted():
    e = planted(4, 2, 30, 2, 1.0)
    near, far = (rotation_test(x, torch.tensor([30, 30]), 19) for x in (e, e + 1000.0))
    assert_allclose(far.best_silhouette, near.best_silhouette, atol=1e-3)


def test_lengths_of_any_size_are_tested():
    e = planted(5, 1, 30, 2, 1.0)
    want = rotation_test(e, torch.tensor([30]), 9)
    for scale in (1e-25, 1e25):
        got = rotation_test(e * scale, torch.tensor([30]), 9)
        assert_allclose(got.null_mean, want.null_mean, atol=1e-5)


def test_p_is_uniform_where_there_are_no_clusters():
    """Gaussian rows of a steep spectrum and a far mean, 39 nulls: p is uniform on 1/40 … 1 (Kolmogorov-Smirnov)."""
    rng = np.random.default_rng(0)
    deviation = np.arange(1, 41) ** -0.5
    e = torch.from_numpy(3 * deviation + deviation * rng.normal(size=(250, 30, 40))).float()
    p = rotation_test(e, torch.full((250,), 30), 39).p_value.numpy()
    assert kstest(p - rng.uniform(0, 1 / 40, 250), "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() <= 0.08


def test_heavy_tails_are_rarely_taken_for_clusters():
    rng = np.random.default_rng(1)
    t = rng.normal(size=(80, 80, 200)) / np.sqrt(rng.chisquare(5, (80, 80, 1)) / 5)
    exponential = rng.exponential(size=(80, 80, 200)) * np.arange(1, 201) ** -0.5
    for rows, at_most in ((t, 0.10), (exponential, 0.15)):
        test = rotation_test(torch.from_numpy(rows).float(), torch.full((80,), 80), 39)
        assert (test.p_value <= 0.05).double().mean() <= at_most


@pytest.mark.parametrize(("n_clusters", "spread"), [(2, 0.7), (3, 0.7), (6, 1.0)])
def test_planted_clusters_are_found(n_clusters, spread):
    test = rotation_test(planted(6, 50, 60, n_clusters, spread, 100), torch.full((50,), 60), 39)
    assert (test.p_value <= 0.05).double().mean() >= 0.9
    assert (test.best_silhouette - test.null_mean).mean() > 0.1


@BOTH
def test_wrong_arguments_are_refused(function):
    e, n_examples = torch.ones(1, 3, 2), torch.tensor([3])
    with pytest.raises(ValueError, match="nulls 0 to 0 were requested"):
        function(e, n_examples, 0)
    with pytest.raises(ValueError, match="seed is -1"):
        function(e, n_examples, 1, -1)
    with pytest.raises(ValueError, match="method is 'ward'; expected one of average, complete, single"):
        function(e, n_examples, 1, method="ward")
    with pytest.raises(TypeError, match=r"embeddings must be torch\.float32 or torch\.float16"):
        function(e.double(), n_examples)
    with pytest.raises(ValueError, match=r"n_examples\[0\] is 4; expected 0..3"):
        function(e, torch.tensor([4]))
    spoilt = e.clone()
    spoilt[0, 2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"embeddings\[0, 2, 1\] is nan; expected finite numbers"):
        function(spoilt, n_examples)
    assert not function(spoilt, torch.tensor([2]), 1).p_value.nan_to_num().any()  # padding is never read


@pytest.mark.parametrize("n", [4, 5, 6, 10])
@pytest.mark.parametrize("n_here", [1, 2])
def test_examples_at_two_places_are_one_cloud_however_they_were_rounded(n, n_here):
    """They lie on a line, and so do their rotations: all best silhouettes are alike but for rounding, which moves p."""
    noise = torch.Generator().manual_seed(0)
    places = torch.randn((20, 2, 24), generator=noise)[:, (torch.arange(n) >= n_here).long()]
    e = places * (1 + 3e-7 * torch.randn(places.shape, generator=noise))
    assert rotation_test(e, torch.full((20,), n), 99, 3).p_value.min() > 0.5
