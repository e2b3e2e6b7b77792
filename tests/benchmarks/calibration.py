"""How often the rotation test calls a set of embeddings clustered, where it is not and where it is.

    python tests/benchmarks/calibration.py [--sets 400] [--n-null 99] [--seed 0] [--n-examples 80]
                                           [--frame own raw standardised] [--scores] [--few] [--only WORD]
                                           [--index FOLDER]

Each line is one way to make a set; `sets` sets of it, each tested once, with rotations of its own. Prints the share
with p <= .05 with a 95 % interval (Wilson), and the mean excess silhouette (best minus null mean). Rows without
clusters:

Gaussian      of many shapes: n from 30 to 300, flat and steep spectra, near and far means
exponential   independent entries, Exp(1) times the square root of a spectrum: 1/k, 1/k² or flat
multivariate t, 5 degrees of freedom: a Gaussian row divided by one chi

With --merges: how often the significant merges tell more groups (of 3 examples or more) apart than the 1 to 3 clusters
planted, and exactly as many.

With clusters: 2, 3 and 6 centres drawn from a normal distribution, and rows around them of the spread named.

With --few: sets of 2 clusters that 1, 5 or 20 of the dimensions tell apart, by as much as all 200 at spread 0.7.
With --scores: normal scores in place of the rows (van der Waerden): each dimension's values become the normal quantiles
of their ranks in the set, times its deviation. With --index: neurons of an index, tested as they are and by scores.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm, rankdata

from polysem.client.cutting import Tree, significant_labels
from polysem.kernels import agglomerative
from polysem.kernels.distances import gathered_cosine_distances
from polysem.kernels.significance import centring_offsets, rotation_test
from polysem.kernels.splits import significant_merges
from polysem.proto.questions.tested import LEAST_IN_CLUSTER

LEVEL = 0.05
D_MODEL = 200


def gaussian(rng, n, d_model=D_MODEL):
    """Rows of one Gaussian whose mean and spectrum are themselves drawn."""
    deviation = np.arange(1, d_model + 1) ** -float(rng.choice([0.0, 0.5, 1.0]))
    mean = rng.normal(size=d_model) * deviation * rng.choice([0.0, 1.0, 10.0])
    return mean + rng.normal(size=(n, d_model)) * deviation


def exponential(decay):
    def make(rng, n, d_model=D_MODEL):
        return rng.exponential(size=(n, d_model)) * np.arange(1, d_model + 1) ** -float(decay)

    return make


def multivariate_t(rng, n, d_model=D_MODEL, degrees=5):
    return rng.normal(size=(n, d_model)) / np.sqrt(rng.chisquare(degrees, (n, 1)) / degrees)


def planted(n_clusters, spread):
    def make(rng, n, d_model=D_MODEL):
        centres = rng.normal(size=(n_clusters, d_model))
        return centres[rng.permutation(np.arange(n) % n_clusters)] + spread * rng.normal(size=(n, d_model))

    return make


def told_apart_by(n_dimensions):
    """Two clusters at a squared distance of 2 · D_MODEL, noise of 0.7 in every dimension."""

    def make(rng, n, d_model=D_MODEL):
        side = np.where(rng.permutation(n) % 2, 0.5, -0.5)[:, None]
        gap = np.zeros(d_model)
        gap[:n_dimensions] = math.sqrt(2 * d_model / n_dimensions)
        return side * gap + 0.7 * rng.normal(size=(n, d_model))

    return make


FEW = {f"2 clusters, told apart by {k} of {D_MODEL}": (told_apart_by(k), False) for k in (1, 5, 20)}
SETS = {  # how to make a set, and whether n is drawn
    "Gaussian, n 30 to 300": (gaussian, True),
    "exponential, spectrum 1/k": (exponential(0.5), False),
    "exponential, spectrum 1/k²": (exponential(1), False),
    "exponential, flat": (exponential(0), False),
    "multivariate t, 5 degrees": (multivariate_t, False),
    "2 clusters, spread 0.7": (planted(2, 0.7), False),
    "3 clusters, spread 0.7": (planted(3, 0.7), False),
    "6 clusters, spread 1.0": (planted(6, 1.0), False),
}


def draw(make, n_sets, seed, n_examples, varied=False):
    """(n_sets, N, D) float32 and their numbers of examples (n_sets,); padding is 0."""
    rng = np.random.default_rng(seed)
    counts = np.sort(rng.choice(np.arange(30, 301, 30), n_sets)) if varied else np.full(n_sets, n_examples)
    x = np.zeros((n_sets, counts.max(), D_MODEL), np.float32)
    for b, n in enumerate(counts):
        x[b, :n] = make(rng, n)
    return torch.from_numpy(x), torch.from_numpy(counts)


def normal_scores(x):
    """(n, D): each column's normal quantiles of its ranks, at its own deviation; the mean is 0."""
    ranks = rankdata(x, axis=0)
    scores = norm.ppf((ranks - 0.5) / len(x))
    deviation = scores.std(axis=0)
    scale = np.divide(x.std(axis=0), deviation, out=np.zeros_like(deviation), where=deviation > 0)
    return (scores * scale).astype(np.float32)


def in_frame(x, frame, scores):
    """(n, D) a set's rows as they are rotated; the neuron's own mean is subtracted in the test."""
    if scores:
        x = normal_scores(x)
    return x / np.maximum(x.std(axis=0), 1e-12) if frame == "standardised" else x


