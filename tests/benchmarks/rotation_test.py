"""What a rotation test costs, in clusterings of the same neurons (distances and average-linkage tree).

    python tests/benchmarks/rotation_test.py [--n-null 99] [--n-neurons 16] [--n-examples 100] [--rounds 7]

Both are timed in turn; prints the median ratio and its range for D = 256 and 768, and what one neuron alone takes.
"""

import argparse
import statistics
import time

import torch

from polysem.kernels import agglomerative, distances, significance


def seconds(function, repeats=1):
    begun = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - begun) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-null", type=int, default=99)
    parser.add_argument("--n-neurons", type=int, default=16)
    parser.add_argument("--n-examples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    B, N = options.n_neurons, options.n_examples
    for d_model in (256, 768):
        rows = torch.randn(B * N, d_model, generator=torch.Generator().manual_seed(0))
        used, weights, counts = torch.arange(B * N).view(B, N), torch.ones(B, d_model), torch.full((B,), N)

        def cluster(rows=rows, used=used, weights=weights, counts=counts):
            agglomerative.linkage(distances.gathered_cosine_distances(rows, used, weights, counts), counts)

        def test(b=B, rows=rows, used=used, weights=weights, counts=counts):
            significance.gathered_rotation_test(rows, used[:b], weights[:b], counts[:b], n_null=options.n_null)

        cluster(), test(), test(1)
        ratios, alone = [], []
        for _ in range(options.rounds):
            ratios.append(1 / (seconds(cluster, 20) / seconds(test)))
            alone.append(1000 * seconds(lambda: test(1)))
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(
            f"D = {d_model}: {middle:.0f} clusterings ({low:.0f} to {high:.0f}); one neuron {min(alone):.0f} to ",
            end="",
        )
        print(f"{max(alone):.0f} ms")


if __name__ == "__main__":
    main()
