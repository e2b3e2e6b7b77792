"""From a corpus to contexts: ranges of it are tokenised as shards, by any machine, and joined in order here.

Shards are made some at a time, and more each time, so that a bad document or enough documents end the reading soon. A
corpus that has no ranges is read here and cut into shards; their content keys are then of the texts themselves.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from polysem.proto.errors import BadCorpus
from polysem.proto.work import shards
from polysem.proto.work.shards import Executor, Ledger, Shard
from polysem.server.corpus.documents import Corpus, CorpusDigest, Document, Texts, digest_of
from polysem.server.corpus.ranges import Range
from polysem.server.index import contexts
from polysem.server.indexing.stages import Tokenised, TokenStage, unflatten_tokens
from polysem.server.indexing.windows import Windowing
from polysem.server.model.tokenizer import Tokenizer

TEXT_CHARACTERS = 4 << 20  # of one shard of a corpus without ranges
MOST_TEXTS = 16  # of them in memory
LAYOUT = 1  # of what is in shards
GROWTH = 4  # each time so many times the shards so far

LayerChoice = Range | Texts


class Tokenising:
    """One corpus on its way into a folder of contexts.

    work         the build's folder, for shards
    report         told of documents with text, at most `max_documents` in all
    n_longer     documents of which only the first window is read, once the contexts are written
    fingerprint  the corpus's, of this machine, when it was read; empty where it has no ranges
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        windowing: Windowing,
        work: Path,
        executor: Executor,
        report: Callable[[int], None],
    ) -> None:
        self._corpus, self._tokenizer, self._windowing = corpus, tokenizer, windowing
        self._work, self._executor = work, executor
        self._report, self._reported = report, 0
        self.fingerprint = ""
        self._n_shards = 0
        self.n_longer = 0

    def write(self, folder: Path) -> str:
        """Write the contexts; the corpus's sha256. `n_skipped` of the corpus says what was left out.

        Raises what reading the corpus raises. Memory does not grow with the corpus.
        """
        digest, n_skipped = CorpusDigest(), 0
        with contexts.writing(folder, self._tokenizer.n_tokens) as add, closing(Ledger(self._work)) as ledger:
            for part in self._parts(ledger):
                add(part.contexts)
                digest.add_digests(part.digests.tobytes())
                n_skipped += part.n_skipped
                self.n_longer += part.n_longer
        self._corpus.n_skipped = n_skipped
        return digest.hexdigest()

    def remove_shards(self) -> None:
        """Once the contexts are kept."""
        for path in self._work.glob("tokenise-*"):
            path.unlink()

    def _parts(self, ledger: Ledger) -> Iterator[Tokenised]:
        """The shards in order, as far as documents are wanted."""
        self.fingerprint = self._corpus.fingerprint(times=True)  # before ranges: a change between them is then seen
        ranges = self._corpus.ranges()
        if ranges is None:  # its reader stops at `max_documents` itself
            for texts in _batches(_texts(self._corpus)):
                yield from (part for _, part in self._made(ledger, texts, None))
            return
        n, done, batch_size, wanted = 0, 0, 1, self._corpus.max_documents
        while batch := list(islice(ranges, batch_size)):
            limit = None if wanted is None else wanted - n
            for range_, part in self._made(ledger, batch, limit):
                left = None if wanted is None else wanted - n
                if left is not None and len(part.digests) >= left:
                    if limit != left:  # again, to stop where a reader of the whole would
                        ((_, part),) = self._made(ledger, [range_], left)
                    yield part
                    return
                if part.problem:
                    self._forget_problems()
                    raise BadCorpus(part.problem)
                n += len(part.digests)
                yield part
            done += len(batch)
            batch_size = GROWTH * done
            if wanted is not None and n:
                batch_size = min(batch_size, math.ceil((wanted - n) * done / n))
        self._corpus.check_number(n)

    def _made(
        self, ledger: Ledger, parts: Sequence[LayerChoice], limit: int | None
    ) -> Iterator[tuple[LayerChoice, Tokenised]]:
        """Each part and its shard, read when it is asked for."""
        n_before = self._n_shards
        self._n_shards += len(parts)
        found = [Shard(n, n + 1, self._path(part, limit)) for n, part in enumerate(parts, n_before)]

        def take(shard: Shard) -> LayerChoice:
            return parts[shard.first - n_before]

        def texts(shard: Shard) -> Texts:
            part = take(shard)
            return part if isinstance(part, Texts) else self._corpus.read(part, limit)

        def size(shard: Shard) -> int:
            return len(shards.read(shard.path, ["digests"])["digests"])

        stage = TokenStage(self._corpus, self._windowing, limit)
        self._executor.finish(ledger, shards.Stage(found, take, stage, self._advance, size, texts))
        for part, shard in zip(parts, found, strict=True):
            yield part, unflatten_tokens(shards.read(shard.path))

    def _forget_problems(self) -> None:
        """Whoever starts again looks again: a disk may have been away, not a text been bad."""
        for path in self._work.glob("tokenise-*.npz"):
            if str(shards.read(path, ["problem"])["problem"]):
                path.unlink()

    def _path(self, part: LayerChoice, limit: int | None) -> Path:
        """A shard's file, named by all that it depends on."""
        if isinstance(part, Texts):
            digests = b"".join(map(digest_of, part.documents))
            depends: dict[str, Any] = {"texts": hashlib.sha256(digests).hexdigest(), "n_skipped": part.n_skipped}
        else:
            depends = {
                "corpus": self._corpus.id,
                "text_field": self._corpus.text_field,
                "skip_bad": self._corpus.skip_bad,
                "fingerprint": self.fingerprint,
                "range": part,
                "limit": limit,
            }
        key = shards.key(layout=LAYOUT, tokenizer=self._tokenizer.sha256, windowing=asdict(self._windowing), **depends)
        return self._work / f"tokenise-{key}.npz"

    def _advance(self, n: int) -> None:
        """Say nothing of what is read beyond `max_documents`, or again."""
        most = self._corpus.max_documents
        new = n if most is None else min(n, most - self._reported)
        self._reported += new
        self._report(new)  # 0, too: whoever is told may have had enough


def _texts(corpus: Corpus) -> Iterator[Texts]:
    """The whole corpus, some texts at a time."""
    documents: list[Document] = []
    n_characters = n_skipped = 0
    for document in corpus.documents():
        documents.append(document)
        n_characters += len(document.text)
        if n_characters >= TEXT_CHARACTERS:
            yield Texts(documents, corpus.n_skipped - n_skipped)
            documents, n_characters, n_skipped = [], 0, corpus.n_skipped
    if documents or corpus.n_skipped > n_skipped:
        yield Texts(documents, corpus.n_skipped - n_skipped)


def _batches(parts: Iterator[Texts]) -> Iterator[list[Texts]]:
    done = 0
    while batch := list(islice(parts, min(GROWTH * done or 1, MOST_TEXTS))):
        done += len(batch)
        yield batch
