"""What tests cost in the queue; that it is about what they take is for tests/benchmarks/tests_cost.py."""

import numpy as np
import pytest

from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.server.index.format import open_index
from polysem.server.questions import costs
from polysem.server.questions.clustering import ClusterWork

N = np.array([0, 2, 30, 100, 1000, 1001])


def test_who_does_not_ask_pays_nothing():
    assert costs.of_tests(N, 0, False).tolist() == costs.of_tests(N, 0, True).tolist() == [0.0] * 6


def test_what_the_index_holds_is_not_paid_again():
    assert costs.of_tests(N, 0, False, is_held=True).tolist() == [0.0] * 6
    held, made = (costs.of_tests(np.array([100]), 99, True, is_held)[0] for is_held in (True, False))
    assert 0 < held < made / 4


def test_neurons_too_large_to_be_tested_cost_nothing_more():
    assert costs.of_tests(N, 99, False)[-1] == 0
    assert (costs.of_tests(N, 99, False)[:-1] > 0).all()


def test_more_examples_more_rotations_and_merges_cost_more():
    alone, wholly = costs.of_tests(N[:-1], 99, True), costs.of_tests(N[:-1], 99, False)
    assert (np.diff(alone) > 0).all()
    assert (wholly > alone).all()
    assert (costs.of_tests(N[:-1], 199, True) > 1.5 * alone).all()


def test_rotations_of_many_examples_cost_as_their_cube():
    few, many = costs.of_tests(np.array([500, 1000]), 99, True)
    assert 4 < many / few < 8


def test_one_rotation_is_no_bargain_where_merges_are_tested():
    """Their tests have 99 rotations each whatever is asked for."""
    one, hundred = (costs.of_tests(np.array([100]), n_null, False)[0] for n_null in (1, 99))
    assert one > hundred / 3


@pytest.mark.parametrize("neuron_only", [False, True])
def test_work_counts_them_beside_the_clustering(index_folder, small_model, neuron_only):
    index = open_index(index_folder)
    plain, tested = (
        ClusterWork(small_model, index, EmbeddingChoice(), Clustering(n_null=n_null, neuron_only=neuron_only))
        for n_null in (0, 99)
    )
    items = index.every_neuron
    n = index.n_examples[items[:, 0], items[:, 1]]
    np.testing.assert_allclose(tested.costs(items) - plain.costs(items), costs.of_tests(n, 99, neuron_only))
