"""Arrays on the wire."""

import math
from typing import Any

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import Internal
from polysem.v1 import tensor_pb2

_DATA_TYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_NUMBERS: dict[Any, Any] = {dtype: number for number, dtype in _DATA_TYPES.items()}


def encode_tensor(array: Array) -> tensor_pb2.Tensor:
    """A tensor of the same dtype and shape."""
    tensor = tensor_pb2.Tensor()
    fill(tensor, array)
    return tensor


def fill(tensor: tensor_pb2.Tensor, array: Array) -> None:
    """In its place in a message: protobuf copies a tensor that is put into one twice more."""
    if array.dtype not in _NUMBERS:
        array = array.astype(array.dtype.newbyteorder("<"))
    tensor.data_type = _NUMBERS[array.dtype]
    tensor.shape.extend(array.shape)
    tensor.data = array.tobytes()


def decode_tensor(tensor: tensor_pb2.Tensor) -> Array:
    """A read-only view of the message's bytes; raises Internal where they do not fit the shape."""
    dtype = _DATA_TYPES.get(tensor.data_type)
    if dtype is None:
        raise Internal(f"tensor of unknown data type {tensor.data_type}: the server is newer than this client")
    if min(tensor.shape, default=0) < 0 or len(tensor.data) != math.prod(tensor.shape) * dtype.itemsize:
        raise Internal(f"tensor of shape {list(tensor.shape)} came with {len(tensor.data)} bytes")
    return np.frombuffer(tensor.data, dtype).reshape(tuple(tensor.shape))
