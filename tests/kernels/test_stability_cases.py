"""Ten hand-made sets of points by the papers' own words: an implementation of sets, pairs and fractions, no arrays.

Hennig 2007, section 2: for each cluster of the data and each bootstrap sample, the largest Jaccard coefficient with a
cluster of the sample, both without what the sample lacks; the mean over the samples. Tibshirani and Walther 2005,
section 2.1: cluster both halves into k; for each test cluster the share of its pairs that the training centroids, here
the training cluster at the smallest mean distance, put together; the least; both ways, averaged.
"""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch

from polysem.kernels import agglomerative, tree
from polysem.kernels.stability import cluster_stability, halves, prediction_strength, resamples

CUT, N_RESAMPLES, N_SPLITS, SEED = 40, 6, 4, 5
FAR = 200  # distances here are whole numbers of hundredths, so that means are exact fractions
CASES = {  # places on a line; no two means of distances that decide a merge are equal
    "two far pairs": [0, 3, 150, 154],
    "three far groups": [0, 2, 5, 80, 83, 89, 170, 171, 177],
    "a pair and one alone": [0, 5, 180],
    "a chain without gaps": [0, 11, 23, 36, 50, 65, 81, 98],
    "a chain with one gap": [0, 7, 15, 24, 110, 121, 133],
    "a large and a small group": [0, 1, 3, 6, 10, 15, 21, 160, 163],
    "two groups that touch": [0, 9, 20, 33, 68, 85, 97, 106],
    "all but one together": [0, 2, 5, 9, 14, 190],
    "pairs in pairs": [0, 4, 30, 35, 120, 126, 152, 159],
    "crowd and outskirts": [60, 61, 63, 66, 70, 90, 20, 140, 3],
}


def distance(a, b):
    return Fraction(abs(a - b))


def mean_distance(one, other, places):
    return sum((distance(places[i], places[j]) for i in one for j in other), Fraction(0)) / (len(one) * len(other))


def merged(members, places, stop):
    """Average linkage of the members: the two nearest groups are joined until `stop` says so."""
    groups = [frozenset([i]) for i in members]
    while len(groups) > 1:
        nearest = min(combinations(groups, 2), key=lambda pair: mean_distance(*pair, places))
        if stop(mean_distance(*nearest, places), len(groups)):
            break
        groups = [group for group in groups if group not in nearest] + [nearest[0] | nearest[1]]
    return groups


def at_cut(members, places):
    return merged(members, places, lambda height, n_groups: height > CUT)


def in_number(members, places, k):
    return merged(members, places, lambda height, n_groups: n_groups == k)


def stability_by_sets(places):
    found = {}
    for cluster in at_cut(range(len(places)), places):
        best = []
        for sample in resamples(len(places), N_RESAMPLES, SEED):
            here = cluster & set(sample.tolist())
            if here:
                others = at_cut(sample.tolist(), places)
                best.append(max(Fraction(len(here & other), len(here | other)) for other in others))
        is_cluster = len(cluster) > 1 and best
        found |= dict.fromkeys(cluster, float(sum(best) / len(best)) if is_cluster else float("nan"))
    return [found[i] for i in range(len(places))]


def strength_by_pairs(places, k):
    values = []
    for split in halves(len(places), N_SPLITS, SEED).tolist():
        for training, test in (split, split[::-1]):
            groups = in_number(training, places, k)
            goes = {i: min(groups, key=lambda group, i=i: mean_distance([i], group, places)) for i in test}
            shares = []
            for cluster in in_number(test, places, k):
                pairs = list(combinations(cluster, 2))
                if pairs:
                    shares.append(Fraction(sum(goes[i] == goes[j] for i, j in pairs), len(pairs)))
            if shares:
                values.append(min(shares))
    return float(sum(values) / len(values)) if values else float("nan")


def distances(places):
    between = np.abs(np.subtract.outer(places, places)) * 2 / FAR
    return torch.from_numpy(between)[None].float(), torch.tensor([len(places)], dtype=torch.int32)


def trees_of(d, n):
    return agglomerative.linkage(d, n, "average")


def labels_of(d, n):
    return tree.cut(trees_of(d, n), n, CUT * 2 / FAR)


@pytest.mark.parametrize("name", CASES)
def test_stability_is_that_of_sets(name):
    d, n = distances(CASES[name])
    found = cluster_stability(d, labels_of(d, n), n, labels_of, N_RESAMPLES, SEED)[0]
    np.testing.assert_allclose(found, stability_by_sets(CASES[name]), rtol=1e-12)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_strength_is_that_of_pairs(name, k):
    d, n = distances(CASES[name])
    found = prediction_strength(d, n, torch.tensor([k]), trees_of, N_SPLITS, SEED).item()
    want = strength_by_pairs(CASES[name], k) if k <= len(CASES[name]) // 2 else float("nan")
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_one_alone_is_no_cluster():
    assert np.isnan(stability_by_sets(CASES["a pair and one alone"])).tolist() == [False, False, True]
    assert not np.isnan(stability_by_sets(CASES["all but one together"])[:5]).any()
