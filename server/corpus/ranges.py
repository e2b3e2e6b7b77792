"""Ranges of a corpus: each readable without the others, by any machine that reaches it."""

import hashlib
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from polysem.proto.errors import BadCorpus

_END_BYTES = 64 << 10  # of a file, read for its fingerprint


class Range(NamedTuple):
    """Bytes of a file of lines, row groups of a Parquet file, rows of a data set, or files of a folder or data set.

    begin, end  the first one, and one more than the last
    first       lines or rows before it, in its file
    files       their paths in the folder, or URLs of the data set's files
    file        the number of the first of those, from 1, where the data set has several
    """

    begin: int
    end: int
    first: int = 0
    files: tuple[str, ...] = ()
    file: int = 0


WHOLE = Range(0, sys.maxsize)


def of_lines(path: Path, n_bytes: int) -> Iterator[Range]:
    """Ranges of whole lines, the shortest of `n_bytes` or more; the file is read as far as ranges are asked for."""
    with readable(path), path.open("rb") as file:
        begin = first = 0
        while block := file.read(n_bytes):
            n_lines = block.count(b"\n")
            while not block.endswith(b"\n") and (block := file.readline(1 << 20)):
                n_lines += block.endswith(b"\n")
            end = file.tell()
            yield Range(begin, end, first)
            begin, first = end, first + n_lines


def of_rows(n_rows: int, n_rows_a_range: int) -> Iterator[Range]:
    for begin in range(0, n_rows, n_rows_a_range):
        yield Range(begin, min(begin + n_rows_a_range, n_rows), begin)


def of_row_groups(groups: Sequence[tuple[int, int]], n_bytes: int) -> Iterator[Range]:
    """groups: (rows, bytes) of each; a range has at least one, else at most `n_bytes`."""
    first = 0
    for begin, end in runs([size for _, size in groups], n_bytes):
        yield Range(begin, end, first)
        first += sum(n_rows for n_rows, _ in groups[begin:end])


def of_files(folder: Path, n_bytes: int) -> Iterator[Range]:
    """Ranges of at least one file, else at most `n_bytes`."""
    with readable(folder):
        paths = files(folder)
        names = [str(path.relative_to(folder)) for path in paths]
        for begin, end in runs([path.stat().st_size for path in paths], n_bytes):
            yield Range(begin, end, files=tuple(names[begin:end]))


def files(folder: Path) -> list[Path]:
    """All that are not hidden, in order."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def fingerprint(place: Path, times: bool) -> str:
    """Hash what is cheap to know of a file (its size, its first and last 64 KiB) or a folder (names and sizes).

    times  when each was changed, too: the same on one machine only
    """
    digest = hashlib.sha256()
    with readable(place):
        for path in files(place) if place.is_dir() else [place]:
            stat = path.stat()
            facts = os.fsencode(path.relative_to(place)), stat.st_size, stat.st_mtime_ns if times else 0
            digest.update(repr(facts).encode())
        if place.is_file():
            with place.open("rb") as file:
                digest.update(file.read(_END_BYTES))
                file.seek(max(0, stat.st_size - _END_BYTES))
                digest.update(file.read(_END_BYTES))
    return digest.hexdigest()


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Raise BadCorpus where the path cannot be read."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise BadCorpus(f"cannot read {str(path)!r}: {' '.join(str(error).split())}") from error


def runs(sizes: Iterable[int], most: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of runs that add up to `most` at most, or have one member."""
    begin, end, total = 0, 0, 0
    for end, size in enumerate(sizes, 1):
        if total + size > most and end - 1 > begin:
            yield begin, end - 1
            begin, total = end - 1, 0
        total += size
    if end > begin:
        yield begin, end
