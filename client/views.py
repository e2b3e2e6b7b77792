"""From the columns of a batch to Python's own values."""

from typing import Any

import numpy as np

from polysem.proto.arrays import IntArray
from polysem.proto.neurons import NeuronId


def neuron_id(pair: IntArray) -> NeuronId:
    """Return the neuron id of a row (2,) of a column of neurons."""
    return NeuronId(int(pair[0]), int(pair[1]))


def or_nones(values: Any) -> list[Any]:
    """A column as a list; NaN is None."""
    return [None if value != value else value for value in values.tolist()]


def or_none(value: float) -> float | None:
    """The value; NaN is None."""
    return None if np.isnan(value) else float(value)


def in_words(value: float | None) -> str:
    """A metric as a sentence has it."""
    return "undefined" if value is None else f"{value:.2f}"
