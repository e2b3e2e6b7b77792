"""Jobs and corpora, as plain Python and as messages: the same on both ends."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from typing import Any, Literal, get_args

from google.protobuf.timestamp_pb2 import Timestamp

from polysem.proto.checks import check_count, check_one_of
from polysem.proto.errors import Internal, InvalidArgument, Unsupported
from polysem.proto.facts import Selection
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import (
    ALGORITHMS,
    DEFAULT_DISTANCE_THRESHOLD,
    EMBEDDINGS,
    FRAMES,
    LAYER_NORMS,
    LINKAGES,
    Algorithm,
    Clustering,
    Embedding,
    EmbeddingChoice,
    Frame,
    LayerNorm,
    Linkage,
    check_choice,
    check_clustering,
)
from polysem.proto.sides import Side
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side, name_of
from polysem.v1 import job_service_pb2 as pb
from polysem.v1 import neuron_service_pb2 as neuron_pb

JobState = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
JOB_STATES: tuple[JobState, ...] = get_args(JobState)

MAX_NAME_CHARACTERS = 100
MAX_UNITS_CHARACTERS = 500
MAX_JOBS_PER_PAGE = 500
KEPT_SPECS = 64  # decoded, of jobs that are looked at again and again
CORPUS_SUFFIXES = (".jsonl", ".txt")
CHUNK_BYTES = 512 << 10  # of uploads and results


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """Every neuron named by each algorithm on each embedding in each mode and frame; index "": the server's default.

    n_null, seed  rotations that each neuron is compared with, in rows of hac; 0: none. Controls draw by the seed
    """

    neurons: tuple[NeuronRange, ...] = (NeuronRange(),)
    index: str = ""
    algorithms: tuple[Algorithm, ...] = ("hac", "scc")
    embeddings: tuple[Embedding, ...] = ("neuron", "pre_mlp")
    layer_norms: tuple[LayerNorm, ...] = ("folded",)
    linkage: Linkage = "average"
    distance_threshold: float = DEFAULT_DISTANCE_THRESHOLD
    best_cut: bool = True
    side: Side = "positive"
    frames: tuple[Frame, ...] = ("raw",)
    n_null: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The index `name` of a corpus that the server lists. context_length 0: the model's own; max_documents 0: all.

    bos None, sides "", layers (): as suits the model; negatives None: the usual ones (see `polysem index`).
    shared: other keys may ask about it, too.
    units: sae:NAME of an SAE that the server's operator has allowed; "": the model's neurons.
    """

    name: str
    corpus: str
    selection: Selection = Selection()
    context_length: int = 0
    windows: Literal["first", "all"] = "first"
    bos: bool | None = None
    max_documents: int = 0
    text_field: str = "text"
    skip_bad_documents: bool = False
    sides: Literal["positive", "both", ""] = ""
    layers: tuple[int, ...] = ()
    skip_positions: int = 0
    shared: bool = False
    units: str = ""
    negatives: int | None = None


JobSpec = MeasureSpec | IndexSpec


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its server last told.

    stage, done, total  what a running job does, and how far it is in that stage's own units; total 0: unknown
    n_ahead             jobs that run before a queued one
    error               one sentence, where it failed
    expires_at          when the result of a done job is removed
    result_sha256       in hexadecimal; of an index also the index's own
    owner               id of the key that made it; empty where the server was open
    notes               of a done index job: what its owner should know of the index, a sentence each
    """

    id: str
    spec: JobSpec
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    stage: str = ""
    done: int = 0
    total: int = 0
    n_ahead: int = 0
    error: str = ""
    result_bytes: int = 0
    result_sha256: str = ""
    owner: str = ""
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["measure", "index"]:
        return "index" if isinstance(self.spec, IndexSpec) else "measure"

    @property
    def finished(self) -> bool:
        return self.state not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A corpus that jobs can name. bytes, sha256 and expires_at are of uploads only.

    owner   id of the key that sent it; empty of the server's own, and of what was sent to an open server
    shared  other keys may use it, too
    """

    name: str
    bytes: int = 0
    sha256: str = ""
    expires_at: datetime | None = None
    owner: str = ""
    shared: bool = False


def check_name(name: str, what: str, field: str) -> None:
    """Raise InvalidArgument unless it is a plain name: what it names is never a path."""
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARACTERS - 1}}}", name):
        raise InvalidArgument(
            f"{name!r} cannot be the name of {what}: take 1 to {MAX_NAME_CHARACTERS} letters, digits, dots, dashes and "
            "underscores, the first of them a letter or digit",
            field,
        )


