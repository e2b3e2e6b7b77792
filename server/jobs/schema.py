"""The tables in which jobs and uploads are remembered, and how those of earlier versions become them."""

import sqlite3
from pathlib import Path

from polysem.proto.errors import FailedPrecondition

FORMAT = 3  # 1 had no owners, 2 none of uploads and indexes
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
CREATE UNIQUE INDEX IF NOT EXISTS names ON jobs (index_name, owner) WHERE state IN ('queued', 'running', 'done');
CREATE TABLE IF NOT EXISTS corpora (
    name TEXT PRIMARY KEY,  -- OWNER/NAME; NAME of no key's
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    expires REAL NOT NULL,
    shared INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS turns (owner TEXT PRIMARY KEY, began REAL NOT NULL);  -- of each owner's last job
"""


def prepare(db: sqlite3.Connection, folder: Path) -> None:
    """Make the tables, or bring them to this version's format. Raises FailedPrecondition for another version's."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == FORMAT:
        return
    if found not in (0, 1, 2):
        raise FailedPrecondition(
            f"the jobs in {str(folder)!r} have format {found}, this version reads {FORMAT}; "
            "use the version that made them, or another --state"
        )
    if found == 1:
        db.executescript(
            "BEGIN; ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';"
            "UPDATE jobs SET request_id = '/' || request_id; PRAGMA user_version = 2; COMMIT;"
        )
    if found in (1, 2):
        db.executescript(
            "BEGIN; ALTER TABLE corpora ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;"
            f"DROP INDEX index_names; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"
        )
        return
    db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
