"""The audit log: a JSON line a call, in files that keep themselves small.

audit.jsonl                  today's lines; another program, such as logrotate, may move it away
audit-20261129T101500.jsonl  what came before: a file is closed at midnight UTC, or when it has an eighth of all room

The oldest files go first, once all together are too large or one is too old. Refusals of callers without a key are
counted, a line an address and minute, for anybody could write a line each.
"""

import asyncio
import errno
import logging
import os
import time
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path

from polysem.server.serving.books import Books

FILES = 8  # at least, that share the room
MAX_WAITING = 10_000  # lines that are kept where they cannot be written
MAX_ADDRESSES = 1000  # of refusals in a minute; the rest is counted together
COUNTED_S = 60.0

audit = logging.getLogger("polysem.audit")


class AuditFile(logging.Handler):
    """Appends lines to `path`. What cannot be written waits for the next line; the oldest of too many are lost.

    max_bytes  of all files together
    max_days   after which a file is removed
    """

    def __init__(self, path: Path, books: Books, max_bytes: int, max_days: float) -> None:
        super().__init__()
        self._path, self._books = path, books
        self._max_bytes, self._max_days = max_bytes, max_days
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)

    def open(self) -> None:
        """Make the file where it is missing. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(self._opened())

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(self.format(record).encode() + b"\n")
        self._books.attempt(self._path.name, self._write)

    def _write(self) -> None:
        self._rotate()
        data = b"".join(self._waiting)
        file = self._opened()
        try:
            n = os.write(file, data)
            if n < len(data):  # the disk has filled up; half a line must not stay
                os.ftruncate(file, os.fstat(file).st_size - n)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
        self._waiting.clear()

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _rotate(self) -> None:
        """Close the file where its day is over or it is large, and remove those that are too old or too many."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return
        now = datetime.now(UTC)
        last = datetime.fromtimestamp(found.st_mtime, UTC)
        if found.st_size and (last.date() != now.date() or found.st_size >= self._max_bytes / FILES):
            stem = f"{self._path.stem}-{now:%Y%m%dT%H%M%S}"
            name = self._path.with_name(f"{stem}{self._path.suffix}")
            number = 1
            while name.exists():
                name = self._path.with_name(f"{stem}-{number}{self._path.suffix}")
                number += 1
            self._path.rename(name)
            self._tidy()

    def _tidy(self) -> None:
        kept, oldest = 0.0, time.time() - self._max_days * 86_400
        closed = self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}")
        latest_first = sorted(((path.stat(), path) for path in closed), key=lambda pair: -pair[0].st_mtime_ns)
        for found, path in latest_first:
            kept += found.st_size
            if found.st_mtime < oldest or kept > self._max_bytes * (FILES - 1) / FILES:
                path.unlink(missing_ok=True)


def address_of(peer: str) -> str:
    """The machine at the other end of a connection, which gRPC writes as ipv4:ADDRESS:PORT, ipv6:[ADDRESS]:PORT."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer


class Refusals:
    """Counts callers who were refused for want of a key, by address. Lives in one event loop."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._begun = ""

    def add(self, peer: str) -> None:
        """One more from the other end of a connection, as gRPC writes it."""
        if not self._counts:
            self._begun = datetime.now(UTC).isoformat(timespec="seconds")
            asyncio.get_running_loop().call_later(COUNTED_S, self.write)
        address = address_of(peer)
        known = address in self._counts or len(self._counts) < MAX_ADDRESSES
        self._counts[address if known else "others"] += 1

    def write(self) -> None:
        """A line for each address."""
        counts, self._counts = self._counts, Counter()
        for address, n in counts.items():
            fields = {"address": address, "since": self._begun, "refusals": n, "code": "UNAUTHENTICATED"}
            audit.info("refused without a key", extra={"fields": fields})
