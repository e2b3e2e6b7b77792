"""A file descriptor kept back, so that a file can be read where the process has none left."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

Read = TypeVar("Read")

NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})


class Spare:
    """One descriptor, held until it is needed. Any thread may use it."""

    def __init__(self) -> None:
        self._using = threading.Lock()
        self._held: int | None = os.open(os.devnull, os.O_RDONLY)

    def lent(self, read: Callable[[], Read]) -> Read:
        """Return what `read` returns; called again with the spare descriptor free where it fails for lack of one."""
        try:
            return read()
        except Exception as error:
            if not _lacks_one(error):
                raise
        with self._using:
            self.close()
            try:
                return read()
            finally:
                with contextlib.suppress(OSError):  # taken meanwhile; the next time there may be one
                    self._held = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _lacks_one(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in NONE_LEFT:
            return True
        error = error.__cause__
    return False
