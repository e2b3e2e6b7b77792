import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.kernels import distances as cpu
from polysem.kernels.gpu.distances import PRECISIONS, gathered_cosine_distances, weighted_cosine_distances

SHAPES = [
    (0, 4, 8),
    (2, 0, 8),
    (2, 3, 0),
    (1, 1, 768),
    (2, 2, 5),
    (5, 17, 48),
    (2, 67, 131),  # three more than a tile, three more than a block
]
ATOL = 2e-6  # float32 sums of 768 products, one after the other
EVERY = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(scope="module")
def distances(device):
    """The function, on this device and back."""

    def call(*tensors, precision="float32", offsets=None, function=weighted_cosine_distances):
        moved = [tensor.to(device) for tensor in tensors]
        return function(*moved, offsets=None if offsets is None else offsets.to(device), precision=precision).cpu()

    return call


def made_up(n_neurons, width, d_model, seed=0):
    """x, weights, offsets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_neurons, width, d_model, generator=generator)
    weights, offsets = torch.randn(2, n_neurons, d_model, generator=generator)
    return x, weights, offsets


def rounded(e, precision):
    if precision == "tf32":
        bits = e.view(torch.int32)
        return ((bits + 0xFFF + (bits >> 13 & 1)) & -0x2000).view(torch.float32)
    return e.bfloat16().float() if precision == "bf16" else e


@EVERY
def test_right_angle_opposite_and_parallel_are_one_two_and_zero(distances, precision):
    x = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [5.0, 0.0]]])
    got = distances(x, torch.ones(1, 2), torch.tensor([4]), precision=precision)
    assert got[0].tolist() == [[0, 1, 2, 0], [1, 0, 1, 1], [2, 1, 0, 2], [0, 1, 2, 0]]


def test_weights_multiply_then_offsets_add(distances):
    x = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])  # e = (2, 0) and (2, -3)
    got = distances(x, torch.tensor([[2.0, 3.0]]), torch.tensor([2]), offsets=torch.tensor([[0.0, -3.0]]))
    assert got[0, 0, 1].item() == pytest.approx(1 - 2 / 13**0.5, abs=ATOL)


@EVERY
def test_zero_embedding_is_at_distance_one(distances, precision):
    x = torch.tensor([[[0.0, 0.0], [0.0, 3.0], [-0.0, 0.0]]])
    got = distances(x, torch.ones(1, 2), torch.tensor([3]), precision=precision)
    assert got[0].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


@EVERY
def test_padding_is_infinite_and_never_read(distances, precision):
    x = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [torch.nan, torch.inf]]])
    got = distances(x, torch.ones(1, 2), torch.tensor([2]), precision=precision, offsets=torch.zeros(1, 2))
    inf = float("inf")
    assert got[0].tolist() == [[0, 1, inf], [1, 0, inf], [inf, inf, inf]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_offsets", [False, True])
@pytest.mark.parametrize(("n_neurons", "width", "d_model"), SHAPES)
def test_matches_reference(distances, ragged_counts, spoil_padding, n_neurons, width, d_model, with_offsets, dtype):
    x, weights, offsets = made_up(n_neurons, width, d_model)
    offsets = offsets if with_offsets else None
    n_examples = ragged_counts(n_neurons, width)
    x = spoil_padding(x.to(dtype), n_examples)
    got = distances(x, weights, n_examples, offsets=offsets)
    assert got.dtype == torch.float32
    assert_allclose(got, cpu.weighted_cosine_distances_reference(x, weights, n_examples, offsets), atol=ATOL, rtol=0)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize(("n_neurons", "width", "d_model"), [(3, 17, 48), (1, 67, 768)])
def test_errs_no_more_than_twice_as_much_as_plain_torch(distances, n_neurons, width, d_model, precision):
    x, weights, offsets = made_up(n_neurons, width, d_model)
    n_examples = torch.full((n_neurons,), width)
    want = cpu.weighted_cosine_distances_reference(x, weights, n_examples, offsets)
    unit = torch.nn.functional.normalize(x * weights[:, None] + offsets[:, None], dim=2)
    operands = rounded(unit, precision)
    plain = 1 - operands @ operands.transpose(1, 2)
    got = distances(x, weights, n_examples, precision=precision, offsets=offsets)
    assert (got - want).abs().max() <= 2 * (plain - want).abs().max()


@EVERY
def test_symmetric_zero_on_the_diagonal_and_multiples_of_two_to_the_minus_24(distances, precision):
    x, weights, offsets = made_up(1, 70, 200)
    x[:, 35:] += x[:, :35] * 5  # some near, some far
    got = distances(x, weights, torch.tensor([70]), precision=precision, offsets=offsets)
    assert torch.equal(got, got.transpose(1, 2))
    assert not torch.diagonal(got, dim1=1, dim2=2).any()
    assert got.min() >= 0
    assert got.max() <= 2
    scaled = got.double() * 2**24
    assert torch.equal(scaled, scaled.round())


@EVERY
def test_duplicates_are_at_distance_zero_wherever_they_stand(distances, precision):
    x, weights, offsets = made_up(1, 35, 768)
    got = distances(x.repeat(1, 2, 1), weights, torch.tensor([70]), precision=precision, offsets=offsets)[0]
    assert not torch.diagonal(got[:35, 35:]).any()
    assert (got == 0).sum() == 4 * 35


def test_near_ones_are_not_taken_for_equal(distances):
    x = torch.ones(1, 40, 16)
    x[0, :, 0] += torch.arange(40) / 200  # the nearest are 1e-6 apart
    got = distances(x, torch.ones(1, 16), torch.tensor([40]))
    assert_allclose(got, cpu.weighted_cosine_distances(x, torch.ones(1, 16), torch.tensor([40])), atol=4e-7, rtol=0)
    assert (got[0] > 0).sum() == 40 * 39


@EVERY
def test_batch_and_padding_change_no_bit(distances, precision):
    x, weights, offsets = made_up(3, 70, 100)
    alone = distances(x[1:2, :9], weights[1:2], torch.tensor([9]), precision=precision, offsets=offsets[1:2])[0]
    got = distances(x, weights, torch.tensor([70, 9, 0]), precision=precision, offsets=offsets)
    assert torch.equal(got[1, :9, :9], alone)
    assert (got[1, 9:] == torch.inf).all()
    assert (got[2] == torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_gathered_equals_direct_to_the_bit(distances, dtype, index):
    _, weights, offsets = made_up(3, 0, 48)
    rows = torch.randn(30, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    used = torch.randint(0, 30, (3, 17), generator=torch.Generator().manual_seed(2), dtype=index)
    n_examples = torch.tensor([17, 0, 9])
    direct = distances(rows[used.long()], weights, n_examples, offsets=offsets)
    used[2, 9:] = -1  # padding may hold anything
    gathered = distances(rows, used, weights, n_examples, offsets=offsets, function=gathered_cosine_distances)
    assert torch.equal(gathered, direct)


def test_a_table_without_rows_is_enough_for_no_examples(distances):
    arguments = torch.zeros(0, 4), torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 4), torch.tensor([0, 0])
    assert (distances(*arguments, function=gathered_cosine_distances) == torch.inf).all()


@EVERY
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-12, 1e12, 1e30, 8e37])
def test_length_does_not_matter(distances, scale, precision):
    x = torch.tensor([[[3.0, 4.0, 0.0], [4.0, -3.0, 1.0], [3.0, 4.0, 0.0]]]) * scale
    got = distances(x, torch.ones(1, 3), torch.tensor([3]), precision=precision)
    assert got[0, 0, 1].item() == pytest.approx(1.0, abs=1e-3 if scale < 1e-40 else ATOL)  # 1e-42 has ten bits
    assert got[0, 0, 2] == 0


def test_examples_of_unlike_lengths_are_compared_all_the_same(distances):
    x = torch.tensor([[[3e30, 4e30], [4e-30, 3e-30], [3.0, 4.0]]])
    got = distances(x, torch.ones(1, 2), torch.tensor([3]))
    assert_allclose(got[0], [[0, 0.04, 0], [0.04, 0, 0.04], [0, 0.04, 0]], atol=ATOL)


def test_every_float16_is_read_exactly(distances):
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)][::997]
    x = torch.ones(1, len(values), 2, dtype=torch.float16)  # the angle to (1, 1) tells the value
    x[0, :, 1] = torch.from_numpy(values.copy())
    n_examples = torch.tensor([len(values)])
    assert torch.equal(distances(x, torch.ones(1, 2), n_examples), distances(x.float(), torch.ones(1, 2), n_examples))


def test_a_view_is_taken_as_it_looks(device):
    x = torch.randn(48, 7, 2, generator=torch.Generator().manual_seed(0)).to(device).permute(2, 1, 0)
    weights, n_examples = torch.ones(2, 48, device=device), torch.tensor([7, 6], device=device)
    whole = weighted_cosine_distances(x.contiguous(), weights, n_examples)
    assert torch.equal(weighted_cosine_distances(x, weights, n_examples), whole)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the interpreter
class TestRefusesInTheWordsOfTheCpu:
    x = torch.ones(2, 3, 4)
    weights = torch.ones(2, 4)
    n_examples = torch.tensor([3, 2])

    def check(self, device, name, *tensors, **others):
        with pytest.raises((TypeError, ValueError)) as expected:
            getattr(cpu, name)(*tensors, **others)
        moved = [tensor.to(device) for tensor in tensors]
        others = {key: value.to(device) for key, value in others.items()}
        with pytest.raises(expected.type) as got:
            globals()[name](*moved, **others)
        assert str(got.value) == str(expected.value)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_an_embedding_that_is_not_finite(self, device, value, dtype):
        x = self.x.to(dtype, copy=True)
        x[1, 1, 2] = value
        self.check(device, "weighted_cosine_distances", x, self.weights, self.n_examples)

    def test_a_gathered_row_that_is_not_finite(self, device):
        rows = torch.ones(5, 4)
        rows[4, 3] = torch.nan
        used = torch.tensor([[0, 1, 2], [4, 3, 9]])
        self.check(device, "gathered_cosine_distances", rows, used, self.weights, self.n_examples)

    def test_an_embedding_that_overflows(self, device):
        self.check(device, "weighted_cosine_distances", self.x * 1e30, self.weights * 1e30, self.n_examples)

    @pytest.mark.parametrize("name", ["weights", "offsets"])
    def test_vectors_that_are_not_finite(self, device, name):
        vector = torch.ones(2, 4)
        vector[1, 3] = torch.inf
        vectors = {"weights": self.weights} | {name: vector}
        weights = vectors.pop("weights")
        self.check(device, "weighted_cosine_distances", self.x, weights, self.n_examples, **vectors)

    @pytest.mark.parametrize("count", [-1, 4])
    def test_n_examples_outside_the_slots(self, device, count):
        self.check(device, "weighted_cosine_distances", self.x, self.weights, torch.tensor([3, count]))

    @pytest.mark.parametrize("row", [-1, 5])
    def test_example_rows_outside_the_rows(self, device, row):
        used = torch.tensor([[0, 1, 2], [0, row, 9]])
        self.check(device, "gathered_cosine_distances", torch.ones(5, 4), used, self.weights, self.n_examples)

    def test_shapes_that_do_not_fit(self, device):
        self.check(device, "weighted_cosine_distances", self.x, torch.ones(2, 5), self.n_examples)
        self.check(device, "weighted_cosine_distances", self.x[0], self.weights, self.n_examples)
        used = torch.zeros(3, 3, dtype=torch.int32)
        self.check(device, "gathered_cosine_distances", self.x[0], used, self.weights, self.n_examples)

    def test_dtypes_it_does_not_know(self, device):
        self.check(device, "weighted_cosine_distances", self.x.double(), self.weights, self.n_examples)
        self.check(device, "weighted_cosine_distances", self.x, self.weights, self.n_examples.float())
        self.check(device, "gathered_cosine_distances", self.x[0], self.x[0], self.weights, self.n_examples)


def test_refuses_a_precision_it_has_not(device):
    x = torch.ones(1, 2, 3, device=device)
    with pytest.raises(ValueError, match="precision is 'fp8'; expected one of float32, tf32, bf16"):
        weighted_cosine_distances(x, x[:, 0], torch.tensor([2], device=device), precision="fp8")


def test_refuses_tensors_of_two_devices(device):
    x = torch.ones(1, 2, 3, device=device)
    with pytest.raises(ValueError, match="weights is on meta; expected "):
        weighted_cosine_distances(x, x[:, 0].to("meta"), torch.tensor([2], device=device))


@pytest.mark.gpu
class TestRealSizes:
    @EVERY
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    @pytest.mark.parametrize(("n_neurons", "width", "d_model"), [(8, 1000, 768), (3, 333, 1601), (1, 4096, 768)])
    def test_a_gpu_is_dispatched_to_and_near_float64(self, n_neurons, width, d_model, dtype, precision):
        x, weights, offsets = (tensor.cuda() for tensor in made_up(n_neurons, width, d_model))
        x[:, 1::2] += 5 * x[:, :1]  # half of them near each other
        x, n_examples = x.to(dtype), torch.full((n_neurons,), width, device="cuda")
        got = cpu.weighted_cosine_distances(x, weights, n_examples, offsets, precision)
        e = torch.nn.functional.normalize(x.double() * weights[:, None] + offsets[:, None], dim=2)
        want = (1 - e @ e.transpose(1, 2)).clamp(0, 2)
        operands = rounded(e.float(), precision).double()
        plain = (1 - operands @ operands.transpose(1, 2) - want).abs().max()
        assert (got - want).abs().max() <= max(2 * plain.item(), ATOL)
        assert torch.equal(got, got.transpose(1, 2))
        scaled = got.double() * 2**24
        assert torch.equal(scaled, scaled.round())

    @EVERY
    @pytest.mark.parametrize("d_model", [768, 12288])
    def test_duplicates_are_at_distance_zero(self, d_model, precision):
        x, weights, _ = (tensor.cuda() for tensor in made_up(2, 150, d_model))
        got = weighted_cosine_distances(
            x.repeat(1, 2, 1), weights, torch.tensor([300, 300], device="cuda"), precision=precision
        )
        assert not torch.diagonal(got[:, :150, 150:], dim1=1, dim2=2).any()
        assert (got == 0).sum() == 2 * 4 * 150

    @EVERY
    def test_a_neuron_gives_the_same_bytes_in_any_batch(self, precision):
        x, weights, _ = (tensor.cuda() for tensor in made_up(64, 500, 768))
        counts = torch.arange(437, 501, device="cuda")
        got = weighted_cosine_distances(x, weights, counts, precision=precision)
        for b in (0, 31, 63):
            n = int(counts[b])
            one = slice(b, b + 1)
            alone = weighted_cosine_distances(x[one, :n], weights[one], counts[one], precision=precision)
            assert torch.equal(got[b, :n, :n], alone[0])
