"""Facts about a server, its model and indexes, and what an answer depends on; each with its message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from polysem.proto.questions.clustering import (
    ALGORITHMS,
    LINKAGES,
    Clustering,
    EmbeddingChoice,
    Library,
    decode_choice,
    encode_choice,
    library_number,
    library_of,
    threshold_schedule,
)
from polysem.proto.questions.summary import NeuronSummary
from polysem.proto.sides import Side
from polysem.proto.units import Unit
from polysem.proto.wire.names import decode_side, encode_side, name_of
from polysem.v1 import neuron_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what the server accepts; costs are in n_examples² · d_model.

    max_requests_in_flight_of_key, daily_cost_quota  the key's own; 0: no limit
    max_neighbours                                   0: a server that clusters no graphs of neighbours when asked
    """

    max_message_bytes: int
    max_neurons_per_request: int
    max_thresholds: int
    max_requests_in_flight: int
    max_batch_cost: float
    max_queued_cost: float = 0.0
    max_wait_ms: float = 0.0
    bulk_batch_ms: float = 0.0
    max_requests_in_flight_of_key: int = 0
    daily_cost_quota: float = 0.0
    max_neighbours: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The resident model; context_length is in tokens. gated: its neurons' activations are act(g) · u."""

    id: str
    sha256: str
    n_layers: int
    n_neurons_per_layer: int
    d_model: int
    context_length: int
    family: str = "gpt2"
    gated: bool = False


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server as it describes itself.

    neighbour_library  what searches nearest neighbours there; None: the server is older and does not say
    bos_token_id       what a text may begin with; None: the tokenizer has none, or the server is older
    """

    version: str
    model: ModelInfo
    device: str
    dtype: str
    default_index: str
    limits: Limits
    neighbour_library: Library | None = None
    bos_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which contexts become dataset examples (server/indexing/selection.py).

    seed  of the order in which `quantile` draws
    """

    rule: Literal["first", "top", "quantile"] = "first"
    min_activation_fraction: float = 0.75
    max_examples: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class HeldTests:
    """Tests of its neurons that an index holds: rotation tests, in frame own.

    n_null    rotations of each neuron's examples; seed: of these
    clusters  whether it also holds significant clusters, stability and prediction strength
    """

    n_null: int
    seed: int
    clusters: bool

    @property
    def words(self) -> str:
        """The tests in words, for people."""
        also = ", with significant clusters and stability" if self.clusters else ""
        return f"neurons tested with {self.n_null:,} rotations (seed {self.seed}, frame own){also}"


