"""Null silhouettes in one pass on a CPU, and by the kernels one after the other on a GPU: the same numbers."""

import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels import products
from polysem.kernels.gpu.null_silhouettes import null_silhouettes as step_by_step
from polysem.kernels.null_silhouettes import null_silhouettes


def gram_of(n_neurons, width, d_model=20, seed=0):
    e = torch.randn(n_neurons, width, d_model, generator=torch.Generator().manual_seed(seed))
    used = torch.arange(n_neurons * width).view(n_neurons, width)
    counts = torch.full((n_neurons,), width)
    return products.gathered_products(e.flatten(0, 1), used, torch.ones(n_neurons, d_model), counts)


@pytest.mark.parametrize("method", ["average", "complete", "single"])
@pytest.mark.parametrize(("n_neurons", "width"), [(0, 4), (2, 0), (1, 1), (2, 2), (4, 3), (4, 17), (2, 100)])
def test_a_null_is_rotated_clustered_and_scored(ragged_counts, spoil_padding, n_neurons, width, method):
    counts = ragged_counts(n_neurons, width)
    gram = spoil_padding(gram_of(n_neurons, width), counts, square=True)
    got = null_silhouettes(gram, counts, 2, 7, 3, method)
    assert got.shape == (n_neurons, 5)
    assert torch.equal(got.isnan(), (counts < 3)[:, None].expand(-1, 5))
    assert_allclose(got, step_by_step(gram, counts, 2, 7, 3, method), atol=1e-12)


def test_a_null_has_the_same_bits_whatever_else_is_requested(monkeypatch):
    gram, counts = gram_of(3, 40), torch.tensor([40, 21, 3])
    for function in (null_silhouettes, step_by_step):
        together = function(gram, counts, 0, 9, 5)
        alone = function(gram[1:2, :21, :21].contiguous(), counts[1:2], 6, 7, 5)
        assert together[1, 6].item() == alone[0, 0].item()
        monkeypatch.setattr("polysem.kernels.gpu.null_silhouettes.ROOM", 4 * 40 * 40 * 4)  # four nulls at a time
        assert torch.equal(function(gram, counts, 0, 9, 5), together)


def test_embeddings_of_zero_separate_nothing():
    assert null_silhouettes(torch.zeros(1, 5, 5), torch.tensor([5]), 0, 3).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("function", [null_silhouettes, step_by_step])
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
    together = null_silhouettes(gram, counts, 0, 20)
    alone = null_silhouettes(gram[1:, :3, :3].contiguous(), counts[1:], 0, 20)
    assert (together[0] > alone[0]).all()
    assert torch.equal(together[1], alone[0])
