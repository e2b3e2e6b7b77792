"""One large neuron: seconds and peak memory of each path, beside SciPy's and fastcluster's.

    python tests/benchmarks/large.py [--examples 2000 5000 10000 20000] [--paths average …] [--data clustered …]
                                     [--device cuda]

average, scc   large.py: exact trees in linear memory (scc: 50 thresholds)
scc-25         neighbours.py: SCC on the graph of 25 nearest neighbours
single         exact single linkage by Borůvka's rounds
metrics        large.tree_metrics of the average-linkage tree, cut at 0.5
fastcluster    NumPy's E @ E.T, then fastcluster's average linkage; up to 10,000 examples
scipy          the same with SciPy's

clustered  one of N / 200 centres, and noise        noise    no centres
crowded    all nearest to the one in the middle: what average linkage likes least

Each run is a process of its own; memory is its peak (of the host's) less what it held before, embeddings among it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from polysem.kernels.large.metrics import tree_metrics

D_MODEL = 768
MAX_EXAMPLES_OF_RIVALS = 10_000


def made_up(data, n_examples):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_examples, D_MODEL, generator=generator)
    if data == "clustered":
        centres = torch.randn(max(n_examples // 200, 8), D_MODEL, generator=generator)
        x += centres[torch.randint(len(centres), (n_examples,), generator=generator)]
    if data == "crowded":
        share = torch.rand(n_examples, generator=generator) * 0.6 + 0.3
        x *= ((1 - share**2).sqrt() / x.norm(dim=1))[:, None]
        x[:, 0] += share
    return x


def condensed(unit):
    import numpy as np
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


def paths(unit):
    """What to run, by name; what a path needs beforehand is made here and not timed."""
    from polysem.kernels import tree
    from polysem.kernels.large import neighbours
    from polysem.kernels.large import trees as large_trees

    def metrics():
        linkage = large_trees.average_linkage(unit)
        labels = tree.cut(linkage[None], torch.tensor([len(unit)], device=unit.device), 0.5)[0]
        return lambda: tree_metrics(unit, linkage, labels)

    taus = torch.arange(1, 51, dtype=torch.float64, device=unit.device) / 50
    return {
        "average": lambda: lambda: large_trees.average_linkage(unit),
        "scc": lambda: lambda: large_trees.scc_linkage(unit, taus),
        "scc-25": lambda: lambda: neighbours.scc_linkage(unit, taus),
        "single": lambda: lambda: large_trees.single_linkage(unit),
        "metrics": metrics,
        "fastcluster": lambda: lambda: fastcluster(unit),
        "scipy": lambda: lambda: scipy(unit),
    }


def memory_mib(field):
    """VmHWM is the peak of this process, VmRSS what it holds now."""
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) >> 10


def measure(name, data, n_examples, device):
    """In this process."""
    from polysem.kernels.large.embeddings import unit_embeddings

    for n in (300, n_examples):  # the first compiles and imports
        unit = unit_embeddings(made_up(data, n).to(device), torch.ones(D_MODEL, device=device))
        run = paths(unit)[name]()
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        before, begin = memory_mib("VmRSS"), time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begin
    return f"{seconds:8.2f} s {memory_mib('VmHWM') - before:7d} MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(paths(torch.empty(0, 1)))
    parser.add_argument("--examples", type=int, nargs="+", default=[2000, 5000, 10_000, 20_000])
    parser.add_argument("--paths", nargs="+", default=names, choices=names)
    parser.add_argument("--data", nargs="+", default=["clustered"], choices=["clustered", "noise", "crowded"])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.paths[0], arguments.data[0], arguments.examples[0], arguments.device))
        return
    print(f"{arguments.device}, {torch.get_num_threads()} threads, D = {D_MODEL}")
    for data in arguments.data:
        for n in arguments.examples:
            print(f"\n{data}, N = {n:,}")
            for name in arguments.paths:
                if name in ("fastcluster", "scipy") and (n > MAX_EXAMPLES_OF_RIVALS or arguments.device.type != "cpu"):
                    continue
                one = [sys.executable, __file__, "--one", "--paths", name, "--data", data, "--examples", str(n)]
                one += ["--device", str(arguments.device)]
                print(f"  {name:15s}", subprocess.run(one, capture_output=True, text=True, check=True).stdout.rstrip())


if __name__ == "__main__":
    main()
