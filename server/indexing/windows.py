"""Documents as contexts: tokenised, and cut into windows."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from polysem.server.corpus.documents import Document
from polysem.server.index.contexts import Cut, token_dtype, writing
from polysem.server.model.tokenizer import Tokenizer

_BATCH = 256  # documents tokenised at once


@dataclass(frozen=True)
class Windowing:
    """Settings of how documents are cut.

    bos_id          the token that begins each window, or None
    skip_positions  tokens after it that are never key tokens; a window of no more is left out
    """

    context_length: int
    windows: Literal["first", "all"]
    bos_id: int | None
    skip_positions: int = 0

    def cut(self, ids: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
        """(start, tokens of the document from there) of each window."""
        room = self.context_length - (self.bos_id is not None)
        for start in range(0, len(ids), room):
            if len(window := ids[start : start + room]) > self.skip_positions:
                yield start, window
            if self.windows == "first":
                return

    def leaves_out(self, ids: Sequence[int]) -> bool:
        """Whether tokens of the document follow its first window and are not read."""
        return self.windows == "first" and len(ids) > self.context_length - (self.bos_id is not None)


def cut(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    windowing: Windowing,
    advance: Callable[[int], None] = lambda n: None,
    on_longer: Callable[[int], None] = lambda n: None,
) -> Cut:
    """Tokenise the documents; `advance` is told how many were, `on_longer` how many hold more than their windows."""
    head = [] if windowing.bos_id is None else [windowing.bos_id]
    dtype = token_dtype(tokenizer.n_tokens)
    tokens = [np.zeros(0, dtype)]  # of each batch: an array a window would take more memory than its tokens
    lengths, numbers = [0], []
    starts: list[int] = []
    names: list[bytes] = []
    n_longer = 0
    for batch in _batches(documents):
        flat: list[int] = []
        for document, ids in zip(batch, tokenizer.encode([d.text for d in batch]), strict=True):
            windows = list(windowing.cut(ids))
            for start, window in windows:
                flat += (*head, *window)
                lengths.append(len(head) + len(window))
                numbers.append(len(names))
                starts.append(start)
            if windows:
                names.append(document.name.encode())
            n_longer += windowing.leaves_out(ids)
        tokens.append(np.array(flat, dtype))
        advance(len(batch))
    on_longer(n_longer)
    return Cut(
        np.concatenate(tokens),
        np.cumsum(lengths),
        np.array(numbers, np.int32),
        np.array(starts, np.int32),
        np.frombuffer(b"".join(names), np.uint8),
        np.cumsum([0, *map(len, names)]),
    )


def write(folder: Path, documents: Iterable[Document], tokenizer: Tokenizer, windowing: Windowing) -> None:
    """Tokenise the documents and write their contexts, in one go.

    The oracle of what a build does in shards (tokenise.py); memory does not grow with the number of documents.
    """
    with writing(folder, tokenizer.n_tokens) as add:
        for batch in _batches(documents):
            add(cut(batch, tokenizer, windowing))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch
