"""Statistics of how strongly neurons fire: `Client.statistics`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polysem.client import tables
from polysem.client.calls import Call
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id, or_none
from polysem.proto import checks
from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.statistics import StatisticsBatch, StatisticsQuery, encode_statistics_query
from polysem.proto.sides import Side


@dataclass(frozen=True, eq=False)
class Statistics:
    """A neuron's key activations over all contexts of an index: each context's highest, after the activation function.

    On the negative side each context's lowest: what is said below of the maximum, then holds of the minimum.

    maximum_activation, mean_activation  over all contexts; the maximum on either side
    minimum_activation                   over all contexts; None where the index has the positive side alone
    share_positive                       0..1: contexts above 0; on the negative side below 0
    histogram                            (64,) int32: contexts in equal bins from 0 to the maximum; at or below 0: none
    n_examples                           dataset examples
    lowest_example, highest_example      the band they come from; None without examples
    threshold                            what an example had to reach; None for another rule of selection than `first`
    """

    id: NeuronId
    maximum_activation: float
    mean_activation: float
    share_positive: float
    histogram: IntArray
    n_examples: int
    lowest_example: float | None
    highest_example: float | None
    threshold: float | None
    minimum_activation: float | None = None
    side: Side = "positive"

    @property
    def bin_edges(self) -> DoubleArray:
        """(65,) float64: bin b of the histogram lies between edges b and b + 1."""
        if self.side == "negative":
            return np.linspace(0.0, min(self.minimum_activation or 0.0, 0.0), len(self.histogram) + 1)
        return np.linspace(0.0, max(self.maximum_activation, 0.0), len(self.histogram) + 1)


def statistics_of(answer: Answer) -> list[Statistics]:
    """The views of a batch of statistics."""
    batch: StatisticsBatch = answer.batch
    return [
        Statistics(
            id=neuron_id(batch.neurons[i]),
            maximum_activation=float(batch.maximum_activation[i]),
            mean_activation=float(batch.mean_activation[i]),
            share_positive=float(batch.share_positive[i]),
            histogram=batch.histogram[i],
            n_examples=int(batch.n_examples[i]),
            lowest_example=or_none(batch.lowest_example[i]),
            highest_example=or_none(batch.highest_example[i]),
            threshold=or_none(batch.threshold[i]),
            minimum_activation=or_none(batch.minimum_activation[i]),
            side=answer.provenance.side,
        )
        for i in range(len(batch.neurons))
    ]


def _by_neuron(batches: Sequence[StatisticsBatch]) -> Columns:
    activations = ("maximum_activation", "mean_activation", "share_positive")
    band = ("lowest_example", "highest_example", "threshold", "minimum_activation")
    return (
        tables.neurons([batch.neurons for batch in batches])
        | tables.columns_of(batches, dict.fromkeys(activations, np.float32) | {"n_examples": np.int32})
        | tables.columns_of(batches, dict.fromkeys(band, np.float32))
        | {"histogram": tables.joined([batch.histogram for batch in batches], (0, 64))}
    )


class StatisticsOfNeurons(Stream[Statistics]):
    """Statistics of neurons, in the order asked."""

    _noun = "neurons"
    _tables: ClassVar = {"neuron": _by_neuron}


def call(neurons: Sequence[NeuronLike], index: str | None, side: Side) -> Call[StatisticsOfNeurons]:
    query = StatisticsQuery(parse_neurons(*neurons), checks.index_name(index), side)
    return Call(
        "GetNeuronStatistics", encode_statistics_query(query), StatisticsBatch, statistics_of, StatisticsOfNeurons
    )
