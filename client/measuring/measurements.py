"""The file that `polysem measure` writes: Parquet, a row a neuron and clustering, nulls where a number is undefined.

What its numbers depend on and what its columns mean stand in its metadata as JSON, under the key `polysem`.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, PolysemError

Rows = Mapping[str, Array]  # a column a name, each (rows,); NaN where undefined

FORMAT = 1
KEY = b"polysem"
UNDEFINED = -1  # of whole numbers, which have no NaN


class Column(NamedTuple):
    type: str
    meaning: str


COLUMNS = {
    "layer": Column("int32", "the neuron's layer, from 0"),
    "neuron": Column("int32", "its number in the layer, from 0"),
    "side": Column("string", "of its activations: positive or negative"),
    "algorithm": Column("string", "hac, scc or components"),
    "linkage": Column("string", "of hac: average, complete or single"),
    "embedding": Column("string", "neuron or pre_mlp; of gated neurons also gate or up; controls: permuted, other"),
    "layer_norm": Column("string", "folded or raw"),
    "frame": Column("string", "raw, centred, standardised or own"),
    "distance_threshold": Column("double", "where the tree is cut"),
    "method": Column("string", "how the tree was made: matrix or linear; approximately: neighbours, neighbour_tree"),
    "n_examples": Column("int32", "dataset examples"),
    "n_clusters": Column("int32", "feature clusters at the cut"),
    "max_distance": Column("double", "over all pairs of examples, 0 to 2"),
    "mean_distance": Column("double", "over all pairs of examples"),
    "intra": Column("double", "mean distance over all pairs in the same cluster"),
    "inter": Column("double", "mean distance over all pairs in different clusters"),
    "silhouette": Column("double", "at the cut, -1 to 1"),
    "largest_share": Column("double", "of the examples, in the largest cluster"),
    "second_share": Column("double", "of the examples, in the second largest; 0 with one cluster"),
    "largest_height": Column("double", "where the largest cluster's last two parts join; 0 of a single example"),
    "root_height": Column("double", "where the last two parts of the tree join; null below two examples"),
    "ari_hac_scc": Column(
        "double", "adjusted Rand index of hac and scc at the cut; null below two examples, or where not both were asked"
    ),
    "matched_n_clusters": Column(
        "int32",
        "clusters, where this tree is cut to as many as the neuron embedding's has at the cut; where equal heights "
        "leave no such cut, to the nearest number, of two the smaller; null where neuron or all others were not asked",
    ),
    "matched_intra": Column("double", "intra at matched_n_clusters"),
    "matched_inter": Column("double", "inter at matched_n_clusters"),
    "matched_silhouette": Column("double", "silhouette at matched_n_clusters; null without best cuts"),
    "best_silhouette": Column("double", "the highest silhouette over cuts at best_cut_thresholds"),
    "best_threshold": Column("double", "the lowest of best_cut_thresholds with it"),
    "own_silhouette": Column(
        "double",
        "best silhouette over all cuts of the tree in frame own, the one tested; null without --null, as all down to "
        "prediction_strength",
    ),
    "null_silhouette": Column("double", "mean best silhouette of rotations of the examples: what chance gives"),
    "null_deviation": Column("double", "standard deviation of those"),
    "excess_silhouette": Column("double", "own_silhouette - null_silhouette"),
    "p_value": Column("double", "share of rotations as good, the neuron among them; small: not one Gaussian cloud"),
    "significant_clusters": Column("int32", "groups of 3 examples or more that significant merges tell apart"),
    "null_n_clusters": Column("double", "mean n_clusters of 20 rotations (or as many as --null) at the same cut"),
    "null_intra": Column("double", "their mean intra"),
    "null_inter": Column("double", "their mean inter"),
    "null_cut_silhouette": Column("double", "their mean silhouette at the same cut"),
    "stability": Column(
        "double", "mean over clusters of two examples or more of their mean bootstrap Jaccard index (Hennig 2007)"
    ),
    "prediction_strength": Column(
        "double", "at as many clusters as are significant (Tibshirani and Walther 2005); 1 for one"
    ),
    "token_agreement": Column(
        "double", "adjusted mutual information of clusters and key tokens: 1 if clusters are the tokens, 0 by chance"
    ),
    "single_token_share": Column("double", "of the clusters of two examples or more, those of one key token"),
    "singleton_share": Column("double", "of the clusters, those of one example"),
}
SIGNIFICANCE = tuple(COLUMNS)[tuple(COLUMNS).index("own_silhouette") : tuple(COLUMNS).index("token_agreement")]
BASELINES = ("token_agreement", "single_token_share", "singleton_share")
# Columns that older files lack, and what is true of those; a side may stand in their metadata.
ADDED: dict[str, Any] = {"side": "positive", "frame": "raw"} | dict.fromkeys(
    ("matched_silhouette", *SIGNIFICANCE, *BASELINES)
)
NUMBERS = tuple(name for name, column in COLUMNS.items() if column.type != "string")


class Writer:
    """Writes `out` under the name `out`.partial, and renames it when all is there; leaves nothing behind otherwise.

    Raises FailedPrecondition where `out` exists already (unless `force`) or cannot be written.
    """

    def __init__(self, out: Path, force: bool = False) -> None:
        self._parquet = _parquet()
        self._out, self._partial = out, out.with_name(out.name + ".partial")
        self._rows: Any = None
        if out.is_dir() or (out.exists() and not force):
            remedy = "choose another name" if out.is_dir() else "choose another name, or --force to replace it"
            raise FailedPrecondition(f"{str(out)!r} exists already; {remedy}")
        with self._translated():
            self._partial.unlink(missing_ok=True)
            self._file = self._partial.open("xb")
            self._mine = os.fstat(self._file.fileno())

    def write(self, about: Mapping[str, Any], rows: Rows) -> None:
        """One row group; about: what all the numbers depend on."""
        import pyarrow

        if self._rows is None:
            metadata = {KEY: json.dumps({"format": FORMAT, **about}, ensure_ascii=False)}
            with self._translated():
                self._rows = self._parquet.ParquetWriter(
                    self._file, _schema().with_metadata(metadata), compression="zstd", write_page_checksum=True
                )
        columns = [pyarrow.array(rows[name], field.type, mask=_undefined(rows[name])) for name, field in _fields()]
        with self._translated():
            self._rows.write_table(pyarrow.Table.from_arrays(columns, schema=self._rows.schema))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if type_ is not None:
            self._remove()
            return
        try:
            self._finish()
        except BaseException:
            self._remove()
            raise

    def _finish(self) -> None:
        with self._translated():
            self._rows.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if not os.path.samestat(self._mine, self._partial.stat()):
                raise FailedPrecondition(f"another `polysem measure` is writing {str(self._out)!r}; this one gives way")
            self._partial.replace(self._out)

    def _remove(self) -> None:
        """The partial file, if it is there and this writer's."""
        with suppress(Exception):  # a full disk takes no footer either
            self._rows.close()
        with suppress(Exception):
            self._file.close()
        with suppress(OSError):
            if os.path.samestat(self._mine, self._partial.stat()):
                self._partial.unlink()

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._out, "nothing of it was kept")


