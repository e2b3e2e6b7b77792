"""The search file of a side of an index: search-SIDE.sqlite, SQLite's FTS5 over the clusters of two examples or more.

    clusters  a row each: neuron, label, examples, name by rules
    keys      key tokens with their share of a cluster, the largest first
    docs      words of the name · words that half of its texts have · all words of its texts, which are not kept

It is bound to the index's hash, and made anew where it does not fit. Answers come in the order of rows, as far as they
are asked for, so a word that every cluster has costs no more than a rare one. Rows are in an order of neurons that a
hash decides, so that the first of many are from all over the model.
"""

import contextlib
import json
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.search import FOUND_BY, MAX_COUNTED, FoundBy
from polysem.proto.sides import Side
from polysem.server.searching.words import Query

FORMAT = 1
MAX_SECONDS = 0.2  # of one question; what is found by then is the answer
MAX_COUNTING_SECONDS = 0.08
LOOK_EVERY = 20_000  # steps of SQLite's machine
SCHEMA = """
CREATE TABLE about (index_sha256 TEXT NOT NULL, side TEXT NOT NULL);
CREATE TABLE clusters (
    id INTEGER PRIMARY KEY, layer INTEGER NOT NULL, neuron INTEGER NOT NULL, label INTEGER NOT NULL,
    rank INTEGER NOT NULL, size INTEGER NOT NULL, central INTEGER NOT NULL, members BLOB NOT NULL, name TEXT NOT NULL
);
CREATE INDEX of_neuron ON clusters (layer, neuron);
CREATE TABLE keys (
    token TEXT NOT NULL, less REAL NOT NULL, cluster INTEGER NOT NULL, PRIMARY KEY (token, less, cluster)
) WITHOUT ROWID;  -- less: 1 - share
CREATE INDEX keys_of_clusters ON keys (token, cluster);
CREATE VIRTUAL TABLE docs USING fts5 (
    name, often, text, content = '', columnsize = 0, tokenize = "unicode61 remove_diacritics 0 tokenchars '_'"
)
"""


class Document(NamedTuple):
    """A cluster as it is written. keys: key tokens and their shares; name, often, text: words."""

    layer: int
    neuron: int
    label: int
    rank: int
    size: int
    central: int
    members: Sequence[int]
    name: str
    keys: Mapping[str, float]
    name_words: str
    often: str
    text: str


class Row(NamedTuple):
    """A cluster that was found. at: where the search goes on behind it. share: of its key tokens, 0 if not by them."""

    id: int
    layer: int
    neuron: int
    label: int
    rank: int
    size: int
    central: int
    members: tuple[int, ...]
    name: str
    found_by: FoundBy
    share: float
    at: str


class Filters(NamedTuple):
    """Which clusters count. layer: None for all. size: the least."""

    layer: int | None = None
    size: int = 2


class Counts(NamedTuple):
    """Clusters that are found: by each way, at most MAX_COUNTED, and in each layer, of the first MAX_COUNTED by each
    way, whatever layer is asked for; {} where it took too long."""

    by: dict[FoundBy, int]
    layers: dict[int, int]


class Writer:
    """Writes a file in the place of `path`, which changes only once all is written. Any thread may use it."""

    def __init__(self, path: Path, index_sha256: str, side: Side) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}-{os.getpid()}")
        self._part.unlink(missing_ok=True)
        self._db = sqlite3.connect(self._part, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(SCHEMA)
        self._db.execute(f"PRAGMA user_version = {FORMAT}")
        self._db.execute("INSERT INTO about VALUES (?, ?)", [index_sha256, side])
        self._db.execute("BEGIN")
        self._n = 0

    def add(self, documents: Iterable[Document]) -> None:
        for one in documents:
            self._n += 1
            members = np.asarray(one.members, "<i4").tobytes()
            self._db.execute(
                "INSERT INTO clusters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [self._n, *one[:6], members, one.name]
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO keys VALUES (?, ?, ?)",
                [(token, round(1 - share, 4), self._n) for token, share in one.keys.items()],
            )
            self._db.execute(
                "INSERT INTO docs (rowid, name, often, text) VALUES (?, ?, ?, ?)",
                [self._n, one.name_words, one.often, one.text],
            )

    def finish(self) -> None:
        """Put the file in its place."""
        self._db.execute("INSERT INTO docs (docs) VALUES ('optimize')")
        self._db.execute("COMMIT")
        self._db.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._part, self._path)

    def give_up(self) -> None:
        """Remove what is written."""
        self._db.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)


