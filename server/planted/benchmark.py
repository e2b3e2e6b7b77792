"""Every combination of embedding, frame, algorithm and LayerNorm mode on mixtures with a known truth.

The best combination is chosen on one half of the layers and reported on the other: which embedding, frame and algorithm
finds what was planted?
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Literal, NamedTuple, get_args

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition
from polysem.proto.questions.clustering import (
    CONTROLS,
    OF_GATES,
    Algorithm,
    Embedding,
    EmbeddingChoice,
    Frame,
    LayerNorm,
)
from polysem.server.index.format import Index
from polysem.server.model.model import Model
from polysem.server.planted.mixtures import KINDS, Kind, Mixture, mixtures
from polysem.server.planted.planting import PLANTINGS, Planting, planted_embeddings
from polysem.server.planted.scoring import Scores, scores
from polysem.server.questions import frames

N_RESAMPLES = 2000
Progress = Callable[[int, int], None]  # scored combinations of mixtures, and how many there will be


class Combination(NamedTuple):
    """A way to cluster; hac has average linkage."""

    embedding: Embedding
    frame: Frame
    algorithm: Algorithm
    layer_norm: LayerNorm

    def __str__(self) -> str:
        return f"{self.embedding}, {self.frame}, {self.algorithm}, {self.layer_norm}"


PAPER = Combination("neuron", "raw", "hac", "folded")
PRE_MLP = PAPER._replace(embedding="pre_mlp")


class Row(NamedTuple):
    """Mean scores of one combination over mixtures, each with the 95 % interval of the bootstrap.

    kind         of mixtures, or "all": the mean over kinds
    n_mixtures   in all layers
    n_suggested  of these, cut as suggested
    at_true …    mean, low, high
    """

    planting: Planting
    kind: Kind | Literal["all"]
    combination: Combination
    n_mixtures: int
    n_suggested: int
    at_true: tuple[float, float, float]
    best: tuple[float, float, float]
    suggested: tuple[float, float, float]
    auc: tuple[float, float, float]


class Held(NamedTuple):
    """A combination on the layers on which it was not chosen: mean over kinds of `best`, and by how much the chosen
    combination exceeds it, mixture by mixture; each with the 95 % interval of the bootstrap."""

    name: str
    combination: Combination
    scores: dict[str, tuple[float, float, float]]
    behind: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Found:
    """Findings of the benchmark.

    mixtures   in the order of the scores
    plantings  "units" alone where units and weights are the same
    table      of each planting and combination the scores (n_mixtures,)
    """

    mixtures: Sequence[Mixture]
    plantings: Sequence[Planting]
    table: dict[tuple[Planting, Combination], Scores]
    seed: int

    @property
    def layers(self) -> list[int]:
        return sorted({mixture.layer for mixture in self.mixtures})

    @property
    def chosen_on(self) -> list[int]:
        """Every other layer that has mixtures, from the first on: the even ones of a whole index."""
        return self.layers[::2]

    def rows(self) -> list[Row]:
        """By kind, the mean over kinds last, planting and combination."""
        kinds: list[Kind | Literal["all"]] = [kind for kind in KINDS if self._of_kind(kind).any()]
        return [
            self._row(kind, planting, combination) for kind in (*kinds, "all") for planting, combination in self.table
        ]

    def _row(self, kind: Kind | Literal["all"], planting: Planting, combination: Combination) -> Row:
        found, mine = self.table[planting, combination], self._of_kind(kind)
        n_suggested = int((~np.isnan(found.suggested[mine])).sum())
        means = (self._mean(values, mine) for values in found)
        return Row(planting, kind, combination, int(mine.sum()), n_suggested, *means)

    def choose(self, planting: Planting) -> Combination:
        """The combination with the best mean over kinds of `best` on the layers chosen_on; of equals the first."""
        mine = self._in(self.chosen_on)
        ways = [combination for of, combination in self.table if of == planting]
        return max(ways, key=lambda way: _mean_of_kinds(self.table[planting, way].best[mine], self._kinds[mine]))

    def held_out(self, planting: Planting) -> list[Held]:
        """The chosen combination, the paper's and pre-MLP on the other layers; nothing where there is one layer."""
        mine = self._in(self.layers[1::2])
        if not mine.any():
            return []
        chosen = self.choose(planting)
        names = {"chosen": chosen, "paper": PAPER, "pre-MLP": PRE_MLP}
        return [
            Held(
                name,
                way,
                {field: self._mean(of, mine) for field, of in self.table[planting, way]._asdict().items()},
                self._mean(self.table[planting, chosen].best - self.table[planting, way].best, mine),
            )
            for name, way in names.items()
        ]

    @property
    def _kinds(self) -> Array:
        return np.array([mixture.kind for mixture in self.mixtures])

    def _in(self, layers: Sequence[int]) -> Array:
        return np.isin([mixture.layer for mixture in self.mixtures], layers)

    def _of_kind(self, kind: Kind | Literal["all"]) -> Array:
        return np.asarray((self._kinds == kind) | (kind == "all"))

    def _mean(self, values: Array, mine: Array) -> tuple[float, float, float]:
        mine = mine & ~np.isnan(values)
        return bootstrap(values[mine], self._kinds[mine], self.seed)


