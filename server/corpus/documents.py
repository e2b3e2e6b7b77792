"""Corpora: documents one by one from the built-in text, a file or a folder.

pydocs                what the running Python carries (server/corpus/pydocs.py)
x.jsonl, x.jsonl.gz   a JSON object a line; the text in one field, the name in `id` where there is one
x.txt                 a document a line, named by its line number from 1
x.parquet             a document a row; text and name as in JSON lines
hf:NAME:CONFIG:SPLIT  a data set of Hugging Face's hub, or a folder of that library's (server/corpus/tables.py); the
                      last two may be left out, the split is then `train`. Where it has several files, row 7 of the
                      third one is named 3:7
folder                a document a file, named by its path in the folder
"""

import codecs
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from polysem.proto.errors import BadCorpus, InvalidArgument
from polysem.server.corpus import ranges, tables
from polysem.server.corpus.ranges import WHOLE, Range, readable

PYDOCS = "pydocs"
MAX_DOCUMENT_BYTES = 64 << 20
MAX_NAME_CHARACTERS = 512
RANGE_BYTES = 16 << 20  # of text
_FORMS = "'pydocs', a .jsonl, .jsonl.gz, .txt or .parquet file, a folder, or hf:NAME"


class Document(NamedTuple):
    """A text and the name that its corpus gives it."""

    name: str
    text: str


class Texts(NamedTuple):
    """Contents of a range of a corpus.

    documents  with text
    n_skipped  left out among them
    problem    what ended the reading, in a sentence; empty where nothing did
    """

    documents: list[Document]
    n_skipped: int = 0
    problem: str = ""


class DocumentStream:
    """A range of a corpus, read as its documents are asked for.

    documents           with text
    n_skipped, problem  as in Texts, once they were all asked for
    """

    def __init__(self, corpus: "Corpus", range_: Range, limit: int | None) -> None:
        self._corpus = replace(corpus, n_skipped=0)
        self.documents = self._read(range_, limit)
        self.problem = ""

    @property
    def n_skipped(self) -> int:
        return self._corpus.n_skipped

    def _read(self, range_: Range, limit: int | None) -> Iterator[Document]:
        try:
            yield from islice(self._corpus.with_text(range_), limit)
        except BadCorpus as error:
            self.problem = error.message


