"""Checks of an index's arrays, so that a server can answer from them whatever their bytes are.

`check` is made when an index is opened: types, sizes against each other, and one pass over each array but the two large
ones. x̂ and the activations around key tokens are checked where they are read, x̂ by blocks of rows, each once. So
opening takes a time that does not grow with x̂ (209,068 examples: 0.08 s).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import DamagedIndex
from polysem.proto.facts import ModelInfo
from polysem.proto.neurons import MAX_INDEX
from polysem.server.index.negatives import KINDS, NAMES

if TYPE_CHECKING:
    from polysem.server.index.format import Index

MAX_LAYERS = 1000
MAX_NAME_BYTES = 2048  # of a document: 512 characters
BLOCK = 4096  # rows of x̂ that are checked together
MOST = float(np.finfo(np.float32).max)
EXPONENT = 0x7C00  # of float16: all ones say infinity, or no number


class _File:
    """An array of the index, and what it is called in errors."""

    def __init__(self, folder: Path, name: str, array: Array) -> None:
        self._folder, self._name, self._array = folder, name, array

    def refuse(self, problem: str) -> NoReturn:
        raise DamagedIndex(
            f"the index {str(self._folder)!r} is damaged: {self._name}.npy {problem}; copy it again, or index the "
            "corpus anew"
        )

    def shape(self, dtypes: str, *shape: int | None) -> None:
        """Refuse other types, another shape (None: any length), or another order of axes."""
        array = self._array
        wanted = "(" + ", ".join("n" if n is None else str(n) for n in shape) + ")"
        if array.dtype not in [np.dtype(dtype) for dtype in dtypes.split()]:
            self.refuse(f"holds {array.dtype}, it should hold {' or '.join(dtypes.split())}")
        if not array.flags.c_contiguous:
            self.refuse("is in Fortran order")
        if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
            self.refuse(f"has the shape {array.shape}, it should have {wanted}")

    def within(self, first: float, last: Any) -> None:
        """Refuse values outside first..last, or no numbers; `last` may be an array of their shape."""
        values = np.asarray(self._array)
        wrong = ~((values >= first) & (values <= last))
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            most = np.broadcast_to(last, values.shape).flat[place]
            self.refuse(f"holds {values.flat[place]} at {place}, it should be within {first:g} and {most:g}")

    def offsets(self, total: int) -> None:
        """Refuse what does not go from 0 to `total` without a step back."""
        values = np.asarray(self._array)
        if values[0] != 0 or values[-1] != total:
            self.refuse(f"goes from {values[0]} to {values[-1]}, it should go from 0 to {total}")
        if (back := np.flatnonzero(values[1:] < values[:-1])).size:
            self.refuse(f"goes back at {int(back[0]) + 1}")


def check(index: "Index") -> None:
    """Raise DamagedIndex, which names the file, unless the arrays fit together and the manifest's counts."""
    _check_sizes(index)
    _check_contexts(index)
    info = index.info
    n_examples = {}
    for side in map(index.of, info.sides):
        n_examples[side.side] = sum(_check_layer(side, layer) for layer in info.held_layers)
        _check_statistics(side)
    for name, found, said in (
        ("n_contexts", len(index.contexts), info.n_contexts),
        ("n_documents", index.contexts.n_documents, info.n_documents),
        ("n_tokens", index.contexts.n_tokens, info.n_tokens),
        ("n_examples", n_examples["positive"], info.n_examples),
        ("n_negative_examples", n_examples.get("negative", 0), info.n_negative_examples),
    ):
        if found != said:
            raise DamagedIndex(
                f"the index {str(index.folder)!r} is damaged: its manifest says {name} {said}, its arrays have "
                f"{found}; copy it again, or index the corpus anew"
            )


