"""Names that are kept: one SQLite file (WAL) in the server's state folder, on disk when a call has been answered.

A name belongs to a set of examples of one neuron, on one side of one index, which is known by its hash. Several servers
of one state folder share the file. Where it cannot be read, all other questions are answered as if it were empty.
"""

import hashlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, PolysemError
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName, name_scores
from polysem.proto.questions.labels import LabelMethod
from polysem.proto.sides import Side
from polysem.server import database
from polysem.server.searching import words

FILE = "names.sqlite"
FORMAT = 1
MAX_VERSIONS = 100  # of one set; earlier ones are forgotten
MAX_ROWS = 2_000_000
A_PAGE = 500
SCHEMA = """
CREATE TABLE names (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    place TEXT NOT NULL,  -- index, owner and side
    layer INTEGER NOT NULL,
    neuron INTEGER NOT NULL,
    digest BLOB NOT NULL,  -- of the members
    members BLOB NOT NULL,  -- int32, ascending
    text TEXT NOT NULL,  -- '': the set has no name any more
    method TEXT NOT NULL,
    author TEXT NOT NULL,
    time INTEGER NOT NULL,
    scores TEXT NOT NULL,
    words TEXT NOT NULL,  -- of the text, to be searched
    latest INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX names_of_neurons ON names (place, layer, neuron, digest, seq);
CREATE UNIQUE INDEX names_in_force ON names (place, layer, neuron, digest) WHERE latest;
"""

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Whose names: of a side of an index. owner: the key that alone sees the index; "" of one that all may see."""

    index_sha256: str
    owner: str = ""
    side: Side = "positive"

    @property
    def text(self) -> str:
        return "/".join(self)


class KeptNames:
    """Raises FailedPrecondition where the file cannot be used. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        self._using = threading.RLock()
        self._failed = False
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            database.check_local(folder)
            self._db = database.opened(folder / FILE, _prepare)
        except (OSError, sqlite3.Error) as error:
            raise FailedPrecondition(
                f"the kept names in {str(folder)!r} cannot be used ({error}); make room on its disk, restore {FILE} "
                "from a backup, or give another folder with --state"
            ) from error

    def close(self) -> None:
        with self._using:
            self._db.close()

    def keep(self, place: Place, names: Sequence[KeptName]) -> int:
        """Keep all names, or none, each in the place of its set's before; how many were not kept like this already.

        Raises FailedPrecondition where the file is damaged or holds MAX_ROWS.
        """
        with self._change() as db:
            return sum(_keep(db, place.text, name) for name in names)

    def of(self, place: Place, neuron: NeuronId) -> Mapping[bytes, KeptName]:
        """Return the names in force of a neuron by the digests of their sets; none where the file cannot be read."""
        try:
            rows = self._rows(
                "SELECT * FROM names WHERE place = ? AND layer = ? AND neuron = ? AND latest AND text != ''",
                place.text, *neuron,
            )  # fmt: skip
        except sqlite3.Error as error:
            if not self._failed:
                log.error("%s cannot be read: %s; clusters have the names that rules make", FILE, error)
            self._failed = True
            return {}
        self._failed = False
        return {row["digest"]: _name(row, place.side) for row in rows}

    def found(self, place: Place, terms: Sequence[tuple[str, ...]], n: int) -> list[KeptName]:
        """Return n names or fewer that have all terms; none where the file cannot be read."""
        has = " AND instr(words, ?)" * len(terms)
        phrases = [f" {' '.join(term)} " for term in terms]
        try:
            rows = self._rows(
                f"SELECT * FROM names WHERE place = ? {_IN_FORCE}{has} ORDER BY layer, neuron, digest LIMIT ?",
                place.text, *phrases, n,
            )  # fmt: skip
        except sqlite3.Error:
            return []
        return [_name(row, place.side) for row in rows]

    def listed(self, place: Place, neurons: Array, history: bool = False) -> Iterator[list[KeptName]]:
        """Yield the names of neurons (B, 2), by neuron and set, A_PAGE at a time; history: earlier ones, too."""
        for layer, first, last in _runs(neurons):
            at: tuple[Any, ...] = (first, b"", 0)
            while True:
                with self._told():
                    rows = self._rows(
                        "SELECT * FROM names WHERE place = ? AND layer = ? AND (neuron, digest, seq) > (?, ?, ?) "
                        f"AND neuron <= ? {'' if history else _IN_FORCE} ORDER BY neuron, digest, seq LIMIT {A_PAGE}",
                        place.text, layer, *at, last,
                    )  # fmt: skip
                if not rows:
                    break
                yield [_name(row, place.side) for row in rows]
                at = rows[-1]["neuron"], rows[-1]["digest"], rows[-1]["seq"]

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._using:
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._using, self._told(), database.writing(self._db):
            yield self._db

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raises FailedPrecondition for a damaged file; other errors go on."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # its subclasses are of the disk, locks and our SQL
                raise
            raise FailedPrecondition(
                f"the kept names are damaged ({error}); whoever runs the server can restore {FILE} from a backup"
            ) from error