@dataclass
class Corpus:
    """The documents of `id`, in order; those without text, or with white space alone, are left out.

    text_field    of JSON lines
    skip_bad      leave out what cannot be read as text, and count it in `n_skipped`; else BadCorpus names the place
    max_documents at most so many of those with text
    path          where it lies, if `id` is only its name
    anchored      where it lies, if `id` is a path: see `anchor`
    """

    id: str
    text_field: str = "text"
    skip_bad: bool = False
    max_documents: int | None = None
    n_skipped: int = 0
    path: Path | None = None
    anchored: Path | None = None

    def documents(self) -> Iterator[Document]:
        """Read the corpus from its start."""
        self._check()
        self.n_skipped = 0
        n = 0
        for document in self.with_text(WHOLE):
            n += 1
            yield document
            if n == self.max_documents:
                return
        self.check_number(n)

    def _check(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise InvalidArgument(f"max_documents is {self.max_documents}; give at least 1", "max_documents")

    def check_number(self, n: int) -> None:
        """Raise BadCorpus where there is none among the n documents with text that it has."""
        if n == 0:
            raise BadCorpus(f"the corpus {self.id!r} has no document with text in it")

    def ranges(self) -> Iterator[Range] | None:
        """Consecutive ranges of about RANGE_BYTES (of a row group or a file, where that is more), found as they are
        asked for; None where no part can be read alone (archives, `pydocs`), and of data sets in one file, or in larger
        ones, that are not Parquet.
        """
        self._check()
        kind, place = self._place()
        if kind in (".jsonl", ".txt"):
            return ranges.of_lines(place, RANGE_BYTES)
        if kind == "folder":
            return ranges.of_files(place, RANGE_BYTES)
        if kind == ".parquet":
            return tables.parquet_ranges(place, self.text_field, RANGE_BYTES)
        if kind == "saved":
            return tables.saved_ranges(self.id, place, RANGE_BYTES)
        if kind == "repository":
            return tables.DataSet(self.id, place).ranges(self.text_field, RANGE_BYTES)
        return None

    def stream(self, range_: Range, limit: int | None = None) -> DocumentStream:
        """The documents of one of its ranges, the first `limit` at most; `max_documents` does not matter."""
        return DocumentStream(self, range_, limit)

    def read(self, range_: Range, limit: int | None = None) -> Texts:
        """The same in memory."""
        stream = self.stream(range_, limit)
        return Texts(list(stream.documents), stream.n_skipped, stream.problem)

    def fingerprint(self, times: bool = False) -> str:
        """Cheap, and the same wherever the same corpus is reached; empty where it has no ranges.

        times  add when its files were changed, which is the same on one machine only
        """
        kind, place = self._place()
        if kind == "repository":
            return tables.DataSet(self.id, place).fingerprint(times)
        has_ranges = kind in (".jsonl", ".txt", ".parquet", "folder", "saved")
        return ranges.fingerprint(place, times) if has_ranges else ""

    def anchor(self) -> None:
        """Let it be found from other folders too, where it lies on a path."""
        self.anchored = self._given_path()

    def _given_path(self) -> Path:
        """Return where it lies, if its id is a path."""
        if self.anchored is not None:
            return self.anchored
        name = tables.name_of(self.id) if self.id.startswith(tables.HUGGING_FACE) else self.id
        return Path(os.path.expanduser(name)).absolute()  # "~nobody" stays as it is

    def _place(self) -> tuple[str, Path]:
        """Return what it is, and where."""
        if self.path is None and self.id == PYDOCS:
            return "pydocs", Path()
        if not self.id.strip():
            raise BadCorpus(f"no corpus was named: give {_FORMS}")
        path = self.path or self._given_path()
        if self.path is None and self.id.startswith(tables.HUGGING_FACE):
            by_save_to_disk = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
            return "saved" if by_save_to_disk else "repository", path
        if path.is_dir():
            return "folder", path
        if not path.is_file():
            if path.exists():
                raise BadCorpus(f"{self.id!r} is neither a file nor a folder, and cannot be read twice; give {_FORMS}")
            raise BadCorpus(f"there is no corpus {self.id!r}; give {_FORMS}")
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return "archive" if path.suffix == ".gz" else ".jsonl", path
        if path.suffix in (".txt", ".parquet"):
            return path.suffix, path
        raise BadCorpus(
            f"cannot tell what {path.name!r} is; a corpus is a .jsonl, .jsonl.gz, .txt or .parquet file, a folder, or "
            "hf:NAME"
        )

    def with_text(self, range_: Range) -> Iterator[Document]:
        """Yield the documents of a range, as they are read; raises BadCorpus for a bad one that may not be skipped."""
        return (document for document in self._read(range_) if document.text and not document.text.isspace())

    def _read(self, range_: Range) -> Iterator[Document]:
        kind, place = self._place()
        if kind == "pydocs":
            from polysem.server.corpus import pydocs

            return (Document(name, text) for name, text in pydocs.documents())
        if kind == "saved":
            return self._from_records(tables.saved_rows(self.id, place, range_), range_)
        if kind == "repository":
            return self._read_repository(place, range_)
        if kind == "folder":
            return self._read_folder(place, range_)
        if kind == ".txt":
            return self._read_lines(place, range_)
        if kind == ".parquet":
            return self._from_records(tables.parquet_rows(place, self.text_field, range_), range_)
        return self._read_jsonl(place, range_)

    def _read_repository(self, folder: Path, range_: Range) -> Iterator[Document]:
        if range_ == WHOLE:
            by_file = tables.DataSet(self.id, folder).by_file(self.text_field)
        else:
            by_file = tables.rows_by_file(self.id, folder, range_, self.text_field)
        for file, rows in by_file:
            yield from self._from_records(rows, file)

    def _read_folder(self, folder: Path, range_: Range) -> Iterator[Document]:
        for path in [folder / file for file in range_.files] or ranges.files(folder):
            name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")
            with readable(path), path.open("rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + len(codecs.BOM_UTF8) + 1)
            text = self._text(data.removeprefix(codecs.BOM_UTF8), f"the file {name!r} of {self.id!r}")
            if text is not None:
                yield Document(name[:MAX_NAME_CHARACTERS], text)

    def _read_lines(self, path: Path, range_: Range) -> Iterator[Document]:
        for number, line in _lines(path, range_):
            text = self._text(line, f"line {number} of {self.id!r}")
            if text is not None:
                yield Document(str(number), text)

    def _read_jsonl(self, path: Path, range_: Range) -> Iterator[Document]:
        for number, line in _lines(path, range_):
            place = f"line {number} of {self.id!r}"
            text = self._text(line, place)
            if text is None or not text.strip():
                continue
            try:
                document = self._parse(text, number)
            except ValueError as error:
                self._bad(f"{place} {error}")
                continue
            yield document

    def _parse(self, line: str, number: int) -> Document:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError("is not a JSON object")
        return self._document(record, str(number))

    def _from_records(self, records: Iterable[Mapping[str, Any]], range_: Range) -> Iterator[Document]:
        of_file, place = (f"{range_.file}:", f"file {range_.file} of ") if range_.file else ("", "")
        for number, record in enumerate(records, range_.first + 1):
            try:
                yield self._document(record, f"{of_file}{number}")
            except ValueError as error:
                self._bad(f"row {number} of {place}{self.id!r} {error}")

    def _document(self, record: Mapping[str, Any], number: str) -> Document:
        text = record.get(self.text_field)
        if isinstance(text, bytes):  # of Parquet
            text = _decoded(text, self.text_field)
        if not isinstance(text, str):
            known = ", ".join(repr(key) for key, value in record.items() if isinstance(value, str | bytes)) or "none"
            raise ValueError(f"has no text in its field {self.text_field!r}; fields with text: {known}")
        if len(text) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, which is no document")
        id_ = record.get("id")
        if isinstance(id_, bytes):
            id_ = _decoded(id_, "id")
        if isinstance(id_, tables.Unreadable):
            raise ValueError(f"has an id of type {id_.type} that cannot be read")
        name = (number if id_ is None else str(id_))[:MAX_NAME_CHARACTERS]
        try:
            (name + text).encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds an unpaired surrogate, which is not text") from error
        return Document(name, text)

    def _text(self, data: bytes, place: str) -> str | None:
        """The bytes as text; None where they are none and may be skipped."""
        if len(data) > MAX_DOCUMENT_BYTES:
            self._bad(f"{place} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, which is no document")
        elif b"\0" in data:
            self._bad(f"{place} holds a NUL byte, so it is not text")
        else:
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError as error:
                self._bad(f"{place} is not UTF-8 (byte {error.start})")
        return None

    def _bad(self, problem: str) -> None:
        if not self.skip_bad:
            raise BadCorpus(f"{problem}; fix it, or leave such documents out with --skip-bad-documents")
        self.n_skipped += 1


def _lines(path: Path, range_: Range) -> Iterator[tuple[int, bytes]]:
    """Lines from 1 without their ends; one longer than a document may be comes cut, its rest is passed over."""
    with readable(path), _open(path) as file:
        file.seek(range_.begin)
        number, left = range_.first, range_.end - range_.begin
        while left > 0 and (line := file.readline(MAX_DOCUMENT_BYTES + len(codecs.BOM_UTF8 + b"\r\n"))):
            number += 1
            left -= len(line)
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(1 << 20)):
                left -= len(rest)
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _decoded(text: bytes, field: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 in its field {field!r} (byte {error.start})") from error


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def digest_of(document: Document) -> bytes:
    """(32,) sha256 of its name and text."""
    digest = hashlib.sha256()
    for part in document:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


class CorpusDigest:
    """sha256 over the digests of documents, in order: so those of ranges may be made apart."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, document: Document) -> None:
        self.add_digests(digest_of(document))

    def add_digests(self, digests: bytes) -> None:
        """(n · 32,) those of n documents, one after the other."""
        self._digest.update(digests)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
