"""The planted benchmark's results as tables and as JSON."""

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from polysem.client.terminal.tables import right_aligned
from polysem.server.index.format import layers_in_words
from polysem.server.planted.benchmark import Combination, Found
from polysem.server.planted.mixtures import KINDS
from polysem.server.planted.planting import Planting
from polysem.server.planted.scoring import Scores

PLANTED: dict[Planting, str] = {"units": "sum of units", "weights": "one neuron with added weights"}
Interval = tuple[float, float, float]
HEADINGS = {
    "at_true": "ARI,\ntrue\nnumber",
    "best": "ARI,\nbest of\n2–12",
    "suggested": "ARI,\nsuggested",
    "auc": "AUC",
}
WAY = "embedding, frame,\nalgorithm,\nLayerNorm"


def tables(found: Found) -> RenderableType:
    """A table of the whole grid a planting, best first, and what was chosen beside the paper's and pre-MLP."""
    parts: list[RenderableType] = []
    for planting in found.plantings:
        parts += [_grid(found, planting), Text()]
        parts += [_held_out(found, planting), Text()] if found.layers[1:] else []
    return Group(*parts, Text(_note(found), "dim"))


def as_json(found: Found) -> Iterator[dict[str, Any]]:
    """Each row of the grid, then the combinations on the layers on which none was chosen; intervals are [mean, low,
    high], None where there is nothing to average."""
    for row in found.rows():
        fields = row._asdict() | row.combination._asdict()
        del fields["combination"]
        yield fields | {name: _or_none(fields[name]) for name in HEADINGS}
    for planting in found.plantings:
        for held in found.held_out(planting):
            yield {
                "held_out": held.name,
                "planting": planting,
                "chosen_on": found.chosen_on,
                "reported_on": found.layers[1::2],
                **held.combination._asdict(),
                **{name: _or_none(held.scores[name]) for name in HEADINGS},
                "behind": _or_none(held.behind),
            }


def _grid(found: Found, planting: Planting) -> Table:
    rows = {(row.kind, row.combination): row for row in found.rows() if row.planting == planting}
    kinds = [kind for kind in KINDS if any(kind == of for of, _ in rows)]
    table = _narrow(WAY, *HEADINGS.values(), *kinds)
    table.title, table.title_justify = _title(found, planting), "left"
    means = sorted((row for row in rows.values() if row.kind == "all"), key=lambda row: -row.best[0])
    for row in means:
        scores = [_shown(getattr(row, name)) for name in HEADINGS]
        by_kind = [_number(rows[kind, row.combination].best[0]) for kind in kinds]
        table.add_row(_way(row.combination), *scores, *by_kind)
    return table


def _title(found: Found, planting: Planting) -> str:
    if len(found.plantings) == 1:
        return "Planted truth: sum of units, which is one neuron with added weights"
    return f"Planted truth: {PLANTED[planting]}"


def _held_out(found: Found, planting: Planting) -> Table:
    table = _narrow("", WAY, *HEADINGS.values(), "chosen\nexceeds\nit by")
    table.title, table.title_justify = f"Reported on {layers_in_words(found.layers[1::2])}", "left"
    for held in found.held_out(planting):
        behind = "–" if held.name == "chosen" else _shown(held.behind)
        table.add_row(held.name, _way(held.combination), *(_shown(held.scores[name]) for name in HEADINGS), behind)
    return table


def _note(found: Found) -> str:
    n = [sum(mixture.kind == kind for mixture in found.mixtures) for kind in KINDS]
    scores = next(iter(found.table.values()))
    counts = ", ".join(f"{kind} {of:,}" for kind, of in zip(KINDS, n, strict=True))
    return (
        f"{len(found.mixtures):,} mixtures ({counts}), {_n_suggested(scores):,} of them cut as suggested. Mean over "
        "kinds, below it the 95 % interval of the bootstrap over mixtures; last columns: the best of 2–12 by kind. "
        f"Chosen on {layers_in_words(found.chosen_on)}, by the best of 2–12."
    )


def _n_suggested(scores: Scores) -> int:
    return sum(not math.isnan(value) for value in scores.suggested.tolist())


def _narrow(*headings: str) -> Table:
    """A table for 80 columns, whose rows have two lines."""
    table = right_aligned(*headings)
    table.padding, table.columns[0].justify = 0, "left"
    return table


def _way(way: Combination) -> str:
    return f"{way.embedding}, {way.frame},\n{way.algorithm}, {way.layer_norm}"


def _shown(interval: Interval) -> str:
    mean, low, high = map(_number, interval)
    return mean if mean == "–" else f"{mean}\n{low}–{high}"


def _number(value: float) -> str:
    """Two decimals, without the zero before them."""
    return "–" if math.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)


def _or_none(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval[0]) else [round(value, 6) for value in interval]
