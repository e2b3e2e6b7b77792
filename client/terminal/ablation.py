"""Ablations in a terminal: a row an effect, and whether clusters move different tokens."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from polysem.client import characters
from polysem.client.questions.ablation import Effect, Effects, MovedToken
from polysem.client.terminal.tables import counted
from polysem.proto.neurons import NeuronId

FIRST = 3  # tokens that move most
OTHERS = 92  # cells of the other columns
NOTE = "means over the tokens of each sample ± standard errors, in nats; tokens by the change of their probability"


class AblationTable:
    """The effects of a neuron's ablations. letters: of its clusters, by neuron and label."""

    def __init__(self, neuron: NeuronId, found: Effects, letters: Mapping[tuple[NeuronId, int], str]) -> None:
        self._neuron, self._found, self._letters = neuron, found, letters

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("at", "ablated"):
            table.add_column(name, no_wrap=True)
        for name in ("set", "activation", "KL", "loss"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("moves most", no_wrap=True, max_width=max(options.max_width - OTHERS, 16))
        before = None
        for one in self._found:
            if before not in (None, one.cluster):
                table.add_section()
            table.add_row(self._at(one) if one.cluster != before else "", *self._row(one))
            before = one.cluster
        yield Text(f"neuron {self._neuron}", "bold")
        yield table
        yield Text(NOTE, "dim")
        yield from self._differences()

    def _at(self, one: Effect) -> str:
        return f"{self._letter(one.cluster)}  {counted(one.n_tokens, 'token')}"

    def _row(self, one: Effect) -> list[str | Text]:
        what = {
            "cluster": f"{self._letter(one.cluster)} alone",
            "neuron": "the whole neuron",
            "other": "" if one.other is None else f"{self._letter(one.other)} instead",
            "control": f"control {one.neuron}",
            None: "–",
        }[one.ablated]
        activation = "–" if one.activation is None else f"{one.activation:.2f}"
        return [
            what,
            str(one.n_set),
            activation,
            _mean(one.divergence, one.divergence_error, ""),
            _mean(one.loss_change, one.loss_change_error, "+"),
            _tokens([*one.likelier, *one.less_likely]),
        ]

    def _letter(self, label: int) -> str:
        return self._letters.get((self._neuron, label), str(label))

    def _differences(self) -> RenderResult:
        """Say in a sentence whether clusters move different tokens, beside random groups and controls."""
        found = self._found.differences
        if not found:
            return
        own, controls = found[0], found[1:]
        yield Text(
            f"what its clusters move is {own.distance:.2f} apart (cosine), of random groups {own.null_mean:.2f}; p = "
            f"{own.p_value:.2g}"
        )
        if controls:
            most = max(controls, key=lambda one: one.excess)
            yield Text(
                f"of the controls {min(one.distance for one in controls):.2f} to "
                f"{max(one.distance for one in controls):.2f}, at most {most.excess:+.2f} beyond random groups, of the "
                f"neuron {own.excess:+.2f}: what controls show as well, the contexts explain"
            )


def _mean(value: float | None, error: float | None, sign: str) -> str:
    if value is None:
        return "–"
    return f"{value:{sign}.2g}" + ("" if error is None else f" ± {error:.1g}")


def _tokens(tokens: Sequence[MovedToken]) -> Text:
    most = sorted(tokens, key=lambda one: -abs(one.change))[:FIRST]
    return Text("  ".join(f"{characters.spaced(one.token)} {one.change:+.2g}" for one in most) or "–")
