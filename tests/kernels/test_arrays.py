"""What every kernel checks of its tensors: types, shapes, counts, distances; the first fault is named."""

import numpy as np
import pytest
import torch

from polysem.kernels import arrays

INT = (torch.int32, torch.int64)


@pytest.mark.parametrize("check", [arrays.as_counts, lambda n, sizes: arrays.checked_counts(n, sizes, n.device)])
def test_counts_are_from_none_to_all(check):
    for dtype in INT:
        assert check(torch.tensor([0, 3, 1], dtype=dtype), {"N": 3}).tolist() == [0, 3, 1]
    with pytest.raises(ValueError, match=r"n_examples\[1\] is 4; expected 0\.\.3 \(N\)"):
        check(torch.tensor([3, 4, -1]), {"N": 3})
    with pytest.raises(ValueError, match=r"n_examples\[0\] is -1; expected 0\.\.3 \(N\)"):
        check(torch.tensor([-1, 3]), {"N": 3})


def blocks(value, at=(0, 1)):
    """Two neurons of 2 of 3 examples, all at distance 1; the second has this one beside them."""
    found = np.ones((2, 3, 3), np.float32)
    found[1][at] = value
    return found


N_EXAMPLES = np.array([2, 2])


@pytest.mark.parametrize("value", [0.0, 2.0, 1.5])
def test_distances_from_0_to_2_pass(value):
    arrays.check_distances(blocks(value), N_EXAMPLES)


@pytest.mark.parametrize("value", [-0.5, 2.5, np.nan, -np.inf])
def test_another_distance_is_named(value):
    with pytest.raises(ValueError, match=rf"^distances\[1, 0, 1\] is {value}; expected 0\.\.2"):
        arrays.check_distances(blocks(value), N_EXAMPLES)
    arrays.check_distances(blocks(value, at=(0, 2)), N_EXAMPLES)  # padding


def test_the_first_of_several_is_named():
    wrong = blocks(3.0)
    wrong[1, 1, 0] = 4.0
    with pytest.raises(ValueError, match=r"^distances\[1, 0, 1\] is 3\.0"):
        arrays.check_distances(wrong, N_EXAMPLES)
    with pytest.raises(ValueError, match=r"^distances\[0\] is not symmetric"):
        arrays.raise_if_outside(np.array([True, True]), wrong, N_EXAMPLES)


def test_a_tensor_of_another_type_place_or_shape_is_refused():
    def check(tensor, sizes):
        return arrays.checked("x", tensor, "B N 4", sizes, (torch.float32,), torch.device("cpu"))

    sizes = {"B": 2}
    assert check(torch.zeros(2, 3, 4), sizes).shape == (2, 3, 4)
    assert sizes == {"B": 2, "N": 3}
    with pytest.raises(TypeError, match="x must be a torch tensor, not ndarray"):
        check(np.zeros((2, 3, 4)), {})
    with pytest.raises(ValueError, match="x is on meta; expected cpu"):
        check(torch.zeros(2, 3, 4, device="meta"), {})
    with pytest.raises(TypeError, match=r"x must be torch\.float32, not torch\.float64"):
        check(torch.zeros(2, 3, 4, dtype=torch.float64), {})
    for shape in ((3, 3, 4), (2, 2, 4), (2, 3, 5), (2, 3)):
        with pytest.raises(ValueError, match=r"x has shape .*; expected \(B, N, 4\), B=2, N=3"):
            check(torch.zeros(shape), {"B": 2, "N": 3})
