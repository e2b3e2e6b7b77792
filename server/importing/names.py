"""Explanations of another tool as names that `polysem names import` keeps, a JSON object a line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from polysem.client.files import writing
from polysem.client.questions.kept_names import to_line
from polysem.proto.errors import FailedPrecondition
from polysem.proto.questions.kept_names import MAX_AUTHOR, MAX_CHARACTERS, KeptName
from polysem.server.importing.found import Explained
from polysem.server.index.format import Index


def check_free(path: Path, out: Path) -> None:
    """Raise FailedPrecondition where the names of the index `out` would replace a file that is not of its build."""
    if path.exists() and not out.with_name(f"{out.name}.tmp").exists():
        raise FailedPrecondition(f"{str(path)!r} exists already; move it, or choose another --out")


def write(explanations: Sequence[Explained], index: Index, path: Path) -> int:
    """Write the lines to the file, whole or not at all; return how many. None: no file is made."""
    found = list(lines(explanations, index))
    if found:
        with writing(path, force=True) as file:
            file.write("".join(f"{line}\n" for line in found).encode())
    return len(found)


def lines(explanations: Sequence[Explained], index: Index) -> Iterator[str]:
    """Yield a line for each explanation, the earliest first; its members are dataset examples of the index.

    An explanation of texts that are no examples of the neuron is left out, and one that is longer than a name is cut.
    """
    for one in sorted(explanations, key=lambda one: one.time):
        if members := _members(one, index):
            text, author = _line(one.text, MAX_CHARACTERS), _line(one.author, MAX_AUTHOR)
            yield to_line(KeptName(one.neuron, members, text, one.method, author, one.time), index.sha256)


def _line(text: str, most: int) -> str:
    """The text on one line, cut where it is longer than a name may be."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _members(one: Explained, index: Index) -> tuple[int, ...]:
    stored, (_, neuron) = index.layer(one.neuron.layer), one.neuron
    rows = np.asarray(stored.rows[stored.offsets[neuron] : stored.offsets[neuron + 1]])
    texts = np.asarray(stored.row_contexts)[rows]
    mine = None if one.texts is None else set(one.texts)
    return tuple(i for i, text in enumerate(texts.tolist()) if mine is None or text in mine)
