"""Names that people or language models gave to clusters, and that the server keeps."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np

from polysem.client import letters, tables
from polysem.client.calls import Call
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id
from polysem.proto import checks
from polysem.proto.errors import InvalidArgument, NotFound
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronLike, parse_neuron, parse_neurons
from polysem.proto.questions.kept_names import (
    KeptName,
    NameBatch,
    NameQuery,
    NameScores,
    encode_name_query,
    encode_names,
    members_text,
    name_scores,
    parse_members,
)
from polysem.proto.questions.labels import label_method_of
from polysem.proto.sides import SIDES, Side
from polysem.proto.wire import columns
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES

A_REQUEST = 1000  # names
ROOM_BYTES = MAX_MESSAGE_BYTES // 2
FIELDS = ("index", "side", "neuron", "members", "text", "method", "author", "time", "scores")  # of a line


def names_of(answer: Answer) -> list[KeptName]:
    """The names of an answer, in its order."""
    batch: NameBatch = answer.batch
    ends = columns.from_counts(batch.n_members).tolist()
    return [
        KeptName(
            neuron_id(batch.neurons[i]),
            tuple(batch.members[ends[i] : ends[i + 1]].tolist()),
            batch.texts[i],
            label_method_of(int(batch.methods[i])),
            batch.authors[i],
            datetime.fromtimestamp(int(batch.times[i]), UTC),
            answer.provenance.side,
            name_scores(batch.scores[i].tolist()),
        )
        for i in range(len(batch.neurons))
    ]


def _by_name(batches: Sequence[NameBatch]) -> Columns:
    return {
        **tables.neurons([batch.neurons for batch in batches]),
        "members": [
            members_text(part.tolist())
            for batch in batches
            for part in np.split(batch.members, columns.from_counts(batch.n_members)[1:-1])[: len(batch.neurons)]
        ],
        "text": tables.texts(batches, "texts"),
        "method": [label_method_of(n) or "" for batch in batches for n in batch.methods.tolist()],
        "author": tables.texts(batches, "authors"),
        "time": [_iso(datetime.fromtimestamp(s, UTC)) for batch in batches for s in batch.times.tolist()],
    }


class Names(Stream[KeptName]):
    """Kept names, by layer, neuron and set of examples."""

    _noun = "names"
    _tables: ClassVar = {"name": _by_name}


def call(neurons: Sequence[NeuronLike], history: bool, index: str | None, side: Side) -> Call[Names]:
    query = NameQuery(parse_neurons(*(neurons or ("*",))), checks.index_name(index), side, bool(history))
    return Call("ListNames", encode_name_query(query), NameBatch, names_of, Names)


def requests(names: Sequence[KeptName], index: str | None) -> Iterator[tuple[list[int], Any]]:
    """Yield requests that keep the names, each with the places of its names among them; a side at a time.

    Raises InvalidArgument for a name that cannot be kept; its field begins with the place: names[3].
    """
    for side in SIDES:
        places = [place for place, name in enumerate(names) if name.side == side]
        while places:
            n, room = 0, ROOM_BYTES
            while n < min(len(places), A_REQUEST) and (n == 0 or room > 0):
                room -= 5 * len(names[places[n]].members) + 1000
                n += 1
            now, places = places[:n], places[n:]
            for place in now:
                try:
                    encode_names([names[place]], "", side)
                except InvalidArgument as error:
                    raise renumbered(error, [place], f"names[0].{error.field}") from error
            yield now, encode_names([names[place] for place in now], checks.index_name(index), side)


def renumbered(error: InvalidArgument, places: Sequence[int], field: str = "") -> InvalidArgument:
    """Return the error with the place of its name among all, instead of that in its request."""
    number, bracket, rest = (field or error.field).removeprefix("names[").partition("]")
    if not bracket or not number.isdecimal() or int(number) >= len(places):
        return error
    return InvalidArgument(error.message, f"names[{places[int(number)]}]{rest}")


def cluster_of(neuron: Neuron, cluster: int | str) -> Cluster:
    """Return the neuron's cluster of this label, or letter. Raises NotFound and InvalidArgument."""
    if isinstance(cluster, str) and not cluster.isdecimal():
        label = letters.label_of(neuron, cluster)
    else:
        (label,) = checks.whole_numbers([int(cluster)], "cluster", "the label of a cluster")
    for one in neuron.clusters:
        if one.label == label:
            return one
    raise NotFound(
        f"neuron {neuron.id} has no cluster {label}: cut at {neuron.distance_threshold:g} it has "
        f"{len(neuron.clusters)}, counted from 0"
    )


# ---- A line of JSON for each name


def to_line(name: KeptName, index_sha256: str) -> str:
    """Return the name as a line of JSON; the same name makes the same line."""
    assert name.time is not None
    scores = name.scores and {key: value for key, value in name.scores._asdict().items() if value is not None}
    values = (
        *(index_sha256, name.side, str(name.neuron), members_text(name.members), name.text),
        *(name.method, name.author, _iso(name.time), scores),
    )
    line = {field: value for field, value in zip(FIELDS, values, strict=True) if value is not None}
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def from_line(line: str, index_sha256: str) -> KeptName:
    """Return the name that a line of JSON holds. Raises InvalidArgument for another index's, or no name."""
    try:
        found = json.loads(line)
        assert isinstance(found, dict)
    except (ValueError, AssertionError, RecursionError) as error:
        raise InvalidArgument(f"{line[:40]!r} is not a JSON object") from error
    if unknown := [field for field in found if field not in FIELDS]:
        raise InvalidArgument(f"there is no field {unknown[0][:40]!r}; a name has {', '.join(FIELDS)}")
    texts = {field: found.get(field, "") for field in FIELDS[:-1]}
    for field, text in texts.items():
        if not isinstance(text, str):
            raise InvalidArgument(f"{field} is {str(text)[:40]!r}; it is a text", field)
    if texts["index"] != index_sha256:
        raise InvalidArgument(
            f"the name is of the index {texts['index'][:12]!r}…, not of {index_sha256[:12]}…, whose examples are others"
        )
    checks.check_one_of(texts["side"], SIDES, "side")
    return KeptName(
        parse_neuron(texts["neuron"]),
        parse_members(texts["members"]),
        texts["text"],
        texts["method"] or "person",
        texts["author"],
        _time(texts["time"]),
        texts["side"],
        _scores(found.get("scores")),
    )


def _scores(found: Any) -> NameScores | None:
    if found is None:
        return None
    if not isinstance(found, dict) or found.keys() - set(NameScores._fields):
        raise InvalidArgument(f"scores are an object of {', '.join(NameScores._fields)}", "scores")
    for name, value in found.items():
        if not 0 <= checks.number_of(value) <= 1:
            raise InvalidArgument(f"{name} is {str(value)[:40]}; it is a number from 0 to 1", "scores")
    return NameScores(**found) if found else None


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(f"the time is {text[:40]!r}; write 2026-03-01T12:00:00Z", "time") from error
    if time.tzinfo is None or time.timestamp() < 1:
        raise InvalidArgument(
            f"the time {text[:40]!r} has no zone, or is before 1970; write 2026-03-01T12:00:00Z", "time"
        )
    return time.astimezone(UTC)


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
