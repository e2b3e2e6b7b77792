"""Files that a server makes of an index: beside it, or in the state folder where its folder cannot be written."""

import os
from pathlib import Path

from polysem.server.index.format import Index


def paths(index: Index, state: Path | None, kind: str, ending: str) -> list[Path]:
    """Return where such a file of the index's side may lie, the place beside it first.

    kind    what its name begins with
    state   None: there is no state folder
    """
    beside = index.folder / f"{kind}-{index.side}{ending}"
    return [beside, *([] if state is None else [state / kind / f"{index.sha256[:32]}-{index.side}{ending}"])]


def path_to_write(index: Index, state: Path | None, kind: str, ending: str) -> Path:
    """Return where it is to be written, in a folder that is there. Raises OSError."""
    path = paths(index, state, kind, ending)[0 if os.access(index.folder, os.W_OK) else -1]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
