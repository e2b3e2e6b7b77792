"""The corpora that jobs can name: `pydocs`, those that the operator allowed, and uploads.

A name is looked up, never made part of a path that the operator did not give.
"""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from polysem.proto.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    PolysemError,
)
from polysem.proto.jobs import CorpusInfo, check_corpus_name
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import PYDOCS
from polysem.server.jobs.store import MAX_UPLOADS, JobStore
from polysem.server.serving.shortage import shortage

STALL_BYTES, STALL_S = 64 << 10, 60.0  # an upload that brings less than this in so long is ended
UNFINISHED = ".upload-"  # no name begins with a dot


class Corpora:
    """Uploads in state/corpora, beside the operator's own. What an earlier server left half done is removed."""

    def __init__(self, store: JobStore, allowed: Sequence[Path]) -> None:
        self._store = store
        self._folder = store.folder / "corpora"
        self._allowed = _by_name(allowed)
        self._under_way: dict[str, int] = {}  # bytes that have come, by name
        for path in self._folder.iterdir():
            if store.corpus(path.name) is None:
                path.unlink()
        for corpus in store.corpora():
            if not (self._folder / corpus.name).exists():
                store.forget_corpus(corpus.name)

    def list(self) -> Sequence[CorpusInfo]:
        """By name."""
        own = [CorpusInfo(name) for name in {PYDOCS, *self._allowed}]
        return sorted([*own, *self._store.corpora()], key=lambda corpus: corpus.name)

    def open(
        self, name: str, text_field: str, skip_bad: bool, max_documents: int | None, for_workers: bool
    ) -> CorpusElsewhere:
        """The corpus of that name, to be read by a process of its own, or by workers. Raises NotFound."""
        path = self._path(name)
        return CorpusElsewhere(
            name, text_field, skip_bad, max_documents, path=path and path.absolute(), for_workers=for_workers
        )

    def _path(self, name: str) -> Path | None:
        if name in self._allowed:
            return self._allowed[name]
        if name == PYDOCS:
            return None
        if self._store.corpus(name) is None:
            raise NotFound(f"there is no corpus {name!r} here; upload it, or name one of `polysem corpus list`")
        return self._folder / name

    async def receive(self, name: str, n_bytes: int, sha256: str, chunks: AsyncIterator[bytes]) -> CorpusInfo:
        """Keep what the chunks hold under that name, whole or not at all; the same upload again changes nothing.

        Raises InvalidArgument where name, length or sha256 are wrong, Overloaded where there is no room,
        FailedPrecondition where the name is taken, DeadlineExceeded where the sender falls silent.
        """
        check_corpus_name(name)
        if not n_bytes:
            raise InvalidArgument(f"the corpus {name!r} is empty", "bytes")
        if name in self._allowed:
            raise FailedPrecondition(f"{name!r} is a corpus of the server's own; upload yours under another name")
        if (kept := self._store.corpus(name)) is not None:
            if kept.sha256 == sha256.lower():
                return kept
            raise FailedPrecondition(
                f"another corpus {name!r} is here already; take another name, or remove it with `polysem corpus delete`"
            )
        if name in self._under_way:
            raise FailedPrecondition(f"another upload of {name!r} is under way; wait for it, or take another name")
        self._check_room(name, n_bytes)
        partial = self._folder / f"{UNFINISHED}{uuid.uuid4().hex}"
        self._under_way[name] = 0
        try:
            await self._write(partial, name, n_bytes, sha256, chunks)
            return await asyncio.to_thread(self._keep, partial, name, n_bytes, sha256)
        finally:
            del self._under_way[name]
            partial.unlink(missing_ok=True)

    def _check_room(self, name: str, n_bytes: int) -> None:
        """Raise Overloaded where so many bytes more have no room, InvalidArgument where they never would."""
        quota = self._store.limits.upload_bytes
        if n_bytes > quota:
            raise InvalidArgument(
                f"the corpus {name!r} has {n_bytes:,} bytes; this server keeps at most {quota:,} of all uploads",
                "bytes",
            )
        self._store.room.check(n_bytes)
        kept = self._store.corpora()
        taken = sum(corpus.bytes for corpus in kept) + sum(self._under_way.values())
        if taken + n_bytes > quota or len(kept) >= MAX_UPLOADS:
            raise Overloaded(
                f"the {len(kept)} corpora kept here take {taken:,} bytes of {quota:,}, so {n_bytes:,} bytes more of "
                f"{name!r} have no room; remove one with `polysem corpus delete`",
                60.0,
            )

    async def _write(self, path: Path, name: str, n_bytes: int, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        digest, n = hashlib.sha256(), 0
        try:
            with path.open("xb") as file:
                async for chunk in _steadily(chunks, name):
                    n += len(chunk)
                    if n > n_bytes:
                        raise InvalidArgument(
                            f"{name!r} goes on after the {n_bytes:,} bytes that were announced", "bytes"
                        )
                    digest.update(chunk)
                    self._check_room(name, len(chunk))
                    self._under_way[name] = n
                    await asyncio.to_thread(file.write, chunk)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        except PolysemError:  # some are OSErrors, too
            raise
        except OSError as error:
            raise (
                shortage(error) or FailedPrecondition(f"the corpus {name!r} cannot be kept here: {error.strerror}")
            ) from error
        if n < n_bytes:
            raise InvalidArgument(f"{name!r} ended after {n:,} of the {n_bytes:,} bytes that were announced", "bytes")
        if digest.hexdigest() != sha256.lower():
            raise InvalidArgument(
                f"{name!r} arrived with the sha256 {digest.hexdigest()}, not {sha256!r}; send it again", "sha256"
            )

    def _keep(self, partial: Path, name: str, n_bytes: int, sha256: str) -> CorpusInfo:
        partial.replace(self._folder / name)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            return self._store.add_corpus(name, n_bytes, sha256.lower())
        except BaseException:
            (self._folder / name).unlink(missing_ok=True)
            raise

    def delete(self, name: str) -> None:
        """Raises NotFound where no upload has the name, FailedPrecondition where an unfinished job needs it."""
        if self._store.corpus(name) is None:
            raise NotFound(f"there is no uploaded corpus {name!r}; `polysem corpus list` shows those there are")
        self._store.check_corpus_unused(name)
        self._remove(name)

    def tidy(self) -> None:
        """Remove what is out of time."""
        for name in self._store.corpora_out_of_time():
            self._remove(name)

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)  # first, for the disk may be full
        self._store.forget_corpus(name)


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise NotFound(f"there is no corpus {str(path)!r} for jobs to index")
        if path.name in found or path.name == PYDOCS:
            raise InvalidArgument(
                f"two corpora are called {path.name!r}: jobs name them by their file's name", "corpora"
            )
        found[path.name] = path
    return found


async def _steadily(chunks: AsyncIterator[bytes], name: str) -> AsyncIterator[bytes]:
    """The chunks. Raises DeadlineExceeded where hardly anything comes any more."""
    while True:
        came = 0
        until = asyncio.get_running_loop().time() + STALL_S
        while came < STALL_BYTES:
            try:
                async with asyncio.timeout_at(until):
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"{came:,} bytes of {name!r} came in {STALL_S:g} s, and an upload must bring {STALL_BYTES:,}; "
                    "send it again"
                ) from error
            if chunk is None:
                return
            came += len(chunk)
            yield chunk