@dataclass(frozen=True, slots=True)
class Encoder:
    """The encoder of a sparse autoencoder (SAE) or a transcoder, whose latents are an index's units at one layer.

    name    of its folder
    sha256  of its files
    point   which vector of the layer it reads: resid_pre, resid_mid, resid_post, mlp_in, mlp_normalised, mlp_out or
            attn_out
    kind    how a latent fires: relu, jumprelu, topk or gated
    hook    of that vector, as its files name it; "": they do not
    model   that it was trained on, as its files name it; "": they do not
    """

    layer: int
    name: str
    sha256: str
    point: str
    kind: str
    n_latents: int
    hook: str = ""
    model: str = ""

    @property
    def words(self) -> str:
        """Which it is, for people."""
        return f"{self.name} ({self.kind}, reads {self.hook or self.point}, sha256 {self.sha256[:12]}…)"


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index. layers: none stands for all of the model's. n_examples: of the positive side.

    n_neurons_per_layer  of latents, which may be another number in each layer, the largest
    encoders             of latents: one for each layer that it holds, ascending; none: its units are neurons
    tests                None: it holds none, or the server is older and does not say
    n_longer_documents   documents of which only the first context was read; None: an earlier version made it
    n_skipped_documents  documents that were no text and were left out
    """

    name: str
    sha256: str
    model_id: str
    model_sha256: str
    corpus_id: str
    corpus_sha256: str
    selection: Selection
    context_length: int
    bos: bool
    windows: Literal["first", "all"]
    n_documents: int
    n_contexts: int
    n_tokens: int
    n_layers: int
    n_neurons_per_layer: int
    n_examples: int
    n_neurons_with_examples: int
    software_version: str
    sides: tuple[Side, ...] = ("positive",)
    layers: tuple[int, ...] = ()
    skip_positions: int = 0
    n_negative_examples: int = 0
    n_neurons_with_negative_examples: int = 0
    n_longer_documents: int | None = None
    n_skipped_documents: int = 0
    tests: HeldTests | None = None
    encoders: tuple[Encoder, ...] = ()

    @property
    def unit(self) -> Unit:
        """The word for what it clusters."""
        return "latent" if self.encoders else "neuron"

    def width(self, layer: int) -> int:
        """Return how many neurons, or latents, a layer that it holds has."""
        of_latents = {encoder.layer: encoder.n_latents for encoder in self.encoders}
        return of_latents.get(layer, self.n_neurons_per_layer)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each layer that it holds."""
        return tuple(encoder.n_latents for encoder in self.encoders) or (self.n_neurons_per_layer,) * len(
            self.held_layers
        )

    @property
    def notes(self) -> Sequence[str]:
        """Facts that a reader of the index should know of its units, its corpus and its tests, a sentence each."""
        found = [f"layer {one.layer}: {one.n_latents:,} latents of {one.words}" for one in self.encoders]
        if n := self.n_longer_documents:
            found.append(f"{_documents(n)} longer than one context; --windows all reads them whole")
        if n := self.n_skipped_documents:
            found.append(f"{_documents(n)} no text and {'was' if n == 1 else 'were'} left out")
        if self.tests is not None:
            found.append(self.tests.words)
        return found

    @property
    def held_layers(self) -> tuple[int, ...]:
        """The layers that it holds, by the model's numbers."""
        return self.layers or tuple(range(self.n_layers))


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything an answer depends on.

    xhat_dtype          number format in which the index stores x̂; float16 moves a distance by up to 2·10⁻⁴
    unembedding_sha256  of logit effects: hash of an unembedding that is not the token embeddings; else ""
    unit                what the index clusters
    """

    index: str
    index_sha256: str
    model_id: str
    model_sha256: str
    software_version: str
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering | None = None
    side: Side = "positive"
    xhat_dtype: str = "float16"
    unembedding_sha256: str = ""
    unit: Unit = "neuron"


@dataclass(frozen=True, slots=True)
class Timing:
    """queue_ns: from the request to the start of its batch. compute_ns: the batch's time on the device."""

    queue_ns: int
    compute_ns: int
    batch_size: int


class Answer(NamedTuple):
    """A batch as a caller gets it. n_matching, n_approximate, summary: of a page of neurons, on all pages."""

    batch: Any
    provenance: Provenance
    timing: Timing
    n_matching: int = 0
    n_approximate: int = 0
    summary: NeuronSummary | None = None


def encode_server_info(info: ServerInfo) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        version=info.version,
        model=pb.Model(**_fields(info.model)),
        device=info.device,
        dtype=info.dtype,
        default_index=info.default_index,
        limits=pb.Limits(**_fields(info.limits)),
        neighbour_library=library_number(info.neighbour_library),
        bos_token_id=info.bos_token_id,
    )


def decode_server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(
        version=message.version,
        model=ModelInfo(**_attributes(message.model, ModelInfo) | {"family": message.model.family or "gpt2"}),
        device=message.device,
        dtype=message.dtype,
        default_index=message.default_index,
        limits=Limits(**_attributes(message.limits, Limits)),
        neighbour_library=library_of(message.neighbour_library),
        bos_token_id=message.bos_token_id if message.HasField("bos_token_id") else None,
    )


def encode_indexes(indexes: Sequence[IndexInfo]) -> pb.ListIndexesResponse:
    return pb.ListIndexesResponse(
        indexes=[
            pb.Index(
                **_fields(index)
                | {
                    "selection": pb.Selection(**_fields(index.selection)),
                    "tests": None if index.tests is None else pb.HeldTests(**_fields(index.tests)),
                    "encoders": [pb.Encoder(**_fields(encoder)) for encoder in index.encoders],
                }
            )
            for index in indexes
        ]
    )


