"""Compiles every kernel, so that the first request does not wait for it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from polysem.kernels import (
    agglomerative,
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
    n_examples = torch.tensor([width], device=device)
    weights = torch.ones(1, 4, device=device)
    rows = torch.eye(width, 4, device=device)
    used = torch.arange(width, device=device)[None]
    distances.gathered_cosine_distances(rows.half(), used, weights, n_examples)
    d = distances.gathered_cosine_distances(rows, used, weights, n_examples, offsets=weights)
    biases = torch.zeros(1, 2, device=device)
    for dtype in (torch.float16, torch.float32):
        factors = gates.gated_factors(rows.to(dtype), used, weights, weights, biases, n_examples)
        distances.gathered_cosine_distances(rows.to(dtype), used, weights, n_examples, up=weights, factors=factors)
    trees = agglomerative.linkage(d, n_examples)
    scc.linkage(d, n_examples, torch.tensor([0.5], dtype=torch.float64, device=device))
    labels = tree.cut(trees, n_examples, 0.5)
    metrics.tree_metrics(d, trees, labels, n_examples)
    metrics.cluster_metrics(d, labels, n_examples)
    significance.gathered_rotation_test(rows.half(), used, weights, n_examples, n_null=1)
    significance.gathered_rotation_test(rows, used, weights, n_examples, offsets=weights, n_null=1)
    logit_effects.logit_effects(weights, rows, 1)
    for dtype in ACTIVATION_DTYPES:
        for n_ends in (1, 2):
            key_tokens.key_tokens(torch.ones(1, 2, 4, dtype=dtype, device=device), torch.tensor([2]), 1, n_ends)


def wants_compiling() -> bool:
    """Whether nothing of the CPU halves has been compiled and kept yet, though it could be."""
    kept: str | None = agglomerative.chain.stats.cache_path  # type: ignore[attr-defined]
    return kept is not None and not any(Path(kept).glob("agglomerative.chain-*.nbi"))


@contextmanager
def warm_beside() -> Iterator[None]:
    """Compile the CPU halves in another process, where they are not, while the block runs; wait for it at the end.

    Compiling takes a minute of one core and holds the interpreter. A process that fails is passed over: what it leaves
    is compiled when it is first used.
    """
    if not wants_compiling():
        yield
        return
    command, no = [sys.executable, "-m", __spec__.name], subprocess.DEVNULL
    with subprocess.Popen(command, stdin=no, stdout=no, stderr=no) as beside:
        try:
            yield
        except BaseException:
            beside.kill()
            raise


if __name__ == "__main__":
    warm_up()
