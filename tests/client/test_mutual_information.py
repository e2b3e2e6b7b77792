"""Adjusted mutual information: by hand, by property, and as scikit-learn has it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from polysem.client.mutual_information import adjusted_mutual_information


def agreement(a, b):
    return adjusted_mutual_information(np.array(a), np.array(b))


def test_the_same_groups_under_other_names_agree_wholly():
    assert agreement([0, 0, 1, 1], [7, 7, 3, 3]) == pytest.approx(1)


def test_two_and_two_crossed_by_hand():
    """Of the 3 ways to pair two and two with two and two, one shares log 2 and two share nothing: (0 − ⅓) / (1 − ⅓)."""
    assert agreement([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)


def test_one_cluster_says_nothing_of_several_tokens():
    assert agreement([0, 0, 0, 0], [0, 0, 1, 2]) == pytest.approx(0)


@pytest.mark.parametrize(("a", "b"), [([], []), ([0], [4]), ([0, 0, 0], [5, 5, 5]), ([0, 1, 2], [2, 1, 0])])
def test_it_is_undefined_where_chance_gives_nothing_else(a, b):
    assert agreement(a, b) is None


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="groupings of 2 and of 3 items"):
        agreement([0, 1], [0, 1, 2])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 4)), min_size=2, max_size=60))
def test_it_is_scikit_learns(pairs):
    a, b = (np.array(x) for x in zip(*pairs, strict=True))
    found = adjusted_mutual_information(a, b)
    assert found == adjusted_mutual_information(b, a) or found == pytest.approx(adjusted_mutual_information(b, a))
    if found is not None:
        assert found == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-9)


def test_it_is_scikit_learns_of_very_many():
    rng = np.random.default_rng(0)
    a = rng.zipf(1.3, 20_000) % 500
    b = np.where(rng.random(20_000) < 0.5, a, rng.integers(0, 300, 20_000))
    assert adjusted_mutual_information(a, b) == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-7)
