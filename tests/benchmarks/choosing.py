"""Choosing examples from scan shards layer by layer, against all layers at once: seconds and peak memory.

    python tests/benchmarks/choosing.py [--layers 12] [--neurons 3072] [--shards 24] [--candidates 177] [--rounds 3]

Shards of random candidates of `top`, of 256 contexts each, are written once and read from the page cache, each way in a
process of its own, in turn. Both ways choose the same, which is checked.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.indexing import choose, selection
from polysem.server.indexing.scan import Scan, Sums, Totals
from polysem.server.indexing.selection import Candidates

RULE = Selection("top")
CONTEXTS = 256  # of a shard


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--neurons", type=int, default=3072, help="of a layer")
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--candidates", type=int, default=177, help="of a neuron in a shard; at most 256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(one(Path(arguments.folder), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments)
        compare(folder, arguments)


def write(folder, how):
    dice = np.random.default_rng(0)
    J, c = how.layers * how.neurons, how.candidates
    for n in range(how.shards):
        columns = [
            np.tile(np.arange(c, dtype=np.int32) + n * CONTEXTS, J),
            np.zeros(J * c, np.int32),
            dice.integers(0, 1 << 63, J * c, np.uint64),
            dice.random(J * c, np.float32),
        ]
        sums = Sums(columns[-1].reshape(J, c).max(1), np.ones(J), np.ones(J, np.int64))
        totals = Totals(np.array(1), *np.zeros((2, how.layers, 768)))
        found = Candidates(np.arange(J + 1, dtype=np.int64) * c, *columns)
        shards.write(folder / f"{n:03d}.npz", choose.flattened(Scan(found, sums, totals), bounds(J, how.layers)))


def compare(folder, how):
    sizes = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f"{how.layers} layers of {how.neurons:,} neurons; {how.shards} shards, {sizes / 1e9:.1f} GB")
    found = {way: [] for way in WAYS}
    for _ in range(how.rounds):
        for way in WAYS:
            child = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--way", way],
                capture_output=True,
                text=True,
                check=True,
                timeout=600,
            )
            found[way].append(json.loads(child.stdout))
    assert len({result["chosen"] for results in found.values() for result in results}) == 1
    print("| | seconds | of all at once | peak memory, GB |\n|---|---|---|---|")
    for way, results in found.items():
        seconds = statistics.median(result["seconds"] for result in results)
        ratio = statistics.median(
            result["seconds"] / other["seconds"] for result, other in zip(results, found["all at once"], strict=True)
        )
        peak = max(result["peak"] for result in results)
        print(f"| {way} | {seconds:.1f} | {ratio:.2f} | {peak / 1e9:.2f} |")


def one(folder, how):
    selection.warm_up()
    paths = sorted(folder.iterdir())
    begin = time.perf_counter()
    chosen = WAYS[how.way](paths, how.layers)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    digest = hashlib.sha256(b"".join(column.tobytes() for column in chosen)).hexdigest()
    return {"seconds": seconds, "peak": peak, "chosen": digest}


def all_at_once(paths, n_layers):
    maximum = choose.sums(paths).maximum
    parts = []
    for path in paths:
        arrays = shards.read(path)
        parts.append(
            selection.chained(
                [Candidates(*(arrays[f"{name}_{i}"] for name in Candidates._fields)) for i in range(n_layers)]
            )
        )
        if len(parts) == choose.JOINED_AT_ONCE:
            parts = [selection.join(parts, RULE)]
    return selection.select(selection.join(parts, RULE), maximum, RULE)


def by_layer(paths, n_layers):
    maximum = choose.sums(paths).maximum
    return choose.choose(paths, maximum, bounds(len(maximum), n_layers), 1, RULE, None, lambda n: None)


def bounds(J, n_layers):
    return np.arange(n_layers + 1) * (J // n_layers)


WAYS = {"all at once": all_at_once, "layer by layer": by_layer}


if __name__ == "__main__":
    main()
