"""The map of a layer as a file: map-SIDE-LAYER.npz, bound to the index's hash.

about   JSON: format, index, side, layer, cut
texts   JSON: names of groups
others  arrays, as `LayerMap` has them
"""

import contextlib
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray, IntArray
from polysem.proto.sides import Side
from polysem.server.mapping.groups import CUT

FORMAT = 1
DAMAGED = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class LayerMap(NamedTuple):
    """Groups of a layer's clusters, G with C clusters in all, the largest group first.

    n_clusters           () int: clusters of two examples or more
    recall               () float: of the neighbour graph
    sizes                (G,) int32: clusters of each group
    scores, null_scores  (G,) float64: of its name, and of those of random groups; NaN where there is none
    neurons, labels      (C,) int32: of the clusters, group by group; so are the rest
    ranks, n_examples    (C,) int32: larger clusters of the neuron; the cluster's examples
    centrals             (C,) int32: number of the central example
    similarities         (C,) float64: mean cosine with the group's others
    texts                G names
    """

    n_clusters: int
    recall: float
    sizes: IntArray
    scores: DoubleArray
    null_scores: DoubleArray
    neurons: IntArray
    labels: IntArray
    ranks: IntArray
    n_examples: IntArray
    centrals: IntArray
    similarities: DoubleArray
    texts: list[str]


def write(path: Path, about: dict[str, Any], found: LayerMap) -> None:
    """Put the file in its place, whole. about: index_sha256, side, layer. Raises OSError."""
    part = path.with_name(f".{path.name}-{os.getpid()}")
    arrays = found._asdict() | {"texts": _bytes(found.texts), "about": _bytes({"format": FORMAT} | about)}
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def read(path: Path, about: dict[str, Any]) -> LayerMap | None:
    """Return the map; None where the file is of another index, layer or version. Raises one of DAMAGED."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # NumPy leaves open what it opens
        if _value(file["about"]) != {"format": FORMAT} | about:
            return None
        arrays = {name: file[name] for name in LayerMap._fields if name != "texts"}
        texts = _value(file["texts"])
    n = {name: len(array) for name, array in arrays.items() if array.ndim}
    of_groups = {n["sizes"], n["scores"], n["null_scores"], len(texts)}
    of_clusters = {n[name] for name in ("neurons", "labels", "ranks", "n_examples", "centrals", "similarities")}
    if len(of_groups) > 1 or of_clusters != {int(arrays["sizes"].sum())}:
        raise ValueError("its columns differ in length")
    n_clusters, recall = int(arrays.pop("n_clusters")), float(arrays.pop("recall"))
    return LayerMap(n_clusters=n_clusters, recall=recall, **arrays, texts=texts)


def about(index_sha256: str, side: Side, layer: int) -> dict[str, Any]:
    """Return what a file says it is of."""
    return {"index_sha256": index_sha256, "side": side, "layer": layer, "cut": CUT}


def _bytes(value: Any) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _value(array: Array) -> Any:
    return json.loads(array.tobytes())
