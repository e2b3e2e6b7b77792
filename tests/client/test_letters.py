"""Clusters have letters by size: the same in Python and, in tests/browser, on pages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polysem.client import letters


def test_letters_go_on_after_z_as_a_spreadsheets_columns_do():
    assert [letters.letter(rank) for rank in (0, 1, 25, 26, 27, 51, 52, 701, 702)] == [
        *("A", "B", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA")
    ]


def test_the_largest_is_a_equals_stand_by_label_and_single_examples_have_none():
    assert letters.letters(np.array([2, 1, 5, 2, 1])) == ["B", "·", "A", "C", "·"]
    assert letters.letters(np.array([], int)) == []


@given(st.lists(st.integers(1, 9), max_size=40))
def test_every_cluster_of_several_has_a_letter_of_its_own(sizes):
    found = [name for name in letters.letters(np.array(sizes, int)) if name != letters.SINGLE]
    assert sorted(found, key=lambda name: (len(name), name)) == [letters.letter(rank) for rank in range(len(found))]


def test_a_tables_examples_have_the_letters_of_the_neurons_clusters(client):
    found = client.cluster("0.0-20")
    want = [next(c.letter for c in n.clusters if i in c.members) for n in found for i in range(len(n.labels))]
    assert list(found.columns(per="example")["letter"]) == want
