"""Who may read the state folder: its owner alone. What cannot be kept so is said."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

# What the server and `polysem keys` make there; whatever else lies in the folder is none of theirs.
FILES = ("keys.json", "key-usage.json", "keys.lock", "audit*.jsonl", "jobs.sqlite*", "lock", "spare")
FOLDERS = ("corpora", "jobs")


def keep_private(state: Path) -> list[str]:
    """Close the server's own files in the state folder to others (0600, folders 0700); a sentence for what stays open.

    A folder that was there before is left as it is: others may keep things in it.
    """
    for path, mode in _own(state):
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077:
                path.chmod(mode)
    open_ = [state, *(path for path, _ in _own(state))]
    return [sentence for path in open_ if (sentence := _open_to(path))]


def _own(state: Path) -> Iterator[tuple[Path, int]]:
    for pattern in FILES:
        for path in sorted(state.glob(pattern)):
            yield path, 0o600
    for name in FOLDERS:
        if (state / name).is_dir():
            yield state / name, 0o700


def _open_to(path: Path) -> str:
    """Who else may do what, and how to close it; "" where nobody may."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    who = []
    for name, read, write in (("its group", 0o040, 0o020), ("everybody", 0o004, 0o002)):
        if verbs := [verb for verb, bit in (("read", read), ("change", write)) if mode & bit]:
            who.append(f"{name} may {' and '.join(verbs)} it")
    if not who:
        return ""
    what, closed = ("folder", 700) if stat.S_ISDIR(mode) else ("file", 600)
    return f"the {what} {str(path)!r} is open: {', '.join(who)}; close it with `chmod {closed} {path}`"
