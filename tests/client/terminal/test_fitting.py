"""Columns are whole or left out, and those left out are named."""

import io

import pytest
import rich.box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from polysem.client.terminal.fitting import Fitting
from polysem.client.terminal.tables import right_aligned

HEADINGS = ("neuron", "examples", "clusters", "method")


def drawn(width, n_kept=0):
    table = right_aligned(*HEADINGS)
    table.add_row("12.3071", "100", "7", "neighbours")
    table.caption = "a word about all"
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(Fitting(table, n_kept))
    return console.export_text()


def test_where_there_is_room_all_is_there():
    shown = drawn(80)
    assert shown.split("\n")[0].split() == list(HEADINGS)
    assert "wider" not in shown
    assert "a word about all" in shown


@pytest.mark.parametrize(
    ("width", "n_kept", "there", "named"),
    [
        (40, 0, ["neuron", "examples", "clusters"], "method"),
        (28, 0, ["neuron", "examples"], "clusters, method"),
        (40, 1, ["neuron", "examples", "method"], "clusters"),
    ],
)
def test_what_has_no_room_is_named(width, n_kept, there, named):
    shown = drawn(width, n_kept)
    assert shown.split("\n")[0].split() == there
    assert "12.3071" in shown
    assert "…" not in shown
    assert f"a wider terminal shows {named}, too" in " ".join(shown.split())


@pytest.mark.parametrize("box", [None, rich.box.HEAVY_HEAD, rich.box.SIMPLE_HEAD])
def test_a_table_of_any_box_fits_to_the_cell(box):
    table = Table(box=box)
    for heading in ("neuron", "excess\nsilhouette"):
        table.add_column(heading, no_wrap=True)
    table.add_row("12.3071", "0.25")
    wide = Console(file=io.StringIO(), width=200)
    whole = Measurement.get(wide, wide.options, table).maximum
    for width, named in ((whole, False), (whole - 1, True)):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(Fitting(table))
        shown = " ".join(console.export_text().split())
        assert ("excess silhouette, too" in shown) == named
        assert "…" not in shown


def test_the_first_column_stays_however_narrow_it_is():
    assert drawn(5).startswith("ne")
