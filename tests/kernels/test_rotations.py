import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import chisquare
from sklearn.metrics.pairwise import cosine_distances

from polysem.kernels.products import gathered_products
from polysem.kernels.rotations import orders, rotated_distances, rotated_distances_reference, rotation

BOTH = pytest.mark.parametrize("function", [rotated_distances, rotated_distances_reference])


def products_of(e):
    """Inner products of embeddings (B, N, D)."""
    B, N, D = e.shape
    used = torch.arange(B * N).view(B, N)
    return gathered_products(e.reshape(B * N, D), used, torch.ones(B, D), torch.full((B,), N))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 100])
def test_a_rotation_is_orthogonal_and_keeps_the_mean(n):
    q = rotation(n, 0)
    assert_allclose(q @ q.T, np.eye(n), atol=1e-12)
    assert_allclose(q.sum(1), np.ones(n), atol=1e-12)


def test_two_examples_are_left_or_exchanged():
    seen = {tuple(np.round(rotation(2, seed).ravel(), 12) + 0.0) for seed in range(20)}
    assert seen == {(1, 0, 0, 1), (0, 1, 1, 0)}


def test_rotations_are_uniform():
    """Rotations of 3 about (1, 1, 1), and reflections: the angle is uniform, and so is the determinant's sign."""
    from scipy.stats import kstest

    x, y = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5
    turned = np.array([rotation(3, seed) @ x for seed in range(400)])
    angles = np.arctan2(turned @ y, turned @ x) / (2 * np.pi) + 0.5
    assert kstest(angles, "uniform").pvalue > 0.01
    n_proper = sum(np.linalg.det(rotation(3, seed)) > 0 for seed in range(400))
    assert 160 < n_proper < 240


def test_other_seeds_and_other_numbers_of_examples_have_other_rotations():
    assert not np.allclose(rotation(5, 0), rotation(5, 1))
    assert not np.allclose(rotation(6, 0)[:5, :5], rotation(5, 0))


def test_orders_are_orders_and_depend_on_their_null_alone():
    many = orders(7, 0, 64, 3)
    assert (np.sort(many, 1) == np.arange(7)).all()
    assert (orders(7, 5, 16, 3) == many[5:16]).all()


def mixed(state):
    """SplitMix64's output in Python's integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_orders_are_fisher_and_yates_by_splitmix64_in_every_version():
    """Its published outputs from 1234567 on, then an order step by step: a seed gives the same nulls for good."""
    assert [mixed((1234567 + i * 0x9E3779B97F4A7C15) % 2**64) for i in (1, 2)] == [
        6457827717110365317,
        3203168211198807973,
    ]
    n, null, seed = 9, 5, 2**40 + 3
    state, want = mixed((mixed((mixed(seed) + n) % 2**64) + null) % 2**64), list(range(n))
    for i in range(n - 1, 0, -1):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        k = (mixed(state) >> 32) * (i + 1) >> 32
        want[i], want[k] = want[k], want[i]
    assert orders(n, null, null + 1, seed).tolist() == [want]


def test_orders_are_uniform_and_others_for_each_seed_and_number():
    """All 24 orders of 4 are as frequent (chi-square), and none repeats with another seed or number of examples."""
    drawn = orders(4, 0, 4800, 0)
    _, times = np.unique(drawn, axis=0, return_counts=True)
    assert len(times) == 24
    assert chisquare(times).pvalue > 0.01
    assert not (orders(40, 0, 9, 1) == orders(40, 0, 9, 0)).all(1).any()
    assert not (orders(41, 0, 9, 0)[:, :40] == orders(40, 0, 9, 0)).all(1).any()


@BOTH
@pytest.mark.parametrize(("n", "d_model"), [(3, 2), (17, 5), (40, 100)])
def test_distances_are_those_of_rows_that_numpy_rotates(function, n, d_model):
    e = np.random.default_rng(n).normal(1.0, 1.0, (n, d_model))
    got = function(products_of(torch.from_numpy(e[None]).float()), torch.tensor([n]), 0, 4, 11)
    q = rotation(n, 11)
    for r, order in enumerate(orders(n, 0, 4, 11)):
        rotated = q.T @ (q @ e)[np.argsort(order)]
        assert_allclose(rotated.mean(0), e.mean(0), atol=1e-12)  # the data set has the same mean and covariance
        assert_allclose(np.cov(rotated.T), np.cov(e.T), atol=1e-12)
        assert_allclose(got[0, r], cosine_distances(rotated), atol=5e-6)


@pytest.mark.parametrize("width", [1, 2, 9, 33, 100])
def test_matches_the_reference_in_ragged_batches(width):
    e = torch.randn(4, width, 60, generator=torch.Generator().manual_seed(width))
    n_examples = torch.tensor([width, 0, 1, width // 2], dtype=torch.int32)
    gram = products_of(e)
    spoilt = gram.clone()
    for b, n in enumerate(n_examples.tolist()):
        spoilt[b, n:] = spoilt[b, :, n:] = torch.nan  # padding is never read
    got, want = (f(spoilt, n_examples, 2, 5, 1) for f in (rotated_distances, rotated_distances_reference))
    assert got.shape == (4, 3, width, width)
    assert_allclose(got, want, atol=5e-6)
    assert torch.equal(got, got.transpose(2, 3))


def test_a_null_has_the_same_bits_whatever_else_is_asked_for():
    gram, n_examples = (
        products_of(torch.randn(3, 40, 30, generator=torch.Generator().manual_seed(0))),
        torch.tensor([40, 21, 3]),
    )
    together = rotated_distances(gram, n_examples, 0, 9, 5)
    alone = rotated_distances(gram[1:2, :21, :21].contiguous(), n_examples[1:2], 6, 7, 5)
    assert torch.equal(together[1, 6, :21, :21], alone[0, 0])


@BOTH
def test_equal_embeddings_of_mean_zero_are_at_distance_one(function):
    assert (function(torch.zeros(1, 4, 4), torch.tensor([4]), 0, 2)[0, 0] == 1 - torch.eye(4)).all()


@BOTH
def test_empty_shapes(function):
    assert function(torch.zeros(0, 3, 3), torch.zeros(0, dtype=torch.int32), 0, 2).shape == (0, 2, 3, 3)
    assert function(torch.zeros(2, 0, 0), torch.zeros(2, dtype=torch.int32), 0, 2).shape == (2, 2, 0, 0)


@BOTH
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 1, 0), "nulls 1 to 1 were requested; expected 0 <= first < last"),
        ((-1, 1, 0), "nulls -1 to 1 were requested; expected 0 <= first < last"),
        ((0, 1, -1), r"seed is -1; expected 0 to 2\^63 - 1"),
        ((0, 1, 1 << 63), r"seed is 9223372036854775808; expected 0 to 2\^63 - 1"),
    ],
)
def test_wrong_arguments_are_refused(function, arguments, words):
    with pytest.raises(ValueError, match=words):
        function(torch.zeros(1, 2, 2), torch.tensor([2]), *arguments)
    with pytest.raises(ValueError, match=r"n_examples\[0\] is 3; expected 0..2"):
        function(torch.zeros(1, 2, 2), torch.tensor([3]), 0, 1)
