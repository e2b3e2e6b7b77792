"""All neurons of a GPT2-small through the kernels: seconds of each stage, and of all together as the engine runs them.

    python tests/benchmarks/whole_model.py [--device cuda] [--widths 100 256 1000] [--precision float32]
                                           [--budget SECONDS]

12 layers of 3,072 neurons, D = 768, N examples each, drawn from a table of made-up x̂ rows. First one stage after the
other, then batch by batch as the server cuts them, tree, cut and metrics in one call as it makes it, on two streams
where there is a GPU. The floor is that of
`kernels.py`: each input read once, each output written once, at this machine's copy rate, or the float32 product.
"""

import argparse
import itertools
import time
from collections import defaultdict, deque
from contextlib import nullcontext

import given
import machine
import torch

import kernels as stages
from polysem.kernels import agglomerative, clusterings, distances, metrics, scc, tree
from polysem.server.questions.resident import batch_bytes

LAYERS, NEURONS, D_MODEL, CUT = 12, 3072, 768, 0.5
GROUPS = 64  # of rows, so that clusters merge as they do in real neurons


def table(device, n_rows):
    """(P, D) float16: x̂ around a few centres."""
    generator = torch.Generator(device).manual_seed(0)
    centres = torch.randn((GROUPS, D_MODEL), generator=generator, device=device)
    rows = torch.empty((n_rows, D_MODEL), dtype=torch.float16, device=device)
    for begin in range(0, n_rows, 1 << 18):
        part = rows[begin : begin + (1 << 18)]
        noise = torch.randn(part.shape, generator=generator, device=device)
        group = torch.randint(GROUPS, (len(part),), generator=generator, device=device)
        part.copy_((centres[group] + noise) / 2**0.5)
    return rows


def layers(rows, width, n_layers):
    """Batches of every layer: x̂ rows, which of them, weights, counts."""
    device = rows.device
    generator = torch.Generator(device).manual_seed(1)
    at_once = max(1, min(NEURONS, batch_bytes(device) // (4 * width**2)))
    for _ in range(n_layers):
        for begin in range(0, NEURONS, at_once):
            n = min(at_once, NEURONS - begin)
            used = torch.randint(len(rows), (n, width), generator=generator, device=device)
            weights = torch.randn((n, D_MODEL), generator=generator, device=device)
            yield used, weights, torch.full((n,), width, dtype=torch.int32, device=device)


def linkages(device):
    thresholds = stages.THRESHOLDS.to(device)
    return {"hac": agglomerative.linkage, "scc": lambda d, n: scc.linkage(d, n, thresholds)}


def fused(device):
    thresholds = stages.THRESHOLDS.to(device)
    return {
        "hac": lambda d, n: clusterings.hac_clusterings(d, n, CUT),
        "scc": lambda d, n: clusterings.scc_clusterings(d, n, CUT, thresholds),
    }


def staged(rows, width, n_layers, precision):
    """Seconds of each stage over all batches."""
    device = rows.device
    taken = defaultdict(float)

    def timed(name, run):
        begin = time.perf_counter()
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken[name] += time.perf_counter() - begin
        return result

    for used, weights, n in layers(rows, width, n_layers):
        d = timed("distances", lambda: distances.gathered_cosine_distances(rows, used, weights, n, None, precision))  # noqa: B023
        for name, linkage in linkages(device).items():
            trees = timed(name, lambda: linkage(d, n))  # noqa: B023
            labels = timed("cut", lambda: tree.cut(trees, n, CUT))  # noqa: B023
            if name == "hac":
                timed("metrics", lambda: metrics.tree_metrics(d, trees, labels, n))  # noqa: B023
    taken["cut"] /= 2
    return taken


def together(rows, width, n_layers, precision, clustered):
    """Seconds of all stages, a batch on each stream."""
    device = rows.device
    lanes = [nullcontext()]
    if device.type == "cuda":
        lanes = [torch.cuda.stream(torch.cuda.Stream(device)) for _ in range(2)]
    begun = deque()
    begin = time.perf_counter()
    lane_of = itertools.cycle(lanes)
    for used, weights, n in layers(rows, width, n_layers):
        with next(lane_of):
            d = distances.gathered_cosine_distances(rows, used, weights, n, None, precision)
            begun.append(clustered(d, n))
            del d
        if len(begun) == len(lanes):
            begun.popleft()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=given.device)
    parser.add_argument("--widths", type=int, nargs="+", default=[100, 256, 1000])
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer, where all would take long")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--budget", type=float, help="seconds in which to begin measurements")
    arguments = parser.parse_args()
    device, n_layers, budget = arguments.device, arguments.layers, machine.Budget(arguments.budget)
    copy_rate, product_rate = stages.rates(device)
    n_neurons = n_layers * NEURONS
    print(machine.heading(device))
    print(f"{n_neurons:,} neurons, D = {D_MODEL}, {arguments.precision}")
    print(f"copy {copy_rate / 1e9:,.0f} GB/s (read and written), float32 product {product_rate / 1e9:,.0f} GFLOP/s\n")
    print("| N | distances | hac | scc | cut | metrics | together, hac | together, scc |")
    print("|---|---|---|---|---|---|---|---|")
    rows = table(device, 1 << (20 if device.type == "cuda" else 16))
    for width in arguments.widths:
        if not budget.covers(f"N = {width}"):
            continue
        floor = stages.floors(width, copy_rate, product_rate)
        staged(rows, width, 1, arguments.precision)  # compiled, memory at hand
        taken = staged(rows, width, n_layers, arguments.precision)
        shown = [f"{taken[stage]:.3f} ({taken[stage] / floor[stage] / n_neurons:.1f})" for stage in taken]
        shown = dict(zip(taken, shown, strict=True))
        whole = [together(rows, width, n_layers, arguments.precision, run) for run in fused(device).values()]
        columns = [shown[stage] for stage in ("distances", "hac", "scc", "cut", "metrics")]
        print(f"| {width} | {' | '.join(columns)} | {whole[0]:.3f} | {whole[1]:.3f} |", flush=True)
    print("\nSeconds, and in brackets times the stage's floor.")
    budget.close()


if __name__ == "__main__":
    with given.in_words():
        main()
