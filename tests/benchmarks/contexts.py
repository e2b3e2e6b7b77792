"""What a context costs an index build beside forward and key tokens: ns a context and neuron.

    git worktree add build/before COMMIT
    python tests/benchmarks/contexts.py --before build/before [--rule top] [--contexts 256] [--layers 4]
                                        [--neurons 1536] [--rounds 7]

`reduced` is the scan's choice of candidates and sums from key activations; `counted` the collecting pass's histogram;
`joined` what becomes of the candidates after the scan, of 4 shards. In turn, each commit in a process of its own that
stays; both must choose the same, to the byte. Key activations are made so that few are near the maximum, as of a real
model: `first` leaves some 20 of 256.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time

import commits
import given

PARTS = ("reduced", "counted", "joined")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=given.checkout, help="a checkout of the commit to compare with")
    parser.add_argument("--contexts", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--neurons", type=int, default=1536, help="of a layer")
    parser.add_argument("--rule", default="first", choices=["first", "top", "quantile"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
    else:
        compare(arguments)


def compare(how):
    found = commits.in_turn(__file__, how.before, how.rounds)
    n = how.contexts * how.layers * how.neurons
    print(f"{how.contexts} contexts, {how.layers} layers of {how.neurons:,} neurons, rule {how.rule}; candidates left:")
    print(", ".join(f"{name} {results[0]['left']:.1f}" for name, results in found.items()))
    print("| ns a context and neuron |", " | ".join(PARTS), "| all |")
    print("|" + "---|" * 5)
    for name, results in found.items():
        kept = [[result[part] for part in PARTS] for result in results]
        row = [statistics.median(column) for column in zip(*kept, strict=True)]
        print(f"| {name} |", " | ".join(f"{s / n * 1e9:.2f}" for s in [*row, statistics.median(map(sum, kept))]), "|")
    if "before" in found:
        pairs = list(zip(found["now"], found["before"], strict=True))
        ratios = [[now[part] / before[part] for now, before in pairs] for part in PARTS]
        ratios.append([sum(now[p] for p in PARTS) / sum(before[p] for p in PARTS) for now, before in pairs])
        print(
            "| now / before |",
            " | ".join(f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios),
            "|",
        )


def child(how):
    import numpy as np
    import torch

    from polysem.proto.facts import ModelInfo, Selection
    from polysem.server.indexing import scan, selection

    try:
        from polysem.server.indexing.columns import add_to_histogram
    except ModuleNotFoundError:  # a commit that has them in the collector

        def add_to_histogram(histogram, strength, maximum):
            collector = object.__new__(scan._RunCollector)
            collector._maximum, collector._histogram = maximum, histogram.view(-1)
            collector._count(strength)

    dice = np.random.default_rng(0)
    J, N, C = how.layers * how.neurons, how.neurons, how.contexts
    strength = (dice.standard_normal((C, J), np.float32) ** 2 * dice.random(J, np.float32)).astype(np.float32)
    strength[dice.random((C, J)) < 0.2] *= -1
    where = dice.integers(1, 128, (C, J), np.int32)
    prefixes = dice.integers(0, 1 << 63, (C, 128), np.uint64)
    totals = scan.Totals(np.array(1), *np.zeros((2, how.layers, 8)))
    of_widths = "widths" in scan.ReadOptions._fields  # earlier commits had one width
    widths, about = ([(N,) * how.layers], []) if of_widths else ([], [ModelInfo("m", "", how.layers, N, 8, 128)])
    reading = scan.ReadOptions(1, 4096, tuple(range(how.layers)), ("positive",), *widths)
    rule = Selection(how.rule)
    found = scan.KeyActivations(0, strength, where, prefixes, totals)
    maximum = torch.from_numpy(strength.max(axis=0))
    n_batch = 32
    batches = [
        list(torch.from_numpy(strength[:, layer * N : (layer + 1) * N].copy()).split(n_batch))
        for layer in range(how.layers)
    ]
    parts = [scan.reduced(found._replace(first=i * C), *about, reading, rule).candidates for i in range(4)]
    for _ in sys.stdin:
        times = {}
        begin = time.perf_counter()
        reduced = scan.reduced(found, *about, reading, rule)
        times["reduced"] = time.perf_counter() - begin
        begin = time.perf_counter()
        histograms = []
        for layer in range(how.layers):
            mine = slice(layer * N, (layer + 1) * N)
            histogram = torch.zeros((N, 64), dtype=torch.int64)
            for first in range(0, C, n_batch):
                add_to_histogram(histogram, batches[layer][first // n_batch], maximum[mine])
            histograms.append(histogram.numpy())
        times["counted"] = time.perf_counter() - begin
        begin = time.perf_counter()
        chosen = selection.select(selection.join(parts, rule), reduced.sums.maximum, rule)
        times["joined"] = (time.perf_counter() - begin) / 4
        arrays = [*reduced.sums, *histograms, *chosen]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
        n_left = len(reduced.candidates.contexts) / J
        print(json.dumps(times | {"digest": digest, "left": n_left}), flush=True)


if __name__ == "__main__":
    with given.in_words():
        main()
