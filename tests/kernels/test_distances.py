import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics.pairwise import cosine_distances

from polysem.kernels.distances import (
    gathered_cosine_distances,
    weighted_cosine_distances,
    weighted_cosine_distances_reference,
)

SHAPES = [
    (0, 4, 8),
    (2, 0, 8),
    (1, 1, 768),
    (2, 2, 5),
    (3, 17, 48),  # primes and not a power of two: catches tile-edge mistakes
    (2, 97, 31),  # one more than a block of rows
    (8, 100, 768),  # the shape the server really sends
]
ATOL = 1e-6  # float32 dot product of 768 terms, unit vectors

BOTH = pytest.mark.parametrize("function", [weighted_cosine_distances, weighted_cosine_distances_reference])


@BOTH
def test_right_angle_opposite_and_parallel_are_one_two_and_zero(function):
    x = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [5.0, 0.0]]])
    got = function(x, torch.ones(1, 2), torch.tensor([4]))
    assert got[0].tolist() == [[0, 1, 2, 0], [1, 0, 1, 1], [2, 1, 0, 2], [0, 1, 2, 0]]


@BOTH
def test_weights_multiply_then_offsets_add(function):
    x = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    got = function(
        x, torch.tensor([[2.0, 3.0]]), torch.tensor([2]), offsets=torch.tensor([[0.0, -3.0]])
    )  # e = (2, 0) and (2, -3)
    assert got[0, 0, 1].item() == pytest.approx(1 - 2 / 13**0.5, abs=ATOL)


