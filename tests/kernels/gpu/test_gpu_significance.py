"""What the rotation test is made of on a GPU: means, inner products, rotated distances, silhouettes of every cut."""

import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels import agglomerative, products, rotations, scc, silhouettes
from polysem.kernels.gpu.products import gathered_products, mean_embeddings
from polysem.kernels.gpu.products import products as multiplied
from polysem.kernels.gpu.rotations import rotated_distances
from polysem.kernels.gpu.silhouettes import CONSTANTS, cut_silhouettes
from polysem.kernels.significance import gathered_rotation_test

SHAPES = [(0, 4, 8), (2, 0, 8), (2, 3, 0), (1, 1, 3), (2, 2, 5), (5, 17, 48), (2, 67, 131)]


def made_up(n_neurons, width, d_model, seed=0):
    """A table of rows, rows of each neuron, weights, offsets."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 * width + 1, d_model, generator=generator)
    used = torch.randint(0, len(rows), (n_neurons, width), generator=generator)
    weights, offsets = torch.randn(2, n_neurons, d_model, generator=generator)
    return rows, used, weights, offsets


def moved(device, *tensors):
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


@pytest.mark.parametrize(("M", "n", "rows", "k"), [(1, 1, 1, 1), (4, 65, 3, 33), (2, 64, 64, 64), (6, 5, 67, 100)])
def test_products_are_those_of_torch(device, M, n, rows, k):
    generator = torch.Generator().manual_seed(k)
    a, b = torch.randn(M, n, k, generator=generator), torch.randn(M // 2 or 1, rows, k, generator=generator)
    repeat = M // len(b)
    got = multiplied(*moved(device, a, b), repeat).cpu()
    want = a.double() @ b.double().repeat_interleave(repeat, 0).transpose(1, 2)
    assert_allclose(got, want, atol=3e-6 * k**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_offsets", [False, True])
@pytest.mark.parametrize(("n_neurons", "width", "d_model"), SHAPES)
def test_means_have_the_bytes_of_the_cpu_and_products_are_near(
    device, ragged_counts, n_neurons, width, d_model, with_offsets, dtype
):
    rows, used, weights, offsets = made_up(n_neurons, width, d_model)
    arguments = rows.to(dtype), used, weights, ragged_counts(n_neurons, width), offsets if with_offsets else None
    assert torch.equal(mean_embeddings(*moved(device, *arguments)).cpu(), products.mean_embeddings(*arguments))
    got = gathered_products(*moved(device, *arguments)).cpu()
    assert_allclose(got, products.gathered_products(*arguments), atol=3e-6 * max(d_model, 1) ** 0.5)
    assert torch.equal(got, got.transpose(1, 2))


@pytest.mark.parametrize(("n_neurons", "width"), [(0, 4), (2, 0), (2, 1), (4, 17), (1, 67)])
def test_rotations_are_those_of_the_cpu(device, ragged_counts, spoil_padding, n_neurons, width):
    n_examples = ragged_counts(n_neurons, width)
    e = torch.randn(n_neurons, width, 40, generator=torch.Generator().manual_seed(1))
    gram = spoil_padding(e @ e.transpose(1, 2), n_examples, square=True)
    got = rotated_distances(*moved(device, gram, n_examples), 1, 4, 9).cpu()
    assert_allclose(got, rotations.rotated_distances_reference(gram, n_examples, 1, 4, 9), atol=5e-6)
    assert torch.equal(got, got.transpose(2, 3))


def test_a_null_has_the_same_bits_whatever_else_is_requested(device):
    e = torch.randn(3, 30, 20, generator=torch.Generator().manual_seed(0))
    gram, n_examples = moved(device, e @ e.transpose(1, 2), torch.tensor([30, 21, 3]))
    together = rotated_distances(gram, n_examples, 0, 5, 5)
    alone = rotated_distances(gram[1:2, :21, :21].contiguous(), n_examples[1:2], 3, 4, 5)
    assert torch.equal(together[1, 3, :21, :21], alone[0, 0])


@pytest.mark.parametrize("n_levels", [2, 6, 2**20])
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 4), (2, 0), (2, 1), (5, 9), (1, 20)])
def test_silhouettes_are_those_of_the_cpu(
    device, ragged_counts, random_distances, n_neurons, width, n_levels, monkeypatch
):
    if device == "cpu":
        monkeypatch.setitem(CONSTANTS, "COLS", 8)  # the interpreter is slow: several blocks of few columns
    distances, n_examples = random_distances(width, n_neurons, width, n_levels), ragged_counts(n_neurons, width)
    trees = agglomerative.linkage(distances, n_examples)
    got = cut_silhouettes(*moved(device, distances, trees, n_examples)).cpu()
    assert_allclose(got, silhouettes.cut_silhouettes(distances, trees, n_examples), atol=1e-12)


def test_rounds_of_scc_are_cuts_too(device, random_distances):
    distances, n_examples = random_distances(3, 2, 12), torch.tensor([12, 7])
    trees = scc.linkage(distances, n_examples, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    got = cut_silhouettes(*moved(device, distances, trees, n_examples)).cpu()
    assert_allclose(got, silhouettes.cut_silhouettes(distances, trees, n_examples), atol=1e-12)


def test_an_embedding_that_is_not_finite_is_named_as_on_the_cpu(device):
    rows, used, weights, _ = made_up(2, 3, 4)
    rows[used[1, 2], 3] = torch.inf
    arguments = rows, used, weights, torch.tensor([0, 3])
    for ours, of_cpu in ((mean_embeddings, products.mean_embeddings), (gathered_products, products.gathered_products)):
        with pytest.raises(ValueError, match="expected finite numbers") as want:
            of_cpu(*arguments)
        with pytest.raises(ValueError, match="expected finite numbers") as got:
            ours(*moved(device, *arguments))
        assert str(got.value) == str(want.value)


@pytest.mark.gpu
@pytest.mark.parametrize(("n_neurons", "width"), [(300, 100), (20, 500)])
def test_a_gpu_is_dispatched_to_and_tests_as_the_cpu_does(n_neurons, width):
    rows, used, weights, offsets = made_up(n_neurons, width, 96)
    arguments = rows, used, weights, torch.arange(width, width - n_neurons, -1).clamp(min=0), offsets
    got = gathered_rotation_test(*moved("cuda", *arguments), n_null=19)
    assert got.p_value.device.type == "cuda"
    want = gathered_rotation_test(*arguments, n_null=19)
    assert_allclose(got.null_mean.cpu(), want.null_mean, atol=1e-4)
    assert ((got.p_value.cpu() - want.p_value).abs() <= 0.05).double().mean() > 0.99
