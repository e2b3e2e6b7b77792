"""A table in a terminal that may be narrow: columns are whole or left out, and those left out are named."""

import copy

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDEST = 10_000


class Fitting:
    """The table with as many of its columns, from the left, as the terminal has room for; at least the first.

    n_kept  that many of the last columns stay, too
    """

    def __init__(self, table: Table, n_kept: int = 0) -> None:
        self._table, self._n_kept = table, n_kept

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, left_out = copy.copy(self._table), []
        table.columns, table.caption = list(table.columns), None
        wide = options.update(width=WIDEST)
        while Measurement.get(console, wide, table).maximum > options.max_width:
            if len(table.columns) <= 1 + self._n_kept:
                break
            left_out.append(str(table.columns.pop(-1 - self._n_kept).header).replace("\n", " "))
        yield table
        if left_out:
            names = ", ".join(reversed(left_out))
            yield Text(f"a wider terminal shows {names}, too; --json has all", "dim")
        if self._table.caption:
            yield Text(str(self._table.caption), "dim")
