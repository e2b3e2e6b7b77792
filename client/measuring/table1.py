"""The paper's Table 1 from a file of measurements: how tight clusters are and how far apart, by each embedding.

One cut at one distance gives the embeddings different numbers of clusters, for their distances are on different scales.
So each row has the fair comparison beside it: all trees cut to the same number of clusters (as many as the neuron
embedding's has at the cut), distances as shares of the mean, and the silhouette at each tree's own best cut. Rows of
one algorithm, mode and frame count the same neurons: those for which every embedding has the metric.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from polysem.client.measuring import paired
from polysem.client.measuring.measurements import UNDEFINED, Measurements
from polysem.client.measuring.paired import Difference
from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.questions.clustering import APPROXIMATE, CONTROLS, mixed_methods

PAPER = {"pre_mlp": (0.31, 0.63), "neuron": (0.21, 0.73)}  # Foote 2024, Table 1: medians of intra, inter on GPT2-small
SUMMARISED = {**paired.COMPARED, "best_threshold": ("best_threshold", None)}
VARIANT = ("algorithm", "linkage", "embedding", "layer_norm", "frame")
_READ = (
    *VARIANT,
    *dict.fromkeys(metric for metric, _ in SUMMARISED.values()),
    *("layer", "neuron", "n_examples", "n_clusters", "mean_distance", "method", "matched_n_clusters"),
)
ORDER = ("pre_mlp", "gate", "up", "neuron", *CONTROLS)
VariantNames = tuple[str, str, str, str, str]


class Summary(NamedTuple):
    """One number over the neurons for which every embedding has it; None where there is none.

    n_paired     neurons counted
    n_undefined  neurons of this row for which it is undefined, whatever the others
    """

    median: float | None
    mean: float | None
    n_undefined: int
    n_paired: int


class Row(NamedTuple):
    """A clustering of all neurons, or of one layer's.

    layer          None: of all
    n_neurons      with at least one dataset example
    mean_clusters  of those
    numbers        of each of SUMMARISED, over those that are paired
    n_approximate  neurons whose trees are of graphs of nearest neighbours, which do not compare with the others
    differences    of the neuron embedding: against each other embedding of the same algorithm, mode and frame, over
                   neurons for which both are defined; empty elsewhere
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
    n_approximate: int
    differences: dict[str, dict[str, Difference]]


def rows(measured: Measurements, per_layer: bool = False) -> list[Row]:
    """A row a clustering in the file's order, pre-MLP before neuron; then, if asked, the same for each layer."""
    columns = {name: measured.column(name) for name in _READ}
    scopes: list[int | None] = [None, *(sorted(set(columns["layer"].tolist())) if per_layer else [])]
    return [row for layer in scopes for group in _groups(measured) for row in _rows(columns, layer, group)]


def _groups(measured: Measurements) -> list[list[VariantNames]]:
    """The clusterings that differ in the embedding alone, together."""
    about = measured.about["variants"]
    found: dict[Any, list[VariantNames]] = {}
    for v in about:
        names = (v["algorithm"], v["linkage"] or "", v["embedding"], v["layer_norm"], v["frame"])
        found.setdefault((*names[:2], *names[3:]), []).append(names)
    return [sorted(group, key=lambda names: ORDER.index(names[2])) for group in found.values()]


def _rows(columns: dict[str, Array], layer: int | None, group: list[VariantNames]) -> Iterator[Row]:
    """The rows of a group, which holds the same neurons in each of its clusterings."""
    places = {variant: _places(columns, layer, variant) for variant in group}
    values = {
        name: [paired.scaled(columns, *of, mine) for mine in places.values()] for name, of in SUMMARISED.items()
    }  # of each clustering (neurons,)
    defined = {name: np.asarray(np.isfinite(of).all(axis=0)) for name, of in values.items()}
    for i, (variant, mine) in enumerate(places.items()):
        matched = columns["matched_n_clusters"][mine]
        others = {other[2]: of for other, of in places.items() if variant[2] == "neuron" != other[2]}
        yield Row(
            layer,
            *variant,
            len(mine),
            _mean(columns["n_clusters"][mine]),
            _mean(matched[matched != UNDEFINED]),
            {name: _summary(of[i], defined[name]) for name, of in values.items()},
            int(np.isin(columns["method"][mine], APPROXIMATE).sum()),
            {name: paired.differences(columns, mine, of) for name, of in others.items()},
        )


