"""Maxima of neurons' activations that a file gives, in place of the corpus's own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import InvalidArgument
from polysem.proto.sides import Side
from polysem.server.index.format import SIGNS
from polysem.server.model.model import ModelDescription


def read(path: Path) -> Array:
    """Maxima (L, N) from a .npy file, for `build`; raises InvalidArgument where it holds no array of numbers."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArgument(
            f"cannot read {str(path)!r} as maxima: {why}; give a .npy file of (layers, neurons a layer) floats",
            "max_activations",
        ) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise InvalidArgument(f"{str(path)!r} holds no array of numbers; give a .npy file of floats", "max_activations")
    return values


def strengths(values: Array, reader: ModelDescription, sides: Sequence[Side], layers: Sequence[int]) -> Array:
    """(J,) float32: how strongly the neurons of these sides and layers (none: all) fire at most, side by side.

    values  (L, N), or with both sides (2, L, N): the maxima, then the minima

    Layers that are not kept are not looked at. Raises InvalidArgument for another shape, or what is not finite.
    """
    if reader.encoders:
        raise InvalidArgument("maxima of a file are of neurons; leave them out for latents", "max_activations")
    model = reader.info
    shape, both = (model.n_layers, model.n_neurons_per_layer), len(sides) > 1
    wanted = (2, *shape) if both else shape
    if values.shape != wanted:
        advice = ": maxima, then minima, or pass --sides positive" if both else ""
        raise InvalidArgument(
            f"the maxima have shape {values.shape}; {model.id!r} has {shape[0]} layers of {shape[1]} neurons, "
            f"so give {wanted}{advice}",
            "max_activations",
        )
    kept = list(layers) or list(range(model.n_layers))
    maxima = values.astype(np.float32).reshape(-1, *shape)[:, kept]
    if len(bad := np.argwhere(~np.isfinite(maxima))):
        side, place, neuron = bad[0]
        raise InvalidArgument(
            f"the {('maximum', 'minimum')[side]} of neuron {kept[place]}.{neuron} is {maxima[side, place, neuron]}; "
            "give finite numbers",
            "max_activations",
        )
    signs = np.array([SIGNS[side] for side in sides], np.float32)
    found: Array = (signs[:, None, None] * maxima).ravel()
    return found
