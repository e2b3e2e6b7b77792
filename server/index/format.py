"""The index: an immutable folder that holds what clustering needs of a model and a corpus.

manifest.json   format, model, corpus and selection with their hashes, settings of the model's config that change its
                numbers, counts, sha256 and size of every file below
manifest.sha256 its own, as sha256sum writes it
contexts/       token ids, windows, document names (server/index/contexts.py)
nulls.npz       the rotation test of each neuron, where one was asked for (server/index/nulls.py)
statistics/     of each neuron's key activations: maximum, mean, share_positive (J,) and histogram (J, 64)
layer_00/ …     xhat (P, D) float16: x̂ of each key token, stored once however many neurons share it
                scales (P,) float32 that its rows are to be multiplied by, where no norm bounds them
                mean, deviation (D,) float32: of x̂ over all tokens but BOS (version 0.1.0 kept none)
                row_contexts, row_positions (P,): where that token stands
                offsets (N + 1,): neuron j's examples are offsets[j] … offsets[j + 1]
                rows (E,): each example's row of xhat; activations (E,) float32
                around (E, 31) float16, of gated neurons float32, 0 outside
                negative_contexts, negative_positions (N, 3, K): negatives (server/index/negatives.py), where the
                manifest says that it holds K of each kind
                encoder (N, D) float32, of latents: what x̂ is multiplied with, a row a latent
negative/       statistics/ and layer_00/ … of the negative side, where the index has it: maximum is the lowest of all
                activations, and share_positive the share of contexts whose lowest is below 0

J = N neurons of each layer that it holds, one layer after the other. An index of latents has its own N in each layer,
and its x̂ is what each layer's encoder multiplies. Arrays are .npy and memory-mapped; nothing that is hashed holds a
time or a host. Format 2 has one side and all layers, and no scales; format 4 is of latents.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import DamagedIndex, FailedPrecondition, ForeignIndex, NotFound, UnknownNeuron
from polysem.proto.facts import Encoder, IndexInfo, ModelInfo, Selection, decode_indexes, encode_indexes
from polysem.proto.neurons import NeuronRange
from polysem.proto.sides import Side
from polysem.server.index import arrays, nulls
from polysem.server.index.contexts import Contexts
from polysem.server.index.negatives import NAMES, Negatives
from polysem.server.index.soundness import CheckedRows, array_file, check

FORMAT = 3
OF_LATENTS = 4  # format of an index of latents, which earlier versions would take for neurons
READABLE = (2, 3, 4)
SIGNS: dict[Side, int] = {"positive": 1, "negative": -1}
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
TOKENS_BEFORE, TOKENS_AFTER = 20, 10  # of the text around a key token (as the paper's site)
N_BINS = 64
MAX_DESCRIPTION_BYTES = 1 << 16  # of what it is, as clients hear it: the ids of model and corpus may be paths


class Layer(NamedTuple):
    """The arrays of one layer, as the module's docstring names them."""

    xhat: Array
    row_contexts: Array
    row_positions: Array
    offsets: Array
    rows: Array
    activations: Array
    around: Array
    scales: Array | None = None


class Moments(NamedTuple):
    """The mean and standard deviation (D,) float32 of x̂ over all tokens of the corpus but BOS."""

    mean: Array
    deviation: Array


class Statistics(NamedTuple):
    """Every neuron's key activations over all contexts: maximum, mean, share_positive (L, N) float32 and histogram
    (L, N, 64) int32, with N that of the widest layer; 0 of neurons that the index does not hold. maximum is the
    strongest: of the negative side the lowest."""

    maximum: Array
    mean: Array
    share_positive: Array
    histogram: Array


