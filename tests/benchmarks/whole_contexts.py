"""Examples in whole contexts through a server: many neurons at once, beside the same examples a neuron at a time.

python tests/benchmarks/whole_contexts.py [--neurons 1.0-99 2.0-99] [--documents 340] [--rounds 3]

Each question reads its contexts by itself, so a question a neuron reads a context as often as neurons ask for it, and
one question for all reads it once: what is gained follows from the examples a context. Both give the same texts and
activations. An index of the demo's model and the first documents of its corpus, made anew.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import given
import numpy as np

import polysem.server
from polysem.client import Client
from polysem.server.corpus.documents import PYDOCS, Corpus
from polysem.server.demo.indexes import RECIPE
from polysem.server.indexing import builder
from polysem.server.model.loading import DEMO_MODEL, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", nargs="+", default=["1.0-99", "2.0-99"])
    parser.add_argument("--documents", type=int, default=340)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "few"
        builder.build(load(DEMO_MODEL), Corpus(PYDOCS, max_documents=asked.documents), index, RECIPE)
        with polysem.server.local(index, device="cpu") as client:
            compare(client, asked.neurons, asked.rounds)


def compare(client: Client, neurons: list[str], rounds: int) -> None:
    names = [one.id for one in client.cluster(*neurons)]
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        together = list(client.examples(*neurons, whole_context=True))
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
    with given.in_words():
        main()
