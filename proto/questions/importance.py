"""Which earlier tokens a key activation depends on: MeasureImportance."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from polysem.proto import checks
from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.examples import example_numbers
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class ImportanceQuery:
    """examples: numbers in each neuron's labels; empty: all. mask_token: its id; None: the model's BOS."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    examples: tuple[int, ...] = ()
    tokens_before: int = 20
    mask_token: int | None = None
    side: Side = "positive"


@columnar(
    pb.MeasureImportanceResponse,
    "example",
    Axis("token", ["tokens", "importances", "part_numbers", "part_counts"], "n_tokens"),
    later=["part_numbers", "part_counts"],
)
@dataclass(frozen=True, eq=False)
class ImportanceBatch:
    """E dataset examples up to their key tokens, T tokens in all.

    neurons      (E, 2) int32
    places       (E,) int32: number of the example in the neuron's labels
    activations  (E,) float32: at the key token, nothing masked
    n_tokens     (E,) int32: the last of each example's is its key token
    tokens       T texts
    importances  (T,) float32: 1 − a_masked / a, the share of the key activation that is lost without the token
    part_numbers (T,) int32: which of a character's tokens it is, from 1
    part_counts  (T,) int32: how many they are; both are empty where an older server answers
    """

    neurons: IntArray
    places: IntArray
    activations: FloatArray
    n_tokens: IntArray
    tokens: Sequence[str] = field(repr=False)
    importances: FloatArray
    part_numbers: IntArray
    part_counts: IntArray


def encode_importance_query(query: ImportanceQuery) -> pb.MeasureImportanceRequest:
    """The request; raises InvalidArgument for what is no example, no number of tokens or no token."""
    checks.check_count(query.tokens_before, "tokens_before", 0)
    if query.mask_token is not None:
        checks.check_count(query.mask_token, "mask_token", 0)
    return pb.MeasureImportanceRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        examples=example_numbers(query.examples),
        tokens_before=query.tokens_before,
        mask_token=query.mask_token,
        side=encode_side(query.side),
    )


def decode_importance_query(request: pb.MeasureImportanceRequest) -> ImportanceQuery:
    neurons = decode_ranges(request.neurons)
    default = ImportanceQuery(neurons)
    return ImportanceQuery(
        neurons=neurons,
        index=request.index,
        examples=tuple(request.examples),
        tokens_before=request.tokens_before if request.HasField("tokens_before") else default.tokens_before,
        mask_token=request.mask_token if request.HasField("mask_token") else None,
        side=decode_side(request.side),
    )
