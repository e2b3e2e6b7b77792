"""Neurons of a file of measurements in an order, and those with a common and a rare behaviour."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from polysem.client.measuring.measurements import COLUMNS, NUMBERS, UNDEFINED, Measurements
from polysem.proto.arrays import Array
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.clustering import APPROXIMATE, mixed_methods, warn_of_mixed_methods
from polysem.proto.questions.listing import is_rare
from polysem.proto.questions.tested import q_values

RANKED = (*NUMBERS, "q_value")
SHOWN = ("n_examples", "n_clusters", "intra", "inter", "silhouette", "largest_share", "mean_distance")
SHOWN_OF_SIGNIFICANCE = (
    *("significant_clusters", "excess_silhouette", "p_value", "q_value"),
    *("stability", "prediction_strength", "token_agreement"),
)
SHOWN_OF_RARE = ("n_examples", "n_clusters", "largest_share", "second_share", "largest_height", "root_height")


def shown(measured: Measurements) -> tuple[str, ...]:
    """The columns to show: what is more than chance first, where that was measured."""
    return (*SHOWN_OF_SIGNIFICANCE, *SHOWN) if measured.about.get("n_null") else SHOWN


def default_order(measured: Measurements) -> str:
    """The column that ranks go by where none is named: what exceeds chance, where that was measured."""
    return "excess_silhouette" if measured.about.get("n_null") else "n_clusters"


def rank(
    measured: Measurements,
    by: str | None = None,
    *,
    ascending: bool = False,
    least: dict[str, float] | None = None,
    most: dict[str, float] | None = None,
    **variant: str | None,
) -> list[dict[str, Any]]:
    """Rows sorted by one column; of equals in the model's order; those where it is undefined come last.

    by           None: `default_order`; also q_value, which each row has beside p_value (Benjamini and Hochberg, over
                 all neurons of the clustering)
    least, most  bounds on columns and on q_value, both included; what is undefined is within none
    variant      algorithm, embedding, layer_norm, frame; None: the file's first that fits the others

    Warns (MixedMethodsWarning) where exact and approximate trees stand among them.
    Raises InvalidArgument for an unknown column or a clustering that the file does not hold.
    """
    by = by or default_order(measured)
    for name in (by, *(least or {}), *(most or {})):
        if name not in RANKED:
            raise InvalidArgument(f"there is no column {name!r} to go by; choose one of {', '.join(RANKED)}", "by")
    places, q = _of_variant(measured, variant), _q_values(measured, variant)

    def values(name: str) -> Array:
        return q if name == "q_value" else _numbers(measured, name)

    for bounds, within in ((least, np.greater_equal), (most, np.less_equal)):
        for name, bound in (bounds or {}).items():
            places = places[within(values(name)[places], bound)]
    chosen = places[_order(values(by)[places], ascending)]
    _warn_of_mixed_methods(measured, chosen)
    return [
        row | {"q_value": None if np.isnan(q[place]) else float(q[place])}
        for row, place in zip(measured.rows(chosen), chosen, strict=True)
    ]


def _q_values(measured: Measurements, variant: dict[str, str | None]) -> Array:
    """(rows,) of each p-value over all neurons of the clustering, before any bounds."""
    places = _of_variant(measured, variant)
    found = np.full(len(measured), np.nan)
    found[places] = q_values(_numbers(measured, "p_value")[places])
    return found


def rare(measured: Measurements, **variant: str | None) -> list[dict[str, Any]]:
    """Rows of neurons with one common behaviour and a rare one, the clearest first (the paper's Figure 3).

    Of at least 20 examples, at least 90 % lie in one cluster and at least 3 do not; where significance was measured,
    two significant clusters or more. The clearer the split, the higher the tree's last merge stands above the one that
    completes the common cluster. Warns as `rank` does.
    """
    places = _of_variant(measured, variant)
    names = ("n_examples", "largest_share", "significant_clusters")
    places = places[is_rare(*(_numbers(measured, name)[places] for name in names))]
    _warn_of_mixed_methods(measured, places)
    gap = _numbers(measured, "root_height")[places] - _numbers(measured, "largest_height")[places]
    return measured.rows(places[_order(gap, ascending=False)])


def _of_variant(measured: Measurements, variant: dict[str, str | None]) -> Array:
    """Places of the rows of the file's first clustering that is as asked."""
    asked = {name: value for name, value in variant.items() if value is not None}
    for held in measured.about["variants"]:
        if all(held[name] == value for name, value in asked.items()):
            break
    else:
        what = ", ".join(f"{name} {value}" for name, value in asked.items())
        raise InvalidArgument(f"{str(measured.path)!r} holds no clustering by {what}; it holds {_held(measured)}")
    mine = np.ones(len(measured), bool)
    for name, value in held.items():
        mine &= measured.column(name) == (value or "")
    return np.flatnonzero(mine)


def _held(measured: Measurements) -> str:
    return "; ".join(", ".join(value for value in variant.values() if value) for variant in measured.about["variants"])


def _numbers(measured: Measurements, name: str) -> Array:
    """(rows,) float64, NaN where undefined."""
    values = measured.column(name)
    return np.where(values == UNDEFINED, np.nan, values) if COLUMNS[name].type == "int32" else values


def _order(values: Array, ascending: bool) -> Array:
    """Stable; NaN last."""
    return np.argsort(values if ascending else -values, kind="stable")


def _warn_of_mixed_methods(measured: Measurements, places: Array) -> None:
    methods = measured.column("method")[places]
    warn_of_mixed_methods(int(np.isin(methods, APPROXIMATE).sum()), len(methods))


def mixed(rows: Sequence[dict[str, Any]]) -> str:
    """A sentence where the rows rank exact and approximate trees together; empty where they do not."""
    return mixed_methods(sum(row["method"] in APPROXIMATE for row in rows), len(rows))


def table(rows: Iterable[dict[str, Any]], columns: Sequence[str], note: str = "") -> Table:
    """Rows as a table of these columns; with a note, which method made each tree stands there too."""
    found = Table(caption=note or None)
    columns = (*columns, "method") if note else columns
    for heading in ("neuron", *columns):
        found.add_column(heading.removeprefix("n_").replace("_", "\n"), justify="right", no_wrap=True)
    for row in rows:
        found.add_row(f"{row['layer']}.{row['neuron']}", *(_shown(row[name]) for name in columns))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
