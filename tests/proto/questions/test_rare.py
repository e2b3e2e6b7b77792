"""Which neurons have a common and a rare behaviour, by hand."""

import numpy as np
import pytest

from polysem.proto.questions.listing import is_rare


@pytest.mark.parametrize(
    ("n", "largest", "rare"),
    [
        (100, 97, True),
        (100, 98, False),  # two examples are outliers
        (100, 99, False),
        (100, 100, False),
        (100, 90, True),
        (100, 89, False),  # no common behaviour
        (30, 27, True),
        (20, 18, False),
        (20, 17, False),
        (19, 16, False),
        (0, 0, False),
    ],
)
def test_at_least_nine_tenths_are_common_and_three_are_not(n, largest, rare):
    share = np.array([largest / n if n else np.nan])
    assert is_rare(np.array([n]), share).tolist() == [rare]


def test_every_minority_of_three_counts_whatever_the_rounding():
    n = np.arange(30, 20_000)
    assert is_rare(n, (n - 3) / n).all()
    assert not is_rare(n, (n - 2) / n).any()


@pytest.mark.parametrize(
    ("clusters", "rare"), [(0, False), (1, False), (2, True), (9, True), (-1, True), (np.nan, True)]
)
def test_where_significance_is_known_the_split_is_significant(clusters, rare):
    assert is_rare(np.array([100]), np.array([0.95]), np.array([clusters])).tolist() == [rare]
