from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy

from polysem.kernels.distances import weighted_cosine_distances
from polysem.kernels.scc import linkage, linkage_reference
from polysem.kernels.tree import cut

BOTH = pytest.mark.parametrize("function", [linkage, linkage_reference])


def on_a_line(*places):
    """Examples at places on a line, their distances how far apart they are."""
    x = torch.tensor(places, dtype=torch.float64)
    return (x[:, None] - x[None, :]).abs().float()[None]


def thresholds(*taus):
    return torch.tensor(taus, dtype=torch.float64)


LINEAR = thresholds(*(r / 50 for r in range(1, 51)))
GEOMETRIC = thresholds(*(1 - np.geomspace(1.0, 0.1, 50)))  # the authors' demo


@BOTH
def test_a_hand_traced_example(function):
    # Five examples on a line:  0 at 0.0, 1 at 0.1, 2 at 0.4, 3 at 0.6, 4 at 1.5
    #
    # Round 1, at 0.25. Nearest: 0 -> 1 (0.1), 1 -> 0 (0.1), 2 -> 3 (0.2), 3 -> 2 (0.2), 4 -> 3 (0.9: too far).
    #   A = {0, 1} is node 5, B = {2, 3} is node 6.
    # Round 2, at 0.5. Means of all pairs:
    #   A, B: (0.4 + 0.6 + 0.3 + 0.5) / 4 = 0.45;  A, 4: (1.5 + 1.4) / 2 = 1.45;  B, 4: (1.1 + 0.9) / 2 = 1.0
    #   Nearest: A -> B, B -> A, 4 -> B (1.0: too far). C = {0, 1, 2, 3} is node 7.
    # Round 3, at 1.0. C, 4: (1.5 + 1.4 + 1.1 + 0.9) / 4 = 1.225: too far. What is left joins at 2.
    got = function(on_a_line(0.0, 0.1, 0.4, 0.6, 1.5), torch.tensor([5]), thresholds(0.25, 0.5, 1.0))
    assert got[0].tolist() == [[0, 1, 0.25, 2], [2, 3, 0.25, 2], [5, 6, 0.5, 4], [4, 7, 2.0, 5]]


@BOTH
def test_chains_of_nearest_neighbours_merge_in_one_round(function):
    # 0 -> 1 (0.3), 1 -> 2 (0.2), 2 -> 3 (0.1), 3 -> 2 (0.1): one component, joined in order of index
    got = function(on_a_line(0.0, 0.3, 0.5, 0.6), torch.tensor([4]), thresholds(0.4))
    assert got[0].tolist() == [[0, 1, 0.4, 2], [2, 4, 0.4, 3], [3, 5, 0.4, 4]]


@BOTH
def test_components_of_one_round_interleave_by_index(function):
    # 0 and 2 are near, 1 and 3 are near; 2 comes before 3
    got = function(on_a_line(0.0, 1.0, 0.1, 1.1), torch.tensor([4]), thresholds(0.2))
    assert got[0].tolist() == [[0, 2, 0.2, 2], [1, 3, 0.2, 2], [4, 5, 2.0, 4]]


@BOTH
def test_one_pass_a_round_unless_until_stable(function):
    # Two pairs; between them (0.25 + 0.35 + 0.15 + 0.25) / 4 = 0.25 <= 0.3, but each example's nearest is its twin
    d, n_examples = on_a_line(0.0, 0.1, 0.25, 0.35), torch.tensor([4])
    assert function(d, n_examples, thresholds(0.3))[0, :, 2].tolist() == [0.3, 0.3, 2.0]
    assert function(d, n_examples, thresholds(0.3), until_stable=True)[0, :, 2].tolist() == [0.3, 0.3, 0.3]


@BOTH
def test_the_lowest_index_wins_a_tie(function):
    # 1 is as near to 0 as to 2; 2 -> 3 (0.125). With 1 -> 2 all four would be one component
    got = function(on_a_line(0.0, 0.5, 1.0, 1.125), torch.tensor([4]), thresholds(0.5))
    assert cut(got, torch.tensor([4]), 0.5)[0].tolist() == [0, 0, 1, 1]


@BOTH
def test_an_edge_at_the_threshold_counts(function):
    d, n_examples = on_a_line(0.0, 0.5), torch.tensor([2])
    assert function(d, n_examples, thresholds(0.5))[0].tolist() == [[0, 1, 0.5, 2]]
    assert function(d, n_examples, thresholds(np.nextafter(0.5, 0)))[0].tolist() == [[0, 1, 2.0, 2]]


