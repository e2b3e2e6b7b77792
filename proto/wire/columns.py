"""Batches are columns: which axis each column lies on, and how to cut a batch between its items.

An item is what a batch is cut between: a neuron, or an example in a batch of examples. An axis gives each item some
rows: `offsets(batch)[axis][i] : [i + 1]` are item i's rows of every column on that axis.

A batch is a dataclass that registers with `columnar`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]


class AnyBatch(Protocol):
    """A dataclass of columns."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Batch = TypeVar("Batch", bound=AnyBatch)


class Axis(NamedTuple):
    """An axis on which an item has several rows.

    columns  that lie on it
    counts   the column that says how many rows each item has, or a function of the batch that does
    """

    name: str
    columns: Sequence[str]
    counts: str | Callable[[Any], npt.NDArray[Any]]


class Layout(NamedTuple):
    """Layout of the columns of a kind of batch.

    message  the class of its messages, which have a field for each column; None where it is never sent
    item     the axis of its items
    column   one that lies along it
    axes     the axis of each column
    counts   of each other axis: rows of each item of a batch
    texts    the columns that are lists of str; all others are arrays
    later    columns that servers of earlier versions do not send: int32 then, 0 along the items and empty on other axes
    """

    message: type[Any] | None
    item: str
    column: str
    axes: Mapping[str, str]
    counts: Mapping[str, Callable[[Any], npt.NDArray[Any]]]
    texts: frozenset[str]
    later: frozenset[str]


LAYOUTS: dict[type, Layout] = {}


def columnar(
    message: type[Any] | None, item: str, *axes: Axis, later: Sequence[str] = ()
) -> Callable[[type[Batch]], type[Batch]]:
    """Register a dataclass as a batch whose items lie along `item`; columns that no axis names lie there, too."""

    def register(batch: type[Batch]) -> type[Batch]:
        named = {column: axis.name for axis in axes for column in axis.columns}
        LAYOUTS[batch] = Layout(
            message,
            item,
            next(field.name for field in fields(batch) if field.name not in named),
            {field.name: named.get(field.name, item) for field in fields(batch)},
            {axis.name: axis.counts if callable(axis.counts) else _column(axis.counts) for axis in axes},
            frozenset(field.name for field in fields(batch) if field.type == Sequence[str]),
            frozenset(later),
        )
        return batch

    return register


def _column(name: str) -> Callable[[Any], npt.NDArray[Any]]:
    return lambda batch: getattr(batch, name)


def n_items(batch: AnyBatch) -> int:
    """Number of items."""
    return len(getattr(batch, LAYOUTS[type(batch)].column))


def offsets(batch: AnyBatch) -> dict[str, Offsets]:
    """Each axis's offsets (items + 1,)."""
    layout = LAYOUTS[type(batch)]
    of_items = np.arange(n_items(batch) + 1, dtype=np.int64)
    return {layout.item: of_items} | {name: from_counts(counts(batch)) for name, counts in layout.counts.items()}


def from_counts(counts: npt.NDArray[Any]) -> Offsets:
    """Offsets (B + 1,) of B items with so many rows each."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def rows(batch: AnyBatch, offsets_: dict[str, Offsets], first: int, last: int) -> dict[str, Any]:
    """The columns of items first..last − 1, as views."""
    return {
        name: getattr(batch, name)[offsets_[axis][first] : offsets_[axis][last]]
        for name, axis in LAYOUTS[type(batch)].axes.items()
    }


def take(batch: Batch, first: int, last: int) -> Batch:
    """Items first..last − 1 as a batch of its own."""
    if (first, last) == (0, n_items(batch)):
        return batch
    return type(batch)(**rows(batch, offsets(batch), first, last))
