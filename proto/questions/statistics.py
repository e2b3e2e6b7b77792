"""Statistics of how strongly neurons fire over the corpus: GetNeuronStatistics."""

from dataclasses import dataclass

from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.neurons import NeuronRange
from polysem.proto.sides import Side
from polysem.proto.wire.columns import columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class StatisticsQuery:
    neurons: tuple[NeuronRange, ...]
    index: str = ""
    side: Side = "positive"


@columnar(pb.GetNeuronStatisticsResponse, "neuron")
@dataclass(frozen=True, eq=False)
class StatisticsBatch:
    """Key activations of B neurons: each context's highest, or its lowest of the negative side.

    neurons             (B, 2) int32
    maximum_activation  (B,) float32, and mean_activation: over all contexts of the index
    share_positive      (B,) float32, 0..1: of the contexts, above 0; below 0 of the negative side
    histogram           (B, 64) int32: contexts in equal bins from 0 to the maximum, or to the minimum; others: in none
    n_examples          (B,) int32
    lowest_example      (B,) float32, and highest_example: of the dataset examples; NaN without any
    threshold           (B,) float32: what an example had to reach; NaN for another rule than `first`
    minimum_activation  (B,) float32: over all contexts; NaN where the index has the positive side alone
    """

    neurons: IntArray
    maximum_activation: FloatArray
    mean_activation: FloatArray
    share_positive: FloatArray
    histogram: IntArray
    n_examples: IntArray
    lowest_example: FloatArray
    highest_example: FloatArray
    threshold: FloatArray
    minimum_activation: FloatArray


def encode_statistics_query(query: StatisticsQuery) -> pb.GetNeuronStatisticsRequest:
    return pb.GetNeuronStatisticsRequest(
        index=query.index, neurons=encode_ranges(query.neurons), side=encode_side(query.side)
    )


def decode_statistics_query(request: pb.GetNeuronStatisticsRequest) -> StatisticsQuery:
    return StatisticsQuery(decode_ranges(request.neurons), request.index, decode_side(request.side))