@BOTH
def test_a_round_at_zero_merges_exact_duplicates(function):
    d = on_a_line(0.0, 0.0, 2.0**-24, 1.0)
    got = function(d, torch.tensor([4]), GEOMETRIC)
    assert cut(got, torch.tensor([4]), 0.0)[0].tolist() == [0, 0, 1, 2]


@BOTH
def test_no_thresholds_leave_everything_to_the_last_height(function):
    got = function(on_a_line(0.0, 0.1, 0.2), torch.tensor([3]), thresholds())
    assert got[0].tolist() == [[0, 1, 2.0, 2], [2, 3, 2.0, 3]]


@BOTH
def test_none_one_and_two_examples(function):
    got = function(torch.full((3, 2, 2), 0.5), torch.tensor([0, 1, 2]), LINEAR)
    assert got.isnan().all(dim=2).tolist() == [[True], [True], [False]]
    assert got[2].tolist() == [[0, 1, 0.5, 2]]


@BOTH
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 0), (0, 5), (2, 0), (2, 1)])
def test_empty_shapes(function, n_neurons, width):
    got = function(torch.zeros(n_neurons, width, width), torch.zeros(n_neurons, dtype=torch.int32), LINEAR)
    assert got.shape == (n_neurons, max(width - 1, 0), 4)


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(0, 14),
    n_levels=st.sampled_from([1, 2, 5, 2**20]),
    until_stable=st.booleans(),
    taus=st.sampled_from([LINEAR, GEOMETRIC, thresholds(0.0, 0.5, 2.0)]),
)
def test_equals_reference_to_the_bit(device, random_distances, seed, width, n_levels, until_stable, taus):
    distances = random_distances(seed, 2, width, n_levels)
    n_examples = torch.tensor([width, width // 2])
    got = linkage(distances.to(device), n_examples, taus, until_stable).cpu()
    want = linkage_reference(distances, n_examples, taus, until_stable)
    assert got.numpy().tobytes() == want.numpy().tobytes()


@pytest.mark.parametrize("until_stable", [False, True])
def test_equals_reference_on_embeddings(device, clustered_embeddings, until_stable):
    n_examples = torch.tensor([50, 31, 3])
    distances = weighted_cosine_distances(clustered_embeddings(0, 3, 50, 768), torch.ones(3, 768), n_examples)
    got = linkage(distances.to(device), n_examples, LINEAR, until_stable).cpu()
    want = linkage_reference(distances, n_examples, LINEAR, until_stable)
    assert got.numpy().tobytes() == want.numpy().tobytes()


@given(seed=st.integers(0, 2**32 - 1), until_stable=st.booleans())
def test_means_that_are_nearly_equal_are_told_apart(device, seed, until_stable):
    # pairs and triples at distance 0 lie one or two units of 2⁻²⁴ from each other: sums over 4, 6 and 9 pairs that
    # differ by rounding alone, or not at all
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(16), 2 + np.arange(16) % 2))
    units = (1 << 22) + rng.integers(0, 3, (len(group), len(group)))
    units = np.where(group[:, None] == group, 0, np.maximum(units, units.T))
    d, n_examples = torch.from_numpy((units / 2.0**24).astype(np.float32))[None], torch.tensor([len(group)])
    taus = thresholds(0.0, 0.25, 0.25 + 2.0**-24, 0.25 + 2.0**-23)
    got, want = (f(d, n_examples, taus, until_stable) for f in (linkage, linkage_reference))
    assert got.numpy().tobytes() == want.numpy().tobytes()


def test_negative_zero_is_zero(device, random_distances):
    distances, n_examples = random_distances(0, 1, 24, 3), torch.tensor([24])
    distances = distances.where(distances > 0.5, 0.0)
    assert (distances == 0).sum() > 24  # off the diagonal as well
    want = linkage(distances, n_examples, LINEAR)
    assert torch.equal(linkage(distances.where(distances > 0, -0.0), n_examples, LINEAR), want)


