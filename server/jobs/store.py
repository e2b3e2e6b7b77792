"""Memory of jobs and uploads: one SQLite file (WAL) in the server's state folder.

state/jobs.sqlite     jobs and uploaded corpora
state/corpora/        uploads: KEY/NAME, NAME of no key's; `.upload-…` is one under way
state/jobs/ID/        what a job made, finished shards of an unfinished one among it
state/lock            held by the one server that works here
state/spare           room set aside, so that a full disk can be cleared (room.py)

Every method is one transaction, on disk when it returns, and may be called from any thread.
"""

import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, Overloaded
from polysem.proto.jobs import (
    MAX_JOBS_PER_PAGE,
    MAX_NAME_CHARACTERS,
    CorpusInfo,
    IndexSpec,
    Job,
    JobSpec,
    JobState,
    spec_bytes,
    spec_from_bytes,
)
from polysem.server import database
from polysem.server.database import check_local
from polysem.server.jobs.room import Room
from polysem.server.jobs.schema import prepare
from polysem.server.jobs.tenants import in_turn, may_see, owner_and_name

MAX_UPLOADS = 1000
PAGE_BYTES = 1 << 19  # of a page of jobs, half of what a message holds
JOB_BYTES = 1000  # of a job beside its spec and its error
MAX_REMEMBERED = 10_000  # jobs without a result; the oldest are forgotten beyond


class StoreLimits(NamedTuple):
    """n_jobs: unfinished ones. result_bytes and upload_bytes: all together. lifetime_s: of results and uploads.
    free_bytes: of the disk, that jobs and uploads leave. key_share: of the first three, that one key may have."""

    n_jobs: int
    result_bytes: int
    upload_bytes: int
    lifetime_s: float
    free_bytes: int = 0
    key_share: float = 1.0


class Task(NamedTuple):
    """A job to be run. corpus: its `reference`."""

    id: str
    spec: JobSpec
    batch_tokens: int
    owner: str
    corpus: str


