"""Bootstrap Jaccard and prediction strength: hand-sized cases, plain loops, and the papers' settings."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, squareform

from polysem.kernels import agglomerative, splits, tree
from polysem.kernels.stability import cluster_stability, halves, prediction_strength, resamples


def trees_of(d, n):
    return agglomerative.linkage(d, n, "average")


def at(cut):
    return lambda d, n: tree.cut(trees_of(d, n), n, cut)


def batch(*points):
    """Distances of sets of points, scaled into 0..2, padded; and the numbers of points."""
    width = max(map(len, points))
    d = torch.full((len(points), width, width), torch.inf)
    for b, rows in enumerate(points):
        between = cdist(rows, rows)
        d[b, : len(rows), : len(rows)] = torch.from_numpy(between / max(between.max(initial=0), 1e-9)).float()
    return d, torch.tensor([len(rows) for rows in points], dtype=torch.int32)


def on_a_line(*places):
    return np.array(places, float)[:, None]


def stability(*points, cut=0.3, **options):
    d, n = batch(*points)
    return cluster_stability(d, at(cut)(d, n), n, at(cut), **options).numpy()


def strength(k, *points, **options):
    d, n = batch(*points)
    return prediction_strength(d, n, torch.tensor([k] * len(points)), trees_of, **options).numpy()


# ---- By hand


def test_two_far_pairs_come_again_in_every_sample():
    assert stability(on_a_line(0, 0.1, 10, 10.1)).tolist() == [[1, 1, 1, 1]]


def test_a_cluster_of_one_is_no_cluster():
    (found,) = stability(on_a_line(0, 0.1, 0.2, 10))
    assert found[:3].tolist() == [1, 1, 1]
    assert np.isnan(found[3])


def test_padding_and_fewer_than_two_examples_are_undefined():
    found = stability(on_a_line(0, 0.1, 10, 10.1), on_a_line(3), np.zeros((0, 1)))
    assert np.isnan(found).sum(1).tolist() == [0, 4, 4]


def test_one_sample_by_hand():
    """Clusters {0,1,2} and {3,4}; the sample's own are all of one."""
    d, n = batch(on_a_line(0, 1, 2, 10, 11))
    labels = torch.tensor([[0, 0, 0, 1, 1]], dtype=torch.int32)
    together = cluster_stability(d, labels, n, lambda d, n: torch.zeros(d.shape[:2], dtype=torch.int32), 1, 0)
    (sample,) = resamples(5, 1, 0)
    first, second = (sample < 3).sum(), (sample >= 3).sum()
    want = [first / len(sample)] * 3 + [second / len(sample)] * 2
    np.testing.assert_allclose(together[0], [w if w else np.nan for w in want])


def test_one_cluster_is_always_predicted_and_none_never():
    assert strength(1, on_a_line(0, 1, 5)).tolist() == [1]
    assert np.isnan(strength(0, on_a_line(0, 1, 5)))
    assert np.isnan(strength(1, np.zeros((0, 1))))


def test_more_clusters_than_half_of_the_examples_cannot_be_predicted():
    assert np.isnan(strength(3, on_a_line(0, 1, 5, 9, 10)))


def test_two_far_groups_are_predicted_wholly():
    near = np.arange(8) / 100
    assert strength(2, on_a_line(*near, *(10 + near))).tolist() == [1]


def test_clusters_of_one_predict_nothing():
    assert np.isnan(strength(2, on_a_line(0, 1, 5, 9)))  # halves of two in two clusters


# ---- By plain loops


def random_sets(*counts):
    rng = np.random.default_rng(7)
    return [rng.normal(size=(n, 3)) + rng.integers(0, 2, (n, 1)) * 2 for n in counts]


def plain_labels(d, cut):
    return fcluster(linkage(squareform(d, checks=False), "average"), cut, "distance")


