"""A corpus read by a process of its own: parsing Python or JSON holds the interpreter for as long as it takes, and a
server that reads a corpus for a job would answer nobody meanwhile (half a second was seen).

The child (`python -m polysem.server.corpus.child`) is told the corpus and what of it is wanted, as JSON on its standard
input, and writes frames: a byte that says what comes, two lengths, two texts. It ends with whoever reads it.
"""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from polysem.proto.errors import BadCorpus, FailedPrecondition
from polysem.server.corpus.documents import Corpus, Document, Texts
from polysem.server.corpus.ranges import Range

_HEAD = struct.Struct("<cQQ")
_DOCUMENT, _RANGE, _END, _BAD = b"d", b"r", b"e", b"b"


class _Frame(NamedTuple):
    """_DOCUMENT: name, text. _RANGE: as JSON. _END: documents left out, what ended the reading. _BAD: a problem."""

    kind: bytes
    first: str
    second: str


@dataclass
class CorpusElsewhere(Corpus):
    """A `Corpus` with the same documents and errors, read by a child process.

    for_workers  other machines are to read it too, in its ranges; else it has none, and one child reads all
    """

    for_workers: bool = False

    def documents(self) -> Iterator[Document]:
        for kind, first, second in self._ask("documents"):
            if kind == _END:
                self.n_skipped = int(first)
            else:
                yield Document(first, second)

    def ranges(self) -> Iterator[Range] | None:
        if not self.for_workers:
            return None
        frames = self._ask("ranges")
        first = next(frames)
        return None if first.kind == _END else _ranges(first, frames)

    def read(self, range_: Range, limit: int | None = None) -> Texts:
        *documents, end = self._ask("range", range_, limit)
        return Texts([Document(*texts) for _, *texts in documents], int(end.first), end.second)

    def _ask(self, *wanted: Any) -> Iterator[_Frame]:
        """Frames up to the end; raises what a problem among them is."""
        corpus = {
            "id": self.id,
            "text_field": self.text_field,
            "skip_bad": self.skip_bad,
            "max_documents": self.max_documents,
            "path": None if self.path is None else str(self.path),
        }
        command = [sys.executable, "-m", "polysem.server.corpus.child"]
        environment = os.environ | {"USE_TORCH": "0"}  # datasets imports it for a class that nothing here needs
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(json.dumps([corpus, *wanted]).encode())
                child.stdin.close()
                yield from self._frames(child.stdout)
            finally:
                child.kill()

    def _frames(self, pipe: IO[bytes]) -> Iterator[_Frame]:
        while len(head := pipe.read(_HEAD.size)) == _HEAD.size:
            kind, *lengths = _HEAD.unpack(head)
            first, second = (pipe.read(length) for length in lengths)
            if [len(first), len(second)] != lengths:
                break
            frame = _Frame(kind, first.decode(), second.decode())
            if kind == _BAD:
                raise BadCorpus(frame.first)
            yield frame
            if kind == _END:
                return
        raise FailedPrecondition(f"the process that reads the corpus {self.id!r} ended before the corpus; see the log")


def _ranges(first: _Frame, frames: Iterator[_Frame]) -> Iterator[Range]:
    frame = first
    while frame.kind != _END:
        yield _range(json.loads(frame.first))
        frame = next(frames)


def _range(values: list[Any]) -> Range:
    begin, end, first, files, file = values
    return Range(begin, end, first, tuple(files), file)


def _answers(corpus: Corpus, what: str, *wanted: Any) -> Iterator[_Frame]:
    """Yield what the child writes."""
    if what == "ranges":
        for found in corpus.ranges() or ():
            yield _Frame(_RANGE, json.dumps(found), "")
        yield _Frame(_END, "0", "")
    elif what == "range":
        range_, limit = wanted
        stream = corpus.stream(_range(range_), limit)
        for document in stream.documents:
            yield _Frame(_DOCUMENT, *document)
        yield _Frame(_END, str(stream.n_skipped), stream.problem)
    else:
        for document in corpus.documents():
            yield _Frame(_DOCUMENT, *document)
        yield _Frame(_END, str(corpus.n_skipped), "")


def _write(pipe: IO[bytes], frame: _Frame) -> None:
    first, second = frame.first.encode(), frame.second.encode()
    pipe.write(_HEAD.pack(frame.kind, len(first), len(second)) + first + second)


def main() -> None:
    for stops in (signal.SIGINT, signal.SIGTERM):  # which a terminal or systemd sends to all: the server ends its child
        signal.signal(stops, signal.SIG_IGN)
    asked, *wanted = json.load(sys.stdin)
    corpus = Corpus(**asked | {"path": asked["path"] and Path(asked["path"])})
    pipe = sys.stdout.buffer
    try:
        try:
            for frame in _answers(corpus, *wanted):
                _write(pipe, frame)
        except BadCorpus as error:
            _write(pipe, _Frame(_BAD, error.message, ""))
        pipe.flush()
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
