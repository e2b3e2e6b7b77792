"""Arrays in files: .npy, written piece by piece, read memory-mapped."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from polysem.proto.arrays import Array
from polysem.proto.errors import DamagedIndex
from polysem.proto.work.shards import HEADERS

HEADER_BYTES = 128


class ArrayWriter:
    """An .npy file that grows: rows of one dtype and width, appended in order; the header is written on leaving.

    Its length is not known beforehand and need not fit in memory.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._width = width
        self._file = path.open("wb")
        self._file.write(b"\0" * HEADER_BYTES)
        self.n_rows = 0

    def append(self, rows: npt.ArrayLike) -> None:
        """Add rows (n, *width)."""
        array = np.ascontiguousarray(rows, self._dtype).reshape(-1, *self._width)
        self._file.write(array.data)
        self.n_rows += len(array)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._file.seek(0)
                self._file.write(_header(self._dtype, (self.n_rows, *self._width)))
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """An .npy header (format 1.0) padded to HEADER_BYTES."""
    facts = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    room = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + facts.ljust(room - 1) + b"\n"


def save(path: Path, array: Array) -> None:
    """Write an array at once."""
    with ArrayWriter(path, array.dtype, array.shape[1:]) as writer:
        writer.append(array)


def load(path: Path) -> Array:
    """The array, memory-mapped copy-on-write: torch takes it without a copy, and the file never changes.

    Raises DamagedIndex where the file is no array.
    """
    try:
        with HEADERS:
            mapped: Array = np.load(path, mmap_mode="c", allow_pickle=False)
        if not mapped.ndim:
            raise ValueError("it holds one number, no array")
    except Exception as error:  # of a changed header NumPy raises whatever its parsers do
        raise DamagedIndex(
            f"the file {str(path)!r} is damaged ({error}); copy the index again, or index the corpus anew"
        ) from error
    return mapped
