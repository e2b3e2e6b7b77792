"""SQLite files of the state folder: on a local disk, readable by their owner alone, on disk after each transaction.

On a network file system SQLite loses data: its locks and shared memory do not hold there.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from polysem.proto.errors import FailedPrecondition

MOUNTS = Path("/proc/self/mounts")
NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "panfs"),
        *("glusterfs", "orangefs", "pvfs2", "ocfs2", "gfs2", "davfs", "fuse.sshfs", "fuse.ceph", "fuse.ceph-fuse"),
        *("fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.goofys", "fuse.juicefs", "fuse.mount-s3"),
        *("fuse.davfs", "fuse.smbnetfs", "fuse.curlftpfs", "fuse.beegfs"),
    }
)


def check_local(folder: Path, mounts: str | None = None) -> None:
    """Raise FailedPrecondition where `folder`, which exists, lies on a network file system.

    mounts  a mount table as Linux writes it; None: this machine's. Without one, nothing is known and nothing refused.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(errors="surrogateescape") if MOUNTS.exists() else ""
    kind, where = _mounted(folder.resolve(), mounts)
    if kind in NETWORK:
        raise FailedPrecondition(
            f"the state folder {str(folder)!r} lies on a network file system ({kind} at {where}), where SQLite can "
            "lose jobs; give a folder on a local disk with --state"
        )


def opened(path: Path, prepare: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """Return a connection for any thread to the file, which is made if it is missing.

    prepare  makes its tables, or checks them

    Raises OSError, sqlite3.Error, and what `prepare` raises. A transaction waits up to 5 s for another process's.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # its WAL gets the same
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "temp_store = MEMORY", "wal_autocheckpoint = 200"):
            db.execute(f"PRAGMA {pragma}")
        prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _mounted(folder: Path, mounts: str) -> tuple[str, str]:
    """Type and place of the file system that holds the folder; of two at one place the later hides the earlier."""
    found = ("", "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        where = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        if folder.is_relative_to(where) and len(where) >= len(found[1]):
            found = (fields[2], where)
    return found


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """Write all that the block does, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have ended it
            db.execute("ROLLBACK")
        raise
