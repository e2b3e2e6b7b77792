"""Choosing from shards, a layer at a time: what choosing from all of them at once gives."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.indexing import choose, selection
from polysem.server.indexing.scan import Scan, Sums, Totals

N_RUNS, N_NEURONS = 4, 3
BOUNDS = np.array([0, 3, 4, 8, 12])  # runs of several widths


def scans(maxima, size, rule, known=None):
    """Of each `size` contexts of (C, J) maxima."""
    prefixes = np.arange(len(maxima), dtype=np.uint64)[:, None]
    for first in range(0, len(maxima), size):
        some = maxima[first : first + size]
        found = selection.candidates(
            some, np.zeros(some.shape, np.int32), prefixes[first : first + size], first, rule, known
        )
        sums = Sums(some.max(0), some.sum(0, dtype=np.float64), (some > 0).sum(0))
        yield Scan(found, sums, Totals(np.array(len(some)), *np.full((2, N_RUNS, 5), float(some.sum()))))


def written(folder, parts):
    paths = [folder / f"{i}.npz" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        shards.write(path, choose.flattened(part, BOUNDS))
    return paths


@given(
    seed=st.integers(0, 1000),
    n_contexts=st.integers(1, 120),
    size=st.integers(1, 40),
    rule=st.sampled_from(
        [Selection("first", 0.5, 5), Selection("top", max_examples=5), Selection("quantile", max_examples=13)]
    ),
    is_given=st.booleans(),
    n_sides=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_layer_by_layer_is_all_at_once(tmp_path, seed, n_contexts, size, rule, is_given, n_sides):
    maxima = np.random.default_rng(seed).integers(-2, 9, (n_contexts, N_RUNS * N_NEURONS)).astype(np.float32)
    known = np.full(N_RUNS * N_NEURONS, 7, np.float32) if is_given else None
    (whole,) = scans(maxima, n_contexts, rule, known)
    paths = written(tmp_path, list(scans(maxima, size, rule, known)))
    sums = choose.sums(paths)
    assert all((mine == wanted).all() for mine, wanted in zip(sums, whole.sums, strict=True))
    totals = choose.totals(paths)
    assert all((mine == wanted).all() for mine, wanted in zip(totals, whole.totals, strict=True))
    maximum = sums.maximum if known is None else known
    told = []
    chosen = choose.choose(paths, maximum, BOUNDS, n_sides, rule, known, told.append)
    assert sum(told) == N_RUNS // n_sides
    for mine, wanted in zip(chosen, selection.select(whole.candidates, maximum, rule), strict=True):
        assert mine.dtype == wanted.dtype
        np.testing.assert_array_equal(mine, wanted)


def test_a_layer_is_counted_once_all_its_sides_are_done():
    told = []
    with ThreadPoolExecutor(1) as pool:
        made = choose.layer_by_layer(pool, str, 6, 2, told.append)
    assert made == list("012345")  # runs 0 to 2 are one side, 3 to 5 the other
    assert told == [0, 1, 0, 1, 0, 1]


def test_what_is_split_chains_to_the_same():
    maxima = np.random.default_rng(0).random((50, N_RUNS * N_NEURONS), np.float32)
    ((all_, *_),) = scans(maxima, 50, Selection("top", max_examples=3))
    parts = selection.split(all_, BOUNDS)
    assert [len(part.offsets) for part in parts] == [4, 2, 5, 5]
    assert all(part.offsets[0] == 0 for part in parts)
    for mine, wanted in zip(selection.chained(parts), all_, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_a_damaged_shard_is_told(tmp_path):
    maxima = np.random.default_rng(0).random((50, N_RUNS * N_NEURONS), np.float32)
    rule = Selection("top", max_examples=3)
    paths = written(tmp_path, list(scans(maxima, 10, rule)))
    maximum = choose.sums(paths).maximum
    paths[3].write_bytes(paths[3].read_bytes()[:-40])
    with pytest.raises(FailedPrecondition, match=r"3\.npz' is damaged"):
        choose.choose(paths, maximum, BOUNDS, 1, rule, None, lambda n: None)
