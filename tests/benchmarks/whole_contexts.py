"""Examples in whole contexts through a server: many neurons at once, beside the same examples a neuron at a time.

python tests/benchmarks/whole_contexts.py [--neurons '2.*'] [--rounds 3]

Each question reads its contexts by itself, so a question a neuron reads a context as often as neurons ask for it, and
one question for all reads it once. Both give the same texts and activations. The demo's index.
"""

import argparse
import statistics
import time

import numpy as np

import polysem.server
from polysem.server.demo import indexes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", default="2.0-49")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with polysem.server.local(indexes.ensure(), device="cpu") as client:
        names = [one.id for one in client.cluster(asked.neurons)]
        ratios = []
        for _ in range(asked.rounds):
            start = time.perf_counter()
            together = list(client.examples(asked.neurons, whole_context=True))
            middle = time.perf_counter()
            alone = [one for name in names for one in client.examples(name, whole_context=True)]
            took, baseline = middle - start, time.perf_counter() - middle
            ratios.append(baseline / took)
            contexts = len({one.context for one in together})
            what = f"{len(together):,} examples of {contexts:,} contexts"
            print(f"{what}: {took:.2f} s; a neuron at a time {baseline:.2f} s")
            for one, other in zip(together, alone, strict=True):
                assert one.tokens == other.tokens
                np.testing.assert_allclose(one.activations, other.activations, atol=1e-4)
        print(f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
