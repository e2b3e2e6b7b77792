"""Encoders that lie in files, as the module of each format finds them: their weights are read when they are wanted."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from polysem.server.latents.firing import Firing
from polysem.server.latents.hooks import Hook
from polysem.server.latents.normalising import Normalise


class Encoder(NamedTuple):
    """The parts of encoder.Latents that files hold."""

    weights: Tensor
    fire: Firing
    normalise: Normalise | None = None
    shift: Tensor | None = None


class Found(NamedTuple):
    """An encoder on disk, its weights not read yet.

    path   the folder, or of several in one folder the file, that it is named by
    files  all that is read of it, to be hashed
    model  see encoder.Origin
    read   its weights; raises FailedPrecondition
    """

    format: str
    path: Path
    hook: Hook
    files: tuple[Path, ...]
    model: str | None
    read: Callable[[], Encoder]


class Given(NamedTuple):
    """The user's word where files have none: the place that encoders read; layer: None, each file says its own."""

    name: str
    layer: int | None