def check_index_name(name: str) -> None:
    """Raise InvalidArgument for what cannot name an index."""
    check_name(name, "an index", "name")
    if name.endswith(".tmp"):
        raise InvalidArgument(f"{name!r} cannot be the name of an index: .tmp is of unfinished ones", "name")


def check_corpus_name(name: str) -> None:
    """Raise InvalidArgument for what cannot name an upload."""
    check_name(name, "a corpus", "name")
    if not name.endswith(CORPUS_SUFFIXES):
        raise InvalidArgument(
            f"cannot tell what {name!r} is: an uploaded corpus is named NAME.jsonl (a JSON object a line) or NAME.txt "
            "(a document a line)",
            "name",
        )


_STATES = {state: i for i, state in enumerate(JOB_STATES, 1)}  # as the proto numbers them


def encode_spec(spec: JobSpec) -> dict[str, Any]:
    """The field that a job or a request to make one has of this kind; raises InvalidArgument as `check_spec` does."""
    check_spec(spec)
    return _encoded(spec)


def _encoded(spec: JobSpec) -> dict[str, Any]:
    return {"index": _encode_index(spec)} if isinstance(spec, IndexSpec) else {"measure": _encode_measure(spec)}


def decode_spec(message: Any) -> JobSpec:
    """The spec of a job or of a request to make one, checked."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument("no kind of job was named that this version knows: measure or index", "kind")
    spec = _decode_index(message.index) if kind == "index" else _decode_measure(message.measure)
    check_spec(spec)
    return spec


def check_spec(spec: JobSpec) -> None:
    """Raise InvalidArgument for what no server could do."""
    if isinstance(spec, IndexSpec):
        check_index_name(spec.name)
        if not spec.corpus:
            raise InvalidArgument("no corpus was named; `polysem corpus list` shows those there are", "corpus")
        if len(spec.text_field) > MAX_NAME_CHARACTERS:
            raise InvalidArgument(
                f"text_field has {len(spec.text_field)} characters; give at most {MAX_NAME_CHARACTERS}", "text_field"
            )
        if spec.units and not re.fullmatch(rf"sae:.{{1,{MAX_UNITS_CHARACTERS}}}", spec.units):
            raise InvalidArgument(f"units are {spec.units[:100]!r}; write sae:NAME", "units")
        check_one_of(spec.sides, ("positive", "both", ""), "sides")
        check_count(spec.skip_positions, "skip_positions", 0)
        if spec.negatives is not None:
            check_count(spec.negatives, "negatives", 0)
        for layer in spec.layers:
            check_count(layer, "layers", 0)
        for field, value in (("context_length", spec.context_length), ("max_documents", spec.max_documents)):
            if value < 0:
                raise InvalidArgument(f"{field} is {value}; give at least 1, or 0 for no limit", field)
        return
    for algorithm in spec.algorithms:
        check_clustering(
            Clustering(algorithm, spec.linkage, spec.distance_threshold, n_null=spec.n_null, seed=spec.seed)
        )
    for embedding, layer_norm, frame in product(spec.embeddings, spec.layer_norms, spec.frames):
        check_choice(EmbeddingChoice(embedding, layer_norm, frame))


def _encode_measure(spec: MeasureSpec) -> pb.MeasureJob:
    return pb.MeasureJob(
        index=spec.index,
        neurons=encode_ranges(spec.neurons),
        algorithms=[ALGORITHMS[name] for name in spec.algorithms],
        embeddings=[EMBEDDINGS[name] for name in spec.embeddings],
        layer_norms=[LAYER_NORMS[name] for name in spec.layer_norms],
        linkage=LINKAGES[spec.linkage],
        distance_threshold=spec.distance_threshold,
        best_cut=spec.best_cut,
        side=encode_side(spec.side),
        frames=[FRAMES[name] for name in spec.frames],
        n_null=spec.n_null,
        seed=spec.seed,
    )


def _decode_measure(message: pb.MeasureJob) -> MeasureSpec:
    default = MeasureSpec()

    def names(field: str, known: dict[str, Any], otherwise: tuple[Any, ...]) -> tuple[Any, ...]:
        numbers = getattr(message, field)
        return tuple(dict.fromkeys(name_of(number, known, field) for number in numbers)) or otherwise

    return MeasureSpec(
        neurons=decode_ranges(message.neurons) if message.neurons else default.neurons,
        index=message.index,
        algorithms=names("algorithms", ALGORITHMS, default.algorithms),
        embeddings=names("embeddings", EMBEDDINGS, default.embeddings),
        layer_norms=names("layer_norms", LAYER_NORMS, default.layer_norms),
        linkage=name_of(message.linkage, LINKAGES, "linkage"),
        distance_threshold=(
            message.distance_threshold if message.HasField("distance_threshold") else default.distance_threshold
        ),
        best_cut=message.best_cut if message.HasField("best_cut") else default.best_cut,
        side=decode_side(message.side),
        frames=names("frames", FRAMES, default.frames),
        n_null=message.n_null,
        seed=message.seed,
    )


def _encode_index(spec: IndexSpec) -> pb.IndexJob:
    fields = {name: getattr(spec, name) for name in IndexSpec.__slots__ if name != "selection"}
    rule = spec.selection
    selection = neuron_pb.Selection(**{name: getattr(rule, name) for name in Selection.__slots__})
    return pb.IndexJob(**fields, selection=selection)


def _decode_index(message: pb.IndexJob) -> IndexSpec:
    default = Selection()
    if message.HasField("selection"):
        selection = Selection(**{name: getattr(message.selection, name) for name in Selection.__slots__})
    else:
        selection = default
    return IndexSpec(
        name=message.name,
        corpus=message.corpus,
        selection=selection,
        context_length=message.context_length,
        windows=message.windows or "first",  # type: ignore[arg-type]
        bos=message.bos if message.HasField("bos") else None,
        max_documents=message.max_documents,
        text_field=message.text_field or "text",
        skip_bad_documents=message.skip_bad_documents,
        sides=message.sides,  # type: ignore[arg-type]
        layers=tuple(message.layers),
        skip_positions=message.skip_positions,
        shared=message.shared,
        units=message.units,
        negatives=message.negatives if message.HasField("negatives") else None,
    )


def spec_bytes(spec: JobSpec) -> bytes:
    """The spec as it is stored; equal specs are equal bytes."""
    return pb.CreateJobRequest(**encode_spec(spec)).SerializeToString(deterministic=True)


@lru_cache(KEPT_SPECS)
def spec_from_bytes(data: bytes) -> JobSpec:
    """Return the spec that `spec_bytes` gave. A list of jobs has few that differ, and checking takes a while."""
    return decode_spec(pb.CreateJobRequest.FromString(data))


def encode_job(job: Job) -> pb.Job:
    return pb.Job(
        id=job.id,
        state=_STATES[job.state],  # type: ignore[arg-type]
        stage=job.stage,
        done=job.done,
        total=job.total,
        n_ahead=job.n_ahead,
        error=job.error,
        created_at=_timestamp(job.created_at),
        started_at=_timestamp(job.started_at),
        finished_at=_timestamp(job.finished_at),
        expires_at=_timestamp(job.expires_at),
        result_bytes=job.result_bytes,
        result_sha256=job.result_sha256,
        owner=job.owner,
        notes=job.notes,
        **_encoded(job.spec),
    )


def decode_job(message: pb.Job) -> Job:
    if not 0 < message.state <= len(JOB_STATES):
        raise Internal(
            f"job {message.id} is in the unknown state {message.state}: the server is newer than this client"
        )
    return Job(
        id=message.id,
        spec=decode_spec(message),
        state=JOB_STATES[message.state - 1],
        created_at=message.created_at.ToDatetime(UTC),
        started_at=_time(message, "started_at"),
        finished_at=_time(message, "finished_at"),
        expires_at=_time(message, "expires_at"),
        stage=message.stage,
        done=message.done,
        total=message.total,
        n_ahead=message.n_ahead,
        error=message.error,
        result_bytes=message.result_bytes,
        result_sha256=message.result_sha256,
        owner=message.owner,
        notes=tuple(message.notes),
    )


def with_units(job: Job, asked: IndexSpec) -> Job:
    """Return the job; raise Unsupported where its server did not see what units were asked for."""
    if asked.units and isinstance(job.spec, IndexSpec) and not job.spec.units:
        raise Unsupported(
            f"the server is of an earlier version, which indexes neurons only; cancel its job {job.id}, and update it"
        )
    return job


def encode_corpora(corpora: Iterable[CorpusInfo]) -> list[pb.Corpus]:
    return [
        pb.Corpus(
            name=c.name,
            bytes=c.bytes,
            sha256=c.sha256,
            expires_at=_timestamp(c.expires_at),
            owner=c.owner,
            shared=c.shared,
        )
        for c in corpora
    ]


def decode_corpus(message: pb.Corpus) -> CorpusInfo:
    expires_at = _time(message, "expires_at")
    return CorpusInfo(message.name, message.bytes, message.sha256, expires_at, message.owner, message.shared)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _time(message: Any, field: str) -> datetime | None:
    found: Timestamp = getattr(message, field)
    return found.ToDatetime(UTC) if message.HasField(field) else None
