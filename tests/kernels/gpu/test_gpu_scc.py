import numpy as np
import pytest
import torch

from polysem.kernels import scc
from polysem.kernels.distances import weighted_cosine_distances
from polysem.kernels.gpu.scc import linkage
from polysem.kernels.tree import cut

LINEAR = torch.arange(1, 51, dtype=torch.float64) / 50


def on_a_line(*places):
    """Examples at places on a line, their distances how far apart they are."""
    x = torch.tensor(places, dtype=torch.float64)
    return (x[:, None] - x[None, :]).abs().float()[None]


def thresholds(*taus):
    return torch.tensor(taus, dtype=torch.float64)


@pytest.fixture
def gpu_linkage(device):
    """The GPU half on its device, its result on the CPU."""

    def linkage_there(distances, n_examples, taus, until_stable=False):
        return linkage(distances.to(device), n_examples.to(device), taus.to(device), until_stable).cpu()

    return linkage_there


@pytest.mark.parametrize(
    ("places", "taus", "until_stable", "rows"),
    [
        (  # the hand-traced example of test_scc.py
            (0.0, 0.1, 0.4, 0.6, 1.5),
            (0.25, 0.5, 1.0),
            False,
            [[0, 1, 0.25, 2], [2, 3, 0.25, 2], [5, 6, 0.5, 4], [4, 7, 2.0, 5]],
        ),
        ((0.0, 0.3, 0.5, 0.6), (0.4,), False, [[0, 1, 0.4, 2], [2, 4, 0.4, 3], [3, 5, 0.4, 4]]),  # one component
        ((0.0, 1.0, 0.1, 1.1), (0.2,), False, [[0, 2, 0.2, 2], [1, 3, 0.2, 2], [4, 5, 2.0, 4]]),  # they interleave
        ((0.0, 0.5, 1.0, 1.125), (0.5,), False, [[0, 1, 0.5, 2], [2, 3, 0.5, 2], [4, 5, 2.0, 4]]),  # 1 ties: with 0
        ((0.0, 0.1, 0.25, 0.35), (0.3,), False, [[0, 1, 0.3, 2], [2, 3, 0.3, 2], [4, 5, 2.0, 4]]),
        ((0.0, 0.1, 0.25, 0.35), (0.3,), True, [[0, 1, 0.3, 2], [2, 3, 0.3, 2], [4, 5, 0.3, 4]]),
        ((0.0, 0.0, 0.0), (0.0,), False, [[0, 1, 0.0, 2], [2, 3, 0.0, 3]]),  # duplicates
        ((0.0, 0.1, 0.2), (), False, [[0, 1, 2.0, 2], [2, 3, 2.0, 3]]),  # no thresholds
    ],
)
def test_hand_sized_trees(gpu_linkage, places, taus, until_stable, rows):
    got = gpu_linkage(on_a_line(*places), torch.tensor([len(places)]), thresholds(*taus), until_stable)
    assert got[0].tolist() == rows


@pytest.mark.parametrize("until_stable", [False, True])
@pytest.mark.parametrize(
    ("n_neurons", "width", "n_levels"),  # of one level: all at distance 1
    [(0, 5, 1), (2, 0, 1), (2, 1, 1), (4, 2, 3), (5, 17, 1), (5, 17, 3), (5, 17, 2**20), (2, 64, 3), (1, 130, 2**20)],
)
def test_equals_the_cpu_half_to_the_bit(
    gpu_linkage, random_distances, ragged_counts, spoil_padding, n_neurons, width, n_levels, until_stable
):
    n_examples = ragged_counts(n_neurons, width)
    distances = spoil_padding(random_distances(width, n_neurons, width, n_levels), n_examples, square=True)
    taus = thresholds(0.0, *LINEAR, 2.0)
    got = gpu_linkage(distances, n_examples, taus, until_stable)
    want = scc.linkage(distances, n_examples, taus, until_stable)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.numpy().tobytes() == want.numpy().tobytes()


def test_equals_reference_on_embeddings(gpu_linkage, clustered_embeddings):
    n_examples = torch.tensor([33, 21])
    distances = weighted_cosine_distances(clustered_embeddings(0, 2, 33, 48), torch.ones(2, 48), n_examples)
    got = gpu_linkage(distances, n_examples, LINEAR)
    assert got.numpy().tobytes() == scc.linkage_reference(distances, n_examples, LINEAR).numpy().tobytes()


