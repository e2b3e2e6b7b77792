"""The chain's list of merged clusters, newest first: what is taken out leaves its two neighbours joined, both ways."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polysem.kernels.agglomerative import _unlist

N_SLOTS = 7


class MergedList:
    """The list as `_chain` holds it."""

    def __init__(self):
        self.older, self.newer = np.full(N_SLOTS, -1), np.full(N_SLOTS, -1)
        self.merged = np.zeros(N_SLOTS, np.int64)
        self.newest, self.n_merges = -1, 0

    def remove(self, z):
        self.newest = _unlist(z, self.newest, self.older, self.newer, self.merged)
        self.merged[z] = 0

    def add(self, z):
        """As the newest."""
        self.n_merges += 1
        self.older[z], self.newer[z], self.merged[z] = self.newest, -1, self.n_merges
        if self.newest >= 0:
            self.newer[self.newest] = z
        self.newest = z

    def from_the_newest(self):
        return self._walk(self.newest, self.older)

    def from_the_oldest(self):
        listed = [z for z in range(N_SLOTS) if self.merged[z] and self.older[z] < 0]
        return self._walk(listed[0], self.newer) if listed else []

    def _walk(self, z, following):
        found = []
        while z >= 0 and len(found) <= N_SLOTS:
            found.append(int(z))
            z = following[z]
        return found


def listed(*slots):
    """The last is the newest."""
    found = MergedList()
    for z in slots:
        found.add(z)
    return found


def test_the_oldest_the_middle_and_the_newest_are_taken_out():
    for z, left in ((0, [2, 1]), (1, [2, 0]), (2, [1, 0])):
        merged = listed(0, 1, 2)
        merged.remove(z)
        assert merged.from_the_newest() == left
        assert merged.from_the_oldest() == left[::-1]


def test_the_oldest_leaves_the_last_slot_alone():
    """It is at place -1, too: `older` of the oldest."""
    merged = listed(1, N_SLOTS - 1)
    merged.remove(1)
    assert merged.newer.tolist()[-1] == -1
    assert merged.from_the_newest() == [N_SLOTS - 1]


def test_what_is_not_listed_changes_nothing():
    merged = listed(3, 5)
    before = merged.older.tolist(), merged.newer.tolist()
    merged.remove(4)
    assert (merged.older.tolist(), merged.newer.tolist()) == before
    assert merged.from_the_newest() == [5, 3]


@given(st.lists(st.integers(0, N_SLOTS - 1), max_size=40))
def test_any_order_of_merges_leaves_the_list_of_those_who_merged_last(slots):
    merged, plain = MergedList(), []
    for z in slots:
        merged.remove(z)
        merged.add(z)
        plain = [z] + [other for other in plain if other != z]
        assert merged.from_the_newest() == plain
        assert merged.from_the_oldest() == plain[::-1]
