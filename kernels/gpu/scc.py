"""SCC on a GPU: all rounds of one neuron in one Triton program. For what is meant see `polysem.kernels.scc`.

The CPU half's plan, on the same exact float64 sums, so given equal distances the trees are equal to the byte. Its
pieces as vectors: who must look again is listed, and ROWS of them scan the matrix together, COLS columns at a time;
components are found by pointer jumping; absorbed sub-clusters go one by one, each adding its row to its slot's row. No
column is written: a row that is read takes what it lacks from the rows merged since, as in `agglomerative`. Per neuron
O(n²) memory traffic, n - 1 steps of absorbing, log n jumps a round.

Scratch: 8·B·N² bytes for the sums and 40·B·N for the sub-clusters' state, which lives in global memory so that a lane
can reach another's; a barrier stands between every store and the loads that it is for.

Of all stages this one is furthest from its floor, one reading of the distances (H200, N = 1000: 50 times it). A profile
has all the time in this kernel. Columns that are not written took 0.651 s for 6,144 neurons to 0.318; 14 shapes of tile
from 1 to 16 warps then lie between 46 and 60 ms for 1,024. What is left is the waiting of n - 1 steps of absorbing, one
after the other, on two rows each, and of each round's scan, with 512 threads a neuron and one neuron a multiprocessor.

Tried and dropped: the lower of two mutual neighbours as the root to jump to, half the gathers. Where distances are not
symmetric there are longer cycles, and the result was no tree or never came.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from polysem.kernels import faults
from polysem.kernels.arrays import Sizes, checked, checked_counts
from polysem.kernels.definitions import LEFTOVER_HEIGHT, check_thresholds
from polysem.kernels.gpu.copies import working_copy

ROWS, COLS = 8, 128  # the tile of a scan, rows at most and columns at least


def linkage(distances: Tensor, n_examples: Tensor, thresholds: Tensor, until_stable: bool = False) -> Tensor:
    """Compute `polysem.kernels.scc.linkage`, to the byte, for tensors of one device; holds 8·B·N² bytes for a while."""
    sizes: Sizes = {}
    device = distances.device
    matrix = checked("distances", distances, "B N N", sizes, (torch.float32,), device)
    counts = checked_counts(n_examples, sizes, device)
    taus = checked("thresholds", thresholds, "R", sizes, (torch.float64,), device)
    taus = checked_thresholds(taus)
    sums, counts = working_copy(matrix, counts, torch.float64)
    B, N = sizes["B"], sizes["N"]
    merges = torch.full((B, max(N - 1, 0), 4), float("nan"), dtype=torch.float64, device=device)
    if merges.numel():
        reals = torch.empty((B, 2, N), dtype=torch.float64, device=device)
        integers = torch.empty((B, 6, N), dtype=torch.int32, device=device)
        arrays = sums, counts, taus, merges, reals, integers
        constants, options = _options(max(triton.next_power_of_2(N), COLS), until_stable)
        with torch.cuda.device_of(matrix):
            _linkage_kernel[(B,)](*arrays, N, sums.shape[2], len(taus), **constants, **options)
    return merges


def checked_thresholds(taus: Tensor) -> Tensor:
    """The thresholds, in 0..2 whatever was given."""
    wrong = ~((taus >= 0) & (taus <= 2))
    wrong[1:] |= taus[1:] <= taus[:-1]
    faults.check(wrong, lambda: check_thresholds(taus.cpu().numpy()))
    return taus.where(~wrong, LEFTOVER_HEIGHT)


def variants() -> Iterator[tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Every way of launching: kernel, types, constants, options."""
    types = {
        "sums": "*fp64",
        "counts": "*i32",
        "thresholds": "*fp64",
        "merges": "*fp64",
        "reals": "*fp64",
        "integers": "*i32",
        "N": "i32",
        "stride": "i32:16",
        "n_thresholds": "i32",
    }
    for block, until_stable in ((128, False), (1024, False), (2048, True)):
        yield _linkage_kernel, types, *_options(block, until_stable)


