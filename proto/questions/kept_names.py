"""Names of clusters that people or language models gave, and that a server keeps: KeepNames, ListNames.

A name is bound to the set of the cluster's examples: it does not depend on the cluster's number, nor on the cut.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.checks import check_one_of
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, NeuronId, NeuronRange
from polysem.proto.questions.labels import LABEL_METHODS, LabelMethod, label_method_of
from polysem.proto.sides import Side
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_ranges, decode_side, encode_ranges, encode_side
from polysem.v1 import neuron_service_pb2 as pb

KEPT_METHODS: tuple[LabelMethod, ...] = ("person", "model")
MAX_CHARACTERS, MAX_AUTHOR = 200, 80
JOINERS = "\u200c\u200d"  # not printable, and part of words in Persian or of emoji


class NameScores(NamedTuple):
    """Scores of a name, 0..1: how well a language model that reads it tells what fits it; None where unknown.

    detection       texts of the cluster from others (area under the ROC curve; ½ is chance)
    null_detection  the same with the name of another cluster
    fuzzing         tokens at which the neuron fires from other tokens of the same texts
    null_fuzzing    the same with the name of another cluster
    """

    detection: float | None = None
    null_detection: float | None = None
    fuzzing: float | None = None
    null_fuzzing: float | None = None


class KeptName(NamedTuple):
    """A name that a server keeps of a set of a neuron's dataset examples.

    neuron   whose examples
    members  their numbers, ascending
    text     the name; "": the set has none any more
    method   "person" or "model"; None: a way that this client does not know
    author   who gave it: the owner of the key, "anyone" where there are no keys
    time     when, in UTC; None: now
    side     of the activations
    scores   of a language model's name
    """

    neuron: NeuronId
    members: tuple[int, ...]
    text: str
    method: LabelMethod | None = "person"
    author: str = ""
    time: datetime | None = None
    side: Side = "positive"
    scores: NameScores | None = None


@dataclass(frozen=True, slots=True)
class NameQuery:
    """The names kept of these neurons; history: also those that were replaced."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    side: Side = "positive"
    history: bool = False


@columnar(pb.ListNamesResponse, "name", Axis("member", ["members"], "n_members"))
@dataclass(frozen=True, eq=False)
class NameBatch:
    """K kept names, with the members of all of them, M together.

    neurons    (K, 2) int32
    n_members  (K,) int32
    members    (M,) int32, ascending in each name
    texts      K names; "": the set has none any more
    methods    (K,) int32: a place in LABEL_METHODS plus 1
    authors    K names of people
    times      (K,) float64: seconds since 1970
    scores     (K, 4) float64 as NameScores, NaN where unknown
    """

    neurons: IntArray
    n_members: IntArray
    members: IntArray
    texts: Sequence[str] = field(repr=False)
    methods: IntArray
    authors: Sequence[str] = field(repr=False)
    times: DoubleArray
    scores: DoubleArray


def check_name(name: KeptName) -> None:
    """Raise InvalidArgument for a set without members, or a text or author that cannot be kept."""
    known = np.asarray(name.members, np.int64)
    if not len(known) or known[0] < 0 or known[-1] > MAX_INDEX or (np.diff(known) < 1).any():
        raise InvalidArgument("members are the numbers of examples from 0, ascending, at least one", "members")
    check_one_of(name.method, KEPT_METHODS, "method")
    for what, text, most in (("text", name.text, MAX_CHARACTERS), ("author", name.author, MAX_AUTHOR)):
        if not text.translate(dict.fromkeys(map(ord, JOINERS))).isprintable():
            raise InvalidArgument(f"the {what} {text[:40]!r} has characters that cannot be seen; use one line", what)
        if len(text) > most:
            raise InvalidArgument(f"the {what} has {len(text)} characters; give at most {most}", what)
    if any(score is not None and not 0 <= score <= 1 for score in name.scores or ()):
        raise InvalidArgument(f"scores are {tuple(name.scores or ())}; each is from 0 to 1, or unknown", "scores")


