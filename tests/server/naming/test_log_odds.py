"""Log-odds with an informative prior, by hand, by property, and beside the formula written out part by part."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from polysem.server.naming.log_odds import log_odds


def written_out(y1, n1, y2, n2, p):
    """Monroe et al. (2008), equations 15 to 22, for one part; its prior is worth 2 contexts, and ½ of each kind."""
    alpha, beta = 0.5 + 2 * p, 0.5 + 2 * (1 - p)
    delta = math.log((y1 + alpha) / (n1 - y1 + beta)) - math.log((y2 + alpha) / (n2 - y2 + beta))
    variance = sum(1 / count for count in (y1 + alpha, n1 - y1 + beta, y2 + alpha, n2 - y2 + beta))
    return delta / math.sqrt(variance)


def test_a_part_of_one_group_alone_by_hand():
    # p = ½: α = β = 3/2. δ = log(3.5 / 1.5) − log(1.5 / 3.5) = 2 log(7/3); variance 2 · (2/7 + 2/3) = 40/21
    (z,) = log_odds(np.array([2]), 2, np.array([0]), 2, np.array([0.5]))
    assert z == pytest.approx(2 * math.log(7 / 3) / math.sqrt(40 / 21))


def test_what_is_as_common_in_both_groups_is_not_over_represented():
    assert_allclose(log_odds(np.array([3, 0, 9]), 9, np.array([3, 0, 9]), 9, np.array([0.1, 0.5, 0.9])), 0, atol=1e-12)


def test_two_of_two_against_none_of_fifty_counts():
    z = log_odds(np.array([2, 2]), 2, np.array([0, 40]), 50, np.array([0.001, 0.8]))
    assert z[0] > 1.96 > z[1]


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.data())
def test_it_is_the_formula_and_turns_its_sign_with_the_groups(n1, n2, p, data):
    y1, y2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    one, other = (np.array([y]) for y in (y1, y2))
    (z,) = log_odds(one, n1, other, n2, np.array([p]))
    assert z == pytest.approx(written_out(y1, n1, y2, n2, p), abs=1e-12)
    assert log_odds(other, n2, one, n1, np.array([p]))[0] == pytest.approx(-z, abs=1e-12)
