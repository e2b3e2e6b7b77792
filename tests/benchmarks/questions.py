"""What questions cost, through server and client: first and again, and pings while the index is clustered.

python tests/benchmarks/questions.py [--index DIR] [--repeats 20]

Default: the demo's index, on the CPU. The server is a process of its own. Beside it, in this process, a page of a table
of 46,080 made-up neurons, SmolLM2-135M's number: sorted, filtered, with a summary of all (target: 50 ms).
"""

import argparse
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import given
import numpy as np

from polysem.client import Client
from polysem.proto.questions.listing import ListQuery, MetricRange, NeuronTable
from polysem.proto.questions.summary import NEURON_KINDS
from polysem.server.demo import indexes
from polysem.server.index.format import open_index
from polysem.server.questions.listing import page_of

N_LAYERS, N_NEURONS = 30, 1536
WHOLE = ("n_examples", "n_clusters", "rare", "methods", "kinds")


def timed(ask, repeats):
    """ms of each."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        len(ask())
        found.append((time.perf_counter() - begin) * 1e3)
    return found


def pings(target, stop, found):
    with Client(target) as client:
        client.info()
        while not stop.is_set():
            begin = time.perf_counter()
            client.info()
            found.append((time.perf_counter() - begin) * 1e3)
            time.sleep(0.005)


def through_a_server(target, repeats):
    with Client(target) as client:
        stop, found = threading.Event(), []
        pinging = threading.Thread(target=pings, args=(target, stop, found))
        pinging.start()
        time.sleep(0.5)
        found.clear()
        (first,) = timed(lambda: client.neurons(sort_by="-n_clusters", limit=100), 1)
        stop.set()
        pinging.join()
        print(f"{'first page of 100: the index is clustered':<52}{first:9.1f} ms")
        print(f"{'  a ping meanwhile, median and most of ' + str(len(found)):<52}", end="")
        print(f"{statistics.median(found):9.1f} ms{max(found):9.1f} ms")
        neuron = client.neurons(sort_by="-n_clusters", limit=1)[0].id
        text = "import os; yield the value of this statement"
        for name, ask in {
            "page of 100, sorted and filtered": lambda: client.neurons(
                sort_by="-intra", where={"n_examples": (25, None)}, limit=100
            ),
            "all neurons, sorted": lambda: client.neurons(sort_by="silhouette"),
            "similar, a cluster, its layer": lambda: client.similar(neuron, cluster=0),
            "similar, a cluster, every layer": lambda: client.similar(neuron, cluster=0, every_layer=True),
            "similar, all clusters of the neuron with most": lambda: client.similar(neuron),
            "statistics of a neuron": lambda: client.statistics(neuron),
            "explain a text by a neuron": lambda: client.explain(text, neuron),
            "explain a text by the strongest": lambda: client.explain(text),
            "logit effects of a neuron": lambda: client.logit_effects(neuron),
            "logit effects of a layer": lambda: client.logit_effects(f"{neuron.layer}.*"),
            "importance of an example, 20 tokens": lambda: client.importance(neuron, examples=[0]),
        }.items():
            first, *later = timed(ask, repeats + 1)
            print(f"{name:<52}{statistics.median(later):9.1f} ms   first {first:9.1f} ms")


def of_a_large_table(index, repeats):
    rng, n = np.random.default_rng(0), N_LAYERS * N_NEURONS
    numbers = {
        name: rng.integers(0, 100, n, np.int32) if name in WHOLE else rng.random(n)
        for name in NeuronTable.__dataclass_fields__
        if name != "neurons"
    }
    numbers["kinds"] %= len(NEURON_KINDS) + 1
    table = NeuronTable(np.stack(np.divmod(np.arange(n), N_NEURONS), axis=1).astype(np.int32), **numbers)
    where = (MetricRange("n_examples", 25, None),)
    for name, asked in {
        "sort, filter, 50": {},
        "the same with a summary": {"summary": True},
        "the same of two kinds": {"summary": True, "kinds": ("few", "several")},
        "the same of a cell": {"summary": True, "cell": (7, 9)},
    }.items():
        query = ListQuery(sort_by="intra", descending=True, where=where, page_size=50, **asked)
        found = timed(lambda query=query: page_of(table, index, None, query).table.neurons, repeats)
        print(f"{f'{n:,} neurons: {name}':<52}{statistics.median(found):9.1f} ms   largest {max(found):9.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    folder = indexes.ensure() if arguments.index is None else Path(arguments.index)
    index = open_index(folder)
    words = (
        sys.executable,
        "-m",
        "polysem.client.commands.cli",
        "serve",
        "--index",
        folder,
        "--port",
        "0",
        "--device",
        "cpu",
    )
    server = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True)
    try:
        port = next(match[1] for line in server.stdout if (match := re.search(r"listening on \S+:(\d+)", line)))
        through_a_server(f"127.0.0.1:{port}", arguments.repeats)
    finally:
        server.terminate()
        server.wait()
    of_a_large_table(index, arguments.repeats)


if __name__ == "__main__":
    with given.in_words():
        main()
