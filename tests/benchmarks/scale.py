"""Computes on paper how an index build scales to many GPUs: the tables of docs/scale.md.

    python tests/benchmarks/scale.py [--gpus 8 64] [--price 3.0] [--shard-contexts S]
                                     [--documents 8e6] [--tokens 9e9] [--shape L D N T] …

Nothing is run. What was measured stands in `Measured` and `CANDIDATES`, what is assumed in the arguments and the share
of the products; the page says where each number is from, and has the formulas.
"""

import argparse
import math
from itertools import pairwise
from typing import ClassVar, NamedTuple

from polysem.proto.work.shards import contexts_a_shard
from polysem.server.indexing.choose import RUNS_AT_ONCE

SHAPES = {"GPT2-small": (12, 768, 3072, 1024), "7 billion": (32, 4096, 16384, 2048)}


class Measured:
    """tests/benchmarks/results/paper-scale-h200.md; the last three by tests/benchmarks/shards.py on two busy cores."""

    products = 784e12  # a second, of an H200 in bfloat16
    share_of_products = 0.5  # that the forward reaches; measured at D = 768, assumed beyond
    scan_s_a_cell, collect_s_a_cell = 22e-9, 35e-9  # beside the forward; a cell: a neuron in a context; 16 cores a GPU
    tokens_read_a_second = 1.15e6  # by the tokeniser on 16 cores
    join_s_a_candidate: ClassVar = {"first": 200e-9, "top": 140e-9}  # of one core
    bytes_through_a_core = 1.25e9  # a second, reading a shard
    s_a_record = 0.014


# Candidates a neuron of a shard of so many contexts, k = 100: tests/benchmarks/shards.py
CANDIDATES = {
    "first": {256: 14.3, 1024: 31.9, 2560: 52.8, 3328: 61.0},
    "top": {256: 104, 1024: 116, 2560: 123, 3328: 124},
}


def candidates(rule, shard_contexts):
    """Between what was measured, and beyond it, in a line of the logarithm."""
    pairs = list(pairwise(CANDIDATES[rule].items()))
    (s0, c0), (s1, c1) = next((pair for pair in pairs if shard_contexts <= pair[1][0]), pairs[-1])
    return c0 + (c1 - c0) * math.log(shard_contexts / s0) / math.log(s1 / s0)


class Shape(NamedTuple):
    """L layers of N neurons, d_model D, T tokens of context."""

    L: int
    D: int
    N: int
    T: int


class Plan(NamedTuple):
    """All of one column, in seconds and bytes."""

    shape: Shape
    n_gpus: int
    contexts: float
    shard_contexts: int
    shards: int
    scan_bytes: dict[str, float]  # of a shard, by rule
    collect_bytes: float
    gpu_s: float
    tokenise_s: float
    receive_s: dict[str, float]
    record_s: float
    read_s: dict[str, float]
    join_s: dict[str, float]
    join_bytes: dict[str, float]
    kept_bytes: dict[str, float]
    index_bytes: float


def plan(shape, n_gpus, how):
    L, D, N, T = shape
    R = (2 if how.both_sides else 1) * L  # runs: layers of a side
    J, k = R * N, how.max_examples
    contexts = how.tokens / (T - 1) + how.documents / 2  # the last window of a document is half full
    shard_contexts = how.shard_contexts or contexts_a_shard(math.ceil(contexts))
    shards = math.ceil(contexts / shard_contexts)
    operations = (
        2 * L * (4 * D * D + (3 if how.gated else 2) * D * N) + 2 * L * D * how.tokens / contexts
    )  # of a token in one pass
    forward_s = operations * how.tokens / (Measured.products * Measured.share_of_products)
    cells_s = contexts * J * (Measured.scan_s_a_cell + Measured.collect_s_a_cell)
    examples = J * k
    left = {"first": k * (1 + math.log(contexts / k)), "top": 1.25 * k}  # a neuron's candidates once all is joined
    per_neuron = {rule: candidates(rule, shard_contexts) for rule in CANDIDATES}
    scan_bytes = {rule: J * (20 * c + 28) for rule, c in per_neuron.items()}
    around_bytes = 124 if how.gated else 62  # 31 activations
    rows_bytes = examples * (2 * D + around_bytes)  # x̂ and the activations around, of all shards together
    count_bytes = 2 if shard_contexts < 1 << 16 else 4
    collected = 64 * count_bytes * J * shards + rows_bytes  # the histograms of each shard
    kept = {rule: shards * b + collected for rule, b in scan_bytes.items()}
    joined = {
        rule: shards * J * (c + left[rule] / 15) for rule, c in per_neuron.items()
    }  # 15 shards with what was left
    return Plan(
        shape=shape,
        n_gpus=n_gpus,
        contexts=contexts,
        shard_contexts=shard_contexts,
        shards=shards,
        scan_bytes=scan_bytes,
        collect_bytes=collected / shards,
        gpu_s=2 * forward_s + cells_s,
        tokenise_s=how.tokens / Measured.tokens_read_a_second,
        receive_s={rule: b / how.network for rule, b in kept.items()},
        record_s=2 * shards * Measured.s_a_record,
        read_s={
            rule: read_s(shards * b, min(R, RUNS_AT_ONCE), how) + read_s(collected, min(R, how.cores), how)
            for rule, b in scan_bytes.items()
        },
        join_s={rule: n * Measured.join_s_a_candidate[rule] / how.cores for rule, n in joined.items()},
        join_bytes={
            rule: 3 * (15 * b + 20 * J * left[rule]) * min(R, RUNS_AT_ONCE) / R for rule, b in scan_bytes.items()
        },
        kept_bytes=kept,
        index_bytes=examples * (2 * D + around_bytes + 16) + 2 * how.tokens + 16 * (contexts + how.documents) + 280 * J,
    )


