"""Jobs and corpora as plain Python: the same on both ends."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronRange
from polysem.proto.types import DEFAULT_DISTANCE_THRESHOLD, Algorithm, Embedding, LayerNorm, Linkage, Selection

JobState = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
JOB_STATES: tuple[JobState, ...] = get_args(JobState)

MAX_NAME_CHARACTERS = 100
MAX_JOBS_PER_PAGE = 500
CORPUS_SUFFIXES = (".jsonl", ".txt")
CHUNK_BYTES = 512 << 10  # of uploads and results


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """Every neuron named by each algorithm on each embedding in each mode; index "": the server's default."""

    neurons: tuple[NeuronRange, ...] = (NeuronRange(),)
    index: str = ""
    algorithms: tuple[Algorithm, ...] = ("hac", "scc")
    embeddings: tuple[Embedding, ...] = ("neuron", "pre_mlp")
    layer_norms: tuple[LayerNorm, ...] = ("folded",)
    linkage: Linkage = "average"
    distance_threshold: float = DEFAULT_DISTANCE_THRESHOLD
    best_cut: bool = True


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """The index `name` of a corpus that the server lists. context_length 0: the model's own; max_documents 0: all."""

    name: str
    corpus: str
    selection: Selection = Selection()
    context_length: int = 0
    windows: Literal["first", "all"] = "first"
    bos: bool = True
    max_documents: int = 0
    text_field: str = "text"
    skip_bad_documents: bool = False


JobSpec = MeasureSpec | IndexSpec


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its server last told.

    stage, done, total  what a running job does, and how far it is in that stage's own units; total 0: unknown
    n_ahead             jobs that run before a queued one
    error               one sentence, where it failed
    expires_at          when the result of a done job is removed
    result_sha256       in hexadecimal; of an index also the index's own
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

    @property
    def kind(self) -> Literal["measure", "index"]:
        return "index" if isinstance(self.spec, IndexSpec) else "measure"

    @property
    def finished(self) -> bool:
        return self.state not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A corpus that jobs can name. bytes, sha256 and expires_at are of uploads only."""

    name: str
    bytes: int = 0
    sha256: str = ""
    expires_at: datetime | None = None


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
