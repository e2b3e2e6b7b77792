"""Are the latents of an SAE more monosemantic than the neurons of the same layer, on the same corpus?

    polysem demo --units sae                # makes both indexes of the demo and says where the latents' is
    python tests/benchmarks/monosemantic.py NEURONS LATENTS --layer 2 [--pairs 250] [--null 99] [--seed 0]

NEURONS and LATENTS are folders of indexes over the same corpus. Each latent is paired with a neuron that fires as
often: the share of texts in which it reaches half of its maximum, and its number of dataset examples, by which tests
find more, are both within CALIPER of the latent's; no neuron is taken twice. Both of a pair are clustered (HAC, average
linkage) and tested with rotations. Columns are means of the latents, of the neurons, and of the pairs' differences with
a 95 % bootstrap interval (1,000 samples of the pairs).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import given
import numpy as np

from polysem.client import Neuron
from polysem.proto.arrays import Array
from polysem.server import local

LEAST = 25  # examples
CALIPER = 0.1  # relative
HALF = 32  # of 64 bins


class Units(NamedTuple):
    """Units of one layer with LEAST examples or more: numbers (U,), shares (U,) of the texts, n_examples (U,)."""

    numbers: Array
    shares: Array
    n_examples: Array


def units(client: object, layer: int, n_contexts: int) -> Units:
    every = client.statistics(f"{layer}.*")  # type: ignore[attr-defined]
    enough = [one for one in every if one.n_examples >= LEAST]
    shares = [one.histogram[HALF:].sum() / n_contexts for one in enough]
    numbers, n_examples = ([one.id.neuron for one in enough], [one.n_examples for one in enough])
    return Units(np.array(numbers), np.array(shares), np.array(n_examples))


def pairs(latents: Units, neurons: Units, most: int, seed: int) -> list[tuple[int, int]]:
    """(latent, neuron): latents in random order, each with the nearest free neuron."""
    free, found = np.ones(len(neurons.numbers), bool), []
    for i in np.random.default_rng(seed).permutation(len(latents.numbers)).tolist():
        far = np.maximum(
            np.abs(np.log(neurons.shares / latents.shares[i])),
            np.abs(np.log(neurons.n_examples / latents.n_examples[i])),
        )
        j = int(np.where(free, far, np.inf).argmin())
        if free[j] and far[j] <= np.log1p(CALIPER):
            free[j] = False
            found.append((int(latents.numbers[i]), int(neurons.numbers[j])))
    return found[:most]


def measured(client: object, layer: int, numbers: Sequence[int], n_null: int, seed: int) -> dict[str, Array]:
    """(P,) of each measure; NaN where it is undefined."""
    found = [client.cluster(f"{layer}.{number}", n_null=n_null, seed=seed)[0] for number in numbers]  # type: ignore[attr-defined]
    return {name: np.array([_value(measure, one) for one in found], float) for name, measure in MEASURES.items()}


def _value(measure: object, unit: Neuron) -> float:
    value = measure(unit)  # type: ignore[operator]
    return np.nan if value is None else float(value)


MEASURES = {
    "dataset examples": lambda unit: unit.metrics.n_examples,
    "p <= .05": lambda unit: unit.significance.p_value <= 0.05,
    "excess silhouette": lambda unit: unit.significance.excess,
    "significant clusters": lambda unit: unit.significant_clusters,
    "two or more of them": lambda unit: unit.significant_clusters >= 2,
    "prediction strength": lambda unit: unit.prediction_strength,
    "agreement with the key token (AMI)": lambda unit: unit.baselines.token_agreement,
    "mean distance": lambda unit: unit.metrics.mean_distance,
    "clusters at 0.5": lambda unit: unit.metrics.n_clusters,
}


def interval(differences: Array, seed: int = 0) -> tuple[float, float, float]:
    """The mean and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(seed).integers(len(differences), size=(1000, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def report(first: dict[str, Array], second: dict[str, Array], names: tuple[str, str]) -> None:
    print(f"| mean | {names[0]} | {names[1]} | difference | 95 % interval | pairs |\n|---|---|---|---|---|---|")
    for measure in first:
        both = np.isfinite(first[measure]) & np.isfinite(second[measure])
        a, b = first[measure][both], second[measure][both]
        mean, low, high = interval(a - b)
        print(
            f"| {measure} | {a.mean():.3f} | {b.mean():.3f} | {mean:+.3f} | {low:+.3f} to {high:+.3f} | {both.sum()} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("neurons", type=given.folder)
    parser.add_argument("latents", type=given.folder)
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=250, help="at most")
    parser.add_argument("--null", type=int, default=99)
    parser.add_argument("--seed", type=int, default=0)
    how = parser.parse_args()
    with given.in_words(), local(Path(how.neurons)) as of_neurons, local(Path(how.latents)) as of_latents:
        there = [units(client, how.layer, client.indexes()[0].n_contexts) for client in (of_latents, of_neurons)]
        paired = pairs(*there, how.pairs, how.seed)
        print(
            f"{len(there[0].numbers)} latents and {len(there[1].numbers)} neurons have {LEAST} examples or more; they "
            f"fire hard in {np.median(there[0].shares):.3f} and {np.median(there[1].shares):.3f} of the texts "
            f"(median); {len(paired)} pairs fire as often\n"
        )
        latents = measured(of_latents, how.layer, [latent for latent, _ in paired], how.null, how.seed)
        neurons = measured(of_neurons, how.layer, [neuron for _, neuron in paired], how.null, how.seed)
    report(latents, neurons, ("latents", "neurons"))


if __name__ == "__main__":
    main()
