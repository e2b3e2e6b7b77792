"""A table in a terminal that may be narrow: columns are whole or left out, and those left out are named."""

import copy

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

WIDEST = 10_000


class Fitting:
    """The table with as many of its columns, from the left, as the terminal has room for; at least the first.

    n_kept  that many of the last columns stay, too

    Headings and cells are strings. Cost: every cell is looked at once, before the table is drawn.
    """

    def __init__(self, table: Table, n_kept: int = 0) -> None:
        self._table, self._n_kept = table, n_kept

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, left_out = copy.copy(self._table), []
        table.columns, table.caption = list(table.columns), None
        widths = [_width(column) for column in table.columns]
        while len(widths) > 1 + self._n_kept:
            if sum(widths) + _between(table, len(widths), console, options) <= options.max_width:
                break
            del widths[-1 - self._n_kept]
            left_out.append(str(table.columns.pop(-1 - self._n_kept).header).replace("\n", " "))
        yield table
        if left_out:
            names = ", ".join(reversed(left_out))
            yield Text(f"a wider terminal shows {names}, too; --json has all", "dim")
        if self._table.caption:
            yield Text(str(self._table.caption), "dim")


def _width(column: Column) -> int:
    """The cells of its widest line."""
    return max(cell_len(line) for text in (column.header, *column.cells) for line in str(text).split("\n"))


def _between(table: Table, n: int, console: Console, options: ConsoleOptions) -> int:
    """Return the characters that edges, dividers and padding of n columns take."""
    narrow = copy.copy(table)
    narrow.columns, narrow.rows = [], []
    for _ in range(n):
        narrow.add_column("x")
    return Measurement.get(console, options.update(width=WIDEST), narrow).maximum - n