def _check_sizes(index: "Index") -> None:
    """Before anything is counted by them."""
    model, layers = index.manifest["model"], index.manifest.get("layers") or ()
    encoders = index.manifest.get("encoders") or ()
    for name, found, first, last in (
        ("n_layers", model["n_layers"], 1, MAX_LAYERS),
        ("n_neurons_per_layer", model["n_neurons_per_layer"], 1, MAX_INDEX),
        ("max_examples", index.info.selection.max_examples, 1, MAX_INDEX),
        *(("a layer", layer, 0, MAX_LAYERS) for layer in layers),
        *(("n_latents", encoder["n_latents"], 1, MAX_INDEX) for encoder in encoders),
    ):
        if type(found) is not int or not first <= found <= last:
            raise DamagedIndex(
                f"the index {str(index.folder)!r} is damaged: its manifest says {name} {found!r}, which is no whole "
                f"number from {first} to {last}; copy it again, or index the corpus anew"
            )
    if encoders and [encoder["layer"] for encoder in encoders] != list(layers):
        raise DamagedIndex(
            f"the index {str(index.folder)!r} is damaged: its manifest has encoders of other layers than {layers}; "
            "copy it again, or index the corpus anew"
        )


def _check_contexts(index: "Index") -> None:
    arrays = index.contexts.arrays
    files = {name: _File(index.folder, f"contexts/{name}", array) for name, array in arrays.items()}
    n_contexts, n_documents = len(arrays["documents"]), max(len(arrays["name_offsets"]) - 1, 0)
    for name, dtypes, n in (
        ("tokens", "uint16 int32", None),
        ("offsets", "int64", n_contexts + 1),
        ("documents", "int32", n_contexts),
        ("starts", "int32", n_contexts),
        ("name_bytes", "uint8", None),
        ("name_offsets", "int64", n_documents + 1),
    ):
        files[name].shape(dtypes, n)
    files["offsets"].offsets(len(arrays["tokens"]))
    files["name_offsets"].offsets(len(arrays["name_bytes"]))
    files["documents"].within(0, n_documents - 1)
    files["starts"].within(0, np.iinfo(np.int32).max)
    files["tokens"].within(0, np.iinfo(np.int32).max)
    lengths = index.contexts.lengths()
    if lengths.size and lengths.max() > index.info.context_length:
        files["offsets"].refuse(f"has a context of {lengths.max()} tokens, the longest is {index.info.context_length}")
    _check_names(files, np.asarray(arrays["name_bytes"]), np.asarray(arrays["name_offsets"]))


def _check_names(files: dict[str, _File], data: Array, offsets: Array) -> None:
    """Each name is UTF-8: all of them together are, and none begins within a character. None is longer than a build
    writes, so that an answer with many of them stays small.
    """
    try:
        data.tobytes().decode()
    except UnicodeDecodeError as error:
        files["name_bytes"].refuse(f"is not UTF-8 at {error.start}")
    begins = offsets[:-1][offsets[:-1] < len(data)]
    if ((data[begins] & 0xC0) == 0x80).any():
        files["name_bytes"].refuse("has a name that begins within a character")
    lengths = np.diff(offsets)
    if len(lengths) and lengths.max() > MAX_NAME_BYTES:
        document = int(lengths.argmax())
        files["name_offsets"].refuse(
            f"gives document {document} a name of {lengths[document]:,} bytes, the longest may have {MAX_NAME_BYTES:,}"
        )


def _prefix(index: "Index") -> str:
    return "negative/" if index.side == "negative" else ""


def array_file(index: "Index", layer: int, name: str) -> _File:
    """One of a layer's arrays."""
    return _File(index.folder, f"{_prefix(index)}layer_{layer:02d}/{name}", getattr(index.layer(layer), name))


def _check_layer(index: "Index", layer: int) -> int:
    """The layer's number of examples."""
    stored, info = index.layer(layer), index.info
    files = {name: array_file(index, layer, name) for name in stored._fields if getattr(stored, name) is not None}
    n_rows, n_examples = len(stored.row_contexts), len(stored.rows)
    files["offsets"].shape("int64", info.width(layer) + 1)
    files["row_contexts"].shape("int32", None)
    files["row_positions"].shape("int32", n_rows)
    files["rows"].shape("int32", None)
    files["activations"].shape("float32", n_examples)
    files["xhat"].shape("float16", n_rows, index.manifest["model"].get("d_model"))
    files["around"].shape("float16 float32", n_examples, index.n_around)
    files["offsets"].offsets(n_examples)
    _check_counts(files["offsets"], np.diff(stored.offsets), min(info.selection.max_examples, info.n_contexts))
    files["rows"].within(0, n_rows - 1)
    files["row_contexts"].within(0, len(index.contexts) - 1)
    files["row_positions"].within(index.n_skipped, index.contexts.lengths(np.asarray(stored.row_contexts)) - 1)
    files["activations"].within(-MOST, MOST)
    if "scales" in files:
        files["scales"].shape("float32", n_rows)
        files["scales"].within(-MOST, MOST)
    if index.has_moments:
        for name, array in index.moments(layer)._asdict().items():
            file = _File(index.folder, f"{_prefix(index)}layer_{layer:02d}/{name}", array)
            file.shape("float32", stored.xhat.shape[1])
            file.within(0 if name == "deviation" else -MOST, MOST)
    if info.encoders:
        encoder = _File(index.folder, f"layer_{layer:02d}/encoder", index.encoder(layer))
        encoder.shape("float32", info.width(layer), stored.xhat.shape[1])
    if index.n_negatives:
        _check_negatives(index, layer)
    return n_examples


