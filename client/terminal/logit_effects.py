"""Logit effects in a terminal: the tokens that neurons make likelier and less likely."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from polysem.client import characters
from polysem.client.questions.logit_effects import LogitEffects, OutputToken
from polysem.client.terminal.tables import written
from polysem.client.terminal.texts import cropped

BAR = 12  # cells of the largest effect
FIRST = 5  # tokens of a list in a table
NOTE = "direct path alone, in standard deviations over the {:,} tokens; later layers are not in it"


class LogitEffectsPanel:
    """A neuron's two lists side by side, with bars on one scale."""

    def __init__(self, effects: LogitEffects) -> None:
        self._effects = effects

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        e = self._effects
        side = ", negative side" * (e.side == "negative")
        if not e.likelier:
            yield Text(f"neuron {e.id}{side} moves the logits of all tokens alike")
            return
        yield Text.assemble(
            *("neuron ", (str(e.id), "bold"), f"{side}: what it adds to the logits; "),
            f"skewness {written(e.skewness)}, excess kurtosis {written(e.kurtosis)}",
        )
        yield Text(NOTE.format(int(e.histogram.sum())), "dim")
        yield Text()
        most = max(abs(e.likelier[0].effect), abs(e.less_likely[0].effect))
        width = max(options.max_width // 2 - 1, BAR + 12)
        yield _beside(Text("makes likelier", "bold"), Text("makes less likely", "bold"), width)
        for one, other in zip_longest(e.likelier, e.less_likely):
            yield _beside(_line(one, most, width), _line(other, most, width), width)


def _line(token: OutputToken, most: float, width: int) -> Text:
    bar = "█" * max(round(abs(token.effect) / most * BAR), 1)
    name = cropped(Text(characters.spaced(token.token)), width - BAR - 9)
    return Text.assemble(f"{token.effect:6.2f} ", (f"{bar:<{BAR}} ", "#2a6fdb"), name)


def _beside(left: Text, right: Text, width: int) -> Text:
    left.pad_right(max(width - left.cell_len, 0))
    return Text.assemble(left, right)


def logit_effects_table(found: Iterable[LogitEffects]) -> Table:
    """A row a neuron: the first tokens of its lists, and how far they stand out."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("neuron", "makes likelier", "makes less likely"):
        table.add_column(name, no_wrap=name == "neuron")
    for name in ("skewness", "kurtosis"):
        table.add_column(name, justify="right", no_wrap=True)
    n = 0
    for e in found:
        n = max(n, int(e.histogram.sum()))
        numbers = written(e.skewness), written(e.kurtosis)
        table.add_row(str(e.id), _names(e.likelier), _names(e.less_likely), *numbers)
    table.caption = NOTE.format(n)
    return table


def _names(tokens: Sequence[OutputToken]) -> Text:
    return Text("  ".join(characters.spaced(one.token) for one in tokens[:FIRST]) or "–")