class SearchFile:
    """An open file; any thread may ask. Raises sqlite3.Error where it is damaged."""

    def __init__(self, path: Path) -> None:
        self._using = threading.Lock()
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)

    def close(self) -> None:
        with self._using:
            self._db.close()

    def fits(self, index_sha256: str, side: Side) -> bool:
        """Whether it is of this side of this index, and of this version."""
        with self._using:
            if self._db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                return False
            return self._db.execute("SELECT index_sha256, side FROM about").fetchall() == [(index_sha256, side)]

    def of_neuron(self, layer: int, neuron: int) -> list[Row]:
        """Return all clusters of a neuron."""
        with self._using:
            found = self._db.execute(
                f"SELECT {_COLUMNS} FROM clusters c WHERE layer = ? AND neuron = ?", [layer, neuron]
            )
            return [_row(row, "name", 0.0, "") for row in found]

    def find(
        self, query: Query, by: Sequence[FoundBy], filters: Filters, n: int, after: str = ""
    ) -> tuple[list[Row], bool]:
        """Return n clusters or fewer behind `after`, and whether the search was stopped by MAX_SECONDS.

        A cluster comes once: by its key token, the largest share first; else by its name; else by its texts, those
        first of which half have every word. Raises InvalidArgument for a cursor of something else.
        """
        stages = [*_stages(query, by)]
        begun, at = _begun([name for name, *_ in stages], after)
        found: list[Row] = []
        with self._using, self._bounded(MAX_SECONDS) as stopped:
            for name, found_by, sql, values in stages[begun:]:
                try:
                    rows = self._db.execute(*_bound(sql, values, filters, n - len(found), at, found_by))
                    for row in rows:
                        where = f"{row[-1]:.4f},{row[0]}" if found_by == "key" else f"{row[0]}"
                        share = 1 - row[-1] if found_by == "key" else 0.0
                        found.append(_row(row, found_by, share, f"{name}:{where}"))
                except sqlite3.OperationalError:
                    if not stopped():
                        raise
                at = ""
                if len(found) >= n or stopped():
                    break
            return found, stopped()

    def counts(self, query: Query, by: Sequence[FoundBy], filters: Filters) -> Counts:
        """Return how many clusters are found; no counts if it takes MAX_COUNTING_SECONDS."""
        everywhere = filters._replace(layer=None)
        with self._using, self._bounded(MAX_COUNTING_SECONDS) as stopped:
            try:
                all_ = self._counted(query, FOUND_BY, everywhere)
                here = all_ if filters.layer is None else self._counted(query, FOUND_BY, filters)
                chosen = all_ if set(by) == set(FOUND_BY) else self._counted(query, by, everywhere)
            except sqlite3.OperationalError:
                if not stopped():
                    raise
                return Counts({}, {})
        layers: Counter[int] = Counter()
        for one in chosen.values():
            layers += one
        return Counts({way: min(here[way].total(), MAX_COUNTED) for way in FOUND_BY}, dict(sorted(layers.items())))

    def _counted(self, query: Query, by: Sequence[FoundBy], filters: Filters) -> dict[FoundBy, Counter[int]]:
        """Return by each way, and layer, how many of the first MAX_COUNTED are found."""
        found: dict[FoundBy, Counter[int]] = {way: Counter() for way in FOUND_BY}
        for _, way, sql, values in _stages(query, by):
            bound, given = _bound(sql, values, filters, MAX_COUNTED, "", way)
            found[way] += Counter(
                dict(self._db.execute(f"SELECT layer, count(*) FROM ({bound}) GROUP BY layer", given))
            )
        return found

    @contextlib.contextmanager
    def _bounded(self, seconds: float) -> Iterator[Any]:
        """Stop what takes longer; yields whether it was."""
        until = time.monotonic() + seconds
        late = [False]

        def look() -> int:
            late[0] = late[0] or time.monotonic() > until
            return int(late[0])

        self._db.set_progress_handler(look, LOOK_EVERY)
        try:
            yield lambda: late[0]
        finally:
            self._db.set_progress_handler(None, 0)


