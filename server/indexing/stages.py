"""Stages of an index build that a worker does: contexts of a range, then the model's passes over them.

All pickle, so that a worker on another machine gets them once, and then ranges only.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.facts import Selection
from polysem.proto.work.shards import Advance, Arrays
from polysem.server.corpus.documents import Corpus, Document, Texts, digest_of
from polysem.server.corpus.ranges import Range
from polysem.server.index.contexts import ContextRange, Cut, LoadedContexts
from polysem.server.indexing import choose, collecting, scan, selection
from polysem.server.indexing.collecting import Collected
from polysem.server.indexing.keeping import Keeper, Kept, Missing
from polysem.server.indexing.scan import KeyActivations, ReadOptions, RunChoice, Scan
from polysem.server.indexing.windows import Windowing, cut
from polysem.server.model.model import Model


@dataclass(frozen=True)
class TokenStage:
    """Contexts of a range of the corpus, or of the texts that it holds: the same arrays.

    limit  documents of a range that are read at most, or None
    """

    corpus: Corpus
    windowing: Windowing
    limit: int | None

    def __call__(self, model: Model, taken: Range | Texts, advance: Advance) -> Callable[[], Arrays]:
        texts = taken if isinstance(taken, Texts) else self.corpus.stream(taken, self.limit)
        digests: list[bytes] = []

        def read() -> Iterator[Document]:
            for document in texts.documents:
                digests.append(digest_of(document))
                yield document

        longer: list[int] = []
        made = cut(read(), model.tokenizer, self.windowing, advance, longer.append)
        arrays = made._asdict() | {
            "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            "n_skipped": np.array(texts.n_skipped),
            "n_longer": np.array(sum(longer)),
            "problem": np.array(texts.problem),
        }
        return lambda: arrays


class Tokenised(NamedTuple):
    """A shard of the corpus.

    contexts   of its documents
    digests    (n, 32) uint8 of all documents with text
    n_skipped  left out among them
    problem    what ended the reading, or nothing
    n_longer   documents of which only the first window is read
    """

    contexts: Cut
    digests: Array
    n_skipped: int
    problem: str
    n_longer: int


@dataclass(frozen=True)
class ScanStage:
    """Scan of a shard.

    given    (J,) float32 maxima for the selection, or None for the corpus's own
    at_once  contexts held unreduced
    keeper   keeps what collecting will need, where that is done in the same process; else None
    """

    reading: ReadOptions
    rule: Selection
    given: Array | None
    at_once: int
    keeper: Keeper | None

    def __call__(self, model: Model, taken: LoadedContexts | ContextRange, advance: Advance) -> Callable[[], Arrays]:
        """Return a function that reduces what was read, beside the next."""
        first, *others = _read(taken).split(self.at_once)
        end = self._begun(model, first, advance)
        parts: list[tuple[Scan, Kept | None]] = []
        with ThreadPoolExecutor(1) as reducer:
            for some in others:
                part = reducer.submit(end)
                end = self._begun(model, some, advance)
                parts.append(part.result())

        def rest() -> Arrays:
            scans, kept = zip(*parts, end(), strict=True)
            if self.keeper is not None:
                self.keeper.put(kept)
            return choose.flattened(joined(scans, self.rule, self.given), self.reading.bounds)

        return rest

    def _begun(self, model: Model, some: LoadedContexts, advance: Advance) -> Callable[[], tuple[Scan, Kept | None]]:
        """Read some contexts; what is returned reduces them, and ends what is kept."""
        kept = None if self.keeper is None else self.keeper.begin(model, some)
        found = scan.key_activations(model, some, self.reading, advance, None if kept is None else kept.see)
        return lambda: (self.reduced(found), None if kept is None else kept.whole(found))

    def reduced(self, found: KeyActivations) -> Scan:
        """Return what is kept of a part."""
        return scan.reduced(found, self.reading, self.rule, self.given)


@dataclass(frozen=True)
class CollectStage:
    """Collecting of a shard: from what the scan kept, or by the model.

    maximum          (J,) float32 strengths, over the whole corpus
    at_once, keeper  as in the scan
    """

    reading: ReadOptions
    maximum: Array
    at_once: int
    keeper: Keeper | None

    def __call__(
        self, model: Model, taken: tuple[LoadedContexts | ContextRange, Sequence[RunChoice]], advance: Advance
    ) -> Callable[[], Arrays]:
        loaded, parts = _read(taken[0]), taken[1]
        collected = self._kept(model, loaded, parts)
        if collected is None:
            collected = collecting.collect(model, loaded, parts, self.maximum, self.reading, advance, self.at_once)
        else:
            advance(int(loaded.lengths.sum()))
        return lambda: {
            f"{name}_{run}": array for run, part in enumerate(collected()) for name, array in part._asdict().items()
        }

    def _kept(
        self, model: Model, loaded: LoadedContexts, parts: Sequence[RunChoice]
    ) -> Callable[[], list[Collected]] | None:
        """Return the shard as it was kept; None where it was not, or not all of it."""
        held = None if self.keeper is None else self.keeper.pop(loaded.first)
        if held is None:
            return None
        try:
            return collecting.kept(model, loaded, parts, self.maximum, self.reading, held)
        except Missing:
            return None


def _read(taken: LoadedContexts | ContextRange) -> LoadedContexts:
    return taken.read() if isinstance(taken, ContextRange) else taken


def unflatten_tokens(values: dict[str, Array]) -> Tokenised:
    """The arrays of a shard as what they are of."""
    made = Cut(*(values[name] for name in Cut._fields))
    return Tokenised(made, values["digests"], int(values["n_skipped"]), str(values["problem"]), int(values["n_longer"]))


def joined(parts: Sequence[Scan], rule: Selection, given: Array | None) -> Scan:
    """The scans of parts of a corpus as one of all of them."""
    if len(parts) == 1:
        return parts[0]
    candidates = selection.join([part.candidates for part in parts], rule, given)
    return Scan(candidates, scan.added(part.sums for part in parts), scan.added_totals(part.totals for part in parts))
