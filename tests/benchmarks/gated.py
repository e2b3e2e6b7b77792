"""What gated neurons cost beside ungated ones: distances of the same neurons, the same examples, in turn.

    python tests/benchmarks/gated.py [--d-model 576] [--rounds 15]

`ungated`: e = x ⊙ w. `gated`: e = x ⊙ (u·w_g + g·w_u), given u and g. `with gates`: u and g are computed too. Median
of each round's ratio, with the least and the most. Targets: 1.2 at 100 examples, 1.1 at 256 and 1,000, for `gated`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from polysem.kernels.distances import gathered_cosine_distances
from polysem.kernels.gates import gated_factors

NEURONS = {100: 256, 256: 64, 1000: 6}  # at once: some 50 ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print("| examples | neurons | ungated, ms | gated / ungated | with gates / ungated |\n|---|---|---|---|---|")
    for n_examples, n_neurons in NEURONS.items():
        runs = runs_of(n_neurons, n_examples, arguments.d_model)
        for run in runs.values():
            run()
        rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(arguments.rounds)]
        own = statistics.median(taken["ungated"] for taken in rounds) * 1e3
        shown = [ratio([taken[name] / taken["ungated"] for taken in rounds]) for name in ("gated", "with gates")]
        print(f"| {n_examples:,} | {n_neurons} | {own:.1f} | {' | '.join(shown)} |")


def runs_of(n_neurons: int, n_examples: int, d_model: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows = normal(4096, d_model).half()
    used = torch.randint(0, len(rows), (n_neurons, n_examples), generator=generator)
    weights, up, biases = normal(n_neurons, d_model), normal(n_neurons, d_model), normal(n_neurons, 2)
    counts = torch.full((n_neurons,), n_examples)
    factors = gated_factors(rows, used, weights, up, biases, counts)

    def with_gates() -> object:
        of_examples = gated_factors(rows, used, weights, up, biases, counts)
        return gathered_cosine_distances(rows, used, weights, counts, up=up, factors=of_examples)

    return {
        "ungated": lambda: gathered_cosine_distances(rows, used, weights, counts),
        "gated": lambda: gathered_cosine_distances(rows, used, weights, counts, up=up, factors=factors),
        "with gates": with_gates,
    }


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
