import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from polysem.kernels import agglomerative as cpu
from polysem.kernels.definitions import LINKAGES
from polysem.kernels.gpu.agglomerative import linkage

METHOD = pytest.mark.parametrize("method", LINKAGES)

# 0 and 1 are close, 2 is nearer to 1 than to 0
THREE = torch.tensor([[[0.0, 0.25, 1.0], [0.25, 0.0, 0.5], [1.0, 0.5, 0.0]]])


@pytest.fixture(scope="module")
def tree(device):
    """The function, on this device and back."""
    return lambda distances, n_examples, *method: linkage(distances.to(device), n_examples.to(device), *method).cpu()


def assert_same_bytes(got, want):
    assert_allclose(got, want, rtol=0, atol=1e-5)  # says more than the line below where it fails
    assert got.numpy().tobytes() == want.numpy().tobytes()


@pytest.mark.parametrize(("method", "height"), [("average", 0.75), ("complete", 1.0), ("single", 0.5)])
def test_the_third_of_three_joins_at_mean_largest_or_smallest(tree, method, height):
    assert tree(THREE, torch.tensor([3]), method)[0].tolist() == [[0, 1, 0.25, 2], [2, 3, height, 3]]


@METHOD
def test_none_one_and_two_examples(tree, method):
    got = tree(torch.full((3, 2, 2), 0.5), torch.tensor([0, 1, 2]), method)
    assert got.isnan().all(dim=2).tolist() == [[True], [True], [False]]
    assert got[2].tolist() == [[0, 1, 0.5, 2]]


@pytest.mark.parametrize(("n_neurons", "width"), [(0, 0), (0, 5), (2, 0), (2, 1)])
def test_empty_shapes(tree, n_neurons, width):
    got = tree(torch.zeros(n_neurons, width, width), torch.zeros(n_neurons, dtype=torch.int32))
    assert got.shape == (n_neurons, max(width - 1, 0), 4)
    assert got.dtype == torch.float64


@METHOD
def test_matches_reference(tree, random_distances, method):
    distances, n_examples = random_distances(0, 4, 17), torch.tensor([17, 13, 2, 5])
    assert_allclose(
        tree(distances, n_examples, method), cpu.linkage_reference(distances, n_examples, method), atol=1e-5, rtol=0
    )


@METHOD
@pytest.mark.parametrize("n_levels", [1, 2, 5, 2**20])  # the fewer, the more ties
@pytest.mark.parametrize(("n_neurons", "width"), [(6, 7), (2, 31)])
def test_is_the_tree_of_the_cpu_to_the_byte(
    tree, random_distances, ragged_counts, spoil_padding, n_neurons, width, n_levels, method
):
    n_examples = ragged_counts(n_neurons, width)
    distances = spoil_padding(random_distances(width, n_neurons, width, n_levels), n_examples, square=True)
    assert_same_bytes(tree(distances, n_examples, method), cpu.linkage(distances, n_examples, method))


@METHOD
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(2, 9), n_levels=st.sampled_from([1, 2, 5, 2**20]))
@settings(max_examples=12)
def test_is_the_tree_of_the_cpu_whatever_the_distances(tree, random_distances, seed, width, n_levels, method):
    distances, n_examples = random_distances(seed, 1, width, n_levels), torch.tensor([width])
    assert_same_bytes(tree(distances, n_examples, method), cpu.linkage(distances, n_examples, method))


@METHOD
def test_distances_one_rounding_apart_give_the_tree_of_the_cpu_too(tree, method):
    # means of these round to below their least, so a parent could come out lower than its child
    near = np.random.default_rng(0).choice(np.float32([0.1, np.nextafter(np.float32(0.1), np.float32(1))]), (40, 40))
    upper = np.triu(near, 1)
    distances, n_examples = torch.from_numpy((upper + upper.T)[None]), torch.tensor([40])
    got = tree(distances, n_examples, method)
    assert_same_bytes(got, cpu.linkage(distances, n_examples, method))
    assert (got[0, :, 2].diff() >= 0).all()


def test_a_row_wider_than_a_warp_reads_at_once(tree, random_distances):
    distances, n_examples = random_distances(0, 1, 133, 50), torch.tensor([133])
    assert_same_bytes(tree(distances, n_examples), cpu.linkage(distances, n_examples))


