"""The direct path from a neuron to the logits: its output weights through the norms that follow, and the unembedding.

A norm is linear once its scale is held fixed. Only a context tells that scale, so directions are up to a positive
factor, which is the same for all tokens. Left out of them for the same reason: multipliers of residuals and logits, and
the softcap of logits, which is monotone. Logits themselves have all of it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polysem.proto.errors import FailedPrecondition
from polysem.server.model import checkpoint
from polysem.server.model.architecture import Final, Mlp
from polysem.server.model.checkpoint import StoredTensor
from polysem.server.model.devices import device_name, free_bytes

HEADS = ("lm_head.weight", "embed_out.weight")
BIAS = "lm_head.bias"
AT_ONCE = 1 << 14  # rows of an unembedding that are widened together


def directions(mlp: Mlp, final: Final, neurons: Tensor, device: torch.device) -> Tensor:
    """Return (B, D) float32: what the neurons (B,) int64 add at activation 1, as the unembedding reads it.

    Each has length 1, or 0 where nothing arrives. Computed in float64.
    """
    rows = mlp.out[neurons.to(mlp.out.device)].to(device, torch.float64)
    for norm in (*mlp.passes, *([] if final.norm is None else [final.norm])):
        rows = norm(rows)
    if final.project is not None:
        rows = rows @ final.project.to(rows).T
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    found: Tensor = rows / lengths.where(lengths > 0, 1.0)
    return found.float()


def logits(last: Tensor, unembedding: Tensor, bias: Tensor | None, final: Final) -> Tensor:
    """Return (P, V) float32 of last vectors (P, D), behind the final norm. bias: (V,), or None."""
    parts = (unembedding[first : first + AT_ONCE] for first in range(0, len(unembedding), AT_ONCE))
    found = torch.cat([last @ rows.to(last.dtype).T for rows in parts], dim=1).float()
    if bias is not None:
        found += bias
    found /= final.divisor
    return found if final.softcap is None else final.softcap * torch.tanh(found / final.softcap)


@dataclass(frozen=True)
class Unembedding:
    """The matrix (V, D) that makes logits of the last vector: one of its own, or the token embeddings.

    Nothing but logit effects and ablation needs it, so it is read when they are first asked for.

    model   the name of the model
    stored  what the checkpoint holds of it, and under which name; None: nothing
    stamp   of the file that holds it, when the model was loaded
    shape   that the config says
    tied    the config says that it is the token embeddings; what is stored has precedence, as in transformers
    biased  whether logits have a bias
    bias    (V,) float32 of them as the checkpoint holds it, or None
    """

    model: str
    stored: tuple[str, StoredTensor] | None
    stamp: tuple[int, int, int] | None
    shape: tuple[int, ...]
    tied: bool
    biased: bool = False
    bias: Tensor | None = None

    @property
    def biases(self) -> Tensor | None:
        """Return the bias of the logits (V,), None where the model has none. Raises FailedPrecondition if it is
        missing."""
        if self.biased and self.bias is None:
            raise FailedPrecondition(
                f"the logits of {self.model!r} have a bias, and its checkpoint holds no {BIAS}; use the checkpoint of "
                "the whole language model"
            )
        return self.bias

    @cached_property
    def sha256(self) -> str:
        """Return the hash of what the checkpoint holds of it and of a bias; "" for nothing: the model's own hash
        covers it.

        Cost: it is read once. Raises FailedPrecondition.
        """
        found = ""
        if self.stored is not None:
            name, tensor = self.stored
            found = str(self._reading(lambda: checkpoint.sha256({name: tensor}, tensor.dtype)))
        return found if self.bias is None else hashlib.sha256(found.encode() + self.bias.numpy().tobytes()).hexdigest()

    def read(self, embeddings: Tensor, device: torch.device) -> Tensor:
        """Return it on the device, in the dtype of the embeddings or a narrower one that it is stored in.

        Raises FailedPrecondition where there is none, where it does not fit the config or the device's memory, and
        where it holds NaN or infinity.
        """
        matrix = embeddings if self.stored is None and self.tied else self._own(embeddings, device)
        least, most = matrix.aminmax()
        if not (least.isfinite() and most.isfinite()):
            raise FailedPrecondition(f"the unembedding of {self.model!r} holds numbers that are not finite")
        return matrix

    def _own(self, embeddings: Tensor, device: torch.device) -> Tensor:
        if self.stored is None:
            raise FailedPrecondition(
                f"{self.model!r} has no unembedding: its checkpoint holds no {' or '.join(HEADS)}, and its config.json "
                "does not tie it to the token embeddings; use the checkpoint of the whole language model"
            )
        name, tensor = self.stored
        if tensor.shape != self.shape:
            raise FailedPrecondition(
                f"the unembedding of {self.model!r} does not fit its config.json: {name} has the shape {tensor.shape}, "
                f"by the config {self.shape}"
            )
        if not tensor.dtype.is_floating_point:
            raise FailedPrecondition(f"the unembedding of {self.model!r} is quantised: {name} holds whole numbers")
        if self.tied and self._reading(lambda: _holds(embeddings.reshape(-1), tensor)):
            return embeddings
        dtype = min(embeddings.dtype, tensor.dtype, key=lambda dtype: dtype.itemsize)
        self._check_room(tensor.n_bytes // tensor.dtype.itemsize * dtype.itemsize, device)
        matrix = torch.empty(self.shape, dtype=dtype, device=device)
        self._reading(lambda: _fill(matrix.view(-1), checkpoint.chunks(tensor)))
        return matrix

    def _check_room(self, n_bytes: int, device: torch.device) -> None:
        free = free_bytes(device)
        if free is not None and n_bytes > free:
            raise FailedPrecondition(
                f"the unembedding of {self.model!r} takes {n_bytes / 1e9:,.1f} GB, and {device_name(device)} has "
                f"{free / 1e9:,.1f} GB free; choose a device with more memory"
            )

    def _reading(self, read: Callable[[], Any]) -> Any:
        """Return what `read` makes of the file; raise FailedPrecondition if it changed since the model was loaded."""
        assert self.stored is not None
        path = self.stored[1].path
        try:
            found = read()
            if _stamp(path) != self.stamp:
                raise ValueError(f"{path.name} is not the file that it was")
            return found
        except (OSError, ValueError) as error:
            raise FailedPrecondition(
                f"cannot read the unembedding of {self.model!r}: {checkpoint.first_line(error)}; its files have "
                "changed since the server started, so restart it"
            ) from error


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what differs where a file was replaced by another of its name."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _holds(flat: Tensor, tensor: StoredTensor) -> bool:
    """Whether the stored values are these, in their dtype."""
    begin = 0
    for chunk in checkpoint.chunks(tensor):
        if not torch.equal(flat[begin : begin + len(chunk)].cpu(), chunk.to(flat.dtype)):
            return False
        begin += len(chunk)
    return True


def _fill(flat: Tensor, chunks: Iterable[Tensor]) -> None:
    begin = 0
    for chunk in chunks:
        flat[begin : begin + len(chunk)] = chunk.to(flat.device)
        begin += len(chunk)


def unembedding(name: str, causal: Any, stored: Mapping[str, StoredTensor]) -> Unembedding:
    """Return what the checkpoint of the model called `name` says of its unembedding. causal: on the device "meta"."""
    head = causal.get_output_embeddings()
    found = next(((key, stored[key]) for key in HEADS if key in stored), None)
    stamp = None if found is None else _stamp(found[1].path)
    tied = head.weight is causal.get_input_embeddings().weight
    biased = head.bias is not None
    bias = _bias(name, stored[BIAS], len(head.weight)) if biased and BIAS in stored else None
    return Unembedding(name, found, stamp, tuple(head.weight.shape), tied, biased, bias)


def _bias(name: str, stored: StoredTensor, n: int) -> Tensor:
    """Return the bias of n logits. Raises FailedPrecondition where it does not fit the config."""
    if stored.shape != (n,) or not stored.dtype.is_floating_point:
        raise FailedPrecondition(
            f"the logits of {name!r} do not fit its config.json: {BIAS} has the shape {stored.shape} in "
            f"{stored.dtype}, by the config ({n},) in floats"
        )
    return torch.cat(list(checkpoint.chunks(stored))).float()
