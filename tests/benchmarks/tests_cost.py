"""Costs of each part of a tested neuron: the processor's, and those that the queue counts.

    python tests/benchmarks/tests_cost.py [--n-null 99] [--d-model 256] [--n-neurons 4]

For neurons of 10 to 300 examples in 6 clusters: milliseconds of one core a neuron (processor time, one thread, least of
5 runs) of the clustering, the rotation test, the tests of merges beyond it, null means, stability and prediction
strength; beside them `costs.of_tests` in milliseconds, at the speed of MAX_BATCH_COST.
"""

import argparse
import time

import torch

from polysem.kernels import agglomerative, distances, products, significance, splits, stability, tree
from polysem.server.opening import MAX_BATCH_COST
from polysem.server.questions import costs, nulls

UNITS_A_MS = MAX_BATCH_COST["cpu"] / 50 / 2  # of one core


def milliseconds(function, runs=5):
    function()
    taken = []
    for _ in range(runs):
        begun = time.process_time()
        function()
        taken.append(1000 * (time.process_time() - begun))
    return min(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-null", type=int, default=99)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--n-neurons", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| examples | clustering | test | merges | null means | stability | strength | counted alone | counted |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n in (10, 30, 100, 300):
        print(f"| {n} | " + " | ".join(f"{value:.2f}" for value in row(n, options)) + " |", flush=True)


def row(n, options):
    B, D = options.n_neurons, options.d_model
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(B, 6, D, generator=generator)[:, torch.arange(n) % 6]
    rows = (centres + 1.2 * torch.randn(B, n, D, generator=generator)).view(B * n, D)
    counts = torch.full((B,), n, dtype=torch.int32)
    arguments = rows, torch.arange(B * n).view(B, n), torch.ones(B, D), counts
    d = distances.gathered_cosine_distances(*arguments)
    gram = products.gathered_products(*arguments)

    def trees_of(d, n):
        return agglomerative.linkage(d, n)

    def labels_of(d, n):
        return tree.cut(trees_of(d, n), n, 0.5)

    made, k = trees_of(d, counts), torch.full((B,), min(6, n // 2))
    of_test = milliseconds(lambda: significance.gathered_rotation_test(*arguments, n_null=options.n_null))
    parts = (
        milliseconds(lambda: trees_of(distances.gathered_cosine_distances(*arguments), counts)),
        of_test,
        milliseconds(lambda: splits.significant_merges(*arguments, made, n_null=options.n_null)) - of_test,
        milliseconds(lambda: nulls.null_metrics(gram, counts, labels_of, options.n_null, 0)),
        milliseconds(lambda: stability.cluster_stability(d, labels_of(d, counts), counts, labels_of)),
        milliseconds(lambda: stability.prediction_strength(d, counts, k, trees_of)),
    )
    counted = (costs.of_tests(counts.numpy()[:1], options.n_null, alone)[0] / UNITS_A_MS for alone in (True, False))
    return *(part / B for part in parts), *counted


if __name__ == "__main__":
    main()