@BOTH
def test_zero_embedding_is_at_distance_one(function):
    x = torch.tensor([[[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    got = function(x, torch.ones(1, 2), torch.tensor([3]))
    assert got[0].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


@BOTH
def test_padding_is_infinite_and_never_read(function):
    x = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [torch.nan, torch.inf]]])
    got = function(x, torch.ones(1, 2), torch.tensor([2]))
    inf = float("inf")
    assert got[0].tolist() == [[0, 1, inf], [1, 0, inf], [inf, inf, inf]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_offsets", [False, True])
@pytest.mark.parametrize(("n_neurons", "width", "d_model"), SHAPES)
def test_matches_reference_and_scikit_learn(device, n_neurons, width, d_model, with_offsets, dtype):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(n_neurons, width, d_model, generator=generator).to(dtype)
    weights, offsets = torch.randn(2, n_neurons, d_model, generator=generator)
    offsets = offsets if with_offsets else None
    n_examples = torch.randint(0, width + 1, (n_neurons,), generator=generator, dtype=torch.int32)
    n_examples[: n_neurons // 2] = width
    got = weighted_cosine_distances(x.to(device), weights, n_examples, offsets).cpu()
    want = weighted_cosine_distances_reference(x, weights, n_examples, offsets)
    assert got.dtype == torch.float32
    assert_allclose(got, want, atol=ATOL, rtol=0)
    for b, n in enumerate(n_examples.tolist()):
        if n:
            e = x[b, :n].double() * weights[b].double() + (0 if offsets is None else offsets[b].double())
            assert_allclose(got[b, :n, :n], cosine_distances(e), atol=ATOL, rtol=0)


def test_is_symmetric_and_zero_on_the_diagonal_to_the_bit(device, clustered_embeddings):
    got = weighted_cosine_distances(clustered_embeddings(0, 3, 50, 768), torch.ones(3, 768), torch.full((3,), 50))
    assert torch.equal(got, got.transpose(1, 2))
    assert not torch.diagonal(got, dim1=1, dim2=2).any()
    assert got.min() >= 0
    assert got.max() <= 2


def test_distances_are_multiples_of_two_to_the_minus_24(device, clustered_embeddings):
    got = weighted_cosine_distances(clustered_embeddings(0, 2, 60, 768), torch.ones(2, 768), torch.full((2,), 60))
    scaled = got.double() * 2**24
    assert torch.equal(scaled, scaled.round())


def test_duplicates_are_at_distance_zero_wherever_they_stand(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 30, 768, generator=generator).repeat(1, 3, 1)
    got = weighted_cosine_distances(x, torch.rand(1, 768, generator=generator), torch.tensor([90]))[0]
    assert torch.equal(got, got[:30, :30].repeat(3, 3))
    assert not torch.diagonal(got[:30, 60:]).any()


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(0, 13), d_model=st.integers(1, 70))
def test_order_batch_and_padding_change_no_bit(device, seed, width, d_model):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, width, d_model, generator=generator)
    weights = torch.randn(1, d_model, generator=generator)
    alone = weighted_cosine_distances(x, weights, torch.tensor([width]))[0]
    order = torch.randperm(width, generator=generator)
    batch = torch.randn(3, width + 5, d_model, generator=generator)
    batch[1, :width] = x[0, order]
    in_batch = weighted_cosine_distances(batch, weights.repeat(3, 1), torch.tensor([width + 5, width, width // 2]))
    assert torch.equal(in_batch[1, :width, :width], alone[order][:, order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_gathered_equals_direct_to_the_bit(device, dtype, index):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(30, 48, generator=generator).to(dtype)
    used = torch.randint(0, 30, (3, 17), generator=generator, dtype=index)
    weights, offsets = torch.randn(2, 3, 48, generator=generator)
    n_examples = torch.tensor([17, 0, 9])
    direct = weighted_cosine_distances(rows[used.long()], weights, n_examples, offsets)
    used[2, 9:] = -1  # padding may hold anything
    assert torch.equal(gathered_cosine_distances(rows, used, weights, n_examples, offsets), direct)


def test_every_float16_is_read_exactly(device):
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)]
    x = torch.ones(1, len(values) + 1, 2, dtype=torch.float16)
    x[0, 1:, 1] = torch.from_numpy(values)
    weights, n_examples = torch.ones(1, 2), torch.tensor([3])
    for k in range(0, len(values) - 2, 1000):  # the angle to (1, 1) tells the value
        few = x[:, [0, 1 + k, 2 + k]].contiguous()
        exact = weighted_cosine_distances(few.float(), weights, n_examples)
        assert torch.equal(weighted_cosine_distances(few, weights, n_examples), exact)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-12, 1e12, 1e30])
def test_length_does_not_matter(device, scale):
    x = torch.tensor([[[3.0, 4.0, 0.0], [4.0, 3.0, 0.0]]]) * scale
    got = weighted_cosine_distances(x, torch.ones(1, 3), torch.tensor([2]))
    assert got[0, 0, 1].item() == pytest.approx(0.04, abs=1e-2 if scale < 1e-40 else ATOL)  # 1e-42 has ten bits


def test_a_view_is_taken_as_it_looks(device):
    x = torch.randn(48, 7, 2, generator=torch.Generator().manual_seed(0))
    weights, n_examples = torch.ones(2, 48), torch.tensor([7, 6])
    view = x.permute(2, 1, 0)
    assert torch.equal(
        weighted_cosine_distances(view, weights, n_examples),
        weighted_cosine_distances(view.contiguous(), weights, n_examples),
    )


@pytest.mark.parametrize("width", [20, 50, 130])
def test_equal_embeddings_anywhere_leave_the_matrix_symmetric(device, width):
    rng = np.random.default_rng(width)
    x = torch.from_numpy(rng.normal(size=(8, width, 64))).float()
    for b in range(8):
        chosen = rng.permutation(width)[:12]
        x[b, chosen] = x[b, chosen[0]].clone()
        d = weighted_cosine_distances(x.to(device), torch.ones(8, 64), torch.full((8,), width)).cpu()
        assert torch.equal(d[b], d[b].T)
        assert (d[b][np.ix_(chosen, chosen)] == 0).all()


class TestRefuses:
    x = torch.ones(2, 3, 4)
    weights = torch.ones(2, 4)
    n_examples = torch.tensor([3, 2])

    @BOTH
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_an_embedding_that_is_not_finite(self, function, value, dtype):
        x = self.x.to(dtype, copy=True)
        x[1, 1, 2] = value
        with pytest.raises(ValueError, match=rf"x\[1, 1, 2\] is {value}"):
            function(x, self.weights, self.n_examples)

    def test_a_gathered_row_that_is_not_finite(self):
        rows = torch.ones(5, 4)
        rows[4, 3] = torch.nan
        used = torch.tensor([[0, 1, 2], [4, 3, 9]])
        with pytest.raises(ValueError, match=r"rows\[4, 3\] is nan"):
            gathered_cosine_distances(rows, used, self.weights, self.n_examples)

    def test_an_embedding_that_overflows(self):
        with pytest.raises(ValueError, match="the embedding of neuron 0, example 0 overflows float32"):
            weighted_cosine_distances(self.x * 1e30, self.weights * 1e30, self.n_examples)

    @BOTH
    @pytest.mark.parametrize("name", ["weights", "offsets"])
    def test_vectors_that_are_not_finite(self, function, name):
        vector = torch.ones(2, 4)
        vector[1, 3] = torch.inf
        arguments = {"weights": self.weights, "offsets": None} | {name: vector}
        with pytest.raises(ValueError, match=rf"{name}\[1, 3\] is inf"):
            function(self.x, n_examples=self.n_examples, **arguments)

    @pytest.mark.parametrize("count", [-1, 4])
    def test_n_examples_outside_the_slots(self, count):
        with pytest.raises(ValueError, match=rf"n_examples\[1\] is {count}; expected 0..3"):
            weighted_cosine_distances(self.x, self.weights, torch.tensor([3, count]))

    @pytest.mark.parametrize("row", [-1, 5])
    def test_example_rows_outside_the_rows(self, row):
        used = torch.tensor([[0, 1, 2], [0, row, 9]])
        with pytest.raises(ValueError, match=rf"example_rows\[1, 1\] is {row}; expected 0..4"):
            gathered_cosine_distances(torch.ones(5, 4), used, self.weights, self.n_examples)

    def test_shapes_that_do_not_fit(self):
        with pytest.raises(ValueError, match=r"weights has shape \(2, 5\); expected \(B, D\), B=2, D=4"):
            weighted_cosine_distances(self.x, torch.ones(2, 5), self.n_examples)
        with pytest.raises(ValueError, match=r"x has shape \(2, 3\); expected \(B, N, D\)"):
            weighted_cosine_distances(torch.ones(2, 3), self.weights, self.n_examples)

    def test_dtypes_it_does_not_know(self):
        with pytest.raises(TypeError, match=r"x must be torch.float32 or torch.float16, not torch.float64"):
            weighted_cosine_distances(self.x.double(), self.weights, self.n_examples)
        with pytest.raises(TypeError, match=r"n_examples must be .*, not torch.float32"):
            weighted_cosine_distances(self.x, self.weights, self.n_examples.float())
        with pytest.raises(TypeError, match="weights must be a torch tensor, not list"):
            weighted_cosine_distances(self.x, [1.0], self.n_examples)

    @BOTH
    def test_a_precision_the_cpu_has_not(self, function):
        with pytest.raises(ValueError, match="precision is 'bf16'"):
            function(self.x, self.weights, self.n_examples, precision="bf16")

    def test_a_device_without_a_kernel(self):
        with pytest.raises(ValueError, match="x is on meta; expected cpu"):
            weighted_cosine_distances(self.x.to("meta"), self.weights, self.n_examples)


def test_reference_agrees_with_itself_in_a_larger_batch():
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    n_examples = torch.tensor([5, 3])
    both = weighted_cosine_distances_reference(x, torch.ones(2, 3), n_examples)
    one = weighted_cosine_distances_reference(x[1:], torch.ones(1, 3), n_examples[1:])
    assert_array_equal(both[1:], one)