class Index:
    """One side of an open index; `open_index` checks it first, and opens its positive side.

    sign  1 of the positive side, −1 of the negative: sign · activation says how strongly a neuron fires
    """

    n_around = TOKENS_BEFORE + 1 + TOKENS_AFTER
    n_bins = N_BINS

    def __init__(self, folder: Path, manifest: dict[str, Any], sha256: str, side: Side = "positive") -> None:
        self.folder = folder
        self.manifest = manifest
        self.sha256 = sha256
        self.side = side
        self.sign = SIGNS[side]
        self._arrays = side_folder(folder, side)
        self._layers: dict[int, Layer] = {}
        self._checked: dict[int, CheckedRows] = {}
        self._encoders: dict[int, Array] = {}
        self._sides: dict[Side, Index] = {side: self}  # of all sides that were asked for

    @cached_property
    def contexts(self) -> Contexts:
        return Contexts(self.folder / "contexts")

    def of(self, side: Side) -> "Index":
        """A side of the same index. Raises FailedPrecondition where it does not hold that side."""
        if side not in self.info.sides:
            raise FailedPrecondition(
                f"the index {self.info.name!r} holds the positive side alone; index the corpus anew with --sides both"
            )
        if side not in self._sides:
            other = Index(self.folder, self.manifest, self.sha256, side)
            other.contexts, other._sides = self.contexts, self._sides
            self._sides[side] = other
        return self._sides[side]

    def layer(self, layer: int) -> Layer:
        """The arrays of a layer, mapped on first use."""
        if layer not in self._layers:
            folder = self._arrays / layer_folder(layer)
            names = [name for name in Layer._fields if name != "scales" or (folder / "scales.npy").exists()]
            self._layers[layer] = Layer(**{name: arrays.load(folder / f"{name}.npy") for name in names})
        return self._layers[layer]

    @cached_property
    def nulls(self) -> nulls.HeldNulls | None:
        """The rotation tests that it holds of its side's neurons; None where it holds none. Raises DamagedIndex."""
        return nulls.read(self)

    @property
    def has_moments(self) -> bool:
        """Whether `moments` can be asked: indexes of version 0.1.0 hold none."""
        return any(name.endswith("/deviation.npy") for name in self.manifest["files"])

    def moments(self, layer: int) -> Moments:
        """Mean and deviation of the layer's x̂, mapped."""
        folder = self._arrays / layer_folder(layer)
        return Moments(*(arrays.load(folder / f"{name}.npy") for name in Moments._fields))

    @property
    def n_negatives(self) -> int:
        """The most negatives of each kind that it holds of a neuron; 0 where it holds none, as before version 0.2."""
        return int(self.manifest.get("negatives", 0))

    def encoder(self, layer: int) -> Array:
        """(F, D) float32, mapped: what the x̂ of each of the layer's latents is multiplied with."""
        if layer not in self._encoders:
            self._encoders[layer] = arrays.load(self.folder / layer_folder(layer) / "encoder.npy")
        return self._encoders[layer]

    def negatives(self, layer: int) -> Negatives:
        """The negatives of the layer's neurons, mapped."""
        folder = self._arrays / layer_folder(layer)
        return Negatives(*(arrays.load(folder / f"{name}.npy") for name in NAMES))

    def key_tokens(self, layer: int, rows: Array) -> IntArray:
        """(…,) int32 the id of the key token of each row of the layer's x̂."""
        stored = self.layer(layer)
        contexts, positions = (np.asarray(of)[rows] for of in (stored.row_contexts, stored.row_positions))
        return self.contexts.tokens_at(contexts, positions)

    def check_rows(self, layer: int, rows: Array) -> None:
        """Raise DamagedIndex where these rows of a layer's x̂ hold what is no number; each row is looked at once."""
        if layer not in self._checked:
            self._checked[layer] = CheckedRows(array_file(self, layer, "xhat"), self.layer(layer).xhat)
        self._checked[layer].check(rows)

    def stored_statistics(self, name: str) -> Array:
        """An array of `statistics` as it is in its file: (J,) or (J, 64)."""
        return arrays.load(self._arrays / "statistics" / f"{name}.npy")

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics(*map(self._of_all_layers, Statistics._fields))

    def _of_all_layers(self, name: str) -> Array:
        """(L, N, …)"""
        stored, info = self.stored_statistics(name), self.info
        shape = info.n_layers, info.n_neurons_per_layer, *stored.shape[1:]
        if sum(info.widths) == info.n_layers * info.n_neurons_per_layer:
            return stored.reshape(shape)
        every = np.zeros(shape, stored.dtype)  # of which only these pages are ever touched
        for layer, width, begin in zip(info.held_layers, info.widths, self._starts, strict=True):
            every[layer, :width] = stored[begin : begin + width]
        return every

    @property
    def _starts(self) -> Array:
        """Place of the first neuron of each layer that it holds, among the J."""
        return np.cumsum([0, *self.info.widths[:-1]])

    def places(self, neurons: IntArray) -> Array:
        """(B,) int64: where neurons (B, 2) of layers that it holds stand among the J."""
        starts = np.zeros(self.info.n_layers, np.int64)
        starts[list(self.info.held_layers)] = self._starts
        return np.asarray(starts[neurons[:, 0]] + neurons[:, 1])

    @cached_property
    def n_examples(self) -> Array:
        """(L, N) int32: dataset examples of each neuron, N that of the widest layer; 0 of those it does not hold."""
        counts = np.zeros((self.info.n_layers, self.info.n_neurons_per_layer), np.int32)
        for layer, width in zip(self.info.held_layers, self.info.widths, strict=True):
            counts[layer, :width] = np.diff(self.layer(layer).offsets)
        return counts

    @cached_property
    def every_neuron(self) -> IntArray:
        """(J, 2) int32 layer and index of all neurons of the layers that it holds, in the model's order."""
        layers = np.repeat(np.array(self.info.held_layers, np.int32), self.info.widths)
        neurons = np.concatenate([np.arange(width, dtype=np.int32) for width in self.info.widths])
        return np.stack([layers, neurons], axis=1)

    @property
    def n_skipped(self) -> int:
        """Tokens at a context's start that are never key tokens."""
        return int(self.info.bos) + self.info.skip_positions

    @cached_property
    def info(self) -> IndexInfo:
        model, corpus, counts = (self.manifest[key] for key in ("model", "corpus", "counts"))
        encoders = tuple(Encoder(**encoder) for encoder in self.manifest.get("encoders") or ())
        widths = [encoder.n_latents for encoder in encoders]
        return IndexInfo(
            name=self.folder.name,
            sha256=self.sha256,
            model_id=model["id"],
            model_sha256=model["sha256"],
            corpus_id=corpus["id"],
            corpus_sha256=corpus["sha256"],
            selection=Selection(**self.manifest["selection"]),
            context_length=self.manifest["context_length"],
            bos=self.manifest["bos"],
            windows=self.manifest["windows"],
            n_layers=model["n_layers"],
            n_neurons_per_layer=max(widths, default=model["n_neurons_per_layer"]),
            software_version=self.manifest["software_version"],
            sides=tuple(self.manifest.get("sides", ("positive",))),
            layers=tuple(self.manifest.get("layers") or ()),
            skip_positions=self.manifest.get("skip_positions", 0),
            n_longer_documents=corpus.get("n_longer"),
            n_skipped_documents=corpus.get("n_skipped", 0),
            encoders=encoders,
            **counts,
        )

    @property
    def facts(self) -> IndexInfo:
        """`info`, and the tests that it holds."""
        return replace(self.info, tests=None if self.nulls is None else self.nulls.facts)

    def neurons(self, ranges: Sequence[NeuronRange]) -> IntArray:
        """(B, 2) int32 layer and index of the neurons that the ranges name, each once, at its first place.

        Raises UnknownNeuron where the model has no such layer or neuron, FailedPrecondition where the index does not
        hold the layer.
        """
        n = self.info.n_neurons_per_layer
        flat = np.concatenate([self._flat(r) for r in ranges])
        _, first = np.unique(flat, return_index=True)
        if len(first) < len(flat):
            flat = flat[np.sort(first)]
        return np.stack(np.divmod(flat, n), axis=1).astype(np.int32)

    def _flat(self, r: NeuronRange) -> Array:
        """layer · N + index of a range's neurons, with N that of the widest layer."""
        n, unit = self.info.n_neurons_per_layer, self.info.unit
        if r.layer is None:
            every: Array = self.every_neuron @ np.array([n, 1])
            return every
        self.check_layer(r.layer, f"{unit} {r}")
        width = self.info.width(r.layer)
        if r.first is None or r.last is None:
            return np.arange(r.layer * n, r.layer * n + width)
        if r.last >= width:
            which = "each layer" if unit == "neuron" else f"layer {r.layer}"
            raise UnknownNeuron(f"there is no {unit} {r}: {which} has {unit}s 0 to {width - 1}")
        return np.arange(r.layer * n + r.first, r.layer * n + r.last + 1)

    def check_layer(self, layer: int, named: str = "") -> None:
        """Raise UnknownNeuron where the model has no such layer, FailedPrecondition where the index does not hold it.

        named  what was asked for in that layer
        """
        n_layers, held = self.info.n_layers, self.info.held_layers
        if layer >= n_layers:
            raise UnknownNeuron(f"there is no {named or f'layer {layer}'}: the model has layers 0 to {n_layers - 1}")
        if layer not in held:
            raise FailedPrecondition(
                f"layer {layer} is not in the index {self.info.name!r}, which holds {layers_in_words(held)} of the "
                f"model's {n_layers}; index the corpus anew with it"
            )

    def check_model(self, model: ModelInfo, settings: Mapping[str, Any]) -> None:
        """Raise ForeignIndex unless the index was made with these weights, and this config of them.

        settings  of the config, those that change numbers; an index of an earlier version does not say which it had
        """
        own = self.manifest["model"]
        other = ""
        if model.sha256 != own["sha256"]:
            other = f"(weights {own['sha256'][:12]}…), not with {model.id!r} ({model.sha256[:12]}…)"
        elif differing := differing_setting(own.get("settings", {}), settings):
            other = f"and with {differing} in the config of {model.id!r}"
        if other:
            raise ForeignIndex(
                f"the index {str(self.folder)!r} was made with the model {own['id']!r} {other}; serve it with its own "
                "model, or index the corpus anew"
            )


