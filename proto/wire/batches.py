"""Batches as messages.

`encode_batch` cuts a batch into messages of at most 1 MiB between items; one item larger than that goes out in pieces
that `Joiner` puts together again. Encoding copies each array once and never looks at single elements.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import Internal
from polysem.proto.wire import columns
from polysem.proto.wire.columns import LAYOUTS, AnyBatch, Batch
from polysem.proto.wire.tensors import decode_tensor, fill

MAX_MESSAGE_BYTES = 1 << 20
# What a message holds beside its arrays: provenance (up to 1,024 thresholds, names), timing, shapes.
_OVERHEAD_BYTES = 32 << 10


def _bytes_up_to(rows: Any, ends: Array) -> Array:
    """Bytes that a column's first `ends` rows take on the wire."""
    if isinstance(rows, np.ndarray):
        up_to: Array = ends * (rows.itemsize * math.prod(rows.shape[1:]))
    else:  # each with its tag and length
        up_to = columns.from_counts(np.array([len(text.encode()) + 6 for text in rows], np.int64))[ends]
    return up_to


def encode_batch(batch: AnyBatch, head: Mapping[str, Any], max_bytes: int = MAX_MESSAGE_BYTES) -> Iterator[Any]:
    """The batch as messages of at most max_bytes, in order; head: the other fields that each of them has."""
    type_ = LAYOUTS[type(batch)].message
    assert type_ is not None
    offsets = columns.offsets(batch)
    budget = max_bytes - _OVERHEAD_BYTES
    sizes = _item_bytes(batch, offsets)
    for first, last in _runs(sizes, budget):
        rows = columns.rows(batch, offsets, first, last)
        pieces = [rows] if sizes[first:last].sum() <= budget else list(_pieces(rows, budget))
        for i, piece in enumerate(pieces):
            message = type_(**head, continues=i < len(pieces) - 1)
            for name, part in piece.items():
                if isinstance(part, np.ndarray):
                    fill(getattr(message, name), part)
                else:
                    getattr(message, name).extend(part)
            yield message


def _item_bytes(batch: AnyBatch, offsets: dict[str, columns.Offsets]) -> Array:
    """Bytes that each item of the batch takes on the wire."""
    ends = np.zeros(columns.n_items(batch) + 1, np.int64)
    for name, axis in LAYOUTS[type(batch)].axes.items():
        ends += _bytes_up_to(getattr(batch, name), offsets[axis])
    return np.diff(ends)


def _runs(sizes: Array, budget: int) -> Iterator[tuple[int, int]]:
    """Cut items into runs of at most budget bytes, or of one item."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + budget, side="right")), first + 1)
        yield first, last
        first = last


def _pieces(rows: dict[str, Any], budget: int) -> Iterator[dict[str, Any]]:
    """Cut one item's columns into pieces of at most budget bytes, between rows (a row is far smaller than that)."""
    piece: dict[str, Any] = {}
    room = budget
    for name, values in rows.items():
        ends = _bytes_up_to(values, np.arange(len(values) + 1))
        first = 0
        while True:
            last = int(np.searchsorted(ends, ends[first] + room, side="right")) - 1
            piece[name] = values[first:last]
            room -= int(ends[last] - ends[first])
            if last == len(values):
                break
            if ends[last + 1] - ends[last] > budget:
                raise Internal(f"a row of {name} does not fit in a message: {ends[last + 1] - ends[last]} bytes")
            yield piece
            piece, room, first = {}, budget, last
    yield piece


class Joiner(Generic[Batch]):
    """Put the messages of a stream together again: `add` returns a batch once its last piece is there, else None."""

    def __init__(self, type_: type[Batch]) -> None:
        self._type: type[Batch] = type_
        self._pieces: list[Any] = []

    def add(self, message: Any) -> Batch | None:
        self._pieces.append(message)
        if message.continues:
            return None
        pieces, self._pieces = self._pieces, []
        layout = LAYOUTS[self._type]
        sent = [name for name in layout.axes if name not in layout.later or any(p.HasField(name) for p in pieces)]
        found = {name: _join(name, name in layout.texts, pieces) for name in sent}
        n = len(found[layout.column])
        missing = {
            name: np.zeros(n if layout.axes[name] == layout.item else 0, np.int32)
            for name in layout.axes.keys() - found.keys()
        }
        return self._type(**found, **missing)


def _join(name: str, is_text: bool, messages: Sequence[Any]) -> Any:
    if is_text:
        return [text for message in messages for text in getattr(message, name)]
    parts = [decode_tensor(getattr(message, name)) for message in messages if message.HasField(name)]
    if not parts:
        raise Internal(f"the server sent no {name}: it is older than this client")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