_IN_FORCE = "AND latest AND text != ''"


def open_names(folder: Path) -> KeptNames | str:
    """Return the names kept in the folder, or why none are kept there, which is logged."""
    try:
        return KeptNames(folder)
    except PolysemError as error:
        reason = f"this server keeps no names: {error.message}"
        log.warning(reason)
        return reason


def digest(members: Array) -> bytes:
    """Return what stands for a set of examples, given their numbers (n,) in ascending order."""
    return hashlib.sha256(np.asarray(members, "<i4").tobytes()).digest()


def _prepare(db: sqlite3.Connection) -> None:
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, FORMAT):
        raise FailedPrecondition(
            f"the kept names have format {found}, this version reads {FORMAT}; use the version that made them, or "
            "another --state"
        )
    if found == 0:
        db.execute("BEGIN IMMEDIATE")  # of two servers that start together, one makes the tables
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in filter(str.strip, SCHEMA.split(";\n")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")


def _keep(db: sqlite3.Connection, place: str, name: KeptName) -> bool:
    members = np.asarray(name.members, "<i4")
    key = (place, *name.neuron, digest(members))
    same = "place = ? AND layer = ? AND neuron = ? AND digest = ?"
    before = db.execute(f"SELECT text, method, scores FROM names WHERE {same} AND latest", key).fetchone()
    scores = "" if name.scores is None else ",".join("" if s is None else repr(s) for s in name.scores)
    if (name.text, name.method, scores) == (tuple(before) if before else ("", name.method, "")):
        return False
    if before and not name.text and not before["text"]:
        return False
    _check_room(db)
    db.execute(f"UPDATE names SET latest = 0 WHERE {same} AND latest", key)
    when = int(time.time()) if name.time is None else int(name.time.timestamp())
    values = (*key, members.tobytes(), name.text, name.method, name.author, when, scores, words.line(name.text))
    db.execute(
        "INSERT INTO names (place, layer, neuron, digest, members, text, method, author, time, scores, words) "
        f"VALUES ({', '.join('?' * len(values))})",
        values,
    )
    db.execute(
        f"DELETE FROM names WHERE {same} AND seq <= (SELECT seq FROM names WHERE {same} "
        f"ORDER BY seq DESC LIMIT 1 OFFSET {MAX_VERSIONS})",
        key * 2,
    )
    return True


def _check_room(db: sqlite3.Connection) -> None:
    """Raise FailedPrecondition where MAX_ROWS are kept; they are counted only where that may be."""
    span = db.execute("SELECT (SELECT max(seq) FROM names) - (SELECT min(seq) FROM names)").fetchone()[0] or 0
    if span >= MAX_ROWS and (n := db.execute("SELECT count(*) FROM names").fetchone()[0]) >= MAX_ROWS:
        raise FailedPrecondition(f"the server keeps {n:,} names, earlier ones among them, and has room for no more")


def _name(row: sqlite3.Row, side: Side) -> KeptName:
    method: LabelMethod = row["method"]
    scores = [float(score) if score else math.nan for score in row["scores"].split(",")] if row["scores"] else ()
    return KeptName(
        NeuronId(row["layer"], row["neuron"]),
        tuple(np.frombuffer(row["members"], "<i4").tolist()),
        row["text"],
        method,
        row["author"],
        datetime.fromtimestamp(row["time"], UTC),
        side,
        name_scores(scores),
    )


def _runs(neurons: Array) -> Iterator[tuple[int, int, int]]:
    """Yield layer, first and last of the consecutive neurons among (B, 2), ascending."""
    keys = np.unique(neurons[:, 0].astype(np.int64) << 32 | neurons[:, 1])
    for run in np.split(keys, np.flatnonzero(np.diff(keys) > 1) + 1) if len(keys) else ():
        yield int(run[0] >> 32), int(run[0] & 0xFFFFFFFF), int(run[-1] & 0xFFFFFFFF)
