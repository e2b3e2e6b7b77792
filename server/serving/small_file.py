"""Small JSON files of the state folder: replaced whole, by one process at a time.

On a full disk a file can still be changed where the new text is no longer than the old one: it is then written in
place. Files are therefore indented, and the text in place is not.
"""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition

Stamp = tuple[int, int, int]

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def read(path: Path) -> Any:
    """The value; {} where there is no file. Raises FailedPrecondition where it cannot be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"{path} cannot be read ({error}); restore it from a backup, or remove it") from error


def write(path: Path, value: Any) -> None:
    """Replace the file whole; only its owner may read it. Raises OSError."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_in_place(path: Path, value: Any) -> None:
    """Write over the file's bytes, without any more room than it has. Raises OSError where the text is longer.

    A reader may meet half of it for a moment, and reads it again then.
    """
    data = json.dumps(value, separators=(",", ":")).encode()
    with path.open("r+b") as file:
        room = os.fstat(file.fileno()).st_size
        if len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        file.write(data.ljust(room))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock file `name` of the folder, which is made where it is missing. Raises FailedPrecondition."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FailedPrecondition(
            f"the state folder {folder} cannot be written: {error.strerror}; choose another --state"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def stamp(path: Path) -> Stamp | None:
    """Return what changes with the file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
