"""Direct logit effects, what a neuron writes: GetLogitEffects."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from polysem.proto import checks
from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.neurons import NeuronRange
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb

MAX_LISTED = 1000
DEFAULT_LISTED = 10


@dataclass(frozen=True, slots=True)
class LogitEffectsQuery:
    """n_tokens: in each of the two lists."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    n_tokens: int = DEFAULT_LISTED
    side: Side = "positive"


@columnar(
    pb.GetLogitEffectsResponse,
    "neuron",
    Axis("token", ["effects", "token_ids", "tokens"], lambda batch: 2 * batch.n_tokens),
)
@dataclass(frozen=True, eq=False)
class LogitEffectsBatch:
    """Effects of B neurons on the logits, in standard deviations from the mean over the vocabulary.

    neurons    (B, 2) int32
    n_tokens   (B,) int32: K, in each of a neuron's two lists; 0 where it moves all tokens alike
    skewness   (B,) float32, and kurtosis, the excess: over the vocabulary; NaN where K is 0
    histogram  (B, 64) int32: tokens in equal bins from the smallest effect to the largest
    effects    (T,) float32: of the K tokens made likelier, then of the K made less likely, the most first in each
    token_ids  (T,) int32: theirs
    tokens     T texts
    """

    neurons: IntArray
    n_tokens: IntArray
    skewness: FloatArray
    kurtosis: FloatArray
    histogram: IntArray
    effects: FloatArray
    token_ids: IntArray
    tokens: Sequence[str] = field(repr=False)


def encode_logit_effects_query(query: LogitEffectsQuery) -> pb.GetLogitEffectsRequest:
    """The request; raises InvalidArgument for another number of tokens than 1 to MAX_LISTED."""
    checks.check_count(query.n_tokens, "n_tokens", 1, MAX_LISTED)
    return pb.GetLogitEffectsRequest(
        index=query.index,
        neurons=encode_ranges(query.neurons),
        n_tokens=query.n_tokens,
        side=encode_side(query.side),
    )


def decode_logit_effects_query(request: pb.GetLogitEffectsRequest) -> LogitEffectsQuery:
    n_tokens = request.n_tokens or DEFAULT_LISTED
    checks.check_count(n_tokens, "n_tokens", 1, MAX_LISTED)
    return LogitEffectsQuery(decode_ranges(request.neurons), request.index, n_tokens, decode_side(request.side))
