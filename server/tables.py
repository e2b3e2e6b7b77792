"""Tables of texts: Parquet files, and data sets of Hugging Face's library.

hf:NAME[:CONFIG][:SPLIT] is a repository of its hub or a folder like one, read file by file, or a folder that its
`save_to_disk` wrote. No code of a data set is run.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from polysem.proto.errors import BadCorpus
from polysem.server import corpus_ranges
from polysem.server.corpus_ranges import WHOLE, Range, readable

HUGGING_FACE = "hf:"
MAX_FILE_BYTES = 512 << 20  # of a file that is a range because no part of it can be read alone
_ROWS = 256  # read at once


class DataSet:
    """A split of a repository: its files, in the library's order.

    folder    the repository, where it is one of this machine
    revision  of a hub's repository; None: the newest

    Raises BadCorpus where the library finds no such data set.
    """

    def __init__(self, id_: str, folder: Path, revision: str | None = None) -> None:
        name, config, split = _parts(id_)
        self._id, self._folder = id_, folder
        with _told(id_):
            import datasets

            where = str(folder) if folder.is_dir() else name
            builder = datasets.load_dataset_builder(where, config or None, revision=revision)
            self._rows = builder.as_streaming_dataset(split=split)
        self._n_files = self._rows.num_shards
        files = list((builder.config.data_files or {}).get(split, []))
        self._files = files if len(files) == self._n_files else [""] * self._n_files

    @property
    def is_divisible(self) -> bool:
        """Whether its ranges can be read apart at little cost; else it is read from its start."""
        if all(map(_is_parquet, self._files)):
            return True
        if self._n_files == 1 or not all(self._files):
            return False
        with _told(self._id):
            import fsspec

            system, _ = fsspec.url_to_fs(self._files[0])
            return all((system.size(file) or 0) <= MAX_FILE_BYTES for file in self._files)

    def ranges(self, text_field: str, n_bytes: int) -> Iterator[Range]:
        """All of it: runs of a Parquet file's row groups, found when they are asked for; other files whole."""
        for number, file in enumerate(self._files, 1):
            found = [WHOLE]
            if _is_parquet(file):
                with _told(self._id):
                    found = list(parquet_ranges(file, text_field, n_bytes))
            for range_ in found:
                yield range_._replace(files=(file,), file=number if self._n_files > 1 else 0)

    def rows(self, file: int) -> Iterator[Mapping[str, Any]]:
        """Those of one file, by its number in a range."""
        with _told(self._id):
            yield from self._rows.shard(self._n_files, max(0, file - 1))

    def fingerprint(self, times: bool) -> str:
        """Of what is in the folder, as corpus_ranges.fingerprint has it, or of URLs that name a hub's commit."""
        if self._folder.is_dir():
            return corpus_ranges.fingerprint(self._folder, times)
        return hashlib.sha256("\n".join(self._files).encode()).hexdigest()


def repository_rows(id_: str, folder: Path, text_field: str, range_: Range) -> Iterator[Mapping[str, Any]]:
    """Those of a range, as they were when the range was found: its URL names the commit."""
    (file,) = range_.files
    if _is_parquet(file):
        with _told(id_):
            yield from parquet_rows(file, text_field, range_)
    else:
        scheme, _, path = file.partition("://")
        revision = path.partition("@")[2].partition("/")[0] if scheme == "hf" else ""
        yield from DataSet(id_, folder, revision or None).rows(range_.file)


def saved(id_: str, folder: Path) -> Any:
    """The split of what `save_to_disk` left, a datasets.Dataset."""
    with _told(id_):
        import datasets

        found = datasets.load_from_disk(folder)
        return found if isinstance(found, datasets.Dataset) else found[_parts(id_)[2]]


def saved_ranges(id_: str, folder: Path, n_bytes: int) -> Iterator[Range]:
    table = saved(id_, folder)
    return corpus_ranges.of_rows(len(table), 1 + n_bytes * len(table) // (1 + table.data.nbytes))


def saved_rows(id_: str, folder: Path, range_: Range) -> Iterator[Mapping[str, Any]]:
    table = saved(id_, folder)
    with _told(id_):
        yield from table.select(range(range_.begin, min(range_.end, len(table))))


def parquet_ranges(place: Path | str, text_field: str, n_bytes: int) -> Iterator[Range]:
    """place: a path, or a URL of fsspec's."""
    with _parquet(place, text_field) as (file, _):
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    return corpus_ranges.of_row_groups([(group.num_rows, group.total_byte_size) for group in groups], n_bytes)


def parquet_rows(place: Path | str, text_field: str, range_: Range) -> Iterator[Mapping[str, Any]]:
    """Its rows, some at a time."""
    with _parquet(place, text_field) as (file, columns):
        groups = list(range(range_.begin, min(range_.end, file.num_row_groups)))
        for batch in file.iter_batches(_ROWS, groups, columns=columns):
            yield from batch.to_pylist()


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
                yield file, [name for name in (text_field, "id") if name in names]
        except pyarrow.ArrowException as error:
            raise BadCorpus(f"cannot read {str(place)!r}: {_first_line(error)}") from error


def _opened(place: Path | str) -> IO[bytes]:
    if isinstance(place, Path):
        return place.open("rb")
    import fsspec

    return cast("IO[bytes]", fsspec.open(place, "rb").open())


def _is_parquet(file: str) -> bool:
    return file.endswith(".parquet")


def name_of(id_: str) -> str:
    """The NAME in hf:NAME:CONFIG:SPLIT."""
    return _parts(id_)[0]


def _parts(id_: str) -> tuple[str, str, str]:
    """Name, configuration or nothing, split."""
    name, _, rest = id_.removeprefix(HUGGING_FACE).partition(":")
    config, _, split = rest.partition(":")
    return name, config, split or "train"


@contextmanager
def _told(id_: str) -> Iterator[None]:
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
        raise BadCorpus(
            f"cannot read the data set {id_!r}: {_first_line(error)} (hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT)"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
