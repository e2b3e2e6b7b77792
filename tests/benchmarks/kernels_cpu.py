"""Ours against what one would write otherwise, on every core, in one run, in turn.

    python tests/benchmarks/kernels_cpu.py [--rounds 7] [--seconds 0.5]

ours           distances + average linkage + cut, float32, this process and its threads
ours, SCC      distances + SCC (50 thresholds) + cut
ours, metrics  ours + cluster and node metrics
fastcluster    NumPy float32 product, normalise, E @ E.T, fastcluster, fcluster: a process a core, its data there
sklearn        AgglomerativeClustering(metric="cosine", linkage="average", distance_threshold=0.5): likewise

Each round times all of them once; a ratio is taken within a round; its median, least and largest are printed.
"""

import argparse
import multiprocessing
import time

import fastcluster
import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster
from scipy.spatial.distance import squareform
from sklearn.cluster import AgglomerativeClustering
from threadpoolctl import threadpool_limits

from polysem.kernels import agglomerative, distances, metrics, scc, tree

D_MODEL = 768
CUT = 0.5


def neurons(seed, n_neurons, width):
    """Each example one of eight centres and noise, so that clusters merge as they do in real neurons."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_neurons, 8, D_MODEL)).astype(np.float32)
    x = centres[np.arange(n_neurons)[:, None], rng.integers(0, 8, (n_neurons, width))]
    x += rng.standard_normal(x.shape, np.float32)
    return x, rng.normal(size=(n_neurons, D_MODEL)).astype(np.float32)


def with_fastcluster(x, w):
    e = x * w
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    d = e @ e.T
    np.subtract(1, d, out=d)
    condensed = np.maximum(squareform(d, checks=False), 0)
    return fcluster(fastcluster.linkage(condensed, "average", preserve_input=False), CUT, "distance")


def with_sklearn(x, w):
    model = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=CUT)
    return model.fit_predict(x * w)


RIVALS = {"fastcluster": with_fastcluster, "sklearn": with_sklearn}


def rival_process(pipe, seed, n_neurons, width):
    """Hold the data; on a rival's name and a number, cluster that many neurons with it and answer."""
    x, w = neurons(seed, n_neurons, width)
    with threadpool_limits(1):
        while order := pipe.recv():
            name, count = order
            for b in range(count):
                RIVALS[name](x[b % n_neurons], w[b % n_neurons])
            pipe.send(None)


def ours(x, w, n_examples, algorithm="hac", measured=False):
    d = distances.weighted_cosine_distances(x, w, n_examples)
    if algorithm == "hac":
        trees = agglomerative.linkage(d, n_examples)
    else:
        trees = scc.linkage(d, n_examples, scc.default_thresholds())
    labels = tree.cut(trees, n_examples, CUT)
    if measured:
        metrics.tree_metrics(d, trees, labels, n_examples)


def seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(width, rounds, target_s):
    """Neurons per second of each contestant, (rounds,) each."""
    n_cores = torch.get_num_threads()
    n_neurons = max(n_cores * 2, min(512, 2**25 // (width * D_MODEL)))
    x, w = map(torch.from_numpy, neurons(0, n_neurons, width))
    n_examples = torch.full((n_neurons,), width)

    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for seed in range(n_cores):
        here, there = context.Pipe()
        process = context.Process(target=rival_process, args=(there, seed, n_neurons // n_cores, width), daemon=True)
        process.start()
        pipes.append(here)
        processes.append(process)

    def rival(name, count):
        for pipe in pipes:
            pipe.send((name, count))
        for pipe in pipes:
            pipe.recv()

    contestants = {
        "ours": (lambda count: [ours(x, w, n_examples) for _ in range(count)], n_neurons),
        "ours, SCC": (lambda count: [ours(x, w, n_examples, "scc") for _ in range(count)], n_neurons),
        "ours, metrics": (lambda count: [ours(x, w, n_examples, measured=True) for _ in range(count)], n_neurons),
        "fastcluster": (lambda count: rival("fastcluster", count), n_cores),
        "sklearn": (lambda count: rival("sklearn", count), n_cores),
    }
    counts = {}
    for name, (run, _) in contestants.items():
        run(1)  # compiled, imported, in cache
        counts[name] = max(1, round(target_s / seconds(lambda run=run: run(1))))
    speed = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (run, per_count) in contestants.items():
            taken = seconds(lambda run=run, name=name: run(counts[name]))
            speed[name].append(counts[name] * per_count / taken)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    return {name: np.array(values) for name, values in speed.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each contestant in each round")
    parser.add_argument("--widths", type=int, nargs="+", default=[100, 256, 1000])
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, D = {D_MODEL}; neurons/s, and how many times as fast ours is")
    for width in arguments.widths:
        speed = measure(width, arguments.rounds, arguments.seconds)
        print(f"\nN = {width}")
        for name, values in speed.items():
            ratio = speed["ours"] / values
            spread = f"({ratio.min():.2f} to {ratio.max():.2f})"
            print(f"  {name:14s} {np.median(values):9.0f}   {np.median(ratio):6.2f}  {spread}")


if __name__ == "__main__":
    main()
