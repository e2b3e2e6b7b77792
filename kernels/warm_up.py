"""Compiles every kernel, so that the first request does not wait for it."""

import torch

from polysem.kernels import agglomerative, distances, metrics, scc, tree


def warm_up() -> None:
    """Run each kernel on one neuron of two examples: seconds the first time, then Numba's cache on disk answers.

    Numba keeps that cache beside the source, or in NUMBA_CACHE_DIR, which a read-only installation needs.
    """
    n_examples = torch.tensor([2])
    weights = torch.ones(1, 4)
    rows = torch.eye(2, 4)
    used = torch.tensor([[0, 1]])
    distances.gathered_cosine_distances(rows.half(), used, weights, n_examples)
    d = distances.gathered_cosine_distances(rows, used, weights, n_examples, offsets=weights)
    trees = agglomerative.linkage(d, n_examples)
    scc.linkage(d, n_examples, torch.tensor([0.5], dtype=torch.float64))
    labels = tree.cut(trees, n_examples, 0.5)
    metrics.tree_metrics(d, trees, labels, n_examples)
    metrics.cluster_metrics(d, labels, n_examples)
    metrics.adjusted_rand_index(labels, labels, n_examples)
