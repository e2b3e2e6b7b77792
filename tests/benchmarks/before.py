"""Trees, cuts and metrics of another checkout beside this one's: the same bytes, and what each takes of the time.

    python tests/benchmarks/before.py OTHER_CHECKOUT [--rounds 8] [--widths 100 256 1000]

One thread and its processor time, so that other work on the machine disturbs less; in turn, every other round
backwards, ratios within a round, their medians. `spread` has examples of unlike noise, so that SCC merges in nearly
every round; `centres` merge in few.
"""

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

import given
import machine
import numpy as np
import torch

import kernels
from polysem.kernels import distances

STAGES = "agglomerative", "scc", "tree", "metrics"


def modules(package):
    return {name: importlib.import_module(f"{package}.kernels.{name}") for name in STAGES}


def other(checkout, folder):
    """The other checkout's kernels, under another name beside ours."""
    package = Path(folder) / "polysem_before"
    shutil.copytree(checkout / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    for file in package.rglob("*.py"):
        file.write_text(file.read_text().replace("polysem.kernels", "polysem_before.kernels"))
    sys.path.insert(0, str(folder))
    return modules("polysem_before")


def spread(seed, n_neurons, width):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_neurons, width // 6 + 1, kernels.D_MODEL)).astype(np.float32)
    x = centres[np.arange(n_neurons)[:, None], rng.integers(0, width // 6 + 1, (n_neurons, width))] + 1
    x += rng.standard_normal(x.shape, np.float32) * rng.uniform(0.05, 1.2, (n_neurons, width, 1)).astype(np.float32)
    return x, rng.normal(size=(n_neurons, kernels.D_MODEL)).astype(np.float32)


def stages(of, d, n):
    hac = of["agglomerative"].linkage(d, n)
    labels = of["tree"].cut(hac, n, kernels.CUT)
    return {
        "hac": lambda: of["agglomerative"].linkage(d, n),
        "scc": lambda: of["scc"].linkage(d, n, kernels.THRESHOLDS),
        "cut": lambda: of["tree"].cut(hac, n, kernels.CUT),
        "metrics": lambda: of["metrics"].tree_metrics(d, hac, labels, n),
    }


def as_bytes(answer):
    return answer.numpy().tobytes() if isinstance(answer, torch.Tensor) else b"".join(map(as_bytes, answer))


def measure(before, data, width, rounds):
    n_neurons = max(3, (2 << 20) // width**2)
    x, w = data(0, n_neurons, width)
    rows, used = torch.from_numpy(x.reshape(-1, x.shape[-1])).half(), torch.arange(n_neurons * width).view(-1, width)
    weights, n = torch.from_numpy(w), torch.full((n_neurons,), width)

    def gram():
        return distances.gathered_cosine_distances(rows, used, weights, n)

    d = gram()
    old, new = stages(before, d, n), stages(modules("polysem"), d, n)
    for stage in old:
        assert as_bytes(old[stage]()) == as_bytes(new[stage]()), stage
    runs = {"distances": gram} | {f"{s} {when}": run[s] for s in old for when, run in (("old", old), ("new", new))}
    taken = {name: [] for name in runs}
    for round_ in range(rounds):
        for name, run in list(runs.items())[:: 1 if round_ % 2 else -1]:  # who comes second finds the cache filled
            begin = time.thread_time()
            run()
            taken[name].append(time.thread_time() - begin)
    seconds = {name: np.array(values) for name, values in taken.items()}
    for stage in old:
        own, ratio = seconds[f"{stage} new"] / n_neurons * 1e6, seconds[f"{stage} new"] / seconds[f"{stage} old"]
        print(f"  {stage}: {np.median(own):,.0f} µs a neuron, {np.median(ratio):.2f} of the other's")
    for when in ("old", "new"):
        rest = seconds["distances"] + seconds[f"cut {when}"]
        whole = rest + seconds[f"hac {when}"]
        scc, more = (rest + seconds[f"scc {when}"]) / whole, seconds[f"metrics {when}"] / whole
        print(f"  {when}: SCC takes {np.median(scc):.2f} of HAC, metrics add {100 * np.median(more):.0f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=given.checkout, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs="+", default=[100, 256, 1000])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine.heading(torch.device("cpu")))
    with tempfile.TemporaryDirectory() as folder:
        before = other(arguments.checkout, folder)
        for width in arguments.widths:
            for name, data in (("centres", kernels.neurons), ("spread", spread)):
                print(f"N = {width}, {name}")
                measure(before, data, width, arguments.rounds)


if __name__ == "__main__":
    with given.in_words():
        main()
