"""Where the server keeps what it can make again (the demo index, compiled kernels), and what it cannot (keys, jobs)."""

import contextlib
import os
import resource
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """$POLYSEM_CACHE_DIR, else the user's cache folder, else (where neither can be written) one under the temporary."""
    named = os.environ.get("POLYSEM_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "polysem"
    for folder in (Path(named) if named else home, Path(tempfile.gettempdir()) / f"polysem-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise PermissionError("no folder can be written for the cache; set POLYSEM_CACHE_DIR")


def state_folder(named: Path | None = None) -> Path:
    """Where the server keeps what it cannot make again, as named, else $XDG_STATE_HOME/polysem; not made here."""
    if named is not None:
        return named.expanduser()
    return Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()) / "polysem"


def keep_compiled_kernels() -> None:
    """Let Numba keep machine code even where the code's own folder is read-only. Before kernels are imported."""
    if not os.access(Path(__file__).parent.parent / "kernels", os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))


def open_many_files() -> None:
    """Raise this process's bound on open files as far as it may: connections and mapped arrays take one each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # "without bound" is more than some kernels know
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