def test_stability_is_that_of_sets_compared_one_by_one():
    sets = random_sets(30, 11)
    d, n = batch(*sets)
    found = stability(*sets, n_resamples=9, seed=3)
    for b, count in enumerate(n.tolist()):
        mine = d[b, :count, :count].numpy().astype(float)
        labels = plain_labels(mine, 0.3)
        for label in np.unique(labels):
            members, values = set(np.flatnonzero(labels == label).tolist()), []
            for sample in resamples(count, 9, 3):
                theirs = plain_labels(mine[np.ix_(sample, sample)], 0.3) if len(sample) > 1 else np.ones(1)
                here = members & set(sample.tolist())
                groups = [set(sample[theirs == other].tolist()) for other in np.unique(theirs)]
                if here:
                    values.append(max(len(here & group) / len(here | group) for group in groups))
            want = np.mean(values) if len(members) > 1 and values else np.nan
            np.testing.assert_allclose(found[b, sorted(members)], want)


def test_strength_is_that_of_pairs_counted_one_by_one():
    (points,) = sets = random_sets(25)
    d = batch(*sets)[0][0].numpy().astype(float)
    values = []
    for pair in halves(25, 6, 2):
        for training, test in (pair, pair[::-1]):
            a, b = (
                fcluster(linkage(squareform(d[np.ix_(x, x)], checks=False), "average"), 3, "maxclust")
                for x in (training, test)
            )
            goes = [min(np.unique(a), key=lambda c, i=i: d[i, training[a == c]].mean()) for i in test]
            shares = []
            for cluster in np.unique(b):
                members = np.flatnonzero(b == cluster)
                if len(members) > 1:
                    pairs = [goes[i] == goes[j] for i in members for j in members if i != j]
                    shares.append(np.mean(pairs))
            values += [min(shares)] if shares else []
    assert strength(3, points, n_splits=6, seed=2)[0] == pytest.approx(np.mean(values))


def test_company_changes_no_bit_and_seeds_do():
    sets = random_sets(30, 12, 19)
    np.testing.assert_array_equal(stability(*sets)[1, :12], stability(sets[1])[0])
    np.testing.assert_array_equal(strength(3, *sets)[1], strength(3, sets[1])[0])
    assert not np.array_equal(stability(sets[0], seed=1), stability(sets[0]), equal_nan=True)
    assert strength(3, sets[0], seed=1) != strength(3, sets[0])


# ---- As in the papers


def three_groups(seed):
    """Normal in two dimensions, 25, 25 and 50 about (0, 0), (0, 5) and (5, -3)."""
    rng = np.random.default_rng(seed)
    centres = np.repeat([(0, 0), (0, 5), (5, -3)], (25, 25, 50), axis=0)
    return rng.normal(size=(100, 2)) + centres


def test_three_groups_in_the_plane_are_predicted_at_three_and_not_at_more():
    strengths = {k: strength(k, *(three_groups(seed) for seed in range(5))).mean() for k in (2, 3, 4, 5)}
    assert strengths[3] > 0.8
    assert max(strengths[4], strengths[5]) < 0.7


def test_a_uniform_cloud_supports_no_number():
    clouds = [np.random.default_rng(seed).random((200, 10)) for seed in range(3)]
    assert all(strength(k, *clouds, n_splits=10).mean() < 0.8 for k in (2, 3, 4))


def test_separate_groups_are_stable_and_pieces_of_one_cloud_are_not():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(60, 2))
    apart = np.concatenate([rng.normal(size=(20, 2)) / 4, rng.normal(size=(20, 2)) / 4 + 6])
    assert np.nanmin(stability(apart, cut=0.5)) > 0.95
    assert np.nanmin(stability(cloud, cut=0.4)) < 0.75  # Hennig reads more as stable


def test_significant_clusters_are_counted_from_the_root_by_hand():
    z = torch.tensor([[[0, 1, 0.1, 2], [3, 4, 0.2, 2], [2, 5, 0.3, 3], [6, 7, 0.9, 5]]], dtype=torch.float64)

    def count(*significant, n=5):
        return splits.significant_clusters(z, torch.tensor([significant], dtype=torch.bool), torch.tensor([n])).item()

    assert count(0, 0, 0, 0) == 1
    assert count(0, 0, 0, 1) == 1  # {0, 1, 2}; {3, 4} are two
    assert count(1, 1, 1, 0) == 1
    assert count(0, 0, 1, 1) == 0
    assert count(0, 0, 0, 0, n=0) == 0
