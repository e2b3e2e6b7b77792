"""The index: an immutable folder that holds what clustering needs of a model and a corpus.

manifest.json   format, model, corpus and selection with their hashes, counts, sha256 and size of every file below
manifest.sha256 its own, as sha256sum writes it
contexts/       token ids, windows, document names (server/index/contexts.py)
statistics/     of each neuron's key activations: maximum, mean, share_positive (J,) and histogram (J, 64)
layer_00/ …     xhat (P, D) float16: x̂ of each key token, stored once however many neurons share it
                row_contexts, row_positions (P,): where that token stands
                offsets (N + 1,): neuron j's examples are offsets[j] … offsets[j + 1]
                rows (E,): each example's row of xhat; activations (E,) float32; around (E, 31) float16, 0 outside

J = layers × N neurons a layer. Arrays are .npy and memory-mapped; nothing that is hashed holds a time or a host.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import DamagedIndex, ForeignIndex, NotFound, UnknownNeuron
from polysem.proto.facts import IndexInfo, ModelInfo, Selection
from polysem.proto.neurons import NeuronRange
from polysem.server.index import arrays
from polysem.server.index.contexts import Contexts

FORMAT = 2
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
TOKENS_BEFORE, TOKENS_AFTER = 20, 10  # of the text around a key token (as the paper's site)
N_BINS = 64


class Layer(NamedTuple):
    """The arrays of one layer, as the module's docstring names them."""

    xhat: Array
    row_contexts: Array
    row_positions: Array
    offsets: Array
    rows: Array
    activations: Array
    around: Array


class Statistics(NamedTuple):
    """Of every neuron's key activations over all contexts: maximum, mean, share_positive (L, N) float32 and histogram
    (L, N, 64) int32."""

    maximum: Array
    mean: Array
    share_positive: Array
    histogram: Array


class Index:
    """An open index. `open_index` checks it first."""

    def __init__(self, folder: Path, manifest: dict[str, Any], sha256: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.sha256 = sha256
        self.contexts = Contexts(folder / "contexts")
        self._layers: dict[int, Layer] = {}

    def layer(self, layer: int) -> Layer:
        """The arrays of a layer, mapped on first use."""
        if layer not in self._layers:
            folder = self.folder / layer_folder(layer)
            self._layers[layer] = Layer(*(arrays.load(folder / f"{name}.npy") for name in Layer._fields))
        return self._layers[layer]

    @cached_property
    def statistics(self) -> Statistics:
        shape = self.info.n_layers, self.info.n_neurons_per_layer
        stored = [arrays.load(self.folder / "statistics" / f"{name}.npy") for name in Statistics._fields]
        return Statistics(*(array.reshape(*shape, *array.shape[1:]) for array in stored))

    @cached_property
    def n_examples(self) -> Array:
        """(L, N) int32: dataset examples of each neuron."""
        counts = [np.diff(self.layer(layer).offsets) for layer in range(self.info.n_layers)]
        return np.array(counts, np.int32)

    @cached_property
    def info(self) -> IndexInfo:
        model, corpus, counts = (self.manifest[key] for key in ("model", "corpus", "counts"))
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
            n_neurons_per_layer=model["n_neurons_per_layer"],
            software_version=self.manifest["software_version"],
            **counts,
        )

    def neurons(self, ranges: Sequence[NeuronRange]) -> IntArray:
        """(B, 2) int32 layer and index of the neurons that the ranges name, each once, at its first place.

        Raises UnknownNeuron where the model has no such layer or neuron.
        """
        n_layers, n = self.info.n_layers, self.info.n_neurons_per_layer
        flat = np.concatenate([_flat(r, n_layers, n) for r in ranges])
        _, first = np.unique(flat, return_index=True)
        if len(first) < len(flat):
            flat = flat[np.sort(first)]
        return np.stack(np.divmod(flat, n), axis=1).astype(np.int32)

    def check_model(self, model: ModelInfo) -> None:
        """Raise ForeignIndex unless the index was made with these weights."""
        if model.sha256 != self.manifest["model"]["sha256"]:
            raise ForeignIndex(
                f"the index {str(self.folder)!r} was made with the model {self.manifest['model']['id']!r} "
                f"(weights {self.manifest['model']['sha256'][:12]}…), not with {model.id!r} ({model.sha256[:12]}…); "
                "serve it with its own model, or index the corpus anew"
            )


def _flat(r: NeuronRange, n_layers: int, n: int) -> Array:
    if r.layer is None:
        return np.arange(n_layers * n)
    if r.layer >= n_layers:
        raise UnknownNeuron(f"there is no neuron {r}: the model has layers 0 to {n_layers - 1}")
    if r.first is None or r.last is None:
        return np.arange(r.layer * n, (r.layer + 1) * n)
    if r.last >= n:
        raise UnknownNeuron(f"there is no neuron {r}: each layer has neurons 0 to {n - 1}")
    return np.arange(r.layer * n + r.first, r.layer * n + r.last + 1)


def layer_folder(layer: int) -> str:
    return f"layer_{layer:02d}"


def open_index(folder: Path) -> Index:
    """The index in `folder`, after a check of its manifest and of every file's size (not of its bytes: see `verify`).

    Raises NotFound where there is none, DamagedIndex where it cannot be trusted.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise NotFound(f"there is no index {str(folder)!r}; make one with `polysem index --out {folder}`")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{str(folder)!r} is not an index: it has no readable {MANIFEST} ({error.strerror})") from error
    with _readable_manifest(folder):
        manifest = json.loads(data)
        format_ = manifest["format"]
    if format_ != FORMAT:
        raise DamagedIndex(
            f"the index {str(folder)!r} has format {format_}, this version ({version('polysem')}) reads {FORMAT}; "
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    manifest = {"format": FORMAT, "software_version": version("polysem")} | facts | {"files": listed}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    (folder / CHECKSUM).write_text(_checksum_line(file_sha256(folder / MANIFEST)), "utf-8")
