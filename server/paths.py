"""Folders of what the server can make again (the demo index, compiled kernels), and what it cannot (keys, jobs)."""

import contextlib
import os
import resource
import tempfile
from pathlib import Path

from polysem.proto.errors import FailedPrecondition


def cache_folder() -> Path:
    """$POLYSEM_CACHE_DIR, else the user's cache folder, else (where neither can be written) one under the temporary.

    Raises FailedPrecondition where none can be written.
    """
    named = os.environ.get("POLYSEM_CACHE_DIR")
    wanted = [Path(os.path.expanduser(named))] if named else _in_home("XDG_CACHE_HOME", ".cache")
    for folder in (*wanted, temporary_folder()):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        mine = folder in wanted or folder.stat().st_uid == os.getuid()  # all may write to the temporary one's parent
        if mine and os.access(folder, os.W_OK):
            return folder
    raise FailedPrecondition("no folder can be written for the cache; name one in $POLYSEM_CACHE_DIR")


def state_folder(named: Path | None = None) -> Path:
    """Return the folder of what cannot be made again, as named, else $XDG_STATE_HOME/polysem; not made here.

    Without a home it lies under the temporary folder.
    """
    if named is not None:
        return Path(os.path.expanduser(named))
    return next(iter(_in_home("XDG_STATE_HOME", ".local/state")), temporary_folder() / "state")


def temporary_folder() -> Path:
    """Return this user's folder under the temporary folder; not made here."""
    return Path(tempfile.gettempdir()) / f"polysem-{os.getuid()}"


def _in_home(variable: str, usual: str) -> list[Path]:
    """polysem's folder where the variable says, else at its usual place in the user's home; none without a home."""
    home = "" if os.environ.get("HOME") == "" else os.path.expanduser("~")
    base = os.environ.get(variable) or (os.path.join(home, usual) if os.path.isabs(home) else None)
    return [] if base is None else [Path(base) / "polysem"]


def keep_compiled_kernels() -> None:
    """Let Numba keep machine code even where the code's own folder is read-only. Before kernels are imported."""
    if "NUMBA_CACHE_DIR" in os.environ or os.access(Path(__file__).parent.parent / "kernels", os.W_OK):
        return
    with contextlib.suppress(FailedPrecondition):  # every process then compiles its own
        os.environ["NUMBA_CACHE_DIR"] = str(cache_folder() / "numba")


def open_many_files() -> None:
    """Raise this process's bound on open files as far as it may: connections and mapped arrays take one each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # "without bound" is more than some kernels know
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
