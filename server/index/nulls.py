"""The rotation tests that an index holds: nulls.npz beside its manifest.

It is written after the index and whole, and is no part of the manifest: an index is the same index without it.

positive, negative  (J, 4) float64, the neurons of each side: best silhouette, mean and standard deviation of the best
                    silhouettes of rotations, p-value; NaN where a neuron was not tested
about               JSON as bytes: the index's sha256, n_null, seed, software_version
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.errors import DamagedIndex, FailedPrecondition
from polysem.proto.work import shards

if TYPE_CHECKING:
    from polysem.server.index.format import Index

FILE = "nulls.npz"
COLUMNS = 4


class HeldNulls(NamedTuple):
    """Rotations of one side: n_null, seeded, of each neuron's examples in frame own."""

    n_null: int
    seed: int
    tests: DoubleArray  # (J, 4)


def read(index: "Index") -> HeldNulls | None:
    """Read the rotations of the index's side; None where it holds none. Raises DamagedIndex."""
    path = index.folder / FILE
    if not path.exists():
        return None
    try:
        found = shards.read(path)
        about: dict[str, Any] = json.loads(bytes(found["about"]))
        held = HeldNulls(int(about["n_null"]), int(about["seed"]), found[index.side])
        of_index = about["index_sha256"]
    except (FailedPrecondition, ValueError, KeyError, TypeError) as error:
        raise _damaged(index, "cannot be read") from error
    if of_index != index.sha256:
        raise _damaged(index, f"is of another index ({str(of_index)[:12]}…)")
    tests, J = held.tests, len(index.info.held_layers) * index.info.n_neurons_per_layer
    if tests.dtype != np.float64 or tests.shape != (J, COLUMNS):
        raise _damaged(index, f"holds {tests.dtype} of shape {tests.shape}, it should hold float64 of ({J}, {COLUMNS})")
    best, mean, sd, p = tests.T
    tested = ~np.isnan(best)
    within = (np.abs(best) <= 1) & (np.abs(mean) <= 1) & ~(sd < 0) & (p > 0) & (p <= 1)
    if not within[tested].all() or not np.isnan(tests[~tested]).all():
        raise _damaged(index, "holds what is no test")
    return held


def _damaged(index: "Index", problem: str) -> DamagedIndex:
    return DamagedIndex(
        f"{str(index.folder / FILE)!r} {problem}; remove it, and make it anew with polysem index --add-nulls "
        f"{index.folder}"
    )


def write(index: "Index", n_null: int, seed: int, version: str, tests: Mapping[str, Array]) -> None:
    """Write the tests (J, 4) of each side, in the place of any that were held."""
    about = {"index_sha256": index.sha256, "n_null": n_null, "seed": seed, "software_version": version}
    shards.write(index.folder / FILE, {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **tests})
