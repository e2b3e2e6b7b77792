"""An index as Parquet: a row a neuron, and a row a dataset example with the tokens around its key token."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from polysem.proto.arrays import Array
from polysem.proto.neurons import NeuronId
from polysem.server.index.format import TOKENS_AFTER, TOKENS_BEFORE, Index, layer_folder

AT_ONCE = 1 << 13  # examples in a row group


def names(index: Index) -> list[str]:
    """The files that `write` makes of an index."""
    sides = [(side, layer) for side in index.info.sides for layer in index.info.held_layers]
    return [f"neurons/{side}.parquet" for side in index.info.sides] + [
        f"examples/{side}_{layer_folder(layer)}.parquet" for side, layer in sides
    ]


def write(index: Index, name: str, out: Any) -> None:
    """Write one of these files to the open file `out`."""
    kind, _, rest = name.removesuffix(".parquet").partition("/")
    if kind == "neurons":
        _write(out, iter([_neurons(index.of(rest))]))  # type: ignore[arg-type]
    else:
        side, _, layer = rest.partition("_layer_")
        _write(out, _examples(index.of(side), int(layer)))  # type: ignore[arg-type]


def _write(out: Any, tables: Iterator[pyarrow.Table]) -> None:
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(out, first.schema, compression="zstd") as writer:
        for table in (first, *tables):
            writer.write_table(table)


def _neurons(index: Index) -> pyarrow.Table:
    layers, numbers = index.every_neuron.T
    known = index.statistics
    return pyarrow.table({
        "neuron": _ids(index.every_neuron),
        "side": _constant(index.side, len(layers)),
        "n_examples": index.n_examples[layers, numbers],
        "maximum_activation": known.maximum[layers, numbers],
        "mean_activation": known.mean[layers, numbers],
        "share_positive": known.share_positive[layers, numbers],
        "histogram": _lists(known.histogram[layers, numbers]),
    })  # fmt: skip


def _examples(index: Index, layer: int) -> Iterator[pyarrow.Table]:
    stored = index.layer(layer)
    n_examples = np.diff(stored.offsets)
    neurons = np.repeat(np.arange(len(n_examples)), n_examples)
    for first in range(0, max(len(neurons), 1), AT_ONCE):
        yield _rows(index, layer, neurons, slice(first, first + AT_ONCE))


def _rows(index: Index, layer: int, neurons: Array, some: slice) -> pyarrow.Table:
    stored = index.layer(layer)
    rows = np.asarray(stored.rows[some])
    contexts, positions = (np.asarray(of)[rows] for of in (stored.row_contexts, stored.row_positions))
    starts = np.maximum(positions - TOKENS_BEFORE, int(index.info.bos))
    ends = np.minimum(positions + TOKENS_AFTER + 1, index.contexts.lengths(contexts))
    places = positions[:, None] + np.arange(-TOKENS_BEFORE, TOKENS_AFTER + 1)  # (n, 31)
    shown = (places >= starts[:, None]) & (places < ends[:, None])
    offsets = np.concatenate([[0], np.cumsum(shown.sum(1))]).astype(np.int32)
    ids = index.contexts.tokens_at(np.repeat(contexts, np.diff(offsets)), places[shown])
    around = np.asarray(stored.around[some], np.float32)
    ids_of = np.stack([np.full(len(rows), layer), neurons[some]], axis=1)
    return pyarrow.table({
        "neuron": _ids(ids_of),
        "side": _constant(index.side, len(rows)),
        "document": pyarrow.array([index.contexts.document(int(one)) for one in contexts], pyarrow.string()),
        "context": contexts.astype(np.int32),
        "position": positions.astype(np.int32),
        "activation": np.asarray(stored.activations[some]),
        "key": (positions - starts).astype(np.int32),
        "token_ids": pyarrow.ListArray.from_arrays(offsets, ids),
        "activations": pyarrow.ListArray.from_arrays(offsets, around[shown]),
    })  # fmt: skip


def _ids(neurons: Array) -> pyarrow.Array:
    return pyarrow.array([str(NeuronId(*one)) for one in neurons.tolist()], pyarrow.string())


def _constant(value: str, n: int) -> pyarrow.Array:
    return pyarrow.array([value] * n, pyarrow.string())


def _lists(values: Array) -> pyarrow.Array:
    n, width = values.shape
    offsets = np.arange(n + 1, dtype=np.int32) * width
    return pyarrow.ListArray.from_arrays(offsets, values.reshape(-1))
