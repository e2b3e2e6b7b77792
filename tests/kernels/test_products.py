import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels.products import (
    gathered_products,
    gathered_products_reference,
    mean_embeddings,
    mean_embeddings_reference,
)

PRODUCTS = pytest.mark.parametrize("function", [gathered_products, gathered_products_reference])
MEANS = pytest.mark.parametrize("function", [mean_embeddings, mean_embeddings_reference])
EVERY = pytest.mark.parametrize(
    "function", [gathered_products, gathered_products_reference, mean_embeddings, mean_embeddings_reference]
)
ROWS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.5]])
USED = torch.tensor([[1, 0, 2], [2, 0, -7]])
WEIGHTS = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
COUNTS = torch.tensor([3, 1])


@MEANS
def test_the_mean_of_the_examples_used(function):
    got = function(ROWS, USED, WEIGHTS, COUNTS, torch.tensor([[0.0, 0.0], [5.0, 6.0]]))
    assert_allclose(got, [[4 / 3, 6.5 / 3], [5.0, 6.0]], rtol=1e-7)


@PRODUCTS
def test_products_are_divided_by_a_power_of_four_a_neuron_and_padding_is_zero(function):
    got = function(ROWS, USED, WEIGHTS, torch.tensor([3, 2]))
    # largest entries 4 and 2: divided by 8 and 4, so the products by 64 and 16
    assert (got[0] * 64).tolist() == [[25, 11, 2], [11, 5, 1], [2, 1, 0.25]]
    assert (got[1] * 16).tolist() == [[0, 0, 0], [0, 4, 0], [0, 0, 0]]


@EVERY
def test_no_examples_no_neurons_and_no_dimensions(function):
    n_examples = torch.tensor([0, 0], dtype=torch.int32)
    assert not function(torch.zeros(0, 4), torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 4), n_examples).any()
    none = function(ROWS, torch.zeros(0, 3, dtype=torch.int64), torch.ones(0, 2), torch.zeros(0, dtype=torch.int32))
    assert len(none) == 0
    assert not function(torch.zeros(3, 0), USED.clamp(min=0), torch.ones(2, 0), COUNTS).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("n_neurons", "width", "d_model"), [(1, 1, 3), (3, 17, 48), (2, 101, 131), (2, 67, 768)])
def test_match_the_references_and_are_exactly_symmetric(n_neurons, width, d_model, dtype):
    generator = torch.Generator().manual_seed(width)
    rows = torch.randn(50, d_model, generator=generator).to(dtype)
    used = torch.randint(0, 50, (n_neurons, width), generator=generator)
    weights, offsets = torch.randn(2, n_neurons, d_model, generator=generator)
    n_examples = torch.tensor([width, width // 2, 0][:n_neurons])
    for o in (None, offsets):
        got = gathered_products(rows, used, weights, n_examples, o)
        assert_allclose(got, gathered_products_reference(rows, used, weights, n_examples, o), atol=2e-6 * d_model**0.5)
        assert torch.equal(got, got.transpose(1, 2))
        mean = mean_embeddings(rows, used, weights, n_examples, o)
        assert_allclose(mean, mean_embeddings_reference(rows, used, weights, n_examples, o), atol=1e-6)


def test_batch_and_padding_change_no_bit():
    generator = torch.Generator().manual_seed(0)
    rows, weights = torch.randn(40, 65, generator=generator), torch.randn(3, 65, generator=generator)
    used = torch.randint(0, 40, (3, 70), generator=generator)
    n_examples = torch.tensor([70, 33, 2])
    together = gathered_products(rows, used, weights, n_examples)
    alone = gathered_products(rows, used[1:2, :33].contiguous(), weights[1:2], n_examples[1:2])
    assert torch.equal(together[1, :33, :33], alone[0])
    assert not together[1, 33:].any()


@EVERY
def test_embeddings_that_are_equal_have_their_mean_and_one_product(function):
    got = function(torch.full((3, 5), 0.1), USED.clamp(min=0), torch.full((2, 5), 0.3), COUNTS)
    assert len(got[0].unique()) == 1


@PRODUCTS
@pytest.mark.parametrize("scale", [1e-38, 1e30])
def test_no_product_leaves_the_range_of_float32(function, scale):
    got = function(ROWS * scale, USED.clamp(min=0), WEIGHTS, COUNTS)[0]
    cosine = got / torch.outer(got.diagonal().sqrt(), got.diagonal().sqrt())
    assert_allclose(cosine[0, 1], 11 / np.sqrt(5 * 25), rtol=1e-5)


@EVERY
def test_what_is_not_finite_is_refused(function):
    rows = ROWS.clone()
    rows[2, 1] = torch.inf
    with pytest.raises(ValueError, match=r"rows\[2, 1\] is inf; expected finite numbers"):
        function(rows, USED.clamp(min=0), WEIGHTS, COUNTS)
    with pytest.raises(ValueError, match="the embedding of neuron 0, example 0 overflows float32"):
        function(ROWS * 1e30, USED.clamp(min=0), WEIGHTS * 1e30, COUNTS)
    with pytest.raises(ValueError, match=r"example_rows\[0, 1\] is 3; expected 0..2 \(P - 1\)"):
        function(ROWS, torch.tensor([[0, 3, 0], [0, 0, 0]]), WEIGHTS, COUNTS)
