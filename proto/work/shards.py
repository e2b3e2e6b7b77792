"""Shards: parts of a long job, each written whole or not at all, so that a killed job goes on where it was.

A shard is a file named by what it depends on (its content key) and made by a pure function. It is done when the ledger
says so, a SQLite file beside the shards: one process drives a job and writes the ledger; an Executor says who computes.
"""

import hashlib
import io
import json
import math
import os
import sqlite3
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition

Arrays = Mapping[str, Array]
Advance = Callable[[int], None]
Compute = Callable[[Any, Any, Advance], Callable[[], Arrays]]

SHARD_CONTEXTS = 256  # of one shard of an index build, or a multiple
MAX_SHARDS = 4096  # of a stage of a build
BEGUN_SHARDS = 2  # that are written while another is computed
HEADERS = Lock()  # of .npy files are parsed in one thread at a time: until 3.11.8 Python cannot do more (gh-106905)
_READ_BYTES = 1 << 20


def key(**parts: Any) -> str:
    """A file name's worth of everything that a shard depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def contexts_a_shard(n_contexts: int) -> int:
    """Contexts a shard of an index build: so many that a large corpus, too, has some thousand shards."""
    return SHARD_CONTEXTS * max(math.ceil(n_contexts / (SHARD_CONTEXTS * MAX_SHARDS)), 1)


def ranges(n: int, size: int) -> list[tuple[int, int]]:
    """(first, last + 1) of each shard of `size` of n contexts or neurons."""
    return [(first, min(first + size, n)) for first in range(0, n, size)]


class Shard(NamedTuple):
    """Contexts or neurons first..last − 1 of one stage, and the file for what it gives."""

    first: int
    last: int
    path: Path


class Ledger:
    """Ledger of what is done of a job, in its folder's ledger.sqlite. For one process at a time: see `sole_worker`."""

    def __init__(self, folder: Path) -> None:
        self._lock = Lock()  # threads take turns
        self._db = sqlite3.connect(folder / "ledger.sqlite", check_same_thread=False)
        self._db.execute("CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY, bytes INTEGER)")

    def has(self, shard: Shard) -> bool:
        """Whether it is done and its file as long as it was; bytes are checked as they are read."""
        with self._lock:
            found = self._db.execute("SELECT bytes FROM shards WHERE name = ?", [shard.path.name]).fetchone()
        return found is not None and shard.path.is_file() and shard.path.stat().st_size == found[0]

    def record(self, *shards: Shard) -> None:
        """Say that their files are there, whole. Cost: one commit."""
        rows = [(shard.path.name, shard.path.stat().st_size) for shard in shards]
        with self._lock, self._db:
            self._db.executemany("INSERT OR REPLACE INTO shards VALUES (?, ?)", rows)

    def close(self) -> None:
        self._db.close()


class Stage(NamedTuple):
    """One stage of a job: its shards, and how each is made.

    shards   all of them
    take     what of the job's data a shard needs, or only its name; read where the job is driven; pickles
    compute  (held, taken, advance): reads what was taken with what a worker holds (a model, a client), and returns what
             makes the shard's arrays of it, which uses `held` no more; a pure function that pickles, so that any
             machine may do it
    advance  told of progress: tokens, or trees
    size     of a shard, in that unit
    instead  taken for a worker that does not reach what `take` only names
    beside   what `take` names lies in the folder of the shards, which a worker may see; else it is the corpus
    """

    shards: Sequence[Shard]
    take: Callable[[Shard], Any]
    compute: Compute
    advance: Advance
    size: Callable[[Shard], int]
    instead: Callable[[Shard], Any] | None = None
    beside: bool = False


class Executor(Protocol):
    """The place where shards are made."""

    def finish(self, ledger: Ledger, stage: Stage) -> None:
        """Make the stage's shards that the ledger has not; each is recorded once its file is there.

        Raises what `compute` raises, and leaves what is finished.
        """


class LocalExecutor:
    """Makes shards in this process, one after another.

    held  what `Stage.compute` is given
    make  calls and writes what `compute` returns; None: `make_shard`, in a thread beside the next `compute`
    """

    def __init__(self, held: Any, make: Callable[[Path, Callable[[], Arrays]], None] | None = None) -> None:
        self._held, self._make = held, make or make_shard

    def finish(self, ledger: Ledger, stage: Stage) -> None:
        """Call and write what `compute` returns, beside the next shards' `compute`."""

        def rest(shard: Shard, arrays: Callable[[], Arrays]) -> None:
            self._make(shard.path, arrays)
            ledger.record(shard)

        begun: deque[Future[None]] = deque()
        with ThreadPoolExecutor(BEGUN_SHARDS) as writers:  # on leaving waits, so that what was computed is kept
            for shard in stage.shards:
                if ledger.has(shard):
                    stage.advance(stage.size(shard))
                    continue
                arrays = stage.compute(self._held, stage.take(shard), stage.advance)
                if len(begun) == BEGUN_SHARDS:
                    begun.popleft().result()
                begun.append(writers.submit(rest, shard, arrays))
        for written in begun:
            written.result()


def make_shard(path: Path, arrays: Callable[[], Arrays]) -> None:
    """Call what `Stage.compute` returned, and write what it gives."""
    write(path, arrays())


def write(path: Path, arrays: Arrays) -> None:
    """The shard's file, whole or not at all."""
    with whole(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def packed(arrays: Arrays) -> memoryview:
    """Return what `write` would write."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getbuffer()


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name, and outlives a power cut, once all is written to it."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def read(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """The named arrays of a shard, or all; zip's checksums guard them. Any number of threads may read at once.

    Raises FailedPrecondition where the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = names or [file.removesuffix(".npy") for file in archive.namelist()]
            return {name: _read(archive, f"{name}.npy") for name in names}
    except MemoryError:  # the file is whole, only too large
        raise
    except Exception as error:  # of a changed header NumPy and zipfile raise whatever their parsers do
        raise FailedPrecondition(
            f"the finished shard {str(path)!r} is damaged ({error}); remove it and start again"
        ) from error


def _read(archive: zipfile.ZipFile, name: str) -> Array:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # a small file could grow to any size
        raise ValueError(f"{name} is compressed, which no shard is")
    with archive.open(name) as file:
        with HEADERS:
            np.lib.format.read_magic(file)
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes != archive.getinfo(name).file_size - file.tell():  # before room is made for it
            raise ValueError(f"{name} has another size than its header says")
        data = np.empty(n_bytes, np.uint8)
        n = 0
        while n < len(data):
            if not (some := file.read(min(_READ_BYTES, len(data) - n))):
                raise ValueError(f"{name} ends after {n} of {len(data)} bytes")
            data[n : n + len(some)] = np.frombuffer(some, np.uint8)
            n += len(some)
    return data.view(dtype).reshape(shape, order="F" if by_columns else "C")


@contextmanager
def sole_worker(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the folder against a second process; the lock falls with the process.

    waiting  called where another process holds it, before it is waited for; None: do not wait

    Raises FailedPrecondition where another holds it and is not waited for.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows has no such lock
        yield
        return
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if waiting is None:
                raise FailedPrecondition(f"another process is working in {str(folder)!r}; wait for it") from error
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
