"""Whether clusters move different tokens: by hand, by property, and beside the changes written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from polysem.server.questions.effects import N_NULL, difference, distance, gram


def test_products_are_of_the_changes_written_out():
    ids = np.array([[0, 9000], [9000, 3], [20_000, 0]])
    values = np.array([[0.5, -0.25], [0.5, 1.0], [2.0, 0.5]])
    whole = np.zeros((3, 20_001))
    np.put_along_axis(whole, ids, values, axis=1)
    assert_allclose(gram(ids, values), whole @ whole.T)


def test_distances_by_hand():
    # cluster 0 moves token 0 by 1 and 3, cluster 1 token 1: at right angles. Cluster 2 moves both alike: at 45 degrees.
    changes = np.array([[1.0, 0], [3, 0], [0, 2], [1, 1]])
    clusters = np.array([0, 0, 1, 2])
    assert distance(changes @ changes.T, clusters) == pytest.approx((1 + 2 * (1 - np.sqrt(0.5))) / 3)


def test_a_cluster_that_moves_nothing_is_at_distance_one():
    changes = np.array([[1.0, 0], [0, 0]])
    assert distance(changes @ changes.T, np.array([0, 1])) == 1


def test_clusters_that_move_different_tokens_stand_out_and_random_ones_do_not():
    noise = np.random.default_rng(0).normal(size=(40, 60))
    clusters = np.repeat([0, 1], 20)
    apart = noise.copy()
    apart[:20, 0] += 5
    apart[20:, 1] += 5
    found, null, p = difference(apart @ apart.T, clusters, 0)
    assert found - null > 0.5
    assert p == 1 / (1 + N_NULL)
    assert difference(noise @ noise.T, clusters, 0)[2] > 0.05


@settings(max_examples=15)
@given(st.integers(2, 4), st.integers(2, 5), st.integers(0, 1000))
def test_it_is_the_mean_of_cosine_distances_and_its_p_value_is_a_share(n_clusters, size, seed):
    changes = np.random.default_rng(seed).normal(size=(n_clusters * size, 7))
    clusters = np.arange(len(changes)) % n_clusters
    means = np.stack([changes[clusters == c].mean(axis=0) for c in range(n_clusters)])
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    pairs = [1 - units[i] @ units[k] for i in range(n_clusters) for k in range(i)]
    found, null, p = difference(changes @ changes.T, clusters, seed)
    assert found == pytest.approx(np.mean(pairs))
    assert 0 <= null <= 2
    assert 1 / (1 + N_NULL) <= p <= 1
    assert difference(changes @ changes.T, clusters, seed) == (found, null, p)
