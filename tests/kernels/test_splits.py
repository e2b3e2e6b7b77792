import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polysem.kernels import agglomerative, splits
from polysem.kernels.distances import gathered_cosine_distances
from polysem.kernels.significance import centring_offsets, rotation_test
from polysem.kernels.splits import level_of, members_of, nulls_for, significant_clusters, significant_merges

THREE = torch.tensor([3])


def clusters(seed, sizes, d_model=40, spread=0.7):
    """(1, n, D): so many rows around each centre."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(len(sizes), d_model)), sizes, axis=0)
    return torch.from_numpy((centres + spread * rng.normal(size=centres.shape))[None]).float()


def merges_of(e, counts=None, **how):
    """The trees in frame own, and what `significant_merges` says of them."""
    B, N, D = e.shape
    counts = torch.full((B,), N) if counts is None else counts
    arguments = e.reshape(B * N, D), torch.arange(B * N).view(B, N), torch.ones(B, D), counts
    offsets = centring_offsets(*arguments)
    trees = agglomerative.linkage(gathered_cosine_distances(*arguments, offsets), counts)
    return trees, significant_merges(*arguments, trees, **how)


def groups(tree, significant, n):
    """The sets of examples that the significant merges tell apart."""
    waiting, found = [2 * n - 2], []
    while waiting:
        node = waiting.pop()
        if node >= n and significant[node - n]:
            waiting += tree[node - n, :2].astype(int).tolist()
        else:
            found.append(set(members_of(tree, n, node).tolist()))
    return found


def test_levels_and_nulls_by_hand():
    assert level_of(100, 100) == 0.05
    assert level_of(12, 100) == pytest.approx(0.05 * 11 / 99)
    assert nulls_for(0.05) == 99  # 19 would do
    assert nulls_for(0.005) == 199
    assert nulls_for(0.05 * 2 / 99) == 989
    assert nulls_for(0.05, 999) == 999


def test_members_by_hand():
    tree = np.array([[0, 2, 0.1, 2], [1, 4, 0.5, 3], [3, 5, 1.0, 4]], float)
    assert members_of(tree, 4, 3).tolist() == [3]
    assert members_of(tree, 4, 4).tolist() == [0, 2]
    assert members_of(tree, 4, 6).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("sizes", [[40], [30, 30], [20, 25, 30]])
def test_planted_clusters_are_told_apart_and_no_further(sizes):
    trees, got = merges_of(clusters(0, sizes))
    n = sum(sizes)
    ends = np.cumsum([0, *sizes])
    want = {frozenset(range(first, last)) for first, last in itertools.pairwise(ends)}
    assert {frozenset(group) for group in groups(trees[0].numpy(), got.significant[0].numpy(), n)} == want


def test_a_merge_is_tested_only_where_its_parent_is_significant():
    trees, got = merges_of(torch.cat([clusters(1, [40]), clusters(1, [20, 20]), clusters(1, [34, 3, 3], spread=0.1)]))
    for b in range(3):
        tree, p, significant = trees[b].numpy(), got.p_value[b].numpy(), got.significant[b].numpy()
        expected = {38}
        for row in range(38, -1, -1):
            if significant[row]:
                expected |= {int(c) - 40 for c in tree[row, :2] if c >= 40 and tree[int(c) - 40, 3] >= 3}
        assert set(np.flatnonzero(~np.isnan(p))) == expected
        assert not significant[np.isnan(p)].any()
    assert 3 in trees[2][~got.p_value[2].isnan(), 3]  # the least that is tested


TREE = torch.tensor(  # of {0, 1, 2} and {3, 4, 5}, which meet before 6 does
    [[0, 1, 0.1, 2], [2, 7, 0.2, 3], [3, 4, 0.3, 2], [5, 9, 0.4, 3], [8, 10, 0.5, 6], [6, 11, 0.6, 7]]
).double()


@pytest.mark.parametrize(
    ("rows", "n_groups"), [([], 1), ([5], 1), ([5, 4], 2), ([5, 4, 1], 1), ([5, 4, 1, 3], 0), ([4], 1)]
)
def test_groups_of_three_or_more_are_counted(rows, n_groups):
    significant = torch.zeros(1, 6, dtype=torch.bool)
    significant[0, rows] = True
    assert significant_clusters(TREE[None], significant, torch.tensor([7])).tolist() == [n_groups]


def test_trees_of_less_than_three_examples_have_no_group():
    trees, significant = torch.zeros(4, 2, 4).double(), torch.zeros(4, 2, dtype=torch.bool)
    trees[2:, 0], trees[3, 1] = torch.tensor([0, 1, 0.1, 2]).double(), torch.tensor([2, 3, 0.2, 3]).double()
    assert significant_clusters(trees, significant, torch.tensor([0, 1, 2, 3])).tolist() == [0, 0, 0, 1]


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_groups_are_those_of_the_significant_merges(seed, n):
    rng = np.random.default_rng(seed)
    d = torch.from_numpy(rng.random((n, n))).float()
    d = (d + d.T).fill_diagonal_(0)
    trees = agglomerative.linkage(d[None], torch.tensor([n]))
    significant = rng.random(n - 1) < 0.7
    want = sum(len(group) >= 3 for group in groups(trees[0].numpy(), significant, n)) if n > 2 else 0
    assert significant_clusters(trees, torch.from_numpy(significant)[None], torch.tensor([n])).item() == want


def test_the_root_has_the_neurons_own_test():
    e = clusters(2, [15, 15])
    _, got = merges_of(e, n_null=49, seed=3)
    for ours, theirs in zip(got.root, rotation_test(e, torch.tensor([30]), 49, 3), strict=True):
        assert ours.item() == theirs.item()
    assert got.p_value[0, 28].item() == got.root.p_value.item()


@pytest.mark.parametrize("sizes", [[24, 30], [8, 9, 4, 20], [3, 3, 5, 12]])
def test_stopping_early_decides_as_all_rotations_of_a_nodes_examples_do(sizes):
    e = clusters(3, sizes)
    n = sum(sizes)
    trees, got = merges_of(e, seed=5)
    tree = trees[0].numpy()
    tested = np.flatnonzero(~np.isnan(got.p_value[0, : n - 2].numpy()))
    for row in tested:
        members = members_of(tree, n, n + row)
        level = level_of(len(members), n)
        all_of_them = rotation_test(e[:, members].contiguous(), torch.tensor([len(members)]), nulls_for(level), 5)
        assert got.significant[0, row].item() == (all_of_them.p_value.item() <= level)
        if got.significant[0, row]:  # then none was left out
            assert got.p_value[0, row].item() == all_of_them.p_value.item()
    assert len(tested) >= len(sizes) - 1


def test_a_node_that_cannot_be_significant_has_the_p_of_the_first_rotations():
    e = clusters(0, [30, 30])
    trees, got = merges_of(e)
    for child in trees[0, -1, :2].int().tolist():
        members = members_of(trees[0].numpy(), 60, child)
        first = rotation_test(e[:, members].contiguous(), torch.tensor([len(members)]), 19)
        assert got.p_value[0, child - 60].item() == first.p_value.item()
        assert not got.significant[0, child - 60]


def test_a_small_node_gets_the_nulls_that_its_level_needs():
    """8 of 68 examples in two tight groups: the level is .0026, so 99 rotations could never say so."""
    rng = np.random.default_rng(4)
    centres = np.repeat(rng.normal(size=(3, 60)) * [[6], [1], [1]], [60, 4, 4], axis=0)
    e = torch.from_numpy((centres + 0.3 * rng.normal(size=centres.shape))[None]).float()
    trees, got = merges_of(e)
    (row,) = (row for row in range(66) if set(members_of(trees[0].numpy(), 68, 68 + row)) == set(range(60, 68)))
    assert level_of(8, 68) < 0.01
    assert got.p_value[0, row] <= level_of(8, 68)
    assert got.significant[0, row]


def test_fewer_than_three_examples_are_not_tested():
    _, got = merges_of(torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3]))
    assert got.p_value[:3].isnan().all()
    assert not got.significant[:3].any()
    assert got.p_value[3, 1] > 0
    _, none = merges_of(torch.zeros(0, 4, 3))
    assert none.p_value.shape == (0, 3)


def test_batch_and_padding_change_no_bit():
    e = torch.zeros(3, 60, 40)
    for b, sizes in enumerate([[30, 30], [20, 22], [9]]):
        e[b, : sum(sizes)] = clusters(b, sizes)[0]
    counts = torch.tensor([60, 42, 9])
    _, together = merges_of(e, counts)
    for b, n in enumerate(counts.tolist()):
        _, alone = merges_of(e[b : b + 1, :n].contiguous())
        assert np.array_equal(together.p_value[b, : n - 1], alone.p_value[0], equal_nan=True)


def test_more_clusters_than_planted_are_rarely_found():
    """1 to 3 planted clusters, 40 sets each of 45 examples: at most .07 of all have more (and the truth is found)."""
    n_more = n_right = 0
    for k in (1, 2, 3):
        e = torch.cat([clusters(100 * k + s, [45 // k] * k) for s in range(40)])
        trees, got = merges_of(e, n_null=39)
        for tree, significant in zip(trees.numpy(), got.significant.numpy(), strict=True):
            found = sum(len(group) >= 3 for group in groups(tree, significant, len(tree) + 1))
            n_more += found > k
            n_right += found == k
    assert n_more <= 0.07 * 120
    assert n_right >= 0.9 * 120


def test_wrong_arguments_are_refused():
    e = clusters(0, [5])
    with pytest.raises(ValueError, match="level is 0; expected more than 0 and less than 1"):
        merges_of(e, level=0)
    with pytest.raises(ValueError, match="nulls 0 to 0 were requested"):
        merges_of(e, n_null=0)
    rows, used, counts = e[0], torch.arange(5)[None], torch.tensor([5])
    with pytest.raises(ValueError, match=r"linkage\[0\] is not a tree"):
        significant_merges(rows, used, torch.ones(1, 40), counts, torch.zeros(1, 4, 4, dtype=torch.float64))
    assert splits.LEVEL == 0.05
