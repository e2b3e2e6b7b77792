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
    PermissionDenied,
    PolysemError,
)
from polysem.proto.jobs import CorpusInfo, check_corpus_name
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import PYDOCS
from polysem.server.jobs.store import MAX_UPLOADS, JobStore
from polysem.server.jobs.tenants import may_see, owner_and_name, reference
from polysem.server.serving.callers import Caller
from polysem.server.serving.shortage import shortage

STALL_BYTES, STALL_S = 64 << 10, 60.0  # an upload that brings less than this in so long is ended
UNFINISHED = ".upload-"  # no name begins with a dot


class Corpora:
    """Uploads in state/corpora, each its key's, beside the operator's own. What was left half done is removed."""

    def __init__(self, store: JobStore, allowed: Sequence[Path]) -> None:
        self._store = store
        self._folder = store.folder / "corpora"
        self._allowed = _by_name(allowed)
        self._under_way: dict[str, int] = {}  # bytes that have come, by `reference`
        kept = {_reference(corpus) for corpus in store.corpora()}
        for path in self._folder.rglob("*"):
            if path.is_file() and path.relative_to(self._folder).as_posix() not in kept:
                path.unlink()
        for one in kept:
            if not (self._folder / one).exists():
                store.forget_corpus(one)

    def list(self, caller: Caller) -> Sequence[CorpusInfo]:
        """List the uploads that the caller may name, by name; of an upload's name its own first."""
        own = [CorpusInfo(name) for name in {PYDOCS, *self._allowed}]
        return sorted([*own, *self._seen(caller)], key=lambda corpus: corpus.name)

    def _seen(self, caller: Caller) -> Sequence[CorpusInfo]:
        seen = (corpus for corpus in self._store.corpora() if may_see(corpus.owner, corpus.shared, caller.scope))
        return sorted(seen, key=lambda corpus: corpus.owner != caller.key)

    def _upload(self, name: str, caller: Caller) -> CorpusInfo | None:
        """The upload that the caller means by NAME, or OWNER/NAME."""
        found = (corpus for corpus in self._seen(caller) if name in (corpus.name, _reference(corpus)))
        return next(found, None)

    def reference(self, name: str, caller: Caller) -> str:
        """Return what `open` takes for the corpus that the caller means. Raises NotFound."""
        if name in self._allowed or name == PYDOCS:
            return name
        if (corpus := self._upload(name, caller)) is None:
            raise NotFound(f"there is no corpus {name!r} here; upload it, or name one of `polysem corpus list`")
        return _reference(corpus)

    def open(
        self, reference: str, text_field: str, skip_bad: bool, max_documents: int | None, for_workers: bool
    ) -> CorpusElsewhere:
        """The corpus, to be read by a process of its own, or by workers."""
        path = None if reference == PYDOCS else self._allowed.get(reference, self._folder / reference)
        name = owner_and_name(reference)[1]
        return CorpusElsewhere(
            name, text_field, skip_bad, max_documents, path=path and path.absolute(), for_workers=for_workers
        )

    async def receive(
        self, caller: Caller, name: str, n_bytes: int, sha256: str, shared: bool, chunks: AsyncIterator[bytes]
    ) -> CorpusInfo:
        """Keep what the chunks hold as the caller's, whole or not at all; the same upload again changes nothing.

        Raises InvalidArgument where name, length or sha256 are wrong, Overloaded where there is no room,
        FailedPrecondition where the name is taken, DeadlineExceeded where the sender falls silent.
        """
        check_corpus_name(name)
        if not n_bytes:
            raise InvalidArgument(f"the corpus {name!r} is empty", "bytes")
        if name in self._allowed:
            raise FailedPrecondition(f"{name!r} is a corpus of the server's own; upload yours under another name")
        to = reference(caller.key, name)
        kept = next((corpus for corpus in self._store.corpora() if to == _reference(corpus)), None)
        if kept is not None:
            if (kept.sha256, kept.shared) == (sha256.lower(), shared):
                return kept
            raise FailedPrecondition(
                f"another corpus {name!r} is here already; take another name, or remove it with `polysem corpus delete`"
            )
        if to in self._under_way:
            raise FailedPrecondition(f"another upload of {name!r} is under way; wait for it, or take another name")
        self._check_room(to, n_bytes)
        partial = self._folder / f"{UNFINISHED}{uuid.uuid4().hex}"
        self._under_way[to] = 0
        try:
            await self._write(partial, to, n_bytes, sha256, chunks)
            return await asyncio.to_thread(self._keep, partial, to, n_bytes, sha256, shared)
        finally:
            del self._under_way[to]
            partial.unlink(missing_ok=True)

    def _check_room(self, to: str, n_bytes: int) -> None:
        """Raise Overloaded where so many bytes more have no room, InvalidArgument where they never would."""
        owner, name = owner_and_name(to)
        self._store.room.check(n_bytes)
        sizes = [(corpus.owner, corpus.bytes) for corpus in self._store.corpora()]
        sizes += [(owner_and_name(other)[0], came) for other, came in self._under_way.items()]
        limits = self._store.limits
        shares = (("of your key's uploads", owner, limits.key_share), ("of all uploads", None, 1.0))
        for whose, of, share in shares[not owner :]:
            quota = int(limits.upload_bytes * share)
            if n_bytes > quota:
                raise InvalidArgument(
                    f"the corpus {name!r} has {n_bytes:,} bytes; this server keeps at most {quota:,} {whose}", "bytes"
                )
            taken = [size for owner_, size in sizes if of in (None, owner_)]
            if sum(taken) + n_bytes > quota or len(taken) > MAX_UPLOADS * share:
                raise Overloaded(
                    f"the {len(taken)} corpora {whose} take {sum(taken):,} bytes of {quota:,}, so {n_bytes:,} bytes "
                    f"more of {name!r} have no room; remove one with `polysem corpus delete`",
                    60.0,
                )

    async def _write(self, path: Path, to: str, n_bytes: int, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        digest, n, name = hashlib.sha256(), 0, owner_and_name(to)[1]
        try:
            with path.open("xb") as file:
                async for chunk in _steadily(chunks, name):
                    n += len(chunk)
                    if n > n_bytes:
                        raise InvalidArgument(
                            f"{name!r} goes on after the {n_bytes:,} bytes that were announced", "bytes"
                        )
                    digest.update(chunk)
                    self._check_room(to, len(chunk))
                    self._under_way[to] = n
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

    def _keep(self, partial: Path, to: str, n_bytes: int, sha256: str, shared: bool) -> CorpusInfo:
        path = self._folder / to
        path.parent.mkdir(mode=0o700, exist_ok=True)
        partial.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            return self._store.add_corpus(to, n_bytes, sha256.lower(), shared)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def delete(self, name: str, caller: Caller) -> None:
        """Raises NotFound where the caller sees no upload of that name, PermissionDenied where it is another key's,
        FailedPrecondition where an unfinished job needs it.
        """
        if (corpus := self._upload(name, caller)) is None:
            raise NotFound(f"there is no uploaded corpus {name!r}; `polysem corpus list` shows those there are")
        if not may_see(corpus.owner, False, caller.scope):
            raise PermissionDenied(
                f"the corpus {name!r} is shared by the key {corpus.owner}, which alone can remove it"
            )
        self._store.check_corpus_unused(_reference(corpus))
        self._remove(_reference(corpus))

    def tidy(self) -> None:
        """Remove what is out of time."""
        for one in self._store.corpora_out_of_time():
            self._remove(one)

    def _remove(self, reference: str) -> None:
        (self._folder / reference).unlink(missing_ok=True)  # first, for the disk may be full
        self._store.forget_corpus(reference)


def _reference(corpus: CorpusInfo) -> str:
    return reference(corpus.owner, corpus.name)


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