def p_values(x, counts, n_null, seed, frame, scores):
    """Each set has rotations of its own: shares of sets that share them vary more than the interval says."""
    p, excess = torch.empty(len(counts)), torch.empty(len(counts))
    for b, n in enumerate(counts.tolist()):
        rows = torch.from_numpy(np.ascontiguousarray(in_frame(x[b, :n].numpy(), frame, scores)))[None]
        test = rotation_test(rows, counts[b : b + 1], n_null, seed + b, centre=frame != "raw")
        p[b], excess[b] = test.p_value.item(), (test.best_silhouette - test.null_mean).item()
    return p, excess


def wilson(share, n, z=1.96):
    middle, half = share + z * z / 2 / n, z * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def merges(options):
    print("| planted | more found | as many found |")
    print("|---|---|---|")
    for k in (1, 2, 3):
        found = []
        for first in range(0, options.sets, 50):
            n_sets = min(50, options.sets - first)
            x, counts = draw(planted(k, 0.7), n_sets, [options.seed, k, first], options.n_examples)
            found += significant_groups(x, counts, options.n_null, options.seed)
        print(f"| {k} | {np.mean(np.array(found) > k):.3f} | {np.mean(np.array(found) == k):.3f} |", flush=True)


def significant_groups(x, counts, n_null, seed):
    """How many groups of 3 examples or more each set's tree in frame own falls into."""
    B, N, D = x.shape
    arguments = x.view(B * N, D), torch.arange(B * N).view(B, N), torch.ones(B, D), counts
    offsets = centring_offsets(*arguments)
    trees = agglomerative.linkage(gathered_cosine_distances(*arguments, offsets), counts)
    tests = significant_merges(*arguments, trees, offsets, n_null=n_null, seed=seed)
    found = []
    for tree, significant in zip(trees.numpy(), tests.significant.int().numpy(), strict=True):
        merges = Tree(tree[:, :2].astype(np.int32), tree[:, 2], tree[:, 3], tree[:, 3])
        found.append(int((np.bincount(significant_labels(merges, N, significant)) >= LEAST_IN_CLUSTER).sum()))
    return found


def neurons(options):
    """Neurons of an index, drawn by the seed: how many have p <= .05 as they are, by scores, and how p agrees."""
    from scipy.stats import spearmanr

    from polysem.server.index.format import open_index
    from polysem.server.model.loading import load
    from polysem.server.questions.held import CHOICE
    from polysem.server.questions.resident import device_batches
    from polysem.server.questions.rotation_tests import embedded_rows

    index = open_index(Path(options.index))
    model = load(index.info.model_id, "cpu")
    every = index.every_neuron
    every = every[index.n_examples[every[:, 0], every[:, 1]] >= 20]
    drawn = np.random.default_rng(options.seed).permutation(every)[: options.sets]
    found = []
    for batch in device_batches(model, index, drawn, CHOICE, True):
        rows, at, weights, counts, _ = embedded_rows(batch)
        for b, n in enumerate(counts.tolist()):
            x = (rows[at[b, :n]].float() * weights[b]).numpy()
            both = [torch.from_numpy(values)[None] for values in (x, normal_scores(x))]
            tests = [rotation_test(one, counts[b : b + 1], options.n_null, options.seed) for one in both]
            found.append([(t.p_value.item(), (t.best_silhouette - t.null_mean).item()) for t in tests])
    p, excess = np.moveaxis(np.array(found), 2, 0)
    print(f"{len(p)} neurons of {index.info.name}: p <= .05 in {(p[:, 0] <= LEVEL).mean():.3f} as they are, in "
          f"{(p[:, 1] <= LEVEL).mean():.3f} by scores; both {(p <= LEVEL).all(1).mean():.3f}")  # fmt: skip
    print(f"median excess {np.median(excess[:, 0]):.3f} and {np.median(excess[:, 1]):.3f}, Spearman's correlation "
          f"{spearmanr(*excess.T).statistic:.3f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--n-null", type=int, default=99)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-examples", type=int, default=80)
    parser.add_argument("--frame", nargs="+", choices=("own", "raw", "standardised"), default=["own"])
    parser.add_argument("--scores", action="store_true")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="WORD")
    parser.add_argument("--index")
    parser.add_argument("--merges", action="store_true")
    options = parser.parse_args()
    if options.merges:
        merges(options)
        return
    if options.index:
        neurons(options)
        return
    print(f"| {options.sets} sets, {options.n_null} nulls | frame | p <= .05 | 95 % | excess silhouette | s |")
    print("|---|---|---|---|---|---|")
    for name, (make, varied) in (FEW if options.few else SETS).items():
        if not any(word in name for word in options.only or [""]):
            continue
        x, counts = draw(make, options.sets, options.seed, options.n_examples, varied)
        for frame in options.frame:
            begun = time.monotonic()
            p, excess = p_values(x, counts, options.n_null, options.seed, frame, options.scores)
            share = (p <= LEVEL).float().mean().item()
            low, high = wilson(share, len(p))
            took = time.monotonic() - begun
            print(
                f"| {name} | {frame} | {share:.3f} | {low:.3f} to {high:.3f} | {excess.mean():.3f} | {took:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