def test_a_long_chain_is_one_component(device):
    # gaps shrink to the right, so each example's nearest is the next one
    places = np.cumsum([0.0, *np.linspace(0.02, 0.01, 60)])
    d = on_a_line(*places)
    got = linkage(d, torch.tensor([61]), thresholds(0.03))
    assert torch.equal(got, linkage_reference(d, torch.tensor([61]), thresholds(0.03)))
    assert (got[0, :, 2] == 0.03).all()
    backwards = linkage(d.flip(1, 2).contiguous(), torch.tensor([61]), thresholds(0.03))
    assert (backwards[0, :, 2] == 0.03).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_long_chains_in_any_order_equal_reference(device, seed):
    # five groups of eight, gaps within a group shrink: components whose members are found through one another
    gaps = np.tile([0.3, *np.linspace(0.02, 0.01, 7)], 5)
    places = np.random.default_rng(seed).permutation(np.cumsum(gaps))
    d, n_examples = on_a_line(*places), torch.tensor([40])
    got, want = (f(d, n_examples, thresholds(0.03, 0.4, 0.5, 0.8)) for f in (linkage, linkage_reference))
    assert got.numpy().tobytes() == want.numpy().tobytes()


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(2, 40), n_levels=st.sampled_from([3, 2**20]))
def test_rounds_nest(device, random_distances, seed, width, n_levels):
    n_examples = torch.tensor([width])
    got = linkage(random_distances(seed, 1, width, n_levels), n_examples, LINEAR)
    assert hierarchy.is_valid_linkage(got[0].numpy())
    assert hierarchy.is_monotonic(got[0].numpy())
    coarser = [cut(got, n_examples, tau)[0] for tau in [0.0, *LINEAR.tolist(), 2.0]]
    assert coarser[0].tolist() == list(range(width))
    assert coarser[-1].tolist() == [0] * width
    for fine, coarse in pairwise(coarser):
        for label in fine.unique():
            assert len(coarse[fine == label].unique()) == 1


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(2, 20))
def test_order_permutes_the_partition(device, random_distances, seed, width):
    distances, n_examples = random_distances(seed, 1, width), torch.tensor([width])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(width))
    straight = linkage(distances, n_examples, LINEAR)
    permuted = linkage(distances[:, order][:, :, order], n_examples, LINEAR)
    for tau in (0.1, 0.3, 0.5, 0.8):
        a, b = cut(straight, n_examples, tau)[0][order], cut(permuted, n_examples, tau)[0]
        assert torch.equal(a[:, None] == a, b[:, None] == b)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(0, 20))
def test_batch_and_padding_change_no_bit(device, random_distances, seed, width):
    alone = random_distances(seed, 1, width)
    batch = random_distances(seed + 1, 4, width + 3)
    batch[2] = torch.nan
    batch[2, :width, :width] = alone[0]
    n_examples = torch.tensor([width + 3, 0, width, 2])
    got = linkage(batch, n_examples, LINEAR)[2]
    want = linkage(alone, n_examples[2:3], LINEAR)[0]
    rows = max(width - 1, 0)
    assert got[:rows].numpy().tobytes() == want.numpy().tobytes()
    assert got[rows:].isnan().all()


def test_the_diagonal_is_never_read(device, random_distances):
    distances, n_examples = random_distances(0, 1, 20), torch.tensor([20])
    want = linkage(distances, n_examples, LINEAR)
    distances[0].fill_diagonal_(torch.nan)
    assert torch.equal(linkage(distances, n_examples, LINEAR), want)


def test_distances_stay_as_they_are(device, random_distances):
    distances = random_distances(0, 2, 30)
    before = distances.clone()
    linkage(distances, torch.tensor([30, 12]), LINEAR)
    assert torch.equal(distances, before)


class TestRefuses:
    @BOTH
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 2.5])
    def test_distances_outside_their_range(self, function, value):
        distances = torch.ones(2, 4, 4)
        distances[1, 2, 1] = value
        with pytest.raises(ValueError, match=rf"distances\[1, 2, 1\] is {value}; expected 0..2"):
            function(distances, torch.tensor([4, 4]), LINEAR)

    @BOTH
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2.1])
    def test_thresholds_outside_their_range(self, function, value):
        with pytest.raises(ValueError, match=rf"thresholds\[1\] is {value}; expected 0..2"):
            function(on_a_line(0.0, 0.1), torch.tensor([2]), thresholds(0.1, value))

    @BOTH
    @pytest.mark.parametrize("second", [0.5, 0.4])
    def test_thresholds_that_do_not_increase(self, function, second):
        with pytest.raises(ValueError, match=f"thresholds must increase: 0.5 is followed by {second}"):
            function(on_a_line(0.0, 0.1), torch.tensor([2]), thresholds(0.5, second))

    @BOTH
    def test_thresholds_of_another_kind(self, function):
        with pytest.raises(TypeError, match=r"thresholds must be torch.float64, not torch.float32"):
            function(on_a_line(0.0, 0.1), torch.tensor([2]), torch.tensor([0.5]))
        with pytest.raises(ValueError, match=r"thresholds has shape \(1, 1\); expected \(R\)"):
            function(on_a_line(0.0, 0.1), torch.tensor([2]), thresholds(0.5)[None])
        with pytest.raises(TypeError, match="thresholds must be a torch tensor, not list"):
            function(on_a_line(0.0, 0.1), torch.tensor([2]), [0.5])
