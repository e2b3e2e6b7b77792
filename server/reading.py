"""A corpus read by a process of its own: parsing Python or JSON holds the interpreter for as long as it takes, and a
server that reads a corpus for a job would answer nobody meanwhile (half a second was seen).

The child (`python -m polysem.server.reading`) is told the corpus as JSON on its standard input and writes frames: a
byte that says what comes, two lengths, two texts. It ends with whoever reads it.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from polysem.proto.errors import BadCorpus, FailedPrecondition
from polysem.server.corpus import Corpus, Document

_HEAD = struct.Struct("<cQQ")
_DOCUMENT, _END, _BAD = b"d", b"e", b"b"


class CorpusElsewhere(Corpus):
    """As `Corpus`, with the same documents and errors; one child reads it, from its start, so it has no ranges."""

    def ranges(self) -> None:
        return None

    def documents(self) -> Iterator[Document]:
        asked = {
            "id": self.id,
            "text_field": self.text_field,
            "skip_bad": self.skip_bad,
            "max_documents": self.max_documents,
            "path": None if self.path is None else str(self.path),
        }
        command = [sys.executable, "-m", "polysem.server.reading"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(json.dumps(asked).encode())
                child.stdin.close()
                yield from self._frames(child.stdout)
            finally:
                child.kill()

    def _frames(self, pipe: IO[bytes]) -> Iterator[Document]:
        while len(head := pipe.read(_HEAD.size)) == _HEAD.size:
            kind, *lengths = _HEAD.unpack(head)
            first, second = (pipe.read(length).decode() for length in lengths)
            if kind == _BAD:
                raise BadCorpus(first)
            if kind == _END:
                self.n_skipped = int(first)
                return
            yield Document(first, second)
        raise FailedPrecondition(f"the process that reads the corpus {self.id!r} ended before the corpus; see the log")


def _write(pipe: IO[bytes], kind: bytes, *texts: str) -> None:
    first, second = (text.encode() for text in (*texts, "", "")[:2])
    pipe.write(_HEAD.pack(kind, len(first), len(second)) + first + second)


def main() -> None:
    asked = json.load(sys.stdin)
    corpus = Corpus(**asked | {"path": asked["path"] and Path(asked["path"])})
    pipe = sys.stdout.buffer
    try:
        for document in corpus.documents():
            _write(pipe, _DOCUMENT, *document)
        _write(pipe, _END, str(corpus.n_skipped))
        pipe.flush()
    except BadCorpus as error:
        _write(pipe, _BAD, error.message)
        pipe.flush()
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