def read_s(n_bytes, threads, how):
    return n_bytes / min(threads * Measured.bytes_through_a_core, how.disk)


def run_s(p):
    """Of the whole run: what the driver receives and records, it does while the GPUs work; the rest they wait for."""
    return {
        rule: p.tokenise_s / p.n_gpus
        + max(p.gpu_s / p.n_gpus, p.receive_s[rule], p.record_s)
        + p.read_s[rule]
        + p.join_s[rule]
        for rule in CANDIDATES
    }


def time(seconds):
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.0f} min"


def size(n_bytes):
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:,.1f} {unit}"
    return f"{n_bytes / 1e6:,.0f} MB"


def both(values, show):
    return f"{show(values['first'])} · {show(values['top'])}"


ROWS = {
    "contexts": lambda p, how: f"{p.contexts / 1e6:,.1f} M",
    "shards of a stage": lambda p, how: f"{p.shards:,} of {p.shard_contexts:,}",
    "tokens/s a GPU, both passes": lambda p, how: f"{how.tokens / p.gpu_s:,.0f}",
    "GPU hours of work": lambda p, how: f"{p.gpu_s / 3600:,.0f}",
    "a scan shard": lambda p, how: both(p.scan_bytes, size),
    "a collect shard": lambda p, how: size(p.collect_bytes),
    "all shards": lambda p, how: both(p.kept_bytes, size),
    "the index": lambda p, how: size(p.index_bytes),
    "workers tokenise": lambda p, how: time(p.tokenise_s / p.n_gpus),
    "(one machine would)": lambda p, how: time(p.tokenise_s),
    "GPUs work": lambda p, how: time(p.gpu_s / p.n_gpus),
    "meanwhile the driver receives": lambda p, how: both(p.receive_s, time),
    "and records, at most": lambda p, how: time(p.record_s),
    "then it reads the shards": lambda p, how: both(p.read_s, time),
    "and joins candidates": lambda p, how: both(p.join_s, time),
    "in memory of at most": lambda p, how: both(p.join_bytes, size),
    "**the run**": lambda p, how: f"**{both(run_s(p), time)}**",
    "**its price, all GPUs held**": lambda p, how: (
        f"**{both(run_s(p), lambda s: f'${s / 3600 * p.n_gpus * how.price:,.0f}')}**"
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=float, default=8e6)
    parser.add_argument("--tokens", type=float, default=9e9)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--shape", type=int, nargs=4, metavar=("L", "D", "N", "T"), help="instead of both")
    parser.add_argument("--gated", action="store_true", help="three matrices in the MLP instead of two")
    parser.add_argument("--both-sides", action="store_true")
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU and its 16 cores for an hour")
    parser.add_argument("--network", type=float, default=1.25e9, help="bytes a second into the driver and to its disk")
    parser.add_argument("--disk", type=float, default=5e9, help="bytes a second out of the driver's disk")
    parser.add_argument("--cores", type=int, default=16, help="of the driver")
    parser.add_argument("--max-examples", type=int, default=100)
    parser.add_argument("--shard-contexts", type=int, help="instead of what a build takes")
    how = parser.parse_args()
    shapes = {"this shape": how.shape} if how.shape else SHAPES
    plans = {f"{name}, {n} GPUs": plan(Shape(*shape), n, how) for name, shape in shapes.items() for n in how.gpus}
    print("| |", " | ".join(plans), "|")
    print("|---|" + "---|" * len(plans))
    for name, row in ROWS.items():
        print(f"| {name} |", " | ".join(row(p, how) for p in plans.values()), "|")


if __name__ == "__main__":
    main()