_COLUMNS = "c.id, c.layer, c.neuron, c.label, c.rank, c.size, c.central, c.members, c.name"
_BY_KEY = f"SELECT {_COLUMNS}, k.less FROM keys k JOIN clusters c ON c.id = k.cluster WHERE k.token = ?"
_NOT_BY_KEY = " AND NOT EXISTS (SELECT 1 FROM keys k WHERE k.token = ? AND k.cluster = c.id)"
_BY_WORDS = f"SELECT {_COLUMNS} FROM docs JOIN clusters c ON c.id = docs.rowid WHERE docs MATCH ?"


def _begun(stages: Sequence[str], after: str) -> tuple[int, str]:
    """The stage in which a search goes on, and where in it. Raises InvalidArgument for what is no cursor of it."""
    if not after:
        return 0, ""
    stage, _, at = after.partition(":")
    wanted = r"[01]\.[0-9]{4},[0-9]{1,12}" if stage == "key" else r"[0-9]{1,12}"
    if stage not in stages or not re.fullmatch(wanted, at, re.ASCII):
        raise InvalidArgument(f"{after[:40]!r} is not the cursor of an answer to this query", "cursor")
    return stages.index(stage), at


def _stages(query: Query, by: Sequence[FoundBy]) -> Iterator[tuple[str, FoundBy, str, list[Any]]]:
    """Yield how clusters are looked for, one way after the other: its name, what it finds by, and its SQL."""
    seen, seen_values = "", []
    if query.token and "key" in by:
        seen, seen_values = _NOT_BY_KEY, [query.token]
        yield "key", "key", _BY_KEY, [query.token]
    if not query.terms:
        return
    if "name" in by:
        yield "name", "name", _BY_WORDS + seen, [_all(query, "name"), *seen_values]
    if "text" in by:
        short = all(len(term) == 1 for term in query.terms)
        before = [_all(query, "name")] if "name" in by else []
        if short:
            yield "often", "text", _BY_WORDS + seen, [_without(_all(query, "often"), before), *seen_values]
            before.append(_all(query, "often"))
        yield "text", "text", _BY_WORDS + seen, [_without(_all(query, "{name text}"), before), *seen_values]


def _without(wanted: str, others: Sequence[str]) -> str:
    return f"({wanted})" + "".join(f" NOT ({other})" for other in others)


def _all(query: Query, column: str) -> str:
    """An FTS5 expression: every term in the columns. Terms are words, which `words` makes: no quote is in any."""
    return " AND ".join(f'{column} : "{" ".join(term)}"' for term in query.terms)


def _bound(
    sql: str, values: Sequence[Any], filters: Filters, n: int, at: str, found_by: FoundBy
) -> tuple[str, list[Any]]:
    """The SQL with filters, the place where it goes on, and the number of rows."""
    given = [*values, filters.size]
    sql += " AND c.size >= ?"
    if filters.layer is not None:
        sql, given = f"{sql} AND c.layer = ?", [*given, filters.layer]
    less, _, id_ = at.rpartition(",")
    if at and found_by == "key":
        sql, given = f"{sql} AND (k.less, k.cluster) > (?, ?)", [*given, float(less), int(id_)]
    elif at:
        sql, given = f"{sql} AND docs.rowid > ?", [*given, int(id_)]
    order = "k.less, k.cluster" if found_by == "key" else "docs.rowid"
    return f"{sql} ORDER BY {order} LIMIT ?", [*given, n]


def _row(row: Sequence[Any], found_by: FoundBy, share: float, at: str) -> Row:
    members = tuple(np.frombuffer(row[7], "<i4").tolist())
    id_, layer, neuron, label, rank, size, central = row[:7]
    return Row(id_, layer, neuron, label, rank, size, central, members, row[8], found_by, share, at)


def documents_text(documents: Sequence[Document]) -> str:
    """Return documents as JSON."""
    return json.dumps([tuple(one) for one in documents], ensure_ascii=False)


def documents_of(text: str) -> list[Document]:
    """Return the documents that `documents_text` wrote."""
    return [Document(*fields) for fields in json.loads(text)]