@METHOD
def test_duplicates_join_at_zero(tree, method):
    assert tree(torch.zeros(1, 7, 7), torch.tensor([7]), method)[0, :, 2].tolist() == [0.0] * 6


def test_negative_zero_is_zero(tree):
    distances = THREE.clone()
    distances[0, 0, 1] = distances[0, 1, 0] = -0.0
    assert tree(distances, torch.tensor([3]))[0, 0].tolist() == [0, 1, 0, 2]


def test_batch_and_padding_change_no_bit(tree, random_distances, spoil_padding):
    alone = random_distances(0, 1, 14)
    n_examples = torch.tensor([17, 0, 14, 2])
    batch = spoil_padding(random_distances(1, 4, 17), n_examples, square=True)
    batch[2, :14, :14] = alone[0]
    got = tree(batch, n_examples)[2]
    assert got[:13].numpy().tobytes() == tree(alone, n_examples[2:3])[0].numpy().tobytes()
    assert got[13:].isnan().all()


def test_the_diagonal_is_never_read(tree, random_distances):
    distances, n_examples = random_distances(0, 1, 12), torch.tensor([12])
    want = tree(distances, n_examples)
    distances[0].fill_diagonal_(torch.nan)
    assert torch.equal(tree(distances, n_examples), want)


def test_distances_stay_as_they_are(device, random_distances):
    distances = random_distances(0, 2, 12).to(device)
    before = distances.clone()
    linkage(distances, torch.tensor([12, 5], device=device))
    assert torch.equal(distances, before)


class TestRefusesInTheWordsOfTheCpu:
    def check(self, tree, distances, n_examples, *method):
        with pytest.raises((TypeError, ValueError)) as expected:
            cpu.linkage(distances, n_examples, *method)
        with pytest.raises(expected.type) as got:
            tree(distances, n_examples, *method)
        assert str(got.value) == str(expected.value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 2.5])
    @pytest.mark.parametrize("width", [4, 140])  # within a block of columns, and past it
    def test_distances_outside_their_range(self, tree, value, width):
        distances = torch.ones(2, width, width)
        distances[1, 2, width - 1] = value
        self.check(tree, distances, torch.tensor([width, width]))

    def test_distances_that_run_in_a_circle(self, tree):
        distances = torch.ones(2, 4, 4)
        for i in range(4):  # each is nearest to the next, and ever nearer
            distances[1, i, (i + 1) % 4] = 0.5
        self.check(tree, distances, torch.tensor([4, 4]))

    def test_an_unknown_method(self, tree):
        self.check(tree, THREE, torch.tensor([3]), "ward")

    def test_wrong_shapes_dtypes_and_counts(self, tree):
        self.check(tree, THREE[:, :, :2], torch.tensor([3]))
        self.check(tree, THREE.double(), torch.tensor([3]))
        self.check(tree, THREE, torch.tensor([4]))
        self.check(tree, THREE, torch.tensor([3, 3]))
        self.check(tree, THREE, torch.tensor([3.0]))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_distances_that_are_not_symmetric_end_in_a_tree_or_an_error(tree, seed):
    distances = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(seed))
    try:
        got = tree(distances, torch.tensor([8]))
    except ValueError:
        return
    assert not got.isnan().any()


@pytest.mark.gpu
class TestRealSizes:
    @METHOD
    @pytest.mark.parametrize("n_levels", [20, 2**20])
    @pytest.mark.parametrize(("n_neurons", "width"), [(300, 100), (40, 500), (12, 1000), (2, 2500), (1, 4096)])
    def test_a_gpu_is_dispatched_to_and_gives_the_bytes_of_the_cpu(
        self, random_distances, n_neurons, width, n_levels, method
    ):
        distances = random_distances(0, n_neurons, width, n_levels)
        n_examples = torch.arange(width, width - n_neurons, -1).clamp(min=0)
        got = cpu.linkage(distances.cuda(), n_examples.cuda(), method)
        assert got.device.type == "cuda"
        assert_same_bytes(got.cpu(), cpu.linkage(distances, n_examples, method))

    def test_a_second_run_gives_the_same_bytes(self, random_distances):
        distances, n_examples = random_distances(0, 200, 300, 20).cuda(), torch.full((200,), 300).cuda()
        first = linkage(distances, n_examples)
        for _ in range(20):
            assert torch.equal(linkage(distances, n_examples), first)