def _options(block: int, until_stable: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    n_warps = min(max(block // 64, 4), 16)  # enough that a thread's lanes fit into registers
    tile = {"ROWS": min(n_warps, ROWS), "COLS": COLS if block < 1024 else 2 * COLS}
    constants = {"UNTIL_STABLE": until_stable, "LEFTOVER": LEFTOVER_HEIGHT, "BLOCK": block}
    return constants | tile, {"num_warps": n_warps, "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["N", "n_thresholds"])
def _linkage_kernel(
    sums,  # (B, N, stride), in the beginning the distances
    counts,  # (B,)
    thresholds,  # (n_thresholds,)
    merges,  # (B, N-1, 4)
    reals,  # (B, 2, N) scratch
    integers,  # (B, 6, N) scratch
    N,
    stride,
    n_thresholds,
    UNTIL_STABLE: tl.constexpr,
    LEFTOVER: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(counts + b)
    arrays = sums + b * N * stride, reals + b * 2 * N, integers + b * 6 * N, merges + b * (N - 1) * 4
    merge_rounds(*arrays, thresholds, n_thresholds, n, N, stride, UNTIL_STABLE, LEFTOVER, BLOCK, ROWS, COLS)


@triton.jit
def merge_rounds(
    sums,  # (N, stride), in the beginning the distances
    reals,  # (2, N) scratch
    integers,  # (6, N) scratch
    merges,  # (N-1, 4), out: n - 1 rows
    thresholds,  # (n_thresholds,)
    n_thresholds,
    n,
    N,
    stride,
    UNTIL_STABLE: tl.constexpr,
    LEFTOVER: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """All rounds of one neuron. A sub-cluster lives in the slot of its lowest example; its size is 0 once absorbed."""
    size = reals
    mean = size + N  # to the nearest
    node = integers
    nearest = node + N  # -1: look again
    slot = nearest + N  # that absorbs it
    listed = slot + N
    merged = listed + N  # how many merges there were after each slot's last
    known = merged + N  # of how many merges each row knows
    state = size, node, nearest, slot, listed, merged, known
    lane = tl.arange(0, BLOCK)
    used = lane < n
    tl.store(size + lane, 1.0, mask=used)
    tl.store(node + lane, lane, mask=used)
    tl.store(nearest + lane, -1, mask=used)
    tl.store(merged + lane, 0, mask=used)
    tl.store(known + lane, 0, mask=used)
    tl.debug_barrier()
    row = 0
    r = 0
    while (row < n - 1) & (r < n_thresholds):
        live = tl.load(size + lane, mask=used, other=0.0) > 0.0
        near = tl.load(nearest + lane, mask=used, other=0)
        looking = live & (near < 0)
        n_looking = _list(looking, lane, listed)
        _look(sums, n_looking, mean, state, n, stride, ROWS, COLS)
        tl.store(known + lane, row, mask=looking)
        means = tl.load(mean + lane, mask=live, other=float("inf"))
        closest = tl.min(means, 0)
        while tl.load(thresholds + r, mask=r < n_thresholds, other=float("inf")) < closest:
            r += 1
        if r < n_thresholds:
            tau = tl.load(thresholds + r)
            near = tl.load(nearest + lane, mask=live, other=0)
            component = _components(tl.where(means <= tau, near, lane), live, lane, slot, BLOCK)
            row = _absorb(component, live, tau, row, n, stride, sums, state, merges, True, lane)
            _forget(live, lane, nearest)
            if not UNTIL_STABLE:
                r += 1
    live = tl.load(size + lane, mask=used, other=0.0) > 0.0
    first = tl.min(tl.where(live, lane, BLOCK), 0)
    _absorb(first + lane * 0, live, LEFTOVER, row, n, stride, sums, state, merges, False, lane)


@triton.jit
def _list(chosen, lane, listed):
    """Write the chosen lanes in order; how many."""
    tl.store(listed + tl.cumsum(chosen.to(tl.int32), 0) - 1, lane, mask=chosen)
    tl.debug_barrier()
    return tl.sum(chosen.to(tl.int32), 0)


@triton.jit
def _look(sums, n_looking, mean, state, n, stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The first live slot with the least mean distance from each listed one, and that mean."""
    size, _, nearest, _, listed, merged, known = state
    for k in range(0, n_looking, ROWS):
        entry = k + tl.arange(0, ROWS)
        looking = entry < n_looking
        u = tl.load(listed + entry, mask=looking, other=0)
        size_u = tl.load(size + u)
        known_u = tl.load(known + u)[:, None]
        least = tl.full((ROWS, COLS), float("inf"), tl.float64)
        nearest_v = tl.full((ROWS, COLS), 0, tl.int32)
        for begin in range(0, n, COLS):
            v = begin + tl.arange(0, COLS)
            size_v = tl.load(size + v, mask=v < n, other=0.0)
            live = size_v > 0.0
            wanted = looking[:, None] & live[None, :] & (u[:, None] != v[None, :])
            told = wanted & (tl.load(merged + v, mask=v < n, other=0)[None, :] > known_u)
            own = sums + u[:, None] * stride + v[None, :]
            total = tl.load(
                tl.where(told, sums + v[None, :] * stride + u[:, None], own), mask=wanted, other=float("inf")
            )
            tl.store(own, total, mask=told)
            means = total / (size_u[:, None] * tl.where(live, size_v, 1.0)[None, :])
            nearest_v = tl.where(means < least, v[None, :], nearest_v)
            least = tl.minimum(means, least)
        best = tl.min(least, 1)
        first = tl.min(tl.where(least == best[:, None], nearest_v, n), 1)
        tl.store(nearest + u, first, mask=looking)
        tl.store(mean + u, best, mask=looking)
    tl.debug_barrier()


@triton.jit
def _components(up, live, lane, slot, BLOCK: tl.constexpr):
    """The lowest lane of each lane's component in the graph of edges lane -> up[lane].

    All ways end in a cycle, of one lane or, as nearest neighbours, two. Its lowest lane is what its component shares.
    """
    lowest = lane  # on the way from a lane to up
    steps = 1
    while steps < BLOCK:
        lowest = tl.minimum(lowest, tl.gather(lowest, up, 0))
        up = tl.gather(up, up, 0)
        steps *= 2
    up = tl.gather(lowest, up, 0)
    tl.store(slot + lane, lane, mask=live)
    tl.debug_barrier()
    tl.atomic_min(slot + up, lane, mask=live)
    tl.debug_barrier()
    return tl.load(slot + up, mask=live, other=0)


@triton.jit
def _absorb(component, live, height, row, n, stride, sums, state, merges, CONTRACT: tl.constexpr, lane):
    """In order of index, each absorbed sub-cluster joins what its component has become: the next rows of the tree."""
    size, node, nearest, slot, listed, merged, known = state
    tl.debug_barrier()  # the components have been read
    tl.store(slot + lane, component, mask=live)
    n_absorbed = _list(live & (component != lane), lane, listed)
    for k in range(n_absorbed):
        u = tl.load(listed + k)
        s = tl.load(slot + u)
        node_u = tl.load(node + u)
        node_s = tl.load(node + s)
        both = tl.load(size + u) + tl.load(size + s)
        if CONTRACT:
            alive = tl.load(size + lane, mask=lane < n, other=0.0) > 0.0
            merges_of = tl.load(merged + lane, mask=alive, other=0)
            total = _row(sums, u, lane, alive, merges_of > tl.load(known + u), stride)
            total += _row(sums, s, lane, alive, merges_of > tl.load(known + s), stride)
        tl.debug_barrier()
        tl.store(merges + row * 4, tl.minimum(node_u, node_s).to(tl.float64))
        tl.store(merges + row * 4 + 1, tl.maximum(node_u, node_s).to(tl.float64))
        tl.store(merges + row * 4 + 2, height)
        tl.store(merges + row * 4 + 3, both)
        tl.store(node + s, n + row)
        tl.store(size + s, both)
        tl.store(size + u, 0.0)
        if CONTRACT:
            tl.store(nearest + s, -1)
            tl.store(nearest + u, -1)
            tl.store(merged + s, row + 1)
            tl.store(known + s, row + 1)
            tl.store(sums + s * stride + lane, total, mask=alive)
        tl.debug_barrier()
        row += 1
    return row


@triton.jit
def _row(sums, u, lane, alive, told, stride):
    """Row u of the sums, as the rows of the clusters merged since it was last read have it."""
    return tl.load(sums + tl.where(told, lane * stride + u, u * stride + lane), mask=alive, other=0.0)


@triton.jit
def _forget(live, lane, nearest):
    """Who merged (-1 already), or whose nearest did, must look again."""
    near = tl.load(nearest + lane, mask=live, other=-1)
    of_near = tl.load(nearest + near, mask=near >= 0, other=0)
    tl.debug_barrier()
    tl.store(nearest + lane, -1, mask=of_near < 0)
    tl.debug_barrier()
