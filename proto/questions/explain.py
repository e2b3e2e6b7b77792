"""Explanation of a text by neurons: ExplainText."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.checks import check_count, number_of
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import (
    Clustering,
    EmbeddingChoice,
    check_choice,
    check_clustering,
    decode_clustering,
    encode_clustering,
)
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb

MAX_EXPLAINED = 256  # neurons
MAX_STRONGEST = 100  # neurons a token
MAX_TEXT_BYTES = 256 << 10
LEAST_EXAMPLES_OF_STRONGEST = 5  # of a neuron that may be among the hardest firing; fewer where an index keeps fewer
LEAST_MAXIMUM_OF_STRONGEST = 0.5  # as a share of the median maximum of its layer


@dataclass(frozen=True, slots=True)
class ExplainQuery:
    """neurons: none stands for the n_strongest at each token. min_activation_fraction: of a neuron's maximum, 0..1."""

    text: str
    neurons: tuple[NeuronRange, ...] = ()
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    min_activation_fraction: float = 0.25
    n_strongest: int = 5
    side: Side = "positive"


@columnar(
    pb.ExplainTextResponse,
    "token",
    Axis("activation", ["active_neurons", "activations", "shares", "fires", "clusters", "distances"], "n_activations"),
    later=["part_numbers", "part_counts"],
)
@dataclass(frozen=True, eq=False)
class ExplanationBatch:
    """T tokens of a text, with F activations.

    positions       (T,) int32: place in the text
    tokens          T texts
    n_activations   (T,) int32
    active_neurons  (F, 2) int32
    activations     (F,) float32
    shares          (F,) float32: of the neuron's maximum over the corpus; NaN where that is not positive
    fires           (F,) int32: 0 or 1
    clusters        (F,) int32: feature cluster that the token falls in, −1: none
    distances       (F,) float32: smallest mean distance to a cluster's members; NaN where it does not fire
    part_numbers    (T,) int32: which of a character's tokens it is, from 1; 0: an older server
    part_counts     (T,) int32: how many they are
    """

    positions: IntArray
    tokens: Sequence[str] = field(repr=False)
    n_activations: IntArray
    active_neurons: IntArray
    activations: FloatArray
    shares: FloatArray
    fires: IntArray
    clusters: IntArray
    distances: FloatArray
    part_numbers: IntArray
    part_counts: IntArray


def check_explain(query: ExplainQuery) -> None:
    """Raise InvalidArgument for what is not text, or a fraction or number outside its range."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    check_text(query.text, "explain")
    check_fraction(query.min_activation_fraction)
    check_count(query.n_strongest, "n_strongest", 1, MAX_STRONGEST)


def check_fraction(fraction: object) -> None:
    """Raise InvalidArgument unless it is a share of a neuron's maximum, from which it fires."""
    if not 0 <= number_of(fraction) <= 1:
        raise InvalidArgument(
            f"min_activation_fraction is {fraction!r}; it is a share of the maximum, 0 to 1", "min_activation_fraction"
        )


def check_text(text: object, verb: str) -> None:
    """Raise InvalidArgument for what is not text, or too long a text to `verb`."""
    if not isinstance(text, str):
        decode = "; decode it first: text.decode()" if isinstance(text, bytes) else ""
        raise InvalidArgument(f"the text to {verb} is of type {type(text).__name__}, not str{decode}", "text")
    if not text:
        raise InvalidArgument(f"there is no text to {verb}: give at least one character", "text")
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the text is not valid Unicode: unpaired surrogate at index {error.start}", "text"
        ) from None
    if n_bytes > MAX_TEXT_BYTES:
        raise InvalidArgument(f"the text has {n_bytes} bytes; {verb} at most {MAX_TEXT_BYTES} at once", "text")


def encode_explain_query(query: ExplainQuery) -> pb.ExplainTextRequest:
    """The request; raises InvalidArgument as check_explain does."""
    check_explain(query)
    return pb.ExplainTextRequest(
        index=query.index,
        text=query.text,
        neurons=encode_ranges(query.neurons),
        clustering=pb.Clustering(**encode_clustering(query.choice, query.clustering)),
        min_activation_fraction=query.min_activation_fraction,
        n_strongest=query.n_strongest,
        side=encode_side(query.side),
    )


def decode_explain_query(request: pb.ExplainTextRequest) -> ExplainQuery:
    choice, clustering = decode_clustering(request.clustering)
    default = ExplainQuery(request.text)
    query = ExplainQuery(
        text=request.text,
        neurons=decode_ranges(request.neurons) if request.neurons else (),
        index=request.index,
        choice=choice,
        clustering=clustering,
        min_activation_fraction=(
            request.min_activation_fraction
            if request.HasField("min_activation_fraction")
            else default.min_activation_fraction
        ),
        n_strongest=request.n_strongest or default.n_strongest,
        side=decode_side(request.side),
    )
    check_explain(query)
    return query
