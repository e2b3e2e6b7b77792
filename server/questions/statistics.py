"""The work of statistics: how strongly neurons fire over the corpus, and where in that their examples lie."""

from dataclasses import dataclass

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.questions.statistics import StatisticsBatch, StatisticsQuery
from polysem.server.index.format import Index
from polysem.server.questions.engine import Engine, Plan

COST = 1e4  # as one example of 100 dimensions: a few reads from mapped files


@dataclass(frozen=True, eq=True)
class StatisticsWork:
    """Items are neurons: (layer, neuron)."""

    index: Index

    def costs(self, items: IntArray) -> Array:
        return np.full(len(items), COST)

    def run(self, items: IntArray) -> StatisticsBatch:
        at = items[:, 0], items[:, 1]
        statistics, ends = self.index.statistics, [self.index.of(side).statistics for side in self.index.info.sides]
        bands = np.array([self._band(*item) for item in items.tolist()], np.float32).reshape(-1, 2)
        return StatisticsBatch(
            neurons=items,
            maximum_activation=ends[0].maximum[at],
            mean_activation=statistics.mean[at],
            share_positive=statistics.share_positive[at],
            histogram=statistics.histogram[at],
            n_examples=self.index.n_examples[at],
            lowest_example=bands[:, 0],
            highest_example=bands[:, 1],
            threshold=self._thresholds(statistics.maximum[at]),
            minimum_activation=ends[1].maximum[at] if len(ends) > 1 else np.full(len(items), np.nan, np.float32),
        )

    def _band(self, layer: int, neuron: int) -> tuple[float, float]:
        """Key activations of the weakest and the strongest example."""
        stored = self.index.layer(layer)
        activations = stored.activations[stored.offsets[neuron] : stored.offsets[neuron + 1]]
        if not len(activations):
            return np.nan, np.nan
        lowest, highest = activations.min(), activations.max()
        return (lowest, highest) if self.index.sign > 0 else (highest, lowest)

    def _thresholds(self, maximum: Array) -> Array:
        """Unknown where the maxima came from a file: the index does not hold them."""
        selection = self.index.info.selection
        known = selection.rule == "first" and not self.index.manifest.get("max_activations_sha256")
        fraction = selection.min_activation_fraction if known else np.nan
        return np.where(self.index.sign * maximum > 0, np.float32(fraction) * maximum, np.float32(np.nan))


def plan(engine: Engine, query: StatisticsQuery) -> Plan:
    index = engine.index(query.index, query.side)
    return Plan(StatisticsWork(index), engine.neurons(index, query.neurons), engine.provenance(index))