def decode_indexes(message: pb.ListIndexesResponse) -> list[IndexInfo]:
    return [
        IndexInfo(
            **_attributes(index, IndexInfo)
            | {
                "selection": Selection(**_attributes(index.selection, Selection)),
                "sides": tuple(index.sides) or ("positive",),
                "layers": tuple(index.layers),
                "n_longer_documents": index.n_longer_documents if index.HasField("n_longer_documents") else None,
                "tests": HeldTests(**_attributes(index.tests, HeldTests)) if index.HasField("tests") else None,
                "encoders": tuple(Encoder(**_attributes(encoder, Encoder)) for encoder in index.encoders),
            }
        )
        for index in message.indexes
    ]


def _documents(n: int) -> str:
    return "1 document was" if n == 1 else f"{n:,} documents were"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _attributes(message: Any, type_: type) -> dict[str, Any]:
    return {name: getattr(message, name) for name in type_.__slots__}  # type: ignore[attr-defined]


def encode_provenance(provenance: Provenance) -> pb.Provenance:
    message = pb.Provenance(
        index=provenance.index,
        index_sha256=provenance.index_sha256,
        model_id=provenance.model_id,
        model_sha256=provenance.model_sha256,
        software_version=provenance.software_version,
        side=encode_side(provenance.side),
        xhat_dtype=provenance.xhat_dtype,
        unembedding_sha256=provenance.unembedding_sha256,
        unit="" if provenance.unit == "neuron" else provenance.unit,
        **encode_choice(provenance.choice),
    )
    if (clustering := provenance.clustering) is not None:
        message.algorithm = ALGORITHMS[clustering.algorithm]
        message.linkage = LINKAGES[clustering.linkage]
        message.distance_threshold = clustering.distance_threshold
        if clustering.algorithm == "scc":
            thresholds = clustering.thresholds
            message.thresholds.extend(threshold_schedule(thresholds) if isinstance(thresholds, str) else thresholds)
            message.until_stable = clustering.until_stable
        if clustering.neighbours is not None:
            message.neighbours = clustering.neighbours
        message.n_null, message.seed = clustering.n_null, clustering.seed or provenance.choice.seed
    return message


def decode_provenance(message: pb.Provenance) -> Provenance:
    clustering = None
    if message.algorithm:
        clustering = Clustering(
            algorithm=name_of(message.algorithm, ALGORITHMS, "algorithm"),
            linkage=name_of(message.linkage, LINKAGES, "linkage"),
            distance_threshold=message.distance_threshold,
            thresholds=tuple(message.thresholds) or "linear",
            until_stable=message.until_stable,
            neighbours=message.neighbours if message.HasField("neighbours") else None,
            n_null=message.n_null,
            seed=message.seed if message.n_null else 0,
        )
    return Provenance(
        index=message.index,
        index_sha256=message.index_sha256,
        model_id=message.model_id,
        model_sha256=message.model_sha256,
        software_version=message.software_version,
        choice=decode_choice(message).seeded(message.seed),
        clustering=clustering,
        side=decode_side(message.side),
        xhat_dtype=message.xhat_dtype or "float16",  # older servers do not say
        unembedding_sha256=message.unembedding_sha256,
        unit="latent" if message.unit == "latent" else "neuron",
    )


def encode_head(provenance: Provenance, timing: Timing) -> dict[str, Any]:
    """The fields of these in every message of an answer."""
    return {
        "provenance": encode_provenance(provenance),
        "timing": pb.Timing(queue_ns=timing.queue_ns, compute_ns=timing.compute_ns, batch_size=timing.batch_size),
    }


def decode_head(message: Any) -> tuple[Provenance, Timing]:
    timing = Timing(message.timing.queue_ns, message.timing.compute_ns, message.timing.batch_size)
    return decode_provenance(message.provenance), timing