class JobStore:
    """Raises FailedPrecondition where the folder cannot be written, lies on a network, or is another server's.

    `scope` is a key, which sees its own jobs and those of no key; "", an administrator or an open server, sees all.
    """

    def __init__(self, folder: Path, limits: StoreLimits) -> None:
        self.folder, self.limits = folder, limits
        self.changes = 0  # grows with every change, so that watchers need not ask the database
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_local(folder)
            for name in ("corpora", "jobs"):
                (folder / name).mkdir(exist_ok=True, mode=0o700)
            self._held = os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "wb")
        except OSError as error:
            raise FailedPrecondition(
                f"the state folder {str(folder)!r} cannot be used ({error.strerror}); give another with --state"
            ) from error
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._held.close()
            raise FailedPrecondition(
                f"another server keeps its jobs in {str(folder)!r}; give this one a folder of its own with --state"
            ) from error
        self.room = Room(folder, limits.free_bytes)
        self.room.give_up()
        self._using = threading.RLock()
        try:
            self._db = database.opened(folder / "jobs.sqlite", lambda db: prepare(db, folder))
        except FailedPrecondition:
            self._held.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self._held.close()
            raise FailedPrecondition(
                f"the jobs in {str(folder)!r} cannot be read ({error}); make room on its disk, restore jobs.sqlite "
                "from a backup, or give another folder with --state"
            ) from error
        self.room.set_aside()

    def close(self) -> None:
        self._db.close()
        self._held.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes."""
        with self._using:
            self.room.give_up()
            with database.writing(self._db):
                yield self._db
            self.changes += 1
            self.room.set_aside()

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._using:
            return self._db.execute(sql, values).fetchall()

    def counts(self) -> dict[str, float]:
        """Jobs by state; none once it is closed."""
        try:
            return {
                row["state"]: row["n"] for row in self._rows("SELECT state, count(*) AS n FROM jobs GROUP BY state")
            }
        except sqlite3.ProgrammingError:
            return {}

    # ---- Jobs, as callers see them

    def made(self, request_id: str, asked: JobSpec, key: str = "") -> Job | None:
        """The job that this request made before. Raises InvalidArgument where it made another."""
        if len(request_id) > MAX_NAME_CHARACTERS:
            raise InvalidArgument(
                f"request_id has {len(request_id)} characters; give at most {MAX_NAME_CHARACTERS}", "request_id"
            )
        rows = self._rows("SELECT id, asked FROM jobs WHERE request_id = ?", f"{key}/{request_id}")
        if not rows:
            return None
        if rows[0]["asked"] != spec_bytes(asked):
            raise InvalidArgument(
                f"the request id {request_id!r} made another job, {rows[0]['id']}; take a new one", "request_id"
            )
        return self.get(rows[0]["id"])

    def create(
        self, asked: JobSpec, spec: JobSpec, request_id: str, batch_tokens: int, key: str = "", corpus: str = ""
    ) -> Job:
        """Queue a job, or find the one that this request made before. corpus: its `reference`.

        Raises Overloaded where there is no room, InvalidArgument where the request id or the index's name is taken.
        """
        with self._change() as db:
            if (job := self.made(request_id, asked, key)) is not None:
                return job
            self._check_room(db, key)
            id_ = secrets.token_hex(8)
            values = {
                "id": id_,
                "request_id": f"{key}/{request_id}" if request_id else None,
                "asked": spec_bytes(asked),
                "spec": spec_bytes(spec),
                "index_name": spec.name if isinstance(spec, IndexSpec) else None,
                "corpus": corpus or None,
                "batch_tokens": batch_tokens,
                "state": "queued",
                "created": time.time(),
                "owner": key,
            }
            try:
                db.execute(
                    f"INSERT INTO jobs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
                    [*values.values()],
                )
            except sqlite3.IntegrityError as error:
                raise InvalidArgument(
                    f"a job has made the index {values['index_name']!r}, or is making it; take another name", "name"
                ) from error
            return self.get(id_)

    def _check_room(self, db: sqlite3.Connection, key: str) -> None:
        unfinished = Counter(
            row["owner"] for row in db.execute("SELECT owner FROM jobs WHERE state IN ('queued', 'running')")
        )
        for n, most, whose in (
            (unfinished[key], max(int(self.limits.n_jobs * self.limits.key_share), 1), " of your key"),
            (unfinished.total(), self.limits.n_jobs, ""),
        ):
            if n >= most and (key or not whose):
                raise Overloaded(f"{n} jobs{whose} are waiting already; try again in a minute, or cancel one", 60.0)
        self.check_result_room(key)
        self.room.check()

    def check_result_room(self, key: str = "", working_bytes: int = 0) -> None:
        """Raise Overloaded where results, and what the key's job at work has written, leave no room for more."""
        rows = self._rows("SELECT owner, disk_bytes, expires FROM jobs WHERE state = 'done'")
        own = f", and what this one has written {working_bytes / 1e6:,.0f} MB" if working_bytes else ""
        shares = (("your key's earlier", key, self.limits.key_share), ("earlier", None, 1.0))
        for whose, owner, share in shares[not key :]:
            kept = [row for row in rows if owner in (None, row["owner"])]
            n, most = sum(row["disk_bytes"] for row in kept), self.limits.result_bytes * share
            if n + working_bytes >= most:
                raise Overloaded(
                    f"the results of {whose} jobs take {n / 1e6:,.0f} MB of {most / 1e6:,.0f}{own}; "
                    "delete one with `polysem jobs delete`, or wait until one expires",
                    _until(min((row["expires"] for row in kept), default=None)),
                )

    def get(self, id_: str, scope: str = "") -> Job:
        """Raises NotFound, also for another key's."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ? AND NOT forget", id_)
        if not rows or not may_see(rows[0]["owner"], False, scope):
            yours = " of your key" if scope else ""
            raise NotFound(f"there is no job {id_!r}{yours}; `polysem jobs list` shows those there are")
        return self._job(rows[0], self._ahead(rows))

    def page(self, size: int, token: str, scope: str = "") -> tuple[list[Job], str]:
        """Jobs, latest first, and the next page's token, "" on the last. Raises InvalidArgument for a bad token."""
        size = min(size or 100, MAX_JOBS_PER_PAGE)
        if token and not (token.isdecimal() and token.isascii() and len(token) < 19):
            raise InvalidArgument(
                f"{token!r} is not a page token: give the one that the page before came with", "page_token"
            )
        before = int(token) if token else 1 << 62
        rows = self._rows(
            "SELECT * FROM jobs WHERE seq < ? AND NOT forget AND (? = '' OR owner IN (?, '')) "
            "ORDER BY seq DESC LIMIT ?",
            before, scope, scope, size + 1,
        )  # fmt: skip
        shown = _fitting(rows[:size])
        ahead = self._ahead(shown)
        return [self._job(row, ahead) for row in shown], str(shown[-1]["seq"]) if len(rows) > len(shown) else ""

    def _ahead(self, rows: Sequence[sqlite3.Row]) -> Mapping[str, int]:
        """Count the jobs that run before each queued one, by id; looked up only if there is one among the rows."""
        if not any(row["state"] == "queued" for row in rows):
            return {}
        running = self._rows("SELECT 1 FROM jobs WHERE state = 'running'")
        return {id_: i for i, id_ in enumerate(self._queue(), len(running))}

    def _queue(self) -> list[str]:
        queued = self._rows("SELECT id, owner FROM jobs WHERE state = 'queued' ORDER BY seq")
        turns = {row["owner"]: row["began"] for row in self._rows("SELECT * FROM turns")}
        return in_turn([(row["id"], row["owner"]) for row in queued], turns)

    def cancel(self, id_: str, scope: str = "") -> Job:
        """A queued job is cancelled at once; a running one when its runner sees it. Raises NotFound."""
        self.get(id_, scope)
        with self._change() as db:
            db.execute("UPDATE jobs SET cancel = 1 WHERE id = ?", [id_])
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
                [time.time(), id_],
            )
            return self.get(id_)

    def delete(self, id_: str, scope: str = "") -> None:
        """Forget a finished job. Raises NotFound, and FailedPrecondition where it has not finished."""
        with self._change() as db:
            if not self.get(id_, scope).finished:
                raise FailedPrecondition(f"job {id_} has not finished; cancel it first")
            db.execute("UPDATE jobs SET state = 'expired' WHERE id = ? AND state = 'done'", [id_])
            db.execute("UPDATE jobs SET forget = 1, request_id = NULL WHERE id = ?", [id_])

    def _job(self, row: sqlite3.Row, ahead: Mapping[str, int]) -> Job:
        return Job(
            id=row["id"],
            spec=spec_from_bytes(row["spec"]),
            state=row["state"],
            created_at=_datetime(row["created"]),
            started_at=_datetime(row["started"]),
            finished_at=_datetime(row["finished"]),
            expires_at=_datetime(row["expires"]),
            n_ahead=ahead.get(row["id"], 0),
            error=row["error"],
            result_bytes=row["result_bytes"],
            result_sha256=row["result_sha256"],
            owner=row["owner"],
        )

    def result(self, id_: str, scope: str = "") -> Path:
        """The file of a finished job. Raises NotFound, and FailedPrecondition where it has no result (yet)."""
        job = self.get(id_, scope)
        if job.state == "expired":
            raise NotFound(
                f"the result of job {id_} was kept until {job.expires_at:%Y-%m-%d %H:%M} UTC; submit it again"
            )
        if job.state != "done":
            raise FailedPrecondition(
                f"job {id_} has no result: it is {job.state}{f' ({job.error})' if job.error else ''}"
            )
        row = self._rows("SELECT result FROM jobs WHERE id = ?", id_)[0]
        path = self.job_folder(id_) / str(row["result"])
        if not path.exists():
            raise NotFound(f"the result of job {id_} is no longer there; submit it again")
        return path

    # ---- Jobs, as their runner sees them

    def next(self) -> Task | None:
        """The job to be run now, which is from here on running: one that a stop interrupted, else whose turn it is."""
        with self._using:
            ids = [row["id"] for row in self._rows("SELECT id FROM jobs WHERE state = 'running'")] or self._queue()
            if not ids:
                return None
            row = self._rows("SELECT * FROM jobs WHERE id = ?", ids[0])[0]
            if row["state"] == "queued":
                now = time.time()
                with self._change() as db:
                    db.execute("UPDATE jobs SET state = 'running', started = ? WHERE id = ?", [now, row["id"]])
                    db.execute("INSERT OR REPLACE INTO turns VALUES (?, ?)", [row["owner"], now])
        spec = spec_from_bytes(row["spec"])
        return Task(row["id"], spec, row["batch_tokens"], row["owner"], row["corpus"] or "")

    def is_cancelled(self, id_: str) -> bool:
        return bool(self._rows("SELECT cancel FROM jobs WHERE id = ?", id_)[0]["cancel"])

    def finish(self, id_: str, state: JobState, error: str = "") -> None:
        """The job has ended without a result."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, finished = ?, error = ? WHERE id = ?", [state, time.time(), error, id_]
            )

    def finish_done(self, id_: str, result: Path, sha256: str) -> None:
        """The job's result is there, a file in its folder."""
        now, folder = time.time(), self.job_folder(id_)
        values = {
            "state": "done",
            "finished": now,
            "expires": now + self.limits.lifetime_s,
            "result": result.relative_to(folder).as_posix(),
            "result_bytes": result.stat().st_size,
            "result_sha256": sha256,
            "disk_bytes": self.disk_bytes(id_),
        }
        with self._change() as db:
            sets = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE jobs SET {sets} WHERE id = ?", [*values.values(), id_])

    def indexes(self) -> list[tuple[Path, str, bool]]:
        """Folders of the indexes that jobs have made, the keys that own them, and whether they are shared."""
        rows = self._rows(
            "SELECT id, index_name, owner, spec FROM jobs WHERE state = 'done' AND index_name IS NOT NULL ORDER BY seq"
        )
        return [
            (
                self.job_folder(row["id"]) / row["index_name"],
                row["owner"],
                bool(getattr(spec_from_bytes(row["spec"]), "shared", False)),
            )
            for row in rows
        ]

    def job_folder(self, id_: str) -> Path:
        """Return where the job's files are. Ids come from here, never from a caller unseen: `get` first."""
        return self.folder / "jobs" / id_

    def disk_bytes(self, id_: str) -> int:
        """Return the size of the job's files."""
        n_bytes = 0
        for path in self.job_folder(id_).rglob("*"):
            with suppress(FileNotFoundError):  # renamed meanwhile
                n_bytes += path.stat().st_size if path.is_file() else 0
        return n_bytes

    def uncleared(self) -> list[str]:
        """Ids of ended jobs whose files are to be removed; those out of time end here."""
        now = time.time()
        if self._rows("SELECT 1 FROM jobs WHERE state = 'done' AND expires <= ? LIMIT 1", now):
            with self._change() as db:
                db.execute("UPDATE jobs SET state = 'expired' WHERE state = 'done' AND expires <= ?", [now])
        rows = self._rows("SELECT id FROM jobs WHERE state IN ('failed', 'cancelled', 'expired') AND NOT cleared")
        return [row["id"] for row in rows]

    def clear(self, id_: str) -> None:
        """Its files are gone."""
        with self._change() as db:
            db.execute("UPDATE jobs SET cleared = 1 WHERE id = ?", [id_])
            db.execute("DELETE FROM jobs WHERE cleared AND forget")
            db.execute(
                "DELETE FROM jobs WHERE cleared AND seq NOT IN (SELECT seq FROM jobs ORDER BY seq DESC LIMIT ?)",
                [MAX_REMEMBERED],
            )

    # ---- Uploads

    def corpora(self) -> list[CorpusInfo]:
        """Uploads, by name."""
        return sorted(map(_corpus, self._rows("SELECT * FROM corpora")), key=lambda corpus: (corpus.name, corpus.owner))

    def add_corpus(self, reference: str, n_bytes: int, sha256: str, shared: bool) -> CorpusInfo:
        row = (reference, n_bytes, sha256, time.time() + self.limits.lifetime_s, shared)
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO corpora VALUES (?, ?, ?, ?, ?)", row)
        return _corpus(self._rows("SELECT * FROM corpora WHERE name = ?", reference)[0])

    def check_corpus_unused(self, reference: str) -> None:
        """Raise FailedPrecondition where an unfinished job needs it."""
        rows = self._rows("SELECT id FROM jobs WHERE corpus = ? AND state IN ('queued', 'running')", reference)
        if rows:
            _, name = owner_and_name(reference)
            raise FailedPrecondition(
                f"job {rows[0]['id']} needs the corpus {name!r}; cancel it first, or let it finish"
            )

    def forget_corpus(self, reference: str) -> None:
        with self._change() as db:
            db.execute("DELETE FROM corpora WHERE name = ?", [reference])

    def corpora_out_of_time(self) -> Sequence[str]:
        """References of uploads to be removed; none that an unfinished job needs."""
        rows = self._rows(
            "SELECT name FROM corpora WHERE expires <= ? AND name NOT IN "
            "(SELECT corpus FROM jobs WHERE corpus IS NOT NULL AND state IN ('queued', 'running'))",
            time.time(),
        )
        return [row["name"] for row in rows]


def _fitting(rows: Sequence[sqlite3.Row]) -> Sequence[sqlite3.Row]:
    """The first of the jobs, as many as one message holds."""
    n_bytes = 0
    for n, row in enumerate(rows):
        n_bytes += len(row["spec"]) + len(row["error"]) + JOB_BYTES
        if n and n_bytes > PAGE_BYTES:
            return rows[:n]
    return rows


def _corpus(row: sqlite3.Row) -> CorpusInfo:
    owner, name = owner_and_name(row["name"])
    return CorpusInfo(name, row["bytes"], row["sha256"], _datetime(row["expires"]), owner, bool(row["shared"]))


def _datetime(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _until(when: float | None) -> float:
    """Seconds until then, for a caller to wait: one minute to one hour."""
    return min(max((when or 0) - time.time(), 60.0), 3600.0)
