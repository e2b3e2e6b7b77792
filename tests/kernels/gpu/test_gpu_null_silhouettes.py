"""Null silhouettes in one launch, by the GPU's kernels one after the other, and in one pass on a CPU."""

import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels import null_silhouettes as cpu
from polysem.kernels import products

pytest.importorskip("triton")
from polysem.kernels.gpu import blocks, null_silhouettes

from .counting import Counted


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Each takes several nulls, in the scratch of the one before."""
    monkeypatch.setattr(blocks, "RESIDENT", 2)


def gram_of(n_neurons, width, d_model=20, seed=0):
    e = torch.randn(n_neurons, width, d_model, generator=torch.Generator().manual_seed(seed))
    used = torch.arange(n_neurons * width).view(n_neurons, width)
    counts = torch.full((n_neurons,), width)
    return products.gathered_products(e.flatten(0, 1), used, torch.ones(n_neurons, d_model), counts)


def by_the_kernels(*arguments):
    """What more than LARGEST examples are given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(null_silhouettes, "LARGEST", -1)
        return null_silhouettes.null_silhouettes(*arguments)


FUNCTIONS = [cpu.null_silhouettes, null_silhouettes.null_silhouettes, by_the_kernels]


@pytest.mark.parametrize("method", ["average", "complete", "single"])
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 4), (2, 0), (1, 1), (2, 2), (4, 3), (4, 17)])
def test_a_null_is_rotated_clustered_and_scored(device, ragged_counts, spoil_padding, n_neurons, width, method):
    counts = ragged_counts(n_neurons, width)
    gram = spoil_padding(gram_of(n_neurons, width), counts, square=True)
    want = cpu.null_silhouettes(gram, counts, 2, 5, 3, method)
    assert want.shape == (n_neurons, 3)
    assert torch.equal(want.isnan(), (counts < 3)[:, None].expand(-1, 3))
    got = null_silhouettes.null_silhouettes(gram.to(device), counts.to(device), 2, 5, 3, method).cpu()
    assert_allclose(got, want, atol=1e-5)  # products are summed in another order


@pytest.mark.parametrize(("n_neurons", "width", "last"), [(4, 17, 3), (1, 100, 1)])
def test_one_launch_gives_the_bytes_of_the_kernels_in_turn(device, ragged_counts, n_neurons, width, last):
    gram, counts = gram_of(n_neurons, width).to(device), ragged_counts(n_neurons, width).to(device)
    with Counted() as counted:
        got = null_silhouettes.null_silhouettes(gram, counts, 0, last, 7)
    assert counted.launches["_nulls_kernel"] == 1
    assert counted.launches["_chain_kernel"] == 0
    want = by_the_kernels(gram, counts, 0, last, 7)
    assert got.cpu().numpy().tobytes() == want.cpu().numpy().tobytes()


def test_more_examples_go_through_the_kernels_in_turn(device):
    gram, counts = torch.zeros(1, 129, 129, device=device), torch.tensor([2], device=device)
    with Counted() as counted:
        assert null_silhouettes.null_silhouettes(gram, counts, 0, 1).isnan().all()
    assert (counted.launches["_nulls_kernel"], counted.launches["_chain_kernel"]) == (0, 1)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_null_has_the_same_bits_whatever_else_is_requested(monkeypatch, device, function):
    where = "cpu" if function is cpu.null_silhouettes else device
    gram, counts = gram_of(3, 20).to(where), torch.tensor([20, 11, 3], device=where)
    together = function(gram, counts, 0, 3, 5)
    alone = function(gram[1:2, :11, :11].contiguous(), counts[1:2], 2, 3, 5)
    assert together[1, 2].item() == alone[0, 0].item()
    monkeypatch.setattr(null_silhouettes, "ROOM", 4 * 20 * 20 * 4)  # few nulls at a time
    assert torch.equal(function(gram, counts, 0, 3, 5), together)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_embeddings_of_zero_separate_nothing(device, function):
    where = "cpu" if function is cpu.null_silhouettes else device
    found = function(torch.zeros(1, 5, 5, device=where), torch.tensor([5], device=where), 0, 3)
    assert found.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("function", [cpu.null_silhouettes, null_silhouettes.null_silhouettes])
def test_wrong_arguments_are_refused(function):
    gram, counts = torch.zeros(1, 3, 3), torch.tensor([3])
    with pytest.raises(ValueError, match="nulls 2 to 2 were requested"):
        function(gram, counts, 2, 2)
    with pytest.raises(ValueError, match="method is 'ward'; expected one of average, complete, single"):
        function(gram, counts, 0, 1, 0, "ward")
    with pytest.raises(TypeError, match=r"products must be torch\.float32"):
        function(gram.double(), counts, 0, 1)


def test_a_neuron_does_not_see_what_a_larger_one_left(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one task has them both
    gram, counts = torch.zeros(2, 5, 5), torch.tensor([5, 3])
    on_a_line = torch.tensor([[-5.0], [-4.0], [2.0], [3.0], [4.0]])
    gram[0], gram[1, :3, :3] = on_a_line @ on_a_line.T, gram_of(1, 3)[0]
    together = cpu.null_silhouettes(gram, counts, 0, 20)
    alone = cpu.null_silhouettes(gram[1:, :3, :3].contiguous(), counts[1:], 0, 20)
    assert (together[0] > alone[0]).all()
    assert torch.equal(together[1], alone[0])


@pytest.mark.gpu
@pytest.mark.parametrize(("n_neurons", "width"), [(200, 100), (50, 128), (50, 17)])
def test_nulls_of_real_sizes_are_those_of_the_kernels_and_near_those_of_the_cpu(monkeypatch, n_neurons, width):
    monkeypatch.undo()
    gram, counts = gram_of(n_neurons, width), torch.arange(n_neurons) % (width + 1)
    got = null_silhouettes.null_silhouettes(gram.cuda(), counts.cuda(), 0, 19)
    # each 32 products are added alike, but within them tensor cores may add in another order: the best of a null's
    # silhouettes moves by 1e-5 at most, unless a merge changes places
    for want in (by_the_kernels(gram.cuda(), counts.cuda(), 0, 19), cpu.null_silhouettes(gram, counts, 0, 19)):
        near = (got.cpu() - want.cpu()).abs() <= 1e-5
        assert torch.equal(got.isnan().cpu(), want.isnan().cpu())
        assert (near | want.isnan().cpu()).double().mean() > 0.99
