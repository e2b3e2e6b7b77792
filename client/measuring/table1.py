"""The paper's Table 1 from a file of measurements: how tight clusters are and how far apart, neuron against pre-MLP.

One cut at one distance gives the two embeddings different numbers of clusters, for their distances are on different
scales. So each row has the fair comparison beside it: both trees cut to the same number of clusters (as many as the
neuron embedding's has at the cut), and the silhouette at each tree's own best cut.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from polysem.client.measuring import paired
from polysem.client.measuring.measurements import UNDEFINED, Measurements
from polysem.client.measuring.paired import Difference
from polysem.proto.arrays import Array
from polysem.proto.questions.clustering import APPROXIMATE, mixed_methods

PAPER = {"pre_mlp": (0.31, 0.63), "neuron": (0.21, 0.73)}  # Foote 2024, Table 1: medians of intra, inter on GPT2-small
SUMMARISED = ("intra", "inter", "silhouette", "matched_intra", "matched_inter", "best_silhouette", "best_threshold")
VARIANT = ("algorithm", "linkage", "embedding", "layer_norm", "frame")
_READ = (
    *VARIANT,
    *SUMMARISED,
    *("layer", "neuron", "n_examples", "n_clusters", "mean_distance", "method", "matched_n_clusters"),
)
VariantNames = tuple[str, str, str, str, str]


class Summary(NamedTuple):
    """One number over neurons. median and mean are None where it is undefined for all; those it is not are left out."""

    median: float | None
    mean: float | None
    n_undefined: int


class Row(NamedTuple):
    """A clustering of all neurons, or of one layer's.

    layer          None: of all
    n_neurons      with at least one dataset example
    mean_clusters  of those
    numbers        of each of SUMMARISED, over those
    n_approximate  neurons whose trees are of graphs of nearest neighbours, which do not compare with the others
    differences    of the neuron embedding: against pre-MLP of the same algorithm, mode and frame, over neurons for
                   which both are defined; None elsewhere
    """

    layer: int | None
    algorithm: str
    linkage: str
    embedding: str
    layer_norm: str
    frame: str
    n_neurons: int
    mean_clusters: float | None
    mean_matched_clusters: float | None
    numbers: dict[str, Summary]
    n_approximate: int = 0
    differences: dict[str, Difference] | None = None


def rows(measured: Measurements, per_layer: bool = False) -> list[Row]:
    """A row a clustering in the file's order, pre-MLP before neuron; then, if asked, the same for each layer."""
    columns = {name: measured.column(name) for name in _READ}
    scopes: list[int | None] = [None, *(sorted(set(columns["layer"].tolist())) if per_layer else [])]
    return [_row(columns, layer, variant) for layer in scopes for variant in _variants(measured)]


def _variants(measured: Measurements) -> list[VariantNames]:
    """Embeddings of one algorithm, mode and frame stand together, pre_mlp first."""
    about = measured.about["variants"]
    found = [(v["algorithm"], v["linkage"] or "", v["embedding"], v["layer_norm"], v["frame"]) for v in about]
    order = {(*v[:2], *v[3:]): i for i, v in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda v: (order[*v[:2], *v[3:]], v[2] == "neuron"))


def _rows_of(columns: dict[str, Array], layer: int | None, variant: VariantNames) -> Array:
    """(rows,) bool: of neurons with examples."""
    mine: Array = columns["n_examples"] > 0
    for name, value in zip(VARIANT, variant, strict=True):
        mine = mine & (columns[name] == value)
    return mine if layer is None else mine & (columns["layer"] == layer)


def _differences(columns: dict[str, Array], layer: int | None, variant: VariantNames) -> dict[str, Difference] | None:
    algorithm, linkage, embedding, *how = variant
    other = _rows_of(columns, layer, (algorithm, linkage, "pre_mlp", how[0], how[1]))
    if embedding != "neuron" or not other.any():
        return None
    mine = _rows_of(columns, layer, variant)
    return paired.differences(columns, np.flatnonzero(mine), np.flatnonzero(other))


def _row(columns: dict[str, Array], layer: int | None, variant: VariantNames) -> Row:
    mine = _rows_of(columns, layer, variant)
    matched = columns["matched_n_clusters"][mine]
    return Row(
        layer,
        *variant,
        int(mine.sum()),
        _mean(columns["n_clusters"][mine]),
        _mean(matched[matched != UNDEFINED]),
        {name: _summary(columns[name][mine]) for name in SUMMARISED},
        int(np.isin(columns["method"][mine], APPROXIMATE).sum()),
        _differences(columns, layer, variant),
    )


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _summary(values: Array) -> Summary:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Summary(None, None, len(values))
    return Summary(float(np.median(defined)), float(defined.mean()), len(values) - len(defined))


