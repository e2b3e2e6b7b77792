"""Arrays arrive as they were."""

import numpy as np
import pytest

from polysem.proto.errors import Internal
from polysem.proto.wire.tensors import decode_tensor, encode_tensor
from polysem.v1 import tensor_pb2

from ..made_up import (
    over_the_wire,
)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 2), (0, 7), (7, 0), (2, 0, 3), (2, 3, 4)])
def test_a_tensor_keeps_its_dtype_shape_and_bytes(dtype, shape):
    array = (np.arange(np.prod(shape)) - 2).astype(dtype).reshape(shape)
    got = decode_tensor(over_the_wire(encode_tensor(array)))
    assert got.dtype == dtype
    assert got.shape == shape
    np.testing.assert_array_equal(got, array)


def test_a_tensor_is_little_endian_in_c_order_wherever_it_comes_from():
    want = np.arange(6, dtype="<i4").reshape(2, 3)
    for array in (
        want.astype(">i4"),
        np.asfortranarray(want),
        np.arange(12, dtype=np.int32).reshape(2, 6)[:, ::2] // 2,
    ):
        tensor = encode_tensor(array)
        assert tensor.data == want.tobytes()
        assert list(tensor.shape) == [2, 3]


def test_special_numbers_survive():
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    assert decode_tensor(encode_tensor(array)).tobytes() == array.tobytes()


@pytest.mark.parametrize("change", [b"", b"\0" * 23, b"\0" * 25, b"\0" * 28])
def test_a_tensor_with_other_bytes_than_its_shape_needs_is_refused(change):
    tensor = encode_tensor(np.zeros((2, 3), np.int32))
    tensor.data = change
    with pytest.raises(Internal, match=rf"tensor of shape \[2, 3\] came with {len(change)} bytes"):
        decode_tensor(tensor)


@pytest.mark.parametrize("shape", [[-1], [-1, -6], [-1, -1, 6], [2, -3], [2**62, 4]])
def test_a_tensor_of_impossible_shape_is_refused(shape):
    tensor = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_INT32, shape=shape, data=b"\0" * 24)
    with pytest.raises(Internal, match="tensor of shape"):
        decode_tensor(tensor)


@pytest.mark.parametrize("number", [0, 9])
def test_a_tensor_of_unknown_type_is_refused(number):
    with pytest.raises(Internal, match=f"unknown data type {number}: the server is newer"):
        decode_tensor(tensor_pb2.Tensor(data_type=number, shape=[1], data=b"\0" * 4))
