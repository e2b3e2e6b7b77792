"""Measures the size of an index build's shards and their cost to the driver, for docs/scale.md.

    python tests/benchmarks/shards.py [--model demo] [--corpus pydocs] [--contexts 1024] [--shard-contexts 256]
                                      [--examples 100]

Of each rule: candidates a neuron in a scan shard and in all joined, bytes, and core time (of all threads, so that other
programs disturb it little) a candidate joined. A shard is scanned some contexts at a time, as in a build. Of collecting
by `first`: bytes. Of files: core time to read, and the time of a record in the ledger.
"""

import argparse
import tempfile
import time
from contextlib import closing
from pathlib import Path

import given
import numpy as np

from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.proto.work.shards import Ledger, Shard
from polysem.server.corpus.documents import Corpus
from polysem.server.index.contexts import Contexts
from polysem.server.indexing import choose, scan, selection, stages
from polysem.server.indexing.builder import BATCH_TOKENS
from polysem.server.indexing.negatives import Proposed
from polysem.server.indexing.scan import ChosenByShard, ReadOptions
from polysem.server.indexing.windows import Windowing, write
from polysem.server.model.loading import load

RULES = "first", "top", "quantile"
RECORDS = 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--contexts", type=int, default=1024)
    parser.add_argument("--shard-contexts", type=int, default=shards.SHARD_CONTEXTS)
    parser.add_argument("--examples", type=int, default=100)
    arguments = parser.parse_args()
    selection.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments)


def run(folder, arguments):
    loaded = load(arguments.model, "cpu", "float32")
    windowing = Windowing(loaded.info.context_length, "first", loaded.tokenizer.bos_id)
    documents = Corpus(arguments.corpus, max_documents=arguments.contexts).documents()
    write(folder, documents, loaded.tokenizer, windowing)
    held = Contexts(folder)
    pieces = [held.load(first, last) for first, last in shards.ranges(len(held), arguments.shard_contexts)]
    layers, width = tuple(range(loaded.info.n_layers)), loaded.info.n_neurons_per_layer
    reading = ReadOptions(1, BATCH_TOKENS["cpu"], layers, ("positive",), (width,) * len(layers))
    found = [
        [scan.key_activations(loaded, part, reading, lambda n: None) for part in some.split(shards.SHARD_CONTEXTS)]
        for some in pieces
    ]
    n_neurons = loaded.info.n_layers * loaded.info.n_neurons_per_layer
    print(f"{loaded.info.id}: {n_neurons:,} neurons; {len(pieces)} shards of {arguments.shard_contexts:,} contexts, ")
    print(f"{held.n_tokens / len(held):.0f} tokens each\n")
    print("| rule | candidates a neuron | bytes a neuron | joined | ns a candidate |\n|---|---|---|---|---|")
    for name in RULES:
        rule = Selection(name, max_examples=arguments.examples)
        scans = [stages.joined([scan.reduced(some, reading, rule) for some in one], rule, None) for one in found]
        size = sum(len(shards.packed(choose.flattened(one, reading.bounds))) for one in scans) / len(scans)
        n = sum(len(one.candidates.contexts) for one in scans)
        begin = time.process_time()
        whole = stages.joined(scans, rule, None)
        taken = (time.process_time() - begin) / n * 1e9
        joined = len(whole.candidates.contexts) / n_neurons
        print(f"| {name} | {n / len(scans) / n_neurons:.1f} | {size / n_neurons:.0f} | {joined:.1f} | {taken:.0f} |")
        if name == "first":
            chosen = selection.select(whole.candidates, whole.sums.maximum, rule), whole.sums.maximum
    collect(loaded, pieces, reading, *chosen)
    files(folder)


def collect(loaded, pieces, reading, chosen, maximum):
    info = loaded.info
    none = np.empty(0, np.int32)  # negatives
    layers = [
        ChosenByShard(
            scan.chosen_of_run(chosen, *reading.bounds[layer : layer + 2], info.context_length),
            Proposed(none, none, none),
            none,
        )
        for layer in range(info.n_layers)
    ]
    stage = stages.CollectStage(reading, maximum, shards.SHARD_CONTEXTS, None)
    sizes = []
    for some in pieces:
        parts = [layer.of(some.first, some.first + len(some))[0] for layer in layers]
        sizes.append(len(shards.packed(stage(loaded, (some, parts), lambda n: None)())))
    print(f"{len(chosen.contexts):,} examples; collect shards of {min(sizes):,} to {max(sizes):,} bytes")


def files(folder):
    shard = Shard(0, 1, folder / "some.npz")
    shards.write(shard.path, {"numbers": np.random.default_rng(0).integers(0, 1 << 60, 1 << 22)})
    begin = time.process_time()
    shards.read(shard.path)
    rate = shard.path.stat().st_size / (time.process_time() - begin)
    with closing(Ledger(folder)) as ledger:
        begin = time.perf_counter()
        for _ in range(RECORDS):
            ledger.record(shard)
        taken = (time.perf_counter() - begin) / RECORDS
    print(f"reading {rate / 1e9:.2f} GB/s of a core; a record {taken * 1e3:.1f} ms")


if __name__ == "__main__":
    with given.in_words():
        main()
