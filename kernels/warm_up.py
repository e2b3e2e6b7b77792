"""Compiles every kernel, so that the first request does not wait for it."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polysem.kernels import (
    agglomerative,
    clusterings,
    distances,
    gates,
    key_tokens,
    logit_effects,
    metrics,
    null_silhouettes,
    scc,
    significance,
    tree,
)
from polysem.kernels.definitions import ACTIVATION_DTYPES


class Part(NamedTuple):
    """Kernels that are compiled together: `run` compiles them, `last` is one that is compiled at its end."""

    run: Callable[[torch.device, int], None]
    last: Any


def warm_up(device: torch.device = torch.device("cpu"), width: int = 2) -> None:
    """Run each kernel on one neuron of `width` >= 2 examples: seconds the first time, then the caches on disk answer.

    Triton compiles anew for each power of two of the width. Numba keeps its cache beside the source, or in
    NUMBA_CACHE_DIR, which a read-only installation needs; Triton in its home, or in TRITON_CACHE_DIR.
    """
    for part in ALL:
        part.run(device, width)


def _clustering(device: torch.device, width: int) -> None:
    """Run what a neuron's first tree needs of its distances."""
    d, _, n_examples, _ = _clustered(device, width)
    clusterings.hac_clusterings(d, n_examples, 0.5)


def _reading(device: torch.device, width: int) -> None:
    """Run what most indexes and their first tree need: key tokens, and distances of plain MLPs' float16 rows."""
    rows, used, weights = _rows(device, width)
    key_tokens.key_tokens(torch.ones(1, 2, 4, device=device), torch.tensor([2]), 1, 1)
    distances.gathered_cosine_distances(rows.half(), used, weights, torch.tensor([width], device=device))


def _second_clustering(device: torch.device, width: int) -> None:
    """Run what SCC needs."""
    d, _, n_examples, _ = _clustered(device, width)
    clusterings.scc_clusterings(d, n_examples, 0.5, torch.tensor([0.5], dtype=torch.float64, device=device))


def _testing(device: torch.device, width: int) -> None:
    """Run what the rotation test of such rows needs."""
    rows, used, weights = _rows(device, width)
    n_examples = torch.tensor([width], device=device)
    significance.gathered_rotation_test(rows.half(), used, weights, n_examples, n_null=1)


def _other_trees(device: torch.device, width: int) -> None:
    """Run what else is made of distances."""
    d, trees, n_examples, labels = _clustered(device, width)
    agglomerative.linkage(d, n_examples)
    scc.linkage(d, n_examples, torch.tensor([0.5], dtype=torch.float64, device=device))
    tree.cut(trees, n_examples, 0.5)
    metrics.cluster_metrics(d, labels, n_examples)
    metrics.tree_metrics(d, trees, labels, n_examples)


def _other_reading(device: torch.device, width: int) -> None:
    """Run what else reads embeddings, weights or activations: gated MLPs, float32 rows, offsets, logit effects."""
    n_examples, biases = torch.tensor([width], device=device), torch.zeros(1, 2, device=device)
    rows, used, weights = _rows(device, width)
    distances.gathered_cosine_distances(rows, used, weights, n_examples, offsets=weights)
    for x in (rows.half(), rows):
        factors = gates.gated_factors(x, used, weights, weights, biases, n_examples)
        distances.gathered_cosine_distances(x, used, weights, n_examples, up=weights, factors=factors)
    significance.gathered_rotation_test(rows, used, weights, n_examples, offsets=weights, n_null=1)
    for dtype in ACTIVATION_DTYPES:
        for n_ends in (1, 2):
            key_tokens.key_tokens(torch.ones(1, 2, 4, dtype=dtype, device=device), torch.tensor([2]), 1, n_ends)
    logit_effects.logit_effects(weights, rows, 1)


# Pairs of like length, and with little to compile in common, in the order in which a newcomer needs them.
FIRST = Part(_clustering, clusterings._hac_kernel), Part(_reading, distances._distance_kernel)
SECOND = Part(_second_clustering, clusterings._scc_kernel), Part(_testing, null_silhouettes._silhouette_kernel)
REST = Part(_other_trees, metrics._tree_kernel), Part(_other_reading, logit_effects._summary_kernel)
ALL = (*FIRST, *SECOND, *REST)


def _rows(device: torch.device, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (width, 4) float32, the places of one neuron's (1, width) int64, its weights (1, 4)."""
    return torch.eye(width, 4, device=device), torch.arange(width, device=device)[None], torch.ones(1, 4, device=device)


def _clustered(device: torch.device, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances (1, width, width) float32 that are all 1, their tree, [width], and one label for all of them."""
    d = 1 - torch.eye(width, device=device)[None]
    joined = torch.arange(width - 1, dtype=torch.float64, device=device)  # an example more at each merge
    ones = torch.ones_like(joined)
    before = (joined + width - 1).where(joined > 0, ones)
    trees = torch.stack([(joined + 1) * (joined > 0), before, ones, joined + 2], 1)
    return d, trees[None], torch.tensor([width], device=device), torch.zeros(1, width, dtype=torch.int32, device=device)


def wants_compiling(part: Part) -> bool:
    """Whether the CPU half of the part has not been compiled and kept yet, though it could be."""
    kept: str | None = part.last.stats.cache_path
    file = Path(part.last.py_func.__code__.co_filename).stem
    return kept is not None and not any(Path(kept).glob(f"{file}.{part.last.__name__}-*.nbi"))


@contextmanager
def warm_beside(*parts: Part) -> Iterator[None]:
    """Compile the parts (none: all) in a process each, where they are not, while the block runs; wait at the end.

    Compiling takes a minute of a core and holds the interpreter. A process that fails is passed over: what it leaves
    is compiled when it is first used.
    """
    with ExitStack() as started:
        lacking = [i for i, part in enumerate(ALL) if part in (parts or ALL) and wants_compiling(part)]
        beside = [started.enter_context(_process(lacking[first::2])) for first in range(min(len(lacking), 2))]
        try:
            yield
        except BaseException:
            for process in beside:
                process.kill()
            raise


def _process(parts: Sequence[int]) -> "subprocess.Popen[bytes]":
    command, no = [sys.executable, "-m", __spec__.name, *map(str, parts)], subprocess.DEVNULL
    return subprocess.Popen(command, stdin=no, stdout=no, stderr=no)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for number in map(int, sys.argv[1:]):
            ALL[number].run(torch.device("cpu"), 2)
    else:
        with warm_beside():
            pass
        warm_up()