@contextmanager
def translated(out: Path, kept: str) -> Iterator[None]:
    """Say in words what the system would not do while `out` was made, and what was kept."""
    try:
        yield
    except PolysemError:  # some are OSErrors too
        raise
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FailedPrecondition(f"cannot write {str(out)!r}: {why}; {kept}") from error


class Measurements:
    """A file of measurements, read.

    path   where it was
    about  what its numbers depend on, as `Writer.write` was told
    """

    def __init__(self, path: Path, about: dict[str, Any], table: Any) -> None:
        self.path = path
        self.about = about
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: str) -> Array:
        """(rows,) a column: float64 with NaN for null, whole numbers with -1, or texts with ""."""
        column, type_ = self._table[name], COLUMNS[name].type
        fill = {"double": np.nan, "int32": UNDEFINED, "string": ""}[type_]
        values: Array = column.fill_null(fill).to_numpy()
        return values.astype(str) if type_ == "string" else values

    def rows(self, places: Array) -> list[dict[str, Any]]:
        """These rows as plain Python; None for null."""
        found: list[dict[str, Any]] = self._table.take(places).to_pylist()
        return found


def read(path: Path) -> Measurements:
    """Open a file of `polysem measure`.

    Raises NotFound where there is none, and InvalidArgument where it is another kind of file, damaged or empty.
    """
    parquet = _parquet()
    import pyarrow

    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise NotFound(f"{str(path)!r} {what}; `polysem measure --out FILE` writes one")
    try:
        table = parquet.read_table(path, partitioning=None, page_checksum_verification=True)
        about = _about(path, table.schema.metadata or {})
        table.validate(full=True)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, InvalidArgument):
            raise
        why = (str(error).splitlines() or [""])[0]
        raise InvalidArgument(f"cannot read {str(path)!r} as a file of `polysem measure`: {why}") from error
    table = _with_added(table, about)
    _check_columns(path, table.schema)
    if not table.num_rows:
        raise InvalidArgument(f"{str(path)!r} holds no neurons; measure some")
    return Measurements(path, about, table.select(list(COLUMNS)))


def _about(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    if KEY not in metadata:
        raise InvalidArgument(f"{str(path)!r} was not written by `polysem measure`: its metadata has no key 'polysem'")
    about: dict[str, Any] = json.loads(metadata[KEY])
    about["variants"] = [{"frame": ADDED["frame"], **variant} for variant in about.get("variants", ())]
    if about.get("format") != FORMAT:
        raise InvalidArgument(
            f"{str(path)!r} has format {about.get('format')}, this version reads {FORMAT}; measure anew"
        )
    return about


def _with_added(table: Any, about: Mapping[str, Any]) -> Any:
    """The table with the columns that its version did not write yet."""
    import pyarrow

    added = ADDED | {"side": about.get("side", ADDED["side"])}
    for name, field in _fields():
        if name in added and name not in table.schema.names:
            table = table.append_column(field, pyarrow.array([added[name]] * table.num_rows, field.type))
    return table


def _check_columns(path: Path, schema: Any) -> None:
    for name, field in _fields():
        if name not in schema.names:
            raise InvalidArgument(f"{str(path)!r} has no column {name!r}; measure anew")
        if schema.field(name).type != field.type:
            raise InvalidArgument(
                f"column {name!r} of {str(path)!r} is of type {schema.field(name).type}, not {field.type}; measure anew"
            )


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema([field for _, field in _fields()])


def _fields() -> list[tuple[str, Any]]:
    import pyarrow

    return [(name, pyarrow.field(name, pyarrow.type_for_alias(column.type))) for name, column in COLUMNS.items()]


def _undefined(values: Array) -> Array:
    if values.dtype.kind == "f":
        return np.isnan(values)
    undefined: Array = values == (UNDEFINED if values.dtype.kind == "i" else "")
    return undefined


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise FailedPrecondition("Parquet files need pyarrow, which is not installed here: pip install pyarrow") from (
            error
        )
    return parquet