def as_json(row: Row) -> dict[str, Any]:
    numbers = {name: summary._asdict() for name, summary in row.numbers.items()}
    found = {name: difference._asdict() for name, difference in (row.differences or {}).items()}
    return row._asdict() | {"numbers": numbers, "differences": found or None}


# ---- As tables


def tables(measured: Measurements, per_layer: bool = False) -> RenderableType:
    """The table at the cut, and the fair comparison."""
    index, threshold = measured.about["index"], measured.about["distance_threshold"]
    is_gpt2 = index["model_id"] in ("gpt2", "openai-community/gpt2")
    side = ", negative side" * (measured.about.get("side") == "negative")
    found = rows(measured, per_layer)
    parts: list[RenderableType] = [
        Text(
            f"{index['model_id']} on {index['corpus_id']}, index {index['name']}{side}; cut at distance {threshold:g}"
        ),
        Text(),
        _at_the_cut(found, is_gpt2),
        Text(
            "Median over neurons, the mean in brackets. undefined: neurons left out, for no cluster has two members "
            "(intra), or there is one cluster (inter).",
            "dim",
        ),
        Text(),
        _fair(found),
        Text(
            "Same number of clusters: each tree cut to as many as the neuron embedding's has at the cut. Best cut: the "
            f"highest silhouette over {len(measured.about['best_cut_thresholds'])} thresholds.",
            "dim",
        ),
    ]
    for row, name in _named(Table(), found):
        if mixed := mixed_methods(row.n_approximate, row.n_neurons):
            parts.append(Text(f"{name}: {mixed}.", "dim"))
    if any(row.differences for row in found):
        parts += [
            Text(),
            _paired(found),
            Text(
                "Median of neuron minus pre-MLP over neurons for which both are defined, with its 95 % bootstrap "
                "interval. "
                "share: of the mean distance, so that the scale of distances does not count.",
                "dim",
            ),
        ]
    return Group(*parts)


def _at_the_cut(found: Sequence[Row], is_gpt2: bool) -> Table:
    table = _table("Table 1", "intra", "inter", "silhouette", "clusters", "neurons", "undefined")
    for row, name in _named(table, found):
        undefined = f"{row.numbers['intra'].n_undefined:,} / {row.numbers['inter'].n_undefined:,}"
        numbers = (_shown(row.numbers[column]) for column in ("intra", "inter", "silhouette"))
        table.add_row(name, *numbers, _number(row.mean_clusters, "{:.2f}"), f"{row.n_neurons:,}", undefined)
    if is_gpt2:
        table.add_section()
        for embedding, (intra, inter) in PAPER.items():
            table.add_row(f"paper, {embedding}", f"{intra:.2f}", f"{inter:.2f}", style="dim")
    return table


def _fair(found: Sequence[Row]) -> Table:
    table = _table("The fair comparison", "intra, same number", "inter", "clusters", "silhouette, best cut", "cut at")
    for row, name in _named(table, found):
        table.add_row(
            name,
            _shown(row.numbers["matched_intra"]),
            _shown(row.numbers["matched_inter"]),
            _number(row.mean_matched_clusters, "{:.2f}"),
            _shown(row.numbers["best_silhouette"]),
            _shown(row.numbers["best_threshold"], "{:.2f}"),
        )
    return table


_PAIRED = {
    "intra": "intra",
    "inter": "inter",
    "matched_intra_share": "intra share, same number",
    "matched_inter_share": "inter share",
    "best_silhouette": "silhouette, best cut",
}


def _paired(found: Sequence[Row]) -> Table:
    table = _table("Neuron minus pre-MLP, the same neurons", *_PAIRED.values(), "paired", "undefined")
    for row, name in _named(table, [row for row in found if row.differences]):
        differences = row.differences or {}
        ends = differences["intra"], differences["inter"]
        n_paired = " / ".join(f"{one.n_paired:,}" for one in ends)
        shown = (paired.shown(differences[column]) for column in _PAIRED)
        table.add_row(name, *shown, n_paired, paired.undefined(ends))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _named(table: Table, found: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Each row and its name; a line between algorithms and between layers."""
    modes, frames = (len({getattr(row, name) for row in found}) > 1 for name in ("layer_norm", "frame"))
    last: Any = found[0][:3] if found else None
    for row in found:
        if row[:3] != last:
            table.add_section()
            last = row[:3]
        layer = "" if row.layer is None else f"layer {row.layer}, "
        linkage = f" {row.linkage}" if row.linkage not in ("", "average") else ""
        mode = (f", {row.layer_norm}" if modes else "") + (f", frame {row.frame}" if frames else "")
        yield row, f"{layer}{row.algorithm}{linkage}, {row.embedding}{mode}"


def _shown(summary: Summary, form: str = "{:.3f}") -> str:
    if summary.median is None:
        return "–"
    return f"{_number(summary.median, form)} ({_number(summary.mean, form)})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
