"""Files that people keep: written whole or not at all, and never over another unless it was allowed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from polysem.proto.errors import FailedPrecondition, PolysemError


def check_free(out: Path, force: bool) -> None:
    """Raise FailedPrecondition where a file may not be written: it is there already, or its folder is not."""
    if out.is_dir():
        raise FailedPrecondition(f"{str(out)!r} is a folder; name a file in it")
    if out.is_file() and not force:
        raise FailedPrecondition(f"{str(out)!r} exists already; choose another name, or --force to replace it")
    if not out.parent.is_dir():
        raise FailedPrecondition(f"cannot write {str(out)!r}: there is no folder {str(out.parent)!r}")


@contextmanager
def writing(out: Path, force: bool) -> Iterator[IO[bytes]]:
    """The file to write into; it gets its name when all is there, and nothing is left behind by what fails.

    A pipe or a device is written at once. Raises FailedPrecondition for what cannot be written, as `check_free`.
    """
    out = Path(os.path.realpath(out)) if out.is_file() else out  # a link to a file stays one
    check_free(out, force)
    special = out.exists() and not out.is_file()
    partial = out if special else out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb" if special else "xb") as file:
            yield file
            file.flush()
            if not special:
                os.fsync(file.fileno())
        if not special:
            check_free(out, force)  # one may have come meanwhile
            partial.replace(out)
    except OSError as error:
        if isinstance(error, PolysemError):
            raise
        raise FailedPrecondition(f"cannot write {str(out)!r}: {error.strerror}; choose another name") from error
    finally:
        if not special:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
