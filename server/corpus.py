"""Corpora: documents one by one from the built-in text, a file or a folder.

pydocs                what the running Python carries (server/demo/pydocs.py)
x.jsonl, x.jsonl.gz   a JSON object a line; the text in one field, the name in `id` where there is one
x.txt                 a document a line, named by its line number from 1
x.parquet             a document a row; text and name as in JSON lines
hf:NAME:CONFIG:SPLIT  a data set of Hugging Face's hub, or a folder of that library's, streamed; the last two may be
                      left out, the split is then `train`. No code of a data set is run
folder                a document a file, named by its path in the folder
"""

import codecs
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from polysem.proto.errors import BadCorpus, InvalidArgument

PYDOCS = "pydocs"
MAX_DOCUMENT_BYTES = 64 << 20
MAX_NAME_CHARACTERS = 512
HUGGING_FACE = "hf:"
PARQUET_ROWS = 256  # read at once


class Document(NamedTuple):
    """A text and the name that its corpus gives it."""

    name: str
    text: str


@dataclass
class Corpus:
    """The documents of `id`, in order; those without text are left out.

    text_field    of JSON lines
    skip_bad      leave out what cannot be read as text, and count it in `n_skipped`; else BadCorpus names the place
    max_documents of those with text
    path          where it lies, if `id` is only its name
    """

    id: str
    text_field: str = "text"
    skip_bad: bool = False
    max_documents: int | None = None
    n_skipped: int = 0
    path: Path | None = None

    def documents(self) -> Iterator[Document]:
        """Read the corpus from its start."""
        if self.max_documents is not None and self.max_documents < 1:
            raise InvalidArgument(f"max_documents is {self.max_documents}; give at least 1", "max_documents")
        self.n_skipped = 0
        n = 0
        for document in self._read():
            if not document.text:
                continue
            n += 1
            yield document
            if n == self.max_documents:
                return
        if n == 0:
            raise BadCorpus(f"the corpus {self.id!r} has no document with text in it")
        if self.max_documents is not None:
            raise BadCorpus(
                f"the corpus {self.id!r} has {n:,} documents with text, and {self.max_documents:,} are asked for; "
                "ask for at most so many, or leave out --max-documents"
            )

    def _read(self) -> Iterator[Document]:
        if self.id == PYDOCS and self.path is None:
            from polysem.server.demo import pydocs

            return (Document(name, text) for name, text in pydocs.documents())
        if self.id.startswith(HUGGING_FACE) and self.path is None:
            return self._from_records(_hugging_face(self.id), "row")
        path = self.path or Path(os.path.expanduser(self.id))  # "~nobody" stays as it is
        if path.is_dir():
            return self._read_folder(path)
        if not path.is_file():
            raise BadCorpus(
                f"there is no corpus {self.id!r}; give 'pydocs', a .jsonl, .jsonl.gz, .txt or .parquet file, a folder, "
                "or hf:NAME"
            )
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return self._read_jsonl(path)
        if path.suffix == ".txt":
            return self._read_lines(path)
        if path.suffix == ".parquet":
            return self._from_records(_parquet_rows(path, self.text_field), "row")
        raise BadCorpus(
            f"cannot tell what {path.name!r} is; a corpus is a .jsonl, .jsonl.gz, .txt or .parquet file, a folder, or "
            "hf:NAME"
        )

    def _read_folder(self, folder: Path) -> Iterator[Document]:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        for path in files:
            name = os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")
            with _readable(path), path.open("rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + len(codecs.BOM_UTF8) + 1)
            text = self._text(data.removeprefix(codecs.BOM_UTF8), f"the file {name!r} of {self.id!r}")
            if text is not None:
                yield Document(name[:MAX_NAME_CHARACTERS], text)

    def _read_lines(self, path: Path) -> Iterator[Document]:
        for number, line in _lines(path):
            text = self._text(line, f"line {number} of {self.id!r}")
            if text is not None:
                yield Document(str(number), text)

    def _read_jsonl(self, path: Path) -> Iterator[Document]:
        for number, line in _lines(path):
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
        return self._document(record, number)

    def _from_records(self, records: Iterable[Mapping[str, Any]], noun: str) -> Iterator[Document]:
        for number, record in enumerate(records, 1):
            try:
                yield self._document(record, number)
            except ValueError as error:
                self._bad(f"{noun} {number} of {self.id!r} {error}")

    def _document(self, record: Mapping[str, Any], number: int) -> Document:
        text = record.get(self.text_field)
        if not isinstance(text, str):
            known = ", ".join(repr(key) for key, value in record.items() if isinstance(value, str)) or "none"
            raise ValueError(f"has no text in its field {self.text_field!r}; fields with text: {known}")
        if len(text) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, which is no document")
        id_ = record.get("id")
        name = str(number if id_ is None else id_)[:MAX_NAME_CHARACTERS]
        try:
            (name + text).encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds half a surrogate pair, which is no text") from error
        return Document(name, text)

    def _text(self, data: bytes, place: str) -> str | None:
        """The bytes as text; None where they are none and may be skipped."""
        if len(data) > MAX_DOCUMENT_BYTES:
            self._bad(f"{place} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, which is no document")
        elif b"\0" in data:
            self._bad(f"{place} holds a NUL byte, so it is no text")
        else:
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError as error:
                self._bad(f"{place} is not UTF-8 (byte {error.start})")
        return None

    def _bad(self, problem: str) -> None:
        if not self.skip_bad:
            raise BadCorpus(f"{problem}; mend it, or leave such documents out with --skip-bad-documents")
        self.n_skipped += 1


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines from 1 without their ends; one longer than a document may be comes cut, its rest is passed over."""
    with _readable(path), _open(path) as file:
        number = 0
        while line := file.readline(MAX_DOCUMENT_BYTES + len(codecs.BOM_UTF8 + b"\r\n")):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(1 << 20)):
                pass
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _parquet_rows(path: Path, text_field: str) -> Iterator[Mapping[str, Any]]:
    """Its rows, some at a time, with the fields that a document is made of."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise BadCorpus(f"to read {str(path)!r} install pyarrow: pip install pyarrow") from error
    with _readable(path):
        try:
            file = parquet.ParquetFile(path)
            names = file.schema_arrow.names
            if text_field not in names:
                raise BadCorpus(f"{str(path)!r} has no column {text_field!r}; it has {', '.join(names)}")
            wanted = [name for name in (text_field, "id") if name in names]
            for batch in file.iter_batches(PARQUET_ROWS, columns=wanted):
                yield from batch.to_pylist()
        except pyarrow.ArrowException as error:
            raise BadCorpus(f"cannot read {str(path)!r}: {_first_line(error)}") from error


def _hugging_face(id_: str) -> Iterator[Mapping[str, Any]]:
    """The rows of hf:NAME[:CONFIG][:SPLIT]; NAME may be a folder."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise BadCorpus(f"to read {id_!r} install datasets: pip install 'polysem[hf]'") from error
    name, _, rest = id_.removeprefix(HUGGING_FACE).partition(":")
    config, _, split = rest.partition(":")
    folder = Path(os.path.expanduser(name))
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):  # by `save_to_disk`
            saved = datasets.load_from_disk(folder)
            rows = saved if isinstance(saved, datasets.Dataset) else saved[split or "train"]
        else:
            rows = datasets.load_dataset(
                str(folder) if folder.is_dir() else name, config or None, split=split or "train", streaming=True
            )
        yield from rows
    except Exception as error:  # the library raises of all kinds
        raise BadCorpus(
            f"cannot read the data set {id_!r}: {_first_line(error)} (hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT)"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise BadCorpus(f"cannot read {str(path)!r}: {error}") from error


class CorpusDigest:
    """sha256 over the names and texts of documents, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, document: Document) -> None:
        for part in document:
            data = part.encode()
            self._digest.update(len(data).to_bytes(8, "little"))
            self._digest.update(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