def encode_names(names: Sequence[KeptName], index: str, side: Side) -> Any:
    """Return the request. Raises InvalidArgument as `check_name` does."""
    for name in names:
        check_name(name)
    return pb.KeepNamesRequest(index=index, side=encode_side(side), names=[_encode(name) for name in names])


def _encode(name: KeptName) -> pb.KeptName:
    assert name.method is not None
    return pb.KeptName(
        layer=name.neuron.layer,
        neuron=name.neuron.neuron,
        members=name.members,
        text=name.text,
        method=1 + LABEL_METHODS.index(name.method),  # type: ignore[arg-type]
        author=name.author,
        time_s=0 if name.time is None else int(name.time.timestamp()),
        scores=[float("nan") if score is None else score for score in name.scores or ()],
    )


def decode_names(request: pb.KeepNamesRequest) -> list[KeptName]:
    """Return the names of a request. Raises InvalidArgument whose field says which name is wrong."""
    side = decode_side(request.side)
    found = []
    for number, message in enumerate(request.names):
        try:
            found.append(_decode(message, side))
            check_name(found[-1])
        except InvalidArgument as error:
            raise InvalidArgument(error.message, f"names[{number}].{error.field}") from error
    return found


def _decode(message: pb.KeptName, side: Side) -> KeptName:
    if len(message.scores) not in (0, 4):
        raise InvalidArgument(f"there are {len(message.scores)} scores; give none or four", "scores")
    return KeptName(
        NeuronId(message.layer, message.neuron),
        tuple(message.members),
        message.text.strip(),
        label_method_of(message.method or 1 + LABEL_METHODS.index("person")),
        message.author.strip(),
        datetime.fromtimestamp(min(message.time_s, 1 << 36), UTC) if message.time_s else None,
        side,
        name_scores(message.scores),
    )


def name_scores(values: Sequence[float]) -> NameScores | None:
    """Return four scores, NaN as None; None where all are unknown."""
    known = [None if value != value else float(value) for value in values]
    return NameScores(*known) if any(value is not None for value in known) else None


def encode_name_query(query: NameQuery) -> Any:
    """Return the request."""
    return pb.ListNamesRequest(
        index=query.index, neurons=encode_ranges(query.neurons), side=encode_side(query.side), history=query.history
    )


def decode_name_query(request: pb.ListNamesRequest) -> NameQuery:
    return NameQuery(decode_ranges(request.neurons), request.index, decode_side(request.side), request.history)


def names_batch(names: Sequence[KeptName]) -> NameBatch:
    """Return the names as columns."""
    unknown = (float("nan"),) * 4
    scores = [[float("nan") if score is None else score for score in name.scores or unknown] for name in names]
    return NameBatch(
        neurons=np.array([name.neuron for name in names], np.int32).reshape(-1, 2),
        n_members=np.array([len(name.members) for name in names], np.int32),
        members=np.concatenate([np.zeros(0, np.int32), *(np.array(name.members, np.int32) for name in names)]),
        texts=[name.text for name in names],
        methods=np.array([1 + LABEL_METHODS.index(name.method or "person") for name in names], np.int32),
        authors=[name.author for name in names],
        times=np.array([name.time.timestamp() if name.time else np.nan for name in names], np.float64),
        scores=np.array(scores, np.float64).reshape(-1, 4),
    )


# ---- Sets of members as text: 0-3,7


def members_text(members: Sequence[int]) -> str:
    """Return ascending numbers as ranges: 0-3,7."""
    known = np.asarray(members, np.int64)
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(known) else []
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def parse_members(text: str) -> tuple[int, ...]:
    """Return the numbers that ranges such as 0-3,7 name. Raises InvalidArgument for anything else."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if first > last or (found and first <= found[-1]):
            raise InvalidArgument(f"members are {text[:40]!r}; write ascending numbers and ranges, as 0-3,7", "members")
        found += range(first, last + 1)
    return tuple(found)
