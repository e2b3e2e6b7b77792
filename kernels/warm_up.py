"""Compiles every kernel, so that the first request does not wait for it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
    scc,
    significance,
    tree,
)
from polysem.kernels.definitions import ACTIVATION_DTYPES


def warm_up(device: torch.device = torch.device("cpu"), width: int = 2) -> None:
    """Run each kernel on one neuron of `width` >= 2 examples: seconds the first time, then the caches on disk answer.

    Triton compiles anew for each power of two of the width. Numba keeps its cache beside the source, or in
    NUMBA_CACHE_DIR, which a read-only installation needs; Triton in its home, or in TRITON_CACHE_DIR.
    """
    for half in HALVES:
        half(device, width)


def _of_distances(device: torch.device, width: int) -> None:
    """Run what is made of distances: trees, cuts and metrics."""
    d, trees, n_examples, labels = _clustered(device, width)
    thresholds = torch.tensor([0.5], dtype=torch.float64, device=device)
    agglomerative.linkage(d, n_examples)
    scc.linkage(d, n_examples, thresholds)
    clusterings.hac_clusterings(d, n_examples, 0.5)
    clusterings.scc_clusterings(d, n_examples, 0.5, thresholds)
    tree.cut(trees, n_examples, 0.5)
    metrics.tree_metrics(d, trees, labels, n_examples)
    metrics.cluster_metrics(d, labels, n_examples)


def _of_rows(device: torch.device, width: int) -> None:
    """Run what reads embeddings, weights or activations: distances, rotation test, logit effects, key tokens."""
    n_examples, biases = torch.tensor([width], device=device), torch.zeros(1, 2, device=device)
    rows, used, weights = _rows(device, width)
    half = rows.half()
    distances.gathered_cosine_distances(half, used, weights, n_examples)
    distances.gathered_cosine_distances(rows, used, weights, n_examples, offsets=weights)
    for x in (half, rows):
        factors = gates.gated_factors(x, used, weights, weights, biases, n_examples)
        distances.gathered_cosine_distances(x, used, weights, n_examples, up=weights, factors=factors)
    significance.gathered_rotation_test(half, used, weights, n_examples, n_null=1)
    significance.gathered_rotation_test(rows, used, weights, n_examples, offsets=weights, n_null=1)
    logit_effects.logit_effects(weights, rows, 1)
    for dtype in ACTIVATION_DTYPES:
        for n_ends in (1, 2):
            key_tokens.key_tokens(torch.ones(1, 2, 4, dtype=dtype, device=device), torch.tensor([2]), 1, n_ends)


HALVES = (_of_distances, _of_rows)  # of like length, and with little to compile in common


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


def wants_compiling() -> bool:
    """Whether nothing of the CPU halves has been compiled and kept yet, though it could be."""
    kept: str | None = agglomerative.chain.stats.cache_path  # type: ignore[attr-defined]
    return kept is not None and not any(Path(kept).glob("agglomerative.chain-*.nbi"))


@contextmanager
def warm_beside() -> Iterator[None]:
    """Compile the CPU halves in two processes, where they are not, while the block runs; wait for them at the end.

    Compiling takes two minutes of a core and holds the interpreter. A process that fails is passed over: what
    it leaves is compiled when it is first used.
    """
    with ExitStack() as started:
        beside = [started.enter_context(_process(half)) for half in range(len(HALVES))] if wants_compiling() else []
        try:
            yield
        except BaseException:
            for process in beside:
                process.kill()
            raise


def _process(half: int) -> "subprocess.Popen[bytes]":
    command, no = [sys.executable, "-m", __spec__.name, str(half)], subprocess.DEVNULL
    return subprocess.Popen(command, stdin=no, stdout=no, stderr=no)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        HALVES[int(sys.argv[1])](torch.device("cpu"), 2)
    else:
        with warm_beside():
            pass
        warm_up()
