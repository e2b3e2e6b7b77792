"""Records that a server writes beside its calls. They fail no call: what cannot be written is logged once, tried again,
and shown in the metrics."""

import logging
import os
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


class Books:
    """Which kinds of entries cannot be written now, and since when. Any thread may use it."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def attempt(self, what: str, write: Callable[[], object]) -> bool:
        """Whether `write` has written; its OSErrors are noted under `what`."""
        try:
            write()
        except OSError as error:
            self.failed(what, error)
            return False
        self.went_well(what)
        return True

    def failed(self, what: str, error: Exception) -> None:
        """Note that it could not be written; a line in the log the first time."""
        if self._since.setdefault(what, now := time.monotonic()) == now:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            log.error("%s: %s; calls go on, and it is tried again", what, why)

    def went_well(self, what: str) -> None:
        """Note that it could."""
        if self._since.pop(what, None) is not None:
            log.warning("%s: works again", what)

    def unwritten_s(self) -> Mapping[str, float]:
        """Seconds since each kind could not be written."""
        now = time.monotonic()
        return {what: now - since for what, since in list(self._since.items())}
