"""Room on the disk of the state folder: some is always left free, and a little is set aside for freeing more."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from polysem.proto.errors import Overloaded
from polysem.server.serving.shortage import RETRY_AFTER_S

SPARE = "spare"
SPARE_BYTES = 4 << 20
LEAST_BYTES = 1 << 20  # that a few transactions take at the most


class Room:
    """The free room of `folder`'s disk, of which `reserve_bytes` are not for jobs and uploads. Any thread may use it.

    What the spare file needs is not for them either.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self._folder, self._reserve_bytes = folder, reserve_bytes
        self._spare = folder / SPARE

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def bytes(self) -> Mapping[str, float]:
        """free, reserved and total, for the metrics."""
        usage = shutil.disk_usage(self._folder)
        return {"free": usage.free, "reserved": self._reserve_bytes, "total": usage.total}

    def check(self, n_bytes: int = 0) -> None:
        """Raise Overloaded where fewer than `n_bytes` beside the reserve are free."""
        free = self.free_bytes - (0 if self._spare.exists() else SPARE_BYTES)
        if free < n_bytes + self._reserve_bytes:
            wanted = f", and this needs {n_bytes / 1e6:,.0f} MB" if n_bytes else ""
            raise Overloaded(
                f"the server's disk has {max(free, 0) / 1e6:,.0f} MB free, of which jobs and uploads leave "
                f"{self._reserve_bytes / 1e6:,.0f} MB{wanted}; delete results and uploads that you do not need, "
                "or tell whoever runs the server",
                RETRY_AFTER_S,
            )

    def set_aside(self) -> None:
        """Make the spare file where it is missing and there is room beside the reserve."""
        if self._spare.exists() or self.free_bytes < SPARE_BYTES + self._reserve_bytes:
            return
        with contextlib.suppress(OSError):
            file = os.open(self._spare, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(file, 0, SPARE_BYTES)
            finally:
                os.close(file)

    def give_up(self) -> None:
        """Remove the spare file where the disk is full, so that what is about to be written has room."""
        if self.free_bytes < LEAST_BYTES:
            self._spare.unlink(missing_ok=True)