def differing_setting(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first setting that differs, with both values; empty where none does.

    Those that only one of them has are not compared: other versions of transformers know others.
    """
    names = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    return f"{names[0]} {wanted[names[0]]!r}, which is {found[names[0]]!r}" if names else ""


def layers_in_words(layers: Sequence[int]) -> str:
    """layers 0 to 3 and 7"""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"layer{'s' * (len(layers) > 1)} {' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}"


def side_folder(folder: Path, side: Side) -> Path:
    """Return the folder of a side's arrays in an index."""
    return folder / "negative" if side == "negative" else folder


def layer_folder(layer: int) -> str:
    return f"layer_{layer:02d}"


def open_index(folder: Path) -> Index:
    """The index in `folder`, after a check of its manifest, of every file's size, and that its arrays fit together.

    Whether the bytes are those that were written is for `verify` to say.

    Raises NotFound where there is none, DamagedIndex where it cannot be trusted.
    """
    path = folder / MANIFEST
    if folder.is_file():
        raise NotFound(f"{str(folder)!r} is a file, and an index is a folder that `polysem index --out FOLDER` makes")
    if not folder.is_dir():
        raise NotFound(f"there is no index {str(folder)!r}; make one with `polysem index --out {folder}`")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{str(folder)!r} is not an index: it has no readable {MANIFEST} ({error.strerror})") from error
    with _readable_manifest(folder):
        manifest = json.loads(data)
        format_ = manifest["format"]
    if format_ not in READABLE:
        raise DamagedIndex(
            f"the index {str(folder)!r} has format {format_}, this version ({version('polysem')}) reads "
            f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}; "
            "index the corpus anew, or use the version that made it"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    if not _has_checksum(folder, sha256):
        raise DamagedIndex(
            f"the index {str(folder)!r} is damaged: {MANIFEST} does not have the sha256 in {CHECKSUM}; "
            "copy it again, or index the corpus anew"
        )
    with _readable_manifest(folder):
        sizes = {name: int(file["bytes"]) for name, file in manifest["files"].items() if file["sha256"]}
    for name, expected in sizes.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != expected:
            found = "missing" if size is None else f"{size} bytes long"
            raise DamagedIndex(
                f"the index {str(folder)!r} is damaged: {name} is {found}, it should have {expected} bytes; "
                "copy it again, or index the corpus anew"
            )
    index = Index(folder, manifest, sha256)
    with _readable_manifest(folder):
        _ = index.info  # all that it says is there
        check(index)
        described = encode_indexes([index.info])
        if decode_indexes(described) != [index.info]:
            raise ValueError("what it says of the index has other types than it should have")
    if (n_bytes := described.ByteSize()) > MAX_DESCRIPTION_BYTES:
        raise DamagedIndex(
            f"the index {str(folder)!r} is damaged: its manifest describes it in {n_bytes:,} bytes, at most "
            f"{MAX_DESCRIPTION_BYTES:,} can be told; copy it again, or index the corpus anew"
        )
    for side in index.info.sides:
        _ = index.of(side).nulls
    return index


def _has_checksum(folder: Path, sha256: str) -> bool:
    try:
        return (folder / CHECKSUM).read_text("utf-8") == _checksum_line(sha256)
    except (OSError, ValueError):
        return False


def _checksum_line(sha256: str) -> str:
    return f"{sha256}  {MANIFEST}\n"


@contextmanager
def _readable_manifest(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedIndex(
            f"the manifest of {str(folder)!r} cannot be read ({error!r}); index the corpus anew"
        ) from error


def verify(index: Index) -> int:
    """Read every file and compare its sha256 with the manifest's; the bytes read.

    Raises DamagedIndex at the first difference.
    """
    for name, file in index.manifest["files"].items():
        if file_sha256(index.folder / name) != file["sha256"]:
            raise DamagedIndex(
                f"the index {str(index.folder)!r} is damaged: {name} does not have the bytes that the manifest says; "
                "copy it again, or index the corpus anew"
            )
    return sum(file["bytes"] for file in index.manifest["files"].values())


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a folder that holds all other files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(file_sha256, files)
        listed = {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256}
            for path, sha256 in zip(files, sums, strict=True)
        }
    format_ = OF_LATENTS if "encoders" in facts else FORMAT
    manifest = {"format": format_, "software_version": version("polysem")} | facts | {"files": listed}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    (folder / CHECKSUM).write_text(_checksum_line(file_sha256(folder / MANIFEST)), "utf-8")
