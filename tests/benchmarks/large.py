"""One large neuron: seconds and peak memory of each path, ours and the libraries', in turn.

    python tests/benchmarks/large.py [--examples 2000 5000 20000] [--paths average …] [--data clustered …]
                                     [--device cuda] [--rounds 3] [--budget SECONDS]

average, scc   exact trees in linear memory (scc: 50 thresholds); up to 20,000
single         the exact tree by Borůvka's rounds
search         what is asked of a library for 25 nearest neighbours; of each: torch, and scikit-learn or cuML
scc-25         SCC on the graph of them
tree-25        single linkage of that graph
metrics        tree_metrics of the average-linkage tree (above 20,000: single), cut at 0.5
fastcluster    NumPy's E @ E.T, then fastcluster's average linkage; on a CPU up to 10,000
scipy          the same with SciPy's

clustered  one of N / 200 centres, and noise        noise    no centres
crowded    all nearest to the one in the middle: what average linkage likes least
near       as clustered, but all distances within a cluster near 2e-4

Ratios are taken within a round; median (least to most). On a CPU each run is a process of its own and memory is its
peak less what it held before; on a GPU it is the device's, whoever took it.
"""

import argparse
import importlib.util
import subprocess
import sys
import time

import given
import machine
import numpy as np
import torch

D_MODEL = 768
K = 25
LIBRARIES = {"cpu": ["torch", "scikit-learn"], "cuda": ["torch", "cuml"]}
LARGEST = {"average": 20_000, "scc": 20_000, "fastcluster": 10_000, "scipy": 10_000}
OF_THE_CPU = ("fastcluster", "scipy")
BY_EACH = ("search", "scc-25", "tree-25")
PATHS = ["average", "scc", "single", *BY_EACH, "metrics", *OF_THE_CPU]
DATA = ["clustered", "noise", "crowded", "near"]


def made_up(data, n_examples):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_examples, D_MODEL, generator=generator)
    if data in ("clustered", "near"):
        centres = torch.randn(max(n_examples // 200, 8), D_MODEL, generator=generator)
        x *= 0.02 if data == "near" else 1
        x += centres[torch.randint(len(centres), (n_examples,), generator=generator)]
    if data == "crowded":
        share = torch.rand(n_examples, generator=generator) * 0.6 + 0.3
        x *= ((1 - share**2).sqrt() / x.norm(dim=1))[:, None]
        x[:, 0] += share
    return x


def unit_of(data, n_examples, device):
    from polysem.kernels.large.embeddings import unit_embeddings

    return unit_embeddings(made_up(data, n_examples).to(device), torch.ones(D_MODEL, device=device))


def condensed(unit):
    from scipy.spatial.distance import squareform

    d = unit.numpy() @ unit.numpy().T
    np.subtract(1, d, out=d)
    np.fill_diagonal(d, 0)
    return squareform(np.maximum(d, 0, out=d), checks=False)


def fastcluster(unit):
    from fastcluster import linkage

    linkage(condensed(unit), "average", preserve_input=False)


def scipy(unit):
    from scipy.cluster.hierarchy import linkage

    linkage(condensed(unit), "average")


def prepared(name, unit):
    """What to run; what a path needs beforehand is made here and not timed."""
    from polysem.kernels import tree
    from polysem.kernels.large import libraries, metrics, neighbour_tree, neighbours, trees

    path, _, library = name.partition(", ")
    taus = torch.arange(1, 51, dtype=torch.float64, device=unit.device) / 50
    if path == "metrics":
        linkage = (trees.average_linkage if len(unit) <= LARGEST["average"] else trees.single_linkage)(unit)
        labels = tree.cut(linkage[None], torch.tensor([len(unit)], device=unit.device), 0.5)[0]
        return lambda: metrics.tree_metrics(unit, linkage, labels)
    return {
        "average": lambda: trees.average_linkage(unit),
        "scc": lambda: trees.scc_linkage(unit, taus),
        "single": lambda: trees.single_linkage(unit),
        "search": lambda: libraries.search(unit, min(K + 1 + neighbours.SPARE, len(unit)), library),
        "scc-25": lambda: neighbours.scc_linkage(unit, taus, K, library=library),
        "tree-25": lambda: neighbour_tree.single_linkage(unit, K, library),
        "fastcluster": lambda: fastcluster(unit),
        "scipy": lambda: scipy(unit),
    }[path]


def measure(name, unit):
    """Seconds, and peak MiB."""
    run = prepared(name, unit)
    with machine.PeakMemory(unit.device) as peak:
        begin = time.perf_counter()
        run()
        if unit.device.type == "cuda":
            torch.cuda.synchronize(unit.device)
        seconds = time.perf_counter() - begin
    return seconds, peak.mib


def alone(name, data, n_examples, device):
    """In this process: the first run compiles and imports."""
    for n in (min(300, n_examples), n_examples):
        seconds, mib = measure(name, unit_of(data, n, device))
    print(seconds, mib)


def in_a_process(name, data, n_examples):
    words = ["--alone", name, "--data", data, "--examples", str(n_examples)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    seconds, mib = done.stdout.split()
    return float(seconds), int(mib)


def contestants(paths, n_examples, device):
    """Names of what is measured: path, or path and library."""
    libraries = [name for name in LIBRARIES[device.type] if name != "cuml" or importlib.util.find_spec("cuml")]
    names = []
    for path in paths:
        if n_examples > LARGEST.get(path, n_examples) or (device.type != "cpu" and path in OF_THE_CPU):
            continue
        names += [f"{path}, {library}" for library in libraries] if path in BY_EACH else [path]
    return names


def show(runs):
    """runs: of each name its (seconds, MiB) a round."""
    print("| path | seconds | times torch's | peak MiB |\n|---|---|---|---|")
    for name, of_rounds in runs.items():
        seconds = np.array([seconds for seconds, _ in of_rounds])
        base, ratio = runs.get(f"{name.partition(', ')[0]}, torch"), ""
        if base and len(base) == len(of_rounds) and not name.endswith(", torch"):
            ratio = spread(seconds / np.array([s for s, _ in base]))
        print(f"| {name} | {spread(seconds)} | {ratio} | {max(mib for _, mib in of_rounds):,} |", flush=True)


def spread(values):
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, nargs="+", default=[2000, 5000, 10_000, 20_000])
    parser.add_argument("--paths", nargs="+", default=PATHS, choices=PATHS)
    parser.add_argument("--data", nargs="+", default=["clustered"], choices=DATA)
    parser.add_argument("--device", default="cpu", type=given.device)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--budget", type=float, help="seconds in which to begin measurements")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device, budget = arguments.device, machine.Budget(arguments.budget)
    if arguments.alone:
        alone(arguments.alone, arguments.data[0], arguments.examples[0], device)
        return
    print(machine.heading(device))
    if device.type == "cuda":
        for name in contestants(arguments.paths, 300, device):
            measure(name, unit_of("clustered", 300, device))
    for data in arguments.data:
        for n in arguments.examples:
            unit, runs = unit_of(data, n, device) if device.type == "cuda" else None, {}
            for _ in range(arguments.rounds):
                for name in contestants(arguments.paths, n, device):
                    if budget.covers(f"{name} of {n:,} {data}"):
                        once = measure(name, unit) if device.type == "cuda" else in_a_process(name, data, n)
                        runs.setdefault(name, []).append(once)
            print(f"\n### {data}, N = {n:,}, D = {D_MODEL}\n")
            show(runs)
    budget.close()


if __name__ == "__main__":
    with given.in_words():
        main()
