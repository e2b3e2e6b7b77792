"""From scan shards to the examples that are chosen: run by run, so that memory does not hold them all at once."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.index.format import Moments
from polysem.server.indexing import selection
from polysem.server.indexing.scan import Scan, Sums, Totals, added, added_totals
from polysem.server.indexing.selection import Candidates

Done = TypeVar("Done")

JOINED_AT_ONCE = 16  # parts, one of them what is left of those before
MOMENT_BITS = 14  # of a deviation: far finer than stored x̂, far coarser than what batches and shards change in a sum
RUNS_AT_ONCE = 4  # some are read while another is joined, on all cores


def flattened(part: Scan, bounds: Array) -> dict[str, Array]:
    """The arrays of a scan shard: each run can be read without the others. bounds: as in `ReadOptions`."""
    arrays: dict[str, Array] = part.sums._asdict() | {f"xhat_{name}": x for name, x in part.totals._asdict().items()}
    for run, some in enumerate(selection.split(part.candidates, bounds)):
        arrays |= {f"{name}_{run}": array for name, array in some._asdict().items()}
    return arrays


def sums(paths: Iterable[Path]) -> Sums:
    """Choose from all shards."""
    return added(Sums(**shards.read(path, Sums._fields)) for path in paths)


def totals(paths: Iterable[Path]) -> Totals:
    """The moments of x̂ over all shards."""
    names = [f"xhat_{name}" for name in Totals._fields]
    return added_totals(Totals(*shards.read(path, names).values()) for path in paths)


def moments(totals: Totals) -> Moments:
    """Return the mean and deviation of x̂, (L, D) each."""
    n = max(int(totals.n_tokens), 1)
    mean = totals.total / n
    deviation = np.sqrt(np.maximum(totals.squares / n - mean**2, 0))
    step = 2.0 ** (np.frexp(deviation)[1] - MOMENT_BITS)
    return Moments(*((np.round(values / step) * step).astype(np.float32) for values in (mean, deviation)))


def choose(
    paths: Sequence[Path],
    maximum: Array,
    bounds: Array,
    n_sides: int,
    rule: Selection,
    given: Array | None,
    advance: Callable[[int], None],
) -> Candidates:
    """The chosen examples of all neurons; raises FailedPrecondition where a shard is damaged.

    paths    of scan shards
    bounds   (R + 1,) of the runs, as in `ReadOptions`
    n_sides  the runs are the layers of one side, then those of the next
    maximum  (J,) float32: what the rule takes for each neuron's maximum
    given    the same where it was known to the scan, else None
    advance  told of layers, all their sides done, and of none at the beginning

    Memory: the candidates of 15 shards and what is left of all before, of RUNS_AT_ONCE layers; and the chosen.
    """

    def of_run(run: int) -> Candidates:
        mine = slice(bounds[run], bounds[run + 1])
        known = None if given is None else given[mine]
        parts: list[Candidates] = []
        for path in paths:
            arrays = shards.read(path, [f"{name}_{run}" for name in Candidates._fields])
            parts.append(Candidates(*arrays.values()))
            if len(parts) == JOINED_AT_ONCE:
                parts = [selection.join(parts, rule, known)]
        return selection.select(selection.join(parts, rule, known), maximum[mine], rule)

    advance(0)
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        return selection.chained(layer_by_layer(pool, of_run, len(bounds) - 1, n_sides, advance))


def layer_by_layer(
    pool: Executor, of_run: Callable[[int], Done], n_runs: int, n_sides: int, advance: Callable[[int], None]
) -> list[Done]:
    """Yield what of_run gives for runs 0..n_runs − 1, layer by layer; advance is told of each whole layer."""
    order = np.arange(n_runs).reshape(n_sides, -1).T.ravel().tolist()
    made = {}
    for run, done in zip(order, pool.map(of_run, order), strict=True):
        made[run] = done
        advance(int(len(made) % n_sides == 0))
    return [made[run] for run in range(n_runs)]