def bootstrap(values: Array, kinds: Array, seed: int = 0) -> tuple[float, float, float]:
    """The mean over kinds of the means of values (n,), and its 95 % percentile interval: mixtures are drawn anew within
    their kind, 2,000 times. NaN of no values."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    drawing = np.random.default_rng(seed)
    means = np.zeros(N_RESAMPLES)
    names = np.unique(kinds)
    for name in names:
        mine = values[kinds == name]
        means += mine[drawing.integers(len(mine), size=(N_RESAMPLES, len(mine)))].mean(1) / len(names)
    low, high = np.percentile(means, [2.5, 97.5])
    return _mean_of_kinds(values, kinds), float(low), float(high)


def _mean_of_kinds(values: Array, kinds: Array) -> float:
    return float(np.mean([values[kinds == name].mean() for name in np.unique(kinds)]))


def combinations(model: Model, index: Index) -> list[Combination]:
    """The whole grid that the model's neurons and the index have."""
    left_out = CONTROLS if model.info.gated else (*CONTROLS, *OF_GATES)
    embeddings: Iterable[Embedding] = (embedding for embedding in get_args(Embedding) if embedding not in left_out)
    held: Iterable[Frame] = (frame for frame in get_args(Frame) if index.has_moments or frame not in frames.OF_LAYERS)
    return [
        Combination(embedding, frame, algorithm, layer_norm)
        for embedding, frame, layer_norm, algorithm in product(
            embeddings, held, get_args(LayerNorm), get_args(Algorithm)
        )
    ]


def run(
    model: Model,
    index: Index,
    n_mixtures: int = 40,
    n_suggested: int = 4,
    seed: int = 0,
    n_null: int = 99,
    progress: Progress = lambda n, total: None,
    layers: Sequence[int] | None = None,
) -> Found:
    """Mix, plant, cluster and score; the same for the same side of an index, model and seed.

    n_mixtures   of each kind in each layer, at most
    n_suggested  so many of these are also cut as suggested
    n_null       rotations of each test from which suggested cuts come
    layers       whose neurons are mixed; None: all that the index holds

    Raises FailedPrecondition where no two neurons can be mixed, and for layers that the index does not hold. Cost: 48
    clusterings a mixture, and 192 of gated neurons; the significant merges of those cut as suggested take most of the
    time.
    """
    if index.info.encoders:
        raise FailedPrecondition(
            f"planted truth is made of neurons, and the index {index.info.name!r} is of latents; name one of neurons"
        )
    mixed = mixtures(model, index, n_mixtures, seed, layers)
    if not mixed:
        raise FailedPrecondition(
            f"no neurons of the index {index.info.name!r} can be mixed: a mixture needs 10 examples or more of each of "
            "its neurons; index more documents"
        )
    plantings: Sequence[Planting] = PLANTINGS if model.info.gated else PLANTINGS[:1]
    ways = combinations(model, index)
    n_ways = len(ways) * len(plantings)
    parts: dict[tuple[Planting, Combination], list[Scores]] = {
        (planting, way): [] for planting in plantings for way in ways
    }
    for _, together in groupby(mixed, key=lambda mixture: (mixture.layer, mixture.kind)):
        batch = list(together)
        truths = [mixture.truth for mixture in batch]
        for planting, (choice, of_choice) in product(plantings, _by_choice(ways)):
            e = [planted_embeddings(model, index, mixture, choice, planting) for mixture in batch]
            algorithms = [way.algorithm for way in of_choice]
            for algorithm, found in scores(e, truths, algorithms, n_suggested, n_null, seed).items():
                way = Combination(choice.embedding, choice.frame, algorithm, choice.layer_norm)
                parts[planting, way].append(found)
            progress(len(batch) * len(of_choice), len(mixed) * n_ways)
    table = {key: Scores(*map(np.concatenate, zip(*of, strict=True))) for key, of in parts.items()}
    return Found(mixed, plantings, table, seed)


def _by_choice(ways: Sequence[Combination]) -> list[tuple[EmbeddingChoice, list[Combination]]]:
    def choice(way: Combination) -> EmbeddingChoice:
        return EmbeddingChoice(way.embedding, way.layer_norm, way.frame)

    return [(of, list(same)) for of, same in groupby(ways, key=choice)]
