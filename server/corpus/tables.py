"""Tables of texts: Parquet files, and data sets of Hugging Face's library.

hf:NAME[:CONFIG][:SPLIT] is a repository of its hub or a folder like one, read file by file, or a folder that its
`save_to_disk` wrote. No code of a data set is run.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from polysem.proto.errors import BadCorpus
from polysem.server.corpus import ranges
from polysem.server.corpus.ranges import WHOLE, Range, readable

HUGGING_FACE = "hf:"
MAX_FILE_BYTES = 512 << 20  # of a file that is a range because no part of it can be read alone
MAX_ERROR_CHARACTERS = 300  # of the library's own words
_ROWS = 256  # read at once
_FORMS = "hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT"


class DataSet:
    """A split of a repository: its files, in the library's order.

    folder    the repository, where it is one of this machine
    revision  of a hub's repository; None: the newest

    Raises BadCorpus where the library finds no such data set.
    """

    def __init__(self, id_: str, folder: Path, revision: str | None = None) -> None:
        name, config, split = _parts(id_)
        self._id, self._folder = id_, folder
        with _translated(id_):
            import datasets

            where = str(folder) if folder.is_dir() else name
            builder = datasets.load_dataset_builder(where, config or None, revision=revision)
            self._stream = builder.as_streaming_dataset(split=split)
            files = list((builder.config.data_files or {}).get(split, []))
            if not folder.is_dir() and any("://" not in file for file in files):  # "text" would be all files here
                raise ValueError(f"{name!r} is a format of files; there is no such data set and no such folder")
        known = len(files) == self._stream.num_shards  # of "train+test" they are not: it is one stream
        self._files = files if files and known else [""]

    @property
    def _whole_files(self) -> list[Range]:
        several = len(self._files) > 1
        return [WHOLE._replace(files=(file,), file=i if several else 0) for i, file in enumerate(self._files, 1)]

    def ranges(self, text_field: str, n_bytes: int) -> Iterator[Range] | None:
        """All of it: runs of a Parquet file's row groups, found when they are asked for, or of other files; at least
        one of them, else `n_bytes` at most. None where it is better read from its start."""
        if not self._has_ranges:
            return None
        return self._row_groups(text_field, n_bytes) if self._is_parquet else self._runs(n_bytes)

    def _row_groups(self, text_field: str, n_bytes: int) -> Iterator[Range]:
        for whole in self._whole_files:
            with _translated(self._id):
                found = parquet_ranges(whole.files[0], text_field, n_bytes)
            yield from (range_._replace(files=whole.files, file=whole.file) for range_ in found)

    def _runs(self, n_bytes: int) -> Iterator[Range]:
        files = self._whole_files
        for begin, end in ranges.runs(self._sizes, n_bytes):
            yield files[begin]._replace(files=tuple(self._files[begin:end]))

    @property
    def _has_ranges(self) -> bool:
        if any("://" in file and not file.startswith("hf://") for file in self._files):  # which may change unseen
            return False
        return self._is_parquet or (len(self._files) > 1 and max(self._sizes) <= MAX_FILE_BYTES)

    @property
    def _is_parquet(self) -> bool:
        return all(map(_is_parquet, self._files))

    @cached_property
    def _sizes(self) -> list[int]:
        """Bytes of each file."""
        with _translated(self._id):
            import fsspec

            system, _ = fsspec.url_to_fs(self._files[0])
            return [system.size(file) for file in self._files]

    def by_file(self, text_field: str) -> Iterator[tuple[Range, Iterator[Mapping[str, Any]]]]:
        """Each file, and its rows."""
        for file in self._whole_files:
            yield file, self.rows(file, text_field)

    def rows(self, file: Range, text_field: str) -> Iterator[Mapping[str, Any]]:
        """Yield the documents of one file of a range."""
        if _is_parquet(file.files[0]):
            yield from _translated_rows(self._id, file, text_field)
            return
        with _translated(self._id):
            yield from self._stream.shard(len(self._files), file.file - 1) if file.file else self._stream

    def fingerprint(self, times: bool) -> str:
        """Fingerprint of the folder and of files elsewhere, as corpus_ranges.fingerprint has it; URLs name a hub's
        commit. Empty where it has no ranges."""
        if not self._has_ranges:
            return ""
        found = [ranges.fingerprint(self._folder, times)] if self._folder.is_dir() else []
        for file in self._files:
            if "://" in file:
                found.append(file)
            elif not Path(file).is_relative_to(self._folder.resolve()):
                found.append(ranges.fingerprint(Path(file), times))
        return hashlib.sha256("\n".join(found).encode()).hexdigest()


def rows_by_file(
    id_: str, folder: Path, range_: Range, text_field: str
) -> Iterator[tuple[Range, Iterator[Mapping[str, Any]]]]:
    """Each file of a range alone, and its rows, as they were when the range was found: a URL names the commit."""
    data_set = None
    for i, url in enumerate(range_.files):
        file = range_._replace(files=(url,), file=range_.file + i if range_.file else 0)
        if _is_parquet(url):
            yield file, _translated_rows(id_, file, text_field)
        else:
            data_set = data_set or _as_found(id_, folder, url)
            yield file, data_set.rows(file, text_field)


def _translated_rows(id_: str, file: Range, text_field: str) -> Iterator[Mapping[str, Any]]:
    with _translated(id_):
        yield from parquet_rows(file.files[0], text_field, file)


def _as_found(id_: str, folder: Path, url: str) -> DataSet:
    revision = url.partition("@")[2].partition("/")[0] if url.startswith("hf://") else None
    return _kept(id_, folder, revision, ranges.fingerprint(folder, times=True) if folder.is_dir() else "")


@lru_cache(maxsize=1)
def _kept(id_: str, folder: Path, revision: str | None, _state: str) -> DataSet:
    """To find it takes a dozen requests, or a look at all files."""
    return DataSet(id_, folder, revision)


def saved(id_: str, folder: Path) -> Any:
    """The split of what `save_to_disk` left, a datasets.Dataset."""
    with _translated(id_):
        import datasets

        found = datasets.load_from_disk(folder)
        return found if isinstance(found, datasets.Dataset) else found[_parts(id_)[2]]


def saved_ranges(id_: str, folder: Path, n_bytes: int) -> Iterator[Range]:
    table = saved(id_, folder)
    return ranges.of_rows(len(table), 1 + n_bytes * len(table) // (1 + table.data.nbytes))


def saved_rows(id_: str, folder: Path, range_: Range) -> Iterator[Mapping[str, Any]]:
    table = saved(id_, folder)
    with _translated(id_):
        rows = table.select(range(range_.begin, min(range_.end, len(table)))).with_format("arrow")
        for batch in rows.iter(_ROWS):
            yield from _records(batch)


def parquet_ranges(place: Path | str, text_field: str, n_bytes: int) -> Iterator[Range]:
    """place: a path, or a URL of fsspec's."""
    with _parquet(place, text_field) as (file, _):
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    return ranges.of_row_groups([(group.num_rows, group.total_byte_size) for group in groups], n_bytes)


