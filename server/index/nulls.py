"""The rotation tests that an index holds: nulls.npz beside its manifest.

It is written after the index and whole, and is no part of the manifest: an index is the same index without it.

positive, negative  (J, 4) float64, the neurons of each side: best silhouette, mean and standard deviation of the best
                    silhouettes of rotations, p-value; NaN where a neuron was not tested
positive_clusters, negative_clusters
                    (J, 3) float64, where clusters were tested, too: CLUSTER_COLUMNS; NaN where undefined
about               JSON as bytes: the index's sha256, n_null, seed, software_version
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.errors import DamagedIndex, FailedPrecondition
from polysem.proto.facts import HeldTests
from polysem.proto.sides import Side
from polysem.proto.work import shards

if TYPE_CHECKING:
    from polysem.server.index.format import Index

FILE = "nulls.npz"
COLUMNS = 4
CLUSTER_COLUMNS = ("significant_clusters", "stability", "prediction_strength")


class HeldNulls(NamedTuple):
    """Rotations of one side: n_null, seeded, of each neuron's examples in frame own."""

    n_null: int
    seed: int
    tests: DoubleArray  # (J, 4)
    clusters: DoubleArray | None = None  # (J, 3)

    @property
    def facts(self) -> HeldTests:
        """Facts about the tests, for callers."""
        return HeldTests(self.n_null, self.seed, self.clusters is not None)


def of_clusters(side: Side) -> str:
    """Name of the array that holds the tests of a side's clusters."""
    return f"{side}_clusters"


def read(index: "Index") -> HeldNulls | None:
    """Read the rotations of the index's side; None where it holds none. Raises DamagedIndex."""
    path = index.folder / FILE
    if not path.exists():
        return None
    try:
        found = shards.read(path)
        about: dict[str, Any] = json.loads(bytes(found["about"]))
        clusters = found.get(of_clusters(index.side))
        held = HeldNulls(int(about["n_null"]), int(about["seed"]), found[index.side], clusters)
        of_index = about["index_sha256"]
    except (FailedPrecondition, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(index, "cannot be read") from error
    if of_index != index.sha256:
        raise _damaged(index, f"is of another index ({str(of_index)[:12]}…)")
    if problem := problem_of(index, held):
        raise _damaged(index, problem)
    return held


def problem_of(index: "Index", held: HeldNulls) -> str | None:
    """Say in words why these cannot be tests of the index's neurons; None where they can."""
    J = sum(index.info.widths)
    for array, width in ((held.tests, COLUMNS), (held.clusters, len(CLUSTER_COLUMNS))):
        if array is not None and (array.dtype != np.float64 or array.shape != (J, width)):
            return f"holds {array.dtype} of shape {array.shape}, it should hold float64 of ({J}, {width})"
    best, mean, sd, p = held.tests.T
    tested = ~np.isnan(best)
    within = (np.abs(best) <= 1) & (np.abs(mean) <= 1) & ~(sd < 0) & (p > 0) & (p <= 1)
    if not within[tested].all() or not np.isnan(held.tests[~tested]).all():
        return "holds what is no test"
    if held.clusters is None:
        return None
    number, *shares = held.clusters[tested].T
    sound = (number >= 0) & (number == np.rint(number))
    for share in shares:
        sound &= ~((share < 0) | (share > 1))
    if not sound.all() or not np.isnan(held.clusters[~tested]).all():
        return "holds what is no test of clusters"
    return None


def _damaged(index: "Index", problem: str) -> DamagedIndex:
    return DamagedIndex(
        f"{str(index.folder / FILE)!r} {problem}; remove it, and make it anew with polysem index --add-nulls "
        f"{index.folder}"
    )


def write(index: "Index", n_null: int, seed: int, version: str, tests: Mapping[str, Array]) -> None:
    """Write the arrays of each side, as the module names them, in the place of any that were held."""
    about = {"index_sha256": index.sha256, "n_null": n_null, "seed": seed, "software_version": version}
    shards.write(index.folder / FILE, {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **tests})
