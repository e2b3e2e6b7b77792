"""Our kernels against what one would write otherwise, and against what the machine could do at best.

    make bench            or    python tests/benchmarks/kernels.py [--device cuda] [--rounds 7] [--widths 100 256 1000]
                                                                   [--rivals fastcluster …] [--budget SECONDS]

Neurons a second for each stage and N (dataset examples a neuron), synthetic embeddings of D = 768 in float16 rows and
float32 arithmetic. Everything is timed in one run, in turn; a ratio is taken within a round, and its median, least and
largest are printed. Rivals run as a process a core, each with its data, BLAS held to one thread:

NumPy          float32 product, normalised, E @ E.T
fastcluster    average linkage of the condensed distances; with NumPy's distances and fcluster it is the honest baseline
SciPy          the same tree
scikit-learn   cosine_distances; silhouette_score; AgglomerativeClustering(metric="cosine", linkage="average")
HDBSCAN        scikit-learn's, on cosine distance: another clustering, for scale
cuML           AgglomerativeClustering (single linkage, all that it has), one neuron after another; with --device cuda

With metrics, tree, cut and metrics are one call, neuron by neuron, as the server makes it.

The floor of a stage is the larger of its bytes (each input read once, each output written once) over the machine's copy
rate and its operations over the machine's matrix product rate, both measured here. Only distances have many operations.
"""

import argparse
import importlib.util
import multiprocessing
import time

import given
import machine
import numpy as np
import torch

from polysem.kernels import agglomerative, clusterings, distances, metrics, scc, tree

D_MODEL = 768
CUT = 0.5
THRESHOLDS = torch.arange(1, 51, dtype=torch.float64) / 50


def neurons(seed, n_neurons, width):
    """Each example one of eight centres and noise, so that clusters merge as they do in real neurons."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_neurons, 8, D_MODEL)).astype(np.float32)
    x = centres[np.arange(n_neurons)[:, None], rng.integers(0, 8, (n_neurons, width))]
    x += rng.standard_normal(x.shape, np.float32)
    return x, rng.normal(size=(n_neurons, D_MODEL)).astype(np.float32)


# ---- Rivals: each a function of one neuron's product x, weights w, distances d and its condensed form


def numpy_distances(x, w, d, condensed):
    e = x * w
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    product = e @ e.T
    return np.subtract(1, product, out=product)


def sklearn_distances(x, w, d, condensed):
    from sklearn.metrics.pairwise import cosine_distances

    return cosine_distances(x * w)


def fastcluster_tree(x, w, d, condensed):
    import fastcluster

    return fastcluster.linkage(condensed, "average")


def scipy_tree(x, w, d, condensed):
    from scipy.cluster.hierarchy import linkage

    return linkage(condensed, "average")


def sklearn_silhouette(x, w, d, condensed):
    from sklearn.metrics import silhouette_score

    return silhouette_score(d, np.arange(len(d)) % 8, metric="precomputed")


def with_fastcluster(x, w, d, condensed):
    import fastcluster
    from scipy.cluster.hierarchy import fcluster
    from scipy.spatial.distance import squareform

    condensed = np.maximum(squareform(numpy_distances(x, w, d, condensed), checks=False), 0)
    return fcluster(fastcluster.linkage(condensed, "average", preserve_input=False), CUT, "distance")


def with_sklearn(x, w, d, condensed):
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=CUT).fit_predict(x * w)


def with_hdbscan(x, w, d, condensed):
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=2, metric="cosine", algorithm="brute", copy=True).fit_predict(x * w)


RIVALS = {
    "distances": {"NumPy": numpy_distances, "scikit-learn": sklearn_distances},
    "hac": {"fastcluster": fastcluster_tree, "SciPy": scipy_tree},
    "metrics": {"scikit-learn": sklearn_silhouette},
    "distances + hac + cut": {
        "NumPy + fastcluster": with_fastcluster,
        "scikit-learn": with_sklearn,
        "HDBSCAN": with_hdbscan,
    },
}
NEEDS = {"fastcluster": "fastcluster", "NumPy + fastcluster": "fastcluster", "scikit-learn": "sklearn"}
NEEDS |= {"HDBSCAN": "sklearn"}


def rival_process(pipe, seed, n_neurons, width):
    """Hold the data; on a stage, a rival's name and a number, do that many neurons with it and answer."""
    from scipy.spatial.distance import squareform
    from threadpoolctl import threadpool_limits

    x, w = neurons(seed, n_neurons, width)
    with threadpool_limits(1):
        d = [np.maximum(numpy_distances(*pair, None, None), 0) for pair in zip(x, w, strict=True)]
        for matrix in d:
            np.fill_diagonal(matrix, 0)
        condensed = [squareform(matrix, checks=False) for matrix in d]
        while order := pipe.recv():
            stage, name, count = order
            for b in (k % n_neurons for k in range(count)):
                RIVALS[stage][name](x[b], w[b], d[b], condensed[b])
            pipe.send(None)