def _check_counts(file: _File, counts: Array, most: int) -> None:
    """Refuse more examples of a neuron than were chosen: what is asked of a neuron grows with their square."""
    if len(counts) and counts.max() > most:
        file.refuse(f"gives neuron {int(counts.argmax())} {counts.max()} examples, it should have {most} at most")


def _check_negatives(index: "Index", layer: int) -> None:
    found = index.negatives(layer)
    shape = index.info.width(layer), len(KINDS), index.n_negatives
    folder = f"{_prefix(index)}layer_{layer:02d}"
    contexts, positions = (_File(index.folder, f"{folder}/{n}", a) for n, a in zip(NAMES, found, strict=True))
    contexts.shape("int32", *shape)
    positions.shape("uint16 int32", *shape)
    contexts.within(-1, len(index.contexts) - 1)
    of = np.asarray(found.contexts)
    last = index.contexts.lengths(np.maximum(of, 0)) - 1
    positions.within(0, np.where(of < 0, np.iinfo(np.int32).max, last))


def _check_statistics(index: "Index") -> None:
    info = index.info
    n = sum(info.widths)
    for name in ("maximum", "mean", "share_positive", "histogram"):
        file = _File(index.folder, f"{_prefix(index)}statistics/{name}", index.stored_statistics(name))
        if name == "histogram":
            file.shape("int32", n, index.n_bins)
            file.within(0, info.n_contexts)
        else:
            file.shape("float32", n)
            file.within(0 if name == "share_positive" else -MOST, 1 if name == "share_positive" else MOST)


def check_for_model(index: "Index", model: ModelInfo, n_tokens: int) -> None:
    """Raise DamagedIndex where sizes are not the model's, or a token is none of the n_tokens that it knows."""
    of_index = index.info.n_layers, index.manifest["model"]["n_neurons_per_layer"]
    of_model = model.n_layers, model.n_neurons_per_layer
    if of_index != of_model:
        raise DamagedIndex(
            f"the index {str(index.folder)!r} is damaged: its manifest says (layers, neurons of each) {of_index}, its "
            f"model has {of_model}; copy it again, or index the corpus anew"
        )
    for side in map(index.of, index.info.sides):
        for layer in index.info.held_layers:
            array_file(side, layer, "xhat").shape("float16", None, model.d_model)
    tokens = index.contexts.arrays["tokens"]
    _File(index.folder, "contexts/tokens", tokens).within(0, n_tokens - 1)


class CheckedRows:
    """Which blocks of a layer's x̂ have been found to hold numbers."""

    def __init__(self, file: _File, xhat: Array) -> None:
        self._file = file
        self._bits = xhat.view(np.uint16)
        self._checked = np.zeros(-(-len(xhat) // BLOCK), bool)

    def check(self, rows: Array) -> None:
        """Raise DamagedIndex where one of these rows, or of their blocks, has a value that is no number."""
        blocks = np.unique(rows // BLOCK)
        for block in blocks[~self._checked[blocks]]:
            bits = self._bits[block * BLOCK : (block + 1) * BLOCK]
            wrong = ((bits & EXPONENT) == EXPONENT).any(1)
            if wrong.any():
                self._file.refuse(f"has a value in row {block * BLOCK + int(wrong.argmax())} that is no number")
            self._checked[block] = True


def check_around(index: "Index", layer: int, example: int, values: Array) -> None:
    """Raise DamagedIndex where the activations around an example's key token are no numbers."""
    if not np.isfinite(values).all():
        array_file(index, layer, "around").refuse(f"has a value of example {example} that is no number")