def _places(columns: dict[str, Array], layer: int | None, variant: VariantNames) -> Array:
    """The rows of neurons with examples, by layer and neuron."""
    mine: Array = columns["n_examples"] > 0
    for name, value in zip(VARIANT, variant, strict=True):
        mine = mine & (columns[name] == value)
    found = np.flatnonzero(mine if layer is None else mine & (columns["layer"] == layer))
    return found[np.lexsort((columns["neuron"][found], columns["layer"][found]))]


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _summary(values: DoubleArray, paired_: Array) -> Summary:
    counted, n_undefined = values[paired_], int(np.isnan(values).sum())
    if not len(counted):
        return Summary(None, None, n_undefined, 0)
    return Summary(float(np.median(counted)), float(counted.mean()), n_undefined, len(counted))


def as_json(row: Row) -> dict[str, Any]:
    numbers = {name: summary._asdict() for name, summary in row.numbers.items()}
    found = {
        other: {name: difference._asdict() for name, difference in of.items()} for other, of in row.differences.items()
    }
    return row._asdict() | {"numbers": numbers, "differences": found}


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
            "Median over neurons, the mean in brackets. paired: neurons counted for intra / inter, the same in all "
            "embeddings; undefined: neurons of the row for which no cluster has two members (intra), or there is one "
            "cluster (inter).",
            "dim",
        ),
        Text(),
        _fair(found),
        Text(
            "Medians. Same number of clusters: each tree cut to as many as the neuron embedding's has at the cut. "
            "intra and inter are shares of the mean distance. Best cut: the highest silhouette over "
            f"{len(measured.about['best_cut_thresholds'])} thresholds. {_of_controls(found)}",
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
                "Median of neuron minus the other embedding over neurons for which both are defined, with its 95 % "
                "bootstrap interval. At the same number of clusters intra and inter are shares of the mean distance, "
                "so that the scale of distances does not count.",
                "dim",
            ),
        ]
    return Group(*parts)


def _of_controls(found: Sequence[Row]) -> str:
    if not any(row.embedding in CONTROLS for row in found):
        return ""
    return "permuted, other: controls, with the neuron's weights in a random order or another neuron's weights."


def _at_the_cut(found: Sequence[Row], is_gpt2: bool) -> Table:
    table = _table("Table 1", "intra", "inter", "silhouette", "clusters", "paired", "undefined")
    for row, name in _named(table, found):
        ends = row.numbers["intra"], row.numbers["inter"]
        counts = (f"{a:,} / {b:,}" for a, b in zip(*(one[:1:-1] for one in ends), strict=True))
        numbers = (_shown(row.numbers[column]) for column in ("intra", "inter", "silhouette"))
        table.add_row(name, *numbers, _number(row.mean_clusters, "{:.2f}"), *counts)
    if is_gpt2:
        table.add_section()
        for embedding, (intra, inter) in PAPER.items():
            table.add_row(f"paper, {embedding}", f"{intra:.2f}", f"{inter:.2f}", style="dim")
    return table


_FAIR = {
    "matched_intra_share": "intra",
    "matched_inter_share": "inter",
    "matched_silhouette": "silhouette",
}


def _fair(found: Sequence[Row]) -> Table:
    table = _table("The fair comparison", *_FAIR.values(), "clusters", "best silhouette", "cut at")
    for row, name in _named(table, found):
        table.add_row(
            name,
            *(_number(row.numbers[column].median, "{:.3f}") for column in _FAIR),
            _number(row.mean_matched_clusters, "{:.2f}"),
            _number(row.numbers["best_silhouette"].median, "{:.3f}"),
            _number(row.numbers["best_threshold"].median, "{:.2f}"),
        )
    return table


_PAIRED = {
    "intra": "intra",
    "inter": "inter",
    **{column: f"{heading}, same number" for column, heading in _FAIR.items()},
    "best_silhouette": "silhouette, best cut",
}


def _paired(found: Sequence[Row]) -> Table:
    table = _table("Neuron minus other embeddings, the same neurons", "median", "95 % interval", "paired", "undefined")
    for row, name in _named(table, [row for row in found if row.differences]):
        for other, of in row.differences.items():
            table.add_row(Text(f"{name} − {other}", "bold"))
            for column, heading in _PAIRED.items():
                difference = of[column]
                counts = f"{difference.n_paired:,}", f"{difference.n_undefined:,}"
                table.add_row(f"  {heading}", *paired.shown(difference), *counts)
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
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
