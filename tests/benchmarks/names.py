"""Scores of names by rules: how well they tell clusters from others, beside what chance and one name a neuron give.

    python tests/benchmarks/names.py [INDEX] [--neurons 500] [--shown 10] [--seed 0]

INDEX is the folder of an index with negatives; without one, the demo's. Neurons are drawn at random among those with
LEAST examples or more. Scores are means over clusters of 8 examples or more, with 95 % bootstrap intervals over
neurons (1,000 samples). Of --shown names, those at equal steps of the order by score, each with its central example
and another. Last comes what names cost: medians of processor time over the COSTLY drawn neurons with the most examples,
so other work on the machine disturbs them little.
"""

import argparse
import time

import given
import numpy as np

from polysem.client import characters
from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.labels import LabelQuery
from polysem.server import local
from polysem.server.mapping.names import N_TEXTS, group_name
from polysem.server.naming.corpus import drawn_places
from polysem.server.opening import open_engine
from polysem.server.questions.labels import plan
from polysem.server.settings import Settings

LEAST = 16  # examples of a neuron
COSTLY = 30
SCORES = ("score", "null_score", "neuron_score", "precision", "recall")


def drawn(client, most, seed):
    """Neurons with LEAST examples or more, in random order."""
    enough = [one.id for one in client.statistics("*") if one.n_examples >= LEAST]
    order = np.random.default_rng(seed).permutation(len(enough))[:most]
    return sorted(enough[i] for i in order), len(enough)


def interval(values, neurons, seed=0):
    """The mean over clusters, and its interval, given the neuron of each."""
    _, of = np.unique(neurons, return_inverse=True)
    sums, counts = np.bincount(of, values), np.bincount(of)
    chosen = np.random.default_rng(seed).integers(len(sums), size=(1000, len(sums)))
    low, high = np.percentile(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1), [2.5, 97.5])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def table(labels):
    scored = [one for one in labels if one.score is not None]
    neurons = np.array([one.neuron.layer << 32 | one.neuron.neuron for one in scored])
    of = {name: np.array([getattr(one, name) for one in scored], float) for name in SCORES}
    several = sum(one.size > 1 for one in labels)
    print(
        f"{len(labels):,} clusters, {several:,} of two examples or more; {len(scored):,} with a score, of "
        f"{len(set(neurons)):,} neurons\n"
    )
    print("| | mean over clusters (95 % interval) |\n|---|---|")
    words = (
        "score of the cluster's name (AUC)",
        "of names of random groups",
        "of one name for the neuron",
        "precision",
        "recall",
    )
    for name, said in zip(SCORES, words, strict=True):
        there = np.isfinite(of[name])
        print(f"| {said} | {interval(of[name][there], neurons[there])} |")
    for other, said in (("null_score", "random groups"), ("neuron_score", "the neuron's name")):
        beyond = of["score"] - of[other]
        print(f"| beyond {said} | {interval(beyond, neurons)} |")
        print(f"| share of clusters beyond {said} | {interval((beyond > 0).astype(float), neurons)} |")
    return scored


def text(example):
    """A text around its key token, in one line."""
    parts = [token.replace("\n", "⏎") for token in example.tokens]
    parts[example.key] = f"**{parts[example.key].strip() or '␣'}**"
    begin = max(0, example.key - 8)
    words = characters.visible("".join(parts[begin : example.key + 6]))
    return " ".join(words.split()).replace("|", "\\|")


def shown(client, scored, n):
    print("\n| cluster | examples | name | score | by chance | two of its texts |\n|---|---|---|---|---|---|")
    order = sorted(scored, key=lambda one: (one.score, one.neuron, one.cluster))
    for i in (np.arange(n) * 2 + 1) * len(order) // (2 * n):
        one = order[i]
        (neuron,) = client.cluster(one.neuron, n_null=0)
        cluster = next(c for c in neuron.clusters if c.label == one.cluster)
        others = [number for number in cluster.members.tolist() if number != cluster.central]
        examples = list(client.examples(one.neuron, examples=[cluster.central, others[len(others) // 2]]))
        name = characters.visible(one.text).replace("|", "\\|")
        texts = "<br>".join(text(example) for example in examples)
        print(f"| {one.neuron}.{one.letter} | {one.size} | {name} | {one.score:.2f} | {one.null_score:.2f} | {texts} |")


def costs(folder, neurons):
    """Print what the names of a neuron cost, and those of a group, after a first one."""
    engine = open_engine(Settings(index=[folder] if folder else [], device="cpu"))
    work, items, _ = plan(engine, LabelQuery(parse_neurons(*neurons)))
    index, tokenizer = work.clustering.index, work.clustering.model.tokenizer
    sizes = index.n_examples[items[:, 0], items[:, 1]]
    items = items[np.argsort(-sizes, kind="stable")[:COSTLY]]
    clustered = [work.clustering.run(items[i : i + 1]).labels for i in range(len(items))]
    texts = drawn_places(index, tokenizer, 2 * N_TEXTS, 9)
    few, many = (texts[:n] for n in (7, N_TEXTS))  # a group of fewer than 8 has no score
    measured = {
        "names of a neuron": lambda i: work.names(*items[i].tolist(), clustered[i], scored=False),
        "names of a neuron, with scores": lambda i: work.names(*items[i].tolist(), clustered[i]),
        "all of a neuron's answer, with its clustering": lambda i: work.run(items[i : i + 1]),
        "name of a group of 7 texts": lambda i: group_name(index, tokenizer, few, texts[N_TEXTS:]),
        f"name of a group of {N_TEXTS} texts, with its score": lambda i: group_name(
            index, tokenizer, many, texts[N_TEXTS:]
        ),
    }
    print(f"\n{len(items)} neurons of {int(np.median(sizes[np.argsort(-sizes)[:COSTLY]]))} examples at the median\n")
    print("| processor time | median, ms | most, ms |\n|---|---|---|")
    for words, run in measured.items():
        run(0)
        ms = [1e3 * taken(run, i) for i in range(len(items))]
        print(f"| {words} | {np.median(ms):.0f} | {max(ms):.0f} |")


def taken(run, i):
    begin = time.process_time()
    run(i)
    return time.process_time() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", nargs="?", type=given.folder)
    parser.add_argument("--neurons", type=int, default=500)
    parser.add_argument("--shown", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with local(*filter(None, [asked.index]), device="cpu") as client:
        neurons, n = drawn(client, asked.neurons, asked.seed)
        print(f"{client.indexes()[0].name}: {len(neurons):,} of {n:,} neurons with {LEAST} examples or more\n")
        scored = table(list(client.labels(*neurons)))
        shown(client, scored, asked.shown)
    costs(asked.index, neurons)


if __name__ == "__main__":
    with given.in_words():
        main()
