import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels import distances as cpu
from polysem.kernels.gates import gated_factors_reference
from polysem.kernels.gpu.distances import PRECISIONS, gathered_cosine_distances
from polysem.kernels.gpu.gates import gated_factors

SHAPES = [(0, 3, 4), (1, 1, 1), (4, 17, 48), (2, 67, 131)]


def made_up(n_neurons, width, d_model, dtype=torch.float32):
    """rows, example_rows, weights, up, biases"""
    generator = torch.Generator().manual_seed(width)
    rows = torch.randn(width + 3, d_model, generator=generator).to(dtype)
    used = torch.randint(0, len(rows), (n_neurons, width), generator=generator, dtype=torch.int32)
    weights, up = torch.randn(2, n_neurons, d_model, generator=generator)
    return rows, used, weights, up, torch.randn(n_neurons, 2, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_factors_match_their_reference(device, ragged_counts, shape, dtype):
    arguments = (*made_up(*shape, dtype), ragged_counts(*shape[:2]))
    scales = torch.rand(len(arguments[0]), generator=torch.Generator().manual_seed(1))
    for given in (None, scales):
        moved = [None if tensor is None else tensor.to(device) for tensor in (*arguments, given)]
        got = gated_factors(*moved).cpu()
        assert_allclose(got, gated_factors_reference(*arguments, given), rtol=1e-5, atol=2e-5)


def test_a_neurons_factors_have_the_same_bits_in_any_batch(device):
    rows, used, weights, up, biases = (tensor.to(device) for tensor in made_up(3, 11, 70, torch.float16))
    n = torch.tensor([11, 4, 9], device=device)
    every = gated_factors(rows, used, weights, up, biases, n)
    for b in range(3):
        one = slice(b, b + 1)
        alone = gated_factors(rows, used[one], weights[one], up[one], biases[one], n[one])
        assert torch.equal(alone[0], every[b])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(2, 2, 5), (5, 17, 48), (2, 67, 131)])
def test_gated_distances_match_the_reference(device, ragged_counts, shape, precision):
    rows, used, weights, up, biases = made_up(*shape)
    n = ragged_counts(*shape[:2])
    factors = gated_factors_reference(rows, used, weights, up, biases, n)
    moved = [tensor.to(device) for tensor in (rows, used, weights, n)]
    got = gathered_cosine_distances(*moved, precision=precision, up=up.to(device), factors=factors.to(device)).cpu()
    want = cpu.weighted_cosine_distances_reference(rows[used.long()], weights, n, up=up, factors=factors)
    atol = {"float32": 2e-6, "tf32": 2e-3, "bf16": 1.5e-2}[precision]
    assert_allclose(got, want, atol=atol, rtol=0)
    assert torch.equal(got, got.transpose(1, 2))


def test_equal_rows_are_at_distance_zero(device):
    rows, used, weights, up, biases = made_up(1, 20, 64, torch.float16)
    used = torch.cat([used, used], dim=1)
    n = torch.tensor([40])
    factors = gated_factors_reference(rows, used, weights, up, biases, n)
    moved = [tensor.to(device) for tensor in (rows, used, weights, n)]
    got = gathered_cosine_distances(*moved, up=up.to(device), factors=factors.to(device)).cpu()[0]
    assert not torch.diagonal(got[:20, 20:]).any()


def test_up_and_factors_come_together_and_finite(device):
    rows, used, weights, up, _ = (tensor.to(device) for tensor in made_up(1, 2, 3))
    n = torch.tensor([2], device=device)
    with pytest.raises(ValueError, match="come together"):
        gathered_cosine_distances(rows, used, weights, n, up=up)
    wrong = torch.tensor([[[1.0, 1.0], [torch.inf, 1.0]]], device=device)
    with pytest.raises(ValueError, match=r"factors\[0, 1\] is \[inf, 1.0\]"):
        gathered_cosine_distances(rows, used, weights, n, up=up, factors=wrong)
