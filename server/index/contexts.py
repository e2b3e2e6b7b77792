"""Contexts: the windows of tokens that the model reads, kept flat on disk.

A window is BOS (where asked for) and at most context_length − 1 consecutive tokens of one document; documents are never
packed together. Files in a folder: tokens, offsets, documents, starts, name_bytes, name_offsets (all .npy).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.server.index import arrays
from polysem.server.index.arrays import ArrayWriter


class Contexts:
    """The contexts of a folder, memory-mapped. Context c has n_tokens(c) tokens, BOS included."""

    def __init__(self, folder: Path) -> None:
        self._tokens = arrays.load(folder / "tokens.npy")
        self._offsets = arrays.load(folder / "offsets.npy")  # (C + 1,)
        self._documents = arrays.load(folder / "documents.npy")  # (C,)
        self._name_bytes = arrays.load(folder / "name_bytes.npy")
        self._name_offsets = arrays.load(folder / "name_offsets.npy")
        self.starts = arrays.load(folder / "starts.npy")  # (C,) first token's place in its document
        self.arrays = {
            "tokens": self._tokens,
            "offsets": self._offsets,
            "documents": self._documents,
            "starts": self.starts,
            "name_bytes": self._name_bytes,
            "name_offsets": self._name_offsets,
        }
        self.n_tokens = len(self._tokens)
        self.n_documents = len(self._name_offsets) - 1

    def __len__(self) -> int:
        return len(self._documents)

    def lengths(self, contexts: Array | slice | int = slice(None)) -> Array:
        """(…,) int64 tokens of each context."""
        offsets = np.asarray(self._offsets)
        lengths: Array = offsets[1:][contexts] - offsets[:-1][contexts]
        return lengths

    def tokens(self, context: int) -> Array:
        """(T,) int64 token ids, BOS included."""
        return self._tokens[self._offsets[context] : self._offsets[context + 1]].astype(np.int64)

    def tokens_at(self, contexts: Array, positions: Array) -> Array:
        """(…,) int32 the token id at each position of each context."""
        found: Array = self._tokens[np.asarray(self._offsets)[contexts] + positions].astype(np.int32)
        return found

    def load(self, first: int, last: int) -> "LoadedContexts":
        """Contexts first..last − 1, read into memory."""
        offsets = np.array(self._offsets[first : last + 1])
        return LoadedContexts(first, np.array(self._tokens[offsets[0] : offsets[-1]]), offsets - offsets[0])

    def document(self, context: int) -> str:
        """The corpus's name of the context's document."""
        d = int(self._documents[context])
        return bytes(self._name_bytes[self._name_offsets[d] : self._name_offsets[d + 1]]).decode()


class LoadedContexts(NamedTuple):
    """C consecutive contexts, which keep their numbers: what a shard needs, wherever it is made.

    first    number of the first one
    flat     (T,) the tokens of all
    offsets  (C + 1,) int64 where each begins
    """

    first: int
    flat: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def last(self) -> int:
        """One more than the last one's number."""
        return self.first + len(self)

    @property
    def lengths(self) -> Array:
        """(C,) int64 tokens of each context."""
        return np.diff(self.offsets)

    def split(self, size: int) -> Iterator["LoadedContexts"]:
        """The same, at most `size` contexts at a time."""
        for begin in range(0, len(self), size):
            offsets = self.offsets[begin : begin + size + 1]
            yield LoadedContexts(self.first + begin, self.flat[offsets[0] : offsets[-1]], offsets - offsets[0])

    def tokens(self, context: int) -> Array:
        """(T,) int64 token ids of context number `context`, BOS included."""
        begin, end = self.offsets[context - self.first : context - self.first + 2]
        return self.flat[begin:end].astype(np.int64)


class ContextRange(NamedTuple):
    """A range of contexts: first..last − 1 in a folder."""

    folder: Path
    first: int
    last: int

    def read(self) -> LoadedContexts:
        """They themselves."""
        return Contexts(self.folder).load(self.first, self.last)


class Cut(NamedTuple):
    """The contexts of some documents, as in the files of a folder; documents count from 0 among those with tokens.

    tokens        (T,) ids of all contexts
    offsets       (C + 1,) int64 where each begins
    documents     (C,) int32
    starts        (C,) int32 first token's place in its document
    name_bytes    (B,) uint8 UTF-8 of all names
    name_offsets  (D + 1,) int64
    """

    tokens: Array
    offsets: Array
    documents: Array
    starts: Array
    name_bytes: Array
    name_offsets: Array


def token_dtype(n_tokens: int) -> type[np.uint16] | type[np.int32]:
    """Return the number type of stored token ids."""
    return np.uint16 if n_tokens <= 1 << 16 else np.int32


@contextmanager
def writing(folder: Path, n_tokens: int) -> Iterator[Callable[[Cut], None]]:
    """A function that adds contexts to those of the folder, which is whole on leaving.

    n_tokens  that the tokenizer has
    """
    dtypes = Cut(token_dtype(n_tokens), np.int64, np.int32, np.int32, np.uint8, np.int64)  # type: ignore[arg-type]
    with ExitStack() as stack:
        files = [
            stack.enter_context(ArrayWriter(folder / f"{name}.npy", dtype)) for name, dtype in dtypes._asdict().items()
        ]
        tokens, offsets, _, _, name_bytes, name_offsets = files
        offsets.append([0])
        name_offsets.append([0])

        def add(part: Cut) -> None:
            renumbered = part._replace(
                offsets=part.offsets[1:] + tokens.n_rows,
                documents=part.documents + (name_offsets.n_rows - 1),
                name_offsets=part.name_offsets[1:] + name_bytes.n_rows,
            )
            for file, rows in zip(files, renumbered, strict=True):
                file.append(rows)

        yield add