class Rivals:
    """A process a core."""

    def __init__(self, n_neurons, width):
        context = multiprocessing.get_context("spawn")
        self.n_cores = torch.get_num_threads()
        self._pipes, self._processes = [], []
        for seed in range(self.n_cores):
            here, there = context.Pipe()
            arguments = there, seed, max(n_neurons // self.n_cores, 2), width
            process = context.Process(target=rival_process, args=arguments, daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def __call__(self, stage, name, count):
        for pipe in self._pipes:
            pipe.send((stage, name, count))
        for pipe in self._pipes:
            pipe.recv()

    def close(self):
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()


# ---- Ours, stage by stage


def ours(device, n_neurons, width):
    """The stages as functions without arguments, their inputs ready on the device."""
    x, w = neurons(0, n_neurons, width)
    rows = torch.from_numpy(x.reshape(-1, D_MODEL)).half().to(device)
    used = torch.arange(n_neurons * width).reshape(n_neurons, width).to(device)
    weights = torch.from_numpy(w).to(device)
    n = torch.full((n_neurons,), width, dtype=torch.int32, device=device)
    thresholds = THRESHOLDS.to(device)

    def gram():
        return distances.gathered_cosine_distances(rows, used, weights, n)

    d = gram()
    trees = agglomerative.linkage(d, n)
    labels = tree.cut(trees, n, CUT)

    def with_hac():
        return tree.cut(agglomerative.linkage(gram(), n), n, CUT)

    def with_metrics():  # as the server asks: one call, neuron by neuron
        clusterings.hac_clusterings(gram(), n, CUT)

    return {
        "distances": gram,
        "hac": lambda: agglomerative.linkage(d, n),
        "scc": lambda: scc.linkage(d, n, thresholds),
        "cut": lambda: tree.cut(trees, n, CUT),
        "metrics": lambda: metrics.tree_metrics(d, trees, labels, n),
        "distances + hac + cut": with_hac,
        "distances + scc + cut": lambda: tree.cut(scc.linkage(gram(), n, thresholds), n, CUT),
        "distances + hac + cut + metrics": with_metrics,
    }


def cuml_single(device, n_neurons, width):
    """One neuron after another, as cuML offers it; the embeddings are ready."""
    import cupy
    from cuml.cluster import AgglomerativeClustering

    x, w = neurons(0, n_neurons, width)
    embeddings = [cupy.asarray(product) for product in x * w[:, None]]

    def run():
        for e in embeddings:
            AgglomerativeClustering(n_clusters=8, metric="cosine", linkage="single").fit(e)

    return run


# ---- The machine at its best


def rates(device):
    """Bytes a second of a large copy (read and written), and float32 operations a second of a large product."""
    source = torch.empty(64 << 20, device=device).normal_()
    target = torch.empty_like(source)
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    copy = min(seconds(device, lambda: target.copy_(source)) for _ in range(9))
    product = min(seconds(device, lambda: torch.mm(a, b)) for _ in range(5))
    return 2 * source.numel() * 4 / copy, 2 * side**3 / product


def floors(width, copy_rate, product_rate):
    """Seconds a neuron at best, where it can be said."""
    matrix, tree_bytes = 4 * width**2, 32 * (width - 1)
    gram = max((2 * width * D_MODEL + matrix) / copy_rate, width**2 * D_MODEL / product_rate)
    hac = (matrix + tree_bytes) / copy_rate
    cut = (tree_bytes + 4 * width) / copy_rate
    return {
        "distances": gram,
        "hac": hac,
        "scc": hac,
        "cut": cut,
        "metrics": hac,
        "distances + hac + cut": gram + hac + cut,
        "distances + scc + cut": gram + hac + cut,
        "distances + hac + cut + metrics": gram + 2 * hac + cut,
    }


def repeated(run):
    def many(count):
        for _ in range(count):
            run()  # its result goes, as it would

    return many


def seconds(device, run):
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def measure(device, width, rounds, target_s, asked):
    """Neurons a second (rounds,) by stage and contestant: "ours", and of the rivals those asked for."""
    n_threads = torch.get_num_threads()
    n_neurons = max(n_threads * 2, (8 << 20) * n_threads // (4 * width**2))  # a batch, as the server makes them
    if device.type == "cuda":
        n_neurons = max(2048 * 100 // width, 64)
    beside = [name for stage in RIVALS.values() for name in stage if name in asked]
    rivals = Rivals(min(n_neurons, 512), width) if beside else None
    runs = {}  # (stage, name) -> (run a number of times, neurons each time)
    for stage, run in ours(device, n_neurons, width).items():
        runs[stage, "ours"] = repeated(run), n_neurons
        for name in RIVALS.get(stage, ()):
            if name in asked and (name not in NEEDS or importlib.util.find_spec(NEEDS[name])):
                runs[stage, name] = (lambda count, stage=stage, name=name: rivals(stage, name, count)), rivals.n_cores
    if "cuML" in asked and device.type == "cuda" and importlib.util.find_spec("cuml"):
        runs["distances + hac + cut", "cuML"] = repeated(cuml_single(device, 32, width)), 32
    counts = {}
    for key, (run, _) in runs.items():
        run(1)  # compiled, imported, in cache
        counts[key] = max(1, round(target_s / seconds(device, lambda run=run: run(1))))
    speed = {key: [] for key in runs}
    for _ in range(rounds):
        for key, (run, per_count) in runs.items():
            taken = seconds(device, lambda run=run, key=key: run(counts[key]))
            speed[key].append(counts[key] * per_count / taken)
    if rivals:
        rivals.close()
    return {key: np.array(values) for key, values in speed.items()}


def show(width, speed, floor):
    print(f"\n### N = {width}\n")
    print("| stage | neurons/s | × its floor | beside ours: neurons/s, times as fast ours is (least to largest) |")
    print("|---|---|---|---|")
    for stage in dict.fromkeys(stage for stage, _ in speed):
        own = speed[stage, "ours"]
        beside = []
        for name in (name for s, name in speed if s == stage and name != "ours"):
            ratio = own / speed[stage, name]
            beside.append(
                f"{name} {np.median(speed[stage, name]):,.0f}, "
                f"**{np.median(ratio):.2f}** ({ratio.min():.2f} to {ratio.max():.2f})"
            )
        over = 1 / np.median(own) / floor[stage]
        print(f"| {stage} | {np.median(own):,.0f} | {over:.1f} | {'; '.join(beside)} |")
    for part, whole in (("scc", "distances + hac + cut"), ("metrics", "distances + hac + cut")):
        extended = "distances + scc + cut" if part == "scc" else "distances + hac + cut + metrics"
        share = speed[whole, "ours"] / speed[extended, "ours"]
        print(f"\n`{extended}` takes {np.median(share):.2f} ({share.min():.2f} to {share.max():.2f}) of `{whole}`.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=given.device)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each contestant in each round")
    parser.add_argument("--widths", type=int, nargs="+", default=[100, 256, 1000])
    names = list(dict.fromkeys([*(name for stage in RIVALS.values() for name in stage), "cuML"]))
    parser.add_argument("--rivals", nargs="*", default=names, choices=names, metavar="NAME", help=f"of {names}")
    parser.add_argument("--budget", type=float, help="seconds in which to begin measurements")
    arguments = parser.parse_args()
    device, budget = arguments.device, machine.Budget(arguments.budget)
    copy_rate, product_rate = rates(device)
    print(machine.heading(device))
    print(f"D = {D_MODEL}")
    print(f"copy {copy_rate / 1e9:,.0f} GB/s (read and written), float32 product {product_rate / 1e9:,.0f} GFLOP/s")
    for width in arguments.widths:
        if budget.covers(f"N = {width}"):
            speed = measure(device, width, arguments.rounds, arguments.seconds, arguments.rivals)
            show(width, speed, floors(width, copy_rate, product_rate))
    budget.close()


if __name__ == "__main__":
    with given.in_words():
        main()