@pytest.mark.parametrize("order", ["forth", "back", "any"])
def test_a_long_chain_is_one_component(gpu_linkage, order):
    # gaps shrink to the right, so each example's nearest is the next one
    places = np.cumsum([0.0, *np.linspace(0.02, 0.01, 60)])
    places = {"forth": places, "back": places[::-1], "any": np.random.default_rng(0).permutation(places)}[order]
    d, n_examples = on_a_line(*places), torch.tensor([61])
    got = gpu_linkage(d, n_examples, thresholds(0.03))
    assert (got[0, :, 2] == 0.03).all()
    assert torch.equal(got, scc.linkage(d, n_examples, thresholds(0.03)))


def test_a_neuron_gives_the_same_bytes_in_any_batch(gpu_linkage, random_distances):
    alone, batch = random_distances(0, 1, 20, 50), random_distances(1, 3, 70, 50)
    batch[1] = torch.nan
    batch[1, :20, :20] = alone[0]
    got = gpu_linkage(batch, torch.tensor([3, 20, 0]), LINEAR)[1]
    assert got[:19].numpy().tobytes() == gpu_linkage(alone, torch.tensor([20]), LINEAR)[0].numpy().tobytes()
    assert got[19:].isnan().all()


def test_the_diagonal_is_never_read_and_distances_stay(gpu_linkage, random_distances):
    d, n_examples = random_distances(0, 1, 20), torch.tensor([20])
    want = gpu_linkage(d, n_examples, LINEAR)
    d[0].fill_diagonal_(torch.nan)
    before = d.clone()
    assert torch.equal(gpu_linkage(d, n_examples, LINEAR), want)
    assert d.numpy().tobytes() == before.numpy().tobytes()


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_ends_with_a_tree_even_where_distances_are_not_symmetric(gpu_linkage, n):
    around = torch.ones(1, n, n)
    around[0, torch.arange(n), (torch.arange(n) + 2) % n] = 0.5  # each is nearest to the next but one
    got = gpu_linkage(around, torch.tensor([n]), thresholds(0.6), until_stable=True)
    assert got[0, :, 2].tolist() == ([0.6] * (n - 1) if n % 2 else [0.6] * (n - 2) + [2.0])
    assert cut(got, torch.tensor([n]), 0.6)[0].tolist() == [0 if n % 2 else i % 2 for i in range(n)]


def refused(function, *arguments):
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*arguments)
    return type(caught.value), str(caught.value)


TWO = on_a_line(0.0, 0.1)


@pytest.mark.parametrize(
    ("distances", "n_examples", "taus"),
    [
        (torch.tensor([[[0.0, -0.5], [1.0, 0.0]]]), torch.tensor([2]), LINEAR),
        (torch.tensor([[[0.0, 1.0], [torch.nan, 0.0]]]), torch.tensor([2]), LINEAR),
        (torch.tensor([[[0.0, 2.5], [torch.inf, 0.0]]]), torch.tensor([2]), LINEAR),
        (TWO, torch.tensor([3]), LINEAR),
        (TWO, torch.tensor([-1]), LINEAR),
        (TWO, torch.tensor([2, 2]), LINEAR),
        (TWO, torch.tensor([2.0]), LINEAR),
        (TWO.double(), torch.tensor([2]), LINEAR),
        (TWO[:, :1], torch.tensor([2]), LINEAR),
        (TWO, torch.tensor([2]), LINEAR.float()),
        (TWO, torch.tensor([2]), LINEAR[None]),
        (TWO, torch.tensor([2]), thresholds(0.1, torch.nan)),
        (TWO, torch.tensor([2]), thresholds(0.1, 2.1)),
        (TWO, torch.tensor([2]), thresholds(0.5, 0.5)),
    ],
)
def test_refuses_what_the_cpu_half_refuses_in_its_words(gpu_linkage, distances, n_examples, taus):
    assert refused(gpu_linkage, distances, n_examples, taus) == refused(scc.linkage, distances, n_examples, taus)


@pytest.mark.gpu
@pytest.mark.parametrize("until_stable", [False, True])
@pytest.mark.parametrize(("n_neurons", "width"), [(200, 300), (16, 1000), (4, 2048)])
def test_equals_the_cpu_half_at_real_sizes(clustered_embeddings, ragged_counts, n_neurons, width, until_stable):
    n_examples = ragged_counts(n_neurons, width)
    x = clustered_embeddings(0, n_neurons, width, 64)
    distances = weighted_cosine_distances(x, torch.ones(n_neurons, 64), n_examples)
    got = scc.linkage(distances.cuda(), n_examples.cuda(), LINEAR.cuda(), until_stable)
    assert got.is_cuda
    want = scc.linkage(distances, n_examples, LINEAR, until_stable)
    assert got.cpu().numpy().tobytes() == want.numpy().tobytes()
