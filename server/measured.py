"""Tests of neurons from a file of `polysem measure --null`, for an index that is open.

They take the place of the tests that the index holds of the measured side. Its folder is not written to.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polysem.client.measuring import measurements
from polysem.client.measuring.measurements import UNDEFINED, Measurements
from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.clustering import Algorithm
from polysem.server.index import nulls
from polysem.server.index.format import Index
from polysem.server.questions.held import CHOICE, CLUSTERING

TESTED: Algorithm = "hac"  # whose rows have tests
SAME_TREE = {"linkage": CLUSTERING.linkage, "frame": CHOICE.frame}  # whose clusters listings are of


def attach(indexes: Sequence[Index], paths: Sequence[Path]) -> None:
    """Give the tests of each file to the index whose neurons were measured, until it is closed.

    Raises NotFound, and InvalidArgument for a file that is none, holds no tests, or is of another index, and for two
    files of one side.
    """
    seen: dict[tuple[str, str], Path] = {}
    for path in paths:
        measured = measurements.read(path.expanduser())
        index = _index_of(measured, indexes)
        if (other := seen.setdefault((index.sha256, index.side), path)) is not path:
            raise InvalidArgument(
                f"{str(path)!r} and {str(other)!r} are both of the {index.side} side of {index.info.name!r}; name one"
            )
        index.nulls = _tests(measured, index)


def _index_of(measured: Measurements, indexes: Sequence[Index]) -> Index:
    """Return the side of the index that was measured."""
    about = measured.about
    for index in indexes:
        if index.sha256 == about["index"]["sha256"]:
            return index.of(about.get("side", "positive"))
    name, sha256 = (about["index"][key] for key in ("name", "sha256"))
    raise InvalidArgument(
        f"{str(measured.path)!r} is of the index {name!r} ({sha256[:12]}…), which is not served; serve that index, or "
        "measure those that are"
    )


def _tests(measured: Measurements, index: Index) -> nulls.HeldNulls:
    about, variant = measured.about, _variant(measured)
    rows = np.ones(len(measured), bool)
    for name, value in variant.items():
        rows &= measured.column(name) == (value or "")
    places = _places(measured, index, rows)

    def filled(*names: str) -> DoubleArray:
        found: Array = np.full((len(index.every_neuron), len(names)), np.nan)
        found[places] = np.stack([measured.column(name)[rows] for name in names], axis=1)
        return found

    tests = filled("own_silhouette", "null_silhouette", "null_deviation", "p_value")
    clusters = None
    if variant.items() >= SAME_TREE.items():
        clusters = filled(*nulls.CLUSTER_COLUMNS)
        clusters[np.isnan(tests[:, 0]) | (clusters[:, 0] == UNDEFINED)] = np.nan
        if about["distance_threshold"] != CLUSTERING.distance_threshold:
            clusters[:, nulls.CLUSTER_COLUMNS.index("stability")] = np.nan
    held = nulls.HeldNulls(int(about["n_null"]), int(about["seed"]), tests, clusters)
    if problem := nulls.problem_of(index, held):
        raise InvalidArgument(f"{str(measured.path)!r} {problem}; measure anew")
    return held


def _variant(measured: Measurements) -> Mapping[str, str | None]:
    """Return the measured clustering whose tests an index would hold: of the same tree if there is one."""
    wanted = {"algorithm": TESTED, "embedding": CHOICE.embedding, "layer_norm": CHOICE.layer_norm}
    found = [
        variant
        for variant in measured.about["variants"]
        if variant.items() >= wanted.items() and variant["frame"] != "standardised"
    ]
    if not (found and measured.about.get("n_null")):
        raise InvalidArgument(
            f"{str(measured.path)!r} holds no tests of neuron embeddings by hac; measure with --null 99"
        )
    return max(found, key=lambda variant: variant.items() >= SAME_TREE.items())


def _places(measured: Measurements, index: Index, rows: Array) -> Array:
    """Return the place of each row's neuron in `index.every_neuron`."""
    every, named = (
        of[:, 0].astype(np.int64) << 32 | of[:, 1]
        for of in (index.every_neuron, np.stack([measured.column(name)[rows] for name in ("layer", "neuron")], 1))
    )
    if not np.isin(named, every).all():
        raise InvalidArgument(f"{str(measured.path)!r} names neurons that the index does not hold; measure anew")
    return np.searchsorted(every, named)
