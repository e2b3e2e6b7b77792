"""Words for an operating system's error: that the server is short of something, and never a path of it."""

import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from polysem.proto.errors import Overloaded
from polysem.server.serving.small_file import DISK_FULL
from polysem.server.serving.spare import NONE_LEFT

SQLITE_FULL, SQLITE_CANTOPEN = 13, 14
RETRY_AFTER_S = 60.0
FULL = "the server's disk is full; delete results and uploads that you do not need, or tell whoever runs the server"
OUT_OF_DESCRIPTORS = "the server has no file descriptor left; try again in a minute, or tell whoever runs it"


def shortage(error: BaseException | None) -> Overloaded | None:
    """Return what the error, or one that it comes from, lacks; None where it lacks nothing that comes back."""
    while error is not None:
        if is_full(error):
            return Overloaded(FULL, RETRY_AFTER_S)
        if _code(error) == SQLITE_CANTOPEN or (isinstance(error, OSError) and error.errno in NONE_LEFT):
            return Overloaded(OUT_OF_DESCRIPTORS, RETRY_AFTER_S)
        error = error.__cause__ or error.__context__
    return None


def is_full(error: BaseException) -> bool:
    """Whether it says that a disk is full. Arrow's errors have the number in their words only."""
    if isinstance(error, OSError):
        said = re.search(r"\[errno (\d+)\]", str(error).lower())
        return (error.errno or (int(said[1]) if said else 0)) in DISK_FULL
    return _code(error) == SQLITE_FULL


def _code(error: BaseException) -> int:
    """SQLite's primary result code; 0 of other errors."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF if isinstance(error, sqlite3.Error) else 0


class Redaction:
    """Takes the server's folders out of what callers read; of each its own name stays."""

    def __init__(self, folders: Iterable[Path]) -> None:
        absolute = {str(form): form.name for folder in folders for form in (folder.absolute(), folder.resolve())}
        longest_first = sorted((path for path in absolute if path != "/"), key=len, reverse=True)
        self._names = absolute
        self._pattern = re.compile("|".join(rf"{re.escape(path)}(?![\w-])" for path in longest_first) or r"(?!)")

    def text(self, message: str) -> str:
        return self._pattern.sub(lambda match: self._names[match[0]], message)
