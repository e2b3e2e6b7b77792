"""What the server remembers of jobs and uploads: one SQLite file (WAL) in its state folder.

state/jobs.sqlite     jobs and uploaded corpora
state/corpora/NAME    uploads; `.upload-…` is one under way
state/jobs/ID/        what a job made, finished shards of an unfinished one among it
state/lock            held by the one server that works here
state/spare           room set aside, so that a full disk can be cleared (room.py)

Every method is one transaction, on disk when it returns, and may be called from any thread.
"""

import fcntl
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
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
from polysem.server.jobs.local_disk import check_local
from polysem.server.jobs.room import Room

FORMAT = 2  # 1 had no owners
MAX_UPLOADS = 1000
MAX_REMEMBERED = 10_000  # jobs without a result; the oldest are forgotten beyond
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    request_id TEXT UNIQUE,  -- owner/what the caller named
    asked BLOB NOT NULL,
    spec BLOB NOT NULL,  -- with the server's defaults filled in
    index_name TEXT,  -- of an index job
    corpus TEXT,
    batch_tokens INTEGER NOT NULL,  -- stored floats depend on it, so a job keeps its own
    state TEXT NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0,
    cleared INTEGER NOT NULL DEFAULT 0,  -- its files are gone
    forget INTEGER NOT NULL DEFAULT 0,  -- once they are
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    expires REAL,
    error TEXT NOT NULL DEFAULT '',
    result TEXT NOT NULL DEFAULT '',  -- its path in the job's folder
    result_bytes INTEGER NOT NULL DEFAULT 0,
    result_sha256 TEXT NOT NULL DEFAULT '',
    disk_bytes INTEGER NOT NULL DEFAULT 0,
    owner TEXT NOT NULL DEFAULT ''  -- id of the key that made it; '': made while the server was open, so everybody's
);
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state);
CREATE UNIQUE INDEX IF NOT EXISTS index_names ON jobs (index_name) WHERE state IN ('queued', 'running', 'done');
CREATE TABLE IF NOT EXISTS corpora (
    name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, expires REAL NOT NULL
);
"""


class StoreLimits(NamedTuple):
    """n_jobs: unfinished ones. result_bytes and upload_bytes: all together. lifetime_s: of results and uploads.
    free_bytes: of the disk, that jobs and uploads leave."""

    n_jobs: int
    result_bytes: int
    upload_bytes: int
    lifetime_s: float
    free_bytes: int = 0


class Task(NamedTuple):
    """A job to be run."""

    id: str
    spec: JobSpec
    batch_tokens: int
    owner: str


class JobStore:
    """Raises FailedPrecondition where the folder cannot be written, lies on a network, or is another server's.

    `key` is the caller's, which sees its own jobs and those of no key; "", on an open server, sees all.
    """

    def __init__(self, folder: Path, limits: StoreLimits) -> None:
        self.folder, self.limits = folder, limits
        self.changes = 0  # grows with every change, so that watchers need not ask the database
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_local(folder)
            for name in ("corpora", "jobs"):
                (folder / name).mkdir(exist_ok=True)
            self._held = (folder / "lock").open("wb")
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
        self._db = sqlite3.connect(folder / "jobs.sqlite", isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            for pragma in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "temp_store = MEMORY",
                "wal_autocheckpoint = 200",
            ):
                self._db.execute(f"PRAGMA {pragma}")
            self._create()
        except sqlite3.Error as error:
            self.close()
            raise FailedPrecondition(
                f"the jobs in {str(folder)!r} cannot be read ({error}); make room on its disk, restore jobs.sqlite "
                "from a backup, or give another folder with --state"
            ) from error
        self.room.set_aside()

    def _create(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found == FORMAT:
            return
        if found == 1:
            self._db.executescript(
                "BEGIN; ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';"
                "UPDATE jobs SET request_id = '/' || request_id; COMMIT;"
            )
        elif found:
            self.close()
            raise FailedPrecondition(
                f"the jobs in {str(self.folder)!r} have format {found}, this version reads {FORMAT}; "
                "use the version that made them, or another --state"
            )
        self._db.executescript(SCHEMA + f"PRAGMA user_version = {FORMAT};")

    def close(self) -> None:
        self._db.close()
        self._held.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes."""
        with self._using:
            self.room.give_up()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it
                    self._db.execute("ROLLBACK")
                raise
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

    def create(self, asked: JobSpec, spec: JobSpec, request_id: str, batch_tokens: int, key: str = "") -> Job:
        """Queue a job, or find the one that this request made before.

        Raises Overloaded where there is no room, InvalidArgument where the request id or the index's name is taken.
        """
        with self._change() as db:
            if (job := self.made(request_id, asked, key)) is not None:
                return job
            self._check_room(db)
            id_ = secrets.token_hex(8)
            values = {
                "id": id_,
                "request_id": f"{key}/{request_id}" if request_id else None,
                "asked": spec_bytes(asked),
                "spec": spec_bytes(spec),
                "index_name": spec.name if isinstance(spec, IndexSpec) else None,
                "corpus": spec.corpus if isinstance(spec, IndexSpec) else None,
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

    def _check_room(self, db: sqlite3.Connection) -> None:
        unfinished = db.execute("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')").fetchone()[0]
        if unfinished >= self.limits.n_jobs:
            raise Overloaded(f"{unfinished} jobs are waiting already; try again in a minute, or cancel one", 60.0)
        self.check_result_room()
        self.room.check()

    def check_result_room(self, working_bytes: int = 0) -> None:
        """Raise Overloaded where results, and what the job at work has written, leave no room for more."""
        row = self._rows(
            "SELECT coalesce(sum(disk_bytes), 0) AS n, min(expires) AS next FROM jobs WHERE state = 'done'"
        )[0]
        if row["n"] + working_bytes >= self.limits.result_bytes:
            own = f", and what this one has written {working_bytes / 1e6:,.0f} MB" if working_bytes else ""
            raise Overloaded(
                f"the results of earlier jobs take {row['n'] / 1e6:,.0f} MB of {self.limits.result_bytes / 1e6:,.0f}"
                f"{own}; delete one with `polysem jobs delete`, or wait until one expires",
                _until(row["next"]),
            )

    def get(self, id_: str, key: str = "") -> Job:
        """Raises NotFound, also for another key's."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ? AND NOT forget", id_)
        if not rows or not _may(rows[0], key):
            yours = " of your key" if key else ""
            raise NotFound(f"there is no job {id_!r}{yours}; `polysem jobs list` shows those there are")
        return self._job(rows[0])

    def page(self, size: int, token: str, key: str = "") -> tuple[list[Job], str]:
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
            before, key, key, size + 1,
        )  # fmt: skip
        return [self._job(row) for row in rows[:size]], str(rows[size - 1]["seq"]) if len(rows) > size else ""

    def cancel(self, id_: str, key: str = "") -> Job:
        """A queued job is cancelled at once; a running one when its runner sees it. Raises NotFound."""
        self.get(id_, key)
        with self._change() as db:
            db.execute("UPDATE jobs SET cancel = 1 WHERE id = ?", [id_])
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
                [time.time(), id_],
            )
            return self.get(id_)

    def delete(self, id_: str, key: str = "") -> None:
        """Forget a finished job. Raises NotFound, and FailedPrecondition where it has not finished."""
        with self._change() as db:
            if not self.get(id_, key).finished:
                raise FailedPrecondition(f"job {id_} has not finished; cancel it first")
            db.execute("UPDATE jobs SET state = 'expired' WHERE id = ? AND state = 'done'", [id_])
            db.execute("UPDATE jobs SET forget = 1, request_id = NULL WHERE id = ?", [id_])

    def _job(self, row: sqlite3.Row) -> Job:
        ahead = 0
        if row["state"] == "queued":
            ahead = self._rows(
                "SELECT count(*) AS n FROM jobs WHERE seq < ? AND state IN ('queued', 'running')", row["seq"]
            )[0]["n"]
        return Job(
            id=row["id"],
            spec=spec_from_bytes(row["spec"]),
            state=row["state"],
            created_at=_datetime(row["created"]),
            started_at=_datetime(row["started"]),
            finished_at=_datetime(row["finished"]),
            expires_at=_datetime(row["expires"]),
            n_ahead=ahead,
            error=row["error"],
            result_bytes=row["result_bytes"],
            result_sha256=row["result_sha256"],
        )

    def result(self, id_: str, key: str = "") -> Path:
        """The file of a finished job. Raises NotFound, and FailedPrecondition where it has no result (yet)."""
        job = self.get(id_, key)
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
        """The job to be run now, which is from here on running: one that a stop interrupted, else the oldest queued."""
        rows = self._rows("SELECT * FROM jobs WHERE state IN ('running', 'queued') ORDER BY state DESC, seq LIMIT 1")
        if not rows:
            return None
        row = rows[0]
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = 'running', started = coalesce(started, ?) WHERE id = ? AND state = 'queued'",
                [time.time(), row["id"]],
            )
        return Task(row["id"], spec_from_bytes(row["spec"]), row["batch_tokens"], row["owner"])

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

    def indexes(self) -> list[Path]:
        """Folders of the indexes that jobs have made."""
        rows = self._rows(
            "SELECT id, index_name FROM jobs WHERE state = 'done' AND index_name IS NOT NULL ORDER BY seq"
        )
        return [self.job_folder(row["id"]) / row["index_name"] for row in rows]

    def job_folder(self, id_: str) -> Path:
        """Where the job's files are. Ids come from here, never from a caller unseen: `get` first."""
        return self.folder / "jobs" / id_

    def disk_bytes(self, id_: str) -> int:
        """Of the job's files."""
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
        return [_corpus(row) for row in self._rows("SELECT * FROM corpora ORDER BY name")]

    def corpus(self, name: str) -> CorpusInfo | None:
        rows = self._rows("SELECT * FROM corpora WHERE name = ?", name)
        return _corpus(rows[0]) if rows else None

    def add_corpus(self, name: str, n_bytes: int, sha256: str) -> CorpusInfo:
        expires = time.time() + self.limits.lifetime_s
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO corpora VALUES (?, ?, ?, ?)", [name, n_bytes, sha256, expires])
        return CorpusInfo(name, n_bytes, sha256, _datetime(expires))

    def check_corpus_unused(self, name: str) -> None:
        """Raise FailedPrecondition where an unfinished job needs it."""
        rows = self._rows("SELECT id FROM jobs WHERE corpus = ? AND state IN ('queued', 'running')", name)
        if rows:
            raise FailedPrecondition(
                f"job {rows[0]['id']} needs the corpus {name!r}; cancel it first, or let it finish"
            )

    def forget_corpus(self, name: str) -> None:
        with self._change() as db:
            db.execute("DELETE FROM corpora WHERE name = ?", [name])

    def corpora_out_of_time(self) -> Sequence[str]:
        """Names of uploads to be removed; none that an unfinished job needs."""
        rows = self._rows(
            "SELECT name FROM corpora WHERE expires <= ? AND name NOT IN "
            "(SELECT corpus FROM jobs WHERE corpus IS NOT NULL AND state IN ('queued', 'running'))",
            time.time(),
        )
        return [row["name"] for row in rows]


def _may(job: sqlite3.Row, key: str) -> bool:
    return not key or job["owner"] in (key, "")


def _corpus(row: sqlite3.Row) -> CorpusInfo:
    return CorpusInfo(row["name"], row["bytes"], row["sha256"], _datetime(row["expires"]))


def _datetime(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _until(when: float | None) -> float:
    """Seconds until then, for a caller to wait: one minute to one hour."""
    return min(max((when or 0) - time.time(), 60.0), 3600.0)