def parquet_rows(place: Path | str, text_field: str, range_: Range) -> Iterator[Mapping[str, Any]]:
    """Its rows, some at a time."""
    with _parquet(place, text_field) as (file, columns):
        groups = list(range(range_.begin, min(range_.end, file.num_row_groups)))
        for batch in file.iter_batches(_ROWS, groups, columns=columns):
            yield from _records(batch)


def _records(rows: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of an Arrow batch or table, whatever is in them.

    Texts come as their bytes, since they may be no UTF-8; what Python cannot hold comes as Arrow prints it.
    """
    columns = [_values(column) for column in rows.columns]
    names = rows.schema.names
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Any) -> list[Any]:
    import pyarrow

    if isinstance(column, pyarrow.ChunkedArray):
        return [value for chunk in column.chunks for value in _values(chunk)]
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary.take(column.indices)  # a cast to its type would want UTF-8
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    elif pyarrow.types.is_string_view(column.type):
        column = column.cast(pyarrow.binary_view())
    try:
        return cast("list[Any]", column.to_pylist())
    except (OverflowError, ValueError):
        return [_value(one) for one in column]


def _value(one: Any) -> Any:
    """A scalar of Arrow's; in its own words where Python has no such value."""
    import pyarrow

    try:
        return one.as_py()
    except (OverflowError, ValueError):
        try:
            text = str(one.cast(pyarrow.string()).as_py())
            return text.removeprefix("<value out of range: ").removesuffix(">")  # the number that is stored
        except (OverflowError, ValueError, pyarrow.ArrowException):
            return Unreadable(str(one.type))


class Unreadable(NamedTuple):
    """A value that neither Python holds nor Arrow prints. type: Arrow's name of it."""

    type: str


@contextmanager
def _parquet(place: Path | str, text_field: str) -> Iterator[tuple[Any, list[str]]]:
    """The open file, and its columns that a document is made of."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise BadCorpus(f"to read {str(place)!r} install pyarrow: pip install pyarrow") from error
    with readable(place), _opened(place) as opened:
        try:
            with parquet.ParquetFile(opened) as file:
                names = file.schema_arrow.names
                if text_field not in names:
                    raise BadCorpus(f"{str(place)!r} has no column {text_field!r}; it has {', '.join(names)}")
                columns = [name for name in (text_field, "id") if name in names]
                if twice := next((name for name in columns if names.count(name) > 1), None):
                    raise BadCorpus(f"{str(place)!r} has several columns {twice!r}; give each a name of its own")
                if any(_is_converted(file.schema_arrow.field(name).type) for name in columns):
                    file = parquet.ParquetFile(opened, metadata=_as_stored(opened))
                yield file, columns
        except pyarrow.ArrowException as error:
            raise BadCorpus(f"cannot read {str(place)!r}: {_first_line(error)}") from error


def _is_converted(type_: Any) -> bool:
    """Whether it is a dictionary that Arrow makes of the one that it reads, which must then be UTF-8."""
    import pyarrow

    return bool(pyarrow.types.is_dictionary(type_) and type_.index_type != pyarrow.int32())


def _as_stored(file: IO[bytes]) -> Any:
    """The metadata of a Parquet file without the types that Arrow is to make of what it reads."""
    from pyarrow import parquet

    file.seek(-8, os.SEEK_END)
    file.seek(-8 - int.from_bytes(file.read(4), "little"), os.SEEK_END)
    return parquet.read_metadata(io.BytesIO(b"PAR1" + file.read().replace(b"ARROW:schema", b"------schema")))


def _opened(place: Path | str) -> IO[bytes]:
    if isinstance(place, Path):
        return place.open("rb")
    import fsspec

    return cast("IO[bytes]", fsspec.open(place, "rb").open())


def _is_parquet(file: str) -> bool:
    return file.endswith(".parquet")


def name_of(id_: str) -> str:
    """The NAME in hf:NAME:CONFIG:SPLIT; raises BadCorpus where there is none."""
    if not (name := _parts(id_)[0]):
        raise BadCorpus(f"{id_!r} names no data set; give {_FORMS}")
    return name


def _parts(id_: str) -> tuple[str, str, str]:
    """Name, configuration or nothing, split."""
    name, _, rest = id_.removeprefix(HUGGING_FACE).partition(":")
    config, _, split = rest.partition(":")
    return name, config, split or "train"


@contextmanager
def _translated(id_: str) -> Iterator[None]:
    """Raise BadCorpus for whatever Hugging Face's library raises."""
    try:
        import datasets  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadCorpus(f"to read {id_!r} install datasets: pip install 'polysem[hf]'") from error
    try:
        yield
    except BadCorpus:
        raise
    except Exception as error:  # of all kinds
        raise BadCorpus(f"cannot read the data set {id_!r}: {_in_a_line(error)} ({_FORMS})") from error


def _in_a_line(error: Exception) -> str:
    """Return the error on one line, not too long: where columns differ, the library names them in further lines."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MAX_ERROR_CHARACTERS else words[: MAX_ERROR_CHARACTERS - 1] + "…"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
