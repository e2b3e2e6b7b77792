"""Answers as tables: columns by name, and what pandas, polars and Arrow make of them.

A column is an array (rows,), an array (rows, width) where each row has several numbers, or a list of texts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from polysem.proto.arrays import Array

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

Columns = dict[str, Any]
Table = Callable[[Sequence[Any]], Columns]  # of an answer's batches


def to_pandas(columns: Columns) -> "pandas.DataFrame":
    import pandas

    return pandas.DataFrame({name: list(values) if _is_wide(values) else values for name, values in columns.items()})


def to_polars(columns: Columns) -> "polars.DataFrame":
    import polars

    texts = {name: polars.String for name, values in columns.items() if isinstance(values, list)}
    return polars.DataFrame(columns, schema_overrides=texts)


def to_arrow(columns: Columns) -> "pyarrow.Table":
    import pyarrow

    def array(values: Any) -> Any:
        if isinstance(values, list):
            return pyarrow.array(values, pyarrow.string())
        if _is_wide(values):
            return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])
        return pyarrow.array(values)

    return pyarrow.table({name: array(values) for name, values in columns.items()})


def _is_wide(values: Any) -> bool:
    return getattr(values, "ndim", 1) > 1


def joined(parts: Sequence[Any], empty: tuple[int, ...] = (0,), dtype: type = np.int32) -> Array:
    """The parts one after the other; an empty array of that shape and dtype where there are none."""
    return np.concatenate(parts) if len(parts) else np.zeros(empty, dtype)


def neurons(parts: Sequence[Any]) -> Columns:
    """layer and neuron of ids (rows, 2)."""
    ids = joined(parts, (0, 2))
    return {"layer": ids[:, 0], "neuron": ids[:, 1]}


def columns_of(batches: Sequence[Any], names: Mapping[str, type]) -> Columns:
    """These columns of all batches, by name; the dtype of each, for an answer without any."""
    return {name: joined([getattr(batch, name) for batch in batches], dtype=dtype) for name, dtype in names.items()}


def texts(batches: Sequence[Any], name: str) -> list[str]:
    """A column of texts of all batches."""
    return [text for batch in batches for text in getattr(batch, name)]


def within(counts: Array) -> Array:
    """(rows,) int32: 0, 1, 2 … of each item's rows, given how many each has."""
    ends = np.cumsum(counts, dtype=np.int64)
    rows = np.arange(ends[-1] if len(ends) else 0)
    return (rows - np.repeat(ends - counts, counts)).astype(np.int32)
