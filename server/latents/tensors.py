"""The tensors of an encoder's file, safetensors or npz: floating-point, finite, of the shape that their format says."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polysem.server.latents.fields import first_line, refused

# What the libraries raise for damaged files: of a zip it may be almost anything.
DAMAGED = (
    *(OSError, ValueError, EOFError, TypeError, LookupError, RuntimeError, MemoryError, OverflowError),
    *(struct.error, zlib.error, zipfile.BadZipFile, SafetensorError),
)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Tensors:
    """The tensors of one file, which is open while this is entered; one is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self._read: Mapping[str, Callable[[], Tensor]] = {}

    def __enter__(self) -> "Tensors":
        """Open the file. Raises FailedPrecondition where it is damaged."""
        try:
            self._read = _npz(self.path, self._stack) if self.path.suffix == ".npz" else _safe(self.path, self._stack)
        except DAMAGED as error:
            self._stack.close()
            kind = self.path.suffix[1:]
            raise refused(self.path, f"it is damaged, or no {kind} file ({first_line(error)})") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it."""
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        """Whether the file has a tensor of that name."""
        return name in self._read

    def know(self, names: Iterable[str], library: str) -> None:
        """Refuse a tensor that is not one of `names`: it could change what latents do."""
        if strange := sorted(set(self._read) - set(names)):
            raise refused(self.path, f"Polysem knows no tensor {strange[0]!r} of {library}")

    def matrix(self, name: str, transposed: bool = False) -> Tensor:
        """Return a tensor (F, D) float32; transposed: of (D, F) in the file. Raises FailedPrecondition."""
        found = self._floats(name)
        if found.dim() != 2 or 0 in found.shape:
            raise refused(self.path, f"{name!r} has the shape {tuple(found.shape)}; it is a matrix")
        return found.T.contiguous() if transposed else found

    def vector(self, name: str, length: int) -> Tensor:
        """Return a tensor (length,) float32. Raises FailedPrecondition."""
        found = self._floats(name)
        if tuple(found.shape) != (length,):
            raise refused(
                self.path, f"{name!r} has the shape {tuple(found.shape)}, and the encoder's weights fit ({length},)"
            )
        return found

    def scalar(self, name: str) -> float:
        """Return a tensor of one element. Raises FailedPrecondition."""
        found = self._floats(name)
        if found.numel() != 1:
            raise refused(self.path, f"{name!r} has the shape {tuple(found.shape)}; it is one number")
        return found.item()

    def _floats(self, name: str) -> Tensor:
        if name not in self._read:
            raise refused(self.path, f"it has no tensor {name!r}")
        try:
            found = self._read[name]()
        except DAMAGED as error:
            raise refused(self.path, f"{name!r} cannot be read ({first_line(error)})") from error
        if found.dtype not in FLOATS:
            raise refused(self.path, f"{name!r} is {str(found.dtype).removeprefix('torch.')}; it is floating-point")
        found = found.float()
        if not found.isfinite().all():
            place = tuple(found.isfinite().logical_not().nonzero()[0].tolist())
            raise refused(self.path, f"{name!r} holds {found[place].item()} at {place}")
        return found


def _safe(path: Path, stack: ExitStack) -> dict[str, Callable[[], Tensor]]:
    file: Any = stack.enter_context(safe_open(path, framework="pt"))
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118


def _npz(path: Path, stack: ExitStack) -> dict[str, Callable[[], Tensor]]:
    file = np.load(stack.enter_context(path.open("rb")), allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("it is one array")
    stack.enter_context(file)
    return {name: partial(_array, file, name) for name in file.files}


def _array(file: Any, name: str) -> Tensor:
    return torch.from_numpy(file[name])
