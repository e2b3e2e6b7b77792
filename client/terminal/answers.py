"""Similar clusters, names of clusters, token importance, and one's own text explained."""

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from polysem.client import characters
from polysem.client.questions.examples import Example
from polysem.client.questions.explain import ExplainedToken, Firing
from polysem.client.questions.importance import Importance
from polysem.client.questions.labels import Label
from polysem.client.questions.similar import Similar
from polysem.client.terminal.tables import counted
from polysem.client.terminal.texts import cropped, example_lines, has_colour, key_text, shade_style
from polysem.proto.neurons import NeuronId, parse_neuron
from polysem.proto.units import Unit

NEAR_NONE = "∅"


class SimilarClusters:
    """Similar clusters, a line each: similarity, neuron and letter, label, size, central example.

    letters  of all clusters named, by neuron and label
    """

    def __init__(
        self,
        neuron: str,
        found: Similar,
        texts: Mapping[tuple[NeuronId, int], Example],
        letters: Mapping[tuple[NeuronId, int], str],
        unit: Unit = "neuron",
    ) -> None:
        self._unit = unit
        self._neuron, self._found, self._texts, self._letters = parse_neuron(neuron), found, texts, letters

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not len(self._found):
            yield Text(f"{self._unit} {self._neuron} has no dataset examples, so no clusters")
        lines = example_lines(
            [self._texts[one.neuron, one.central] for one in self._found],
            max(options.max_width - 43, 20),
            has_colour(console),
        )
        before, mixed = None, self._found.mixed
        for one, line in zip(self._found, lines, strict=True):
            if one.to != before:
                name = self._letters[self._neuron, one.to]
                yield Text.assemble((f"similar to {self._neuron}.{name}", "bold"), (f"  label {one.to}", "dim"))
                before = one.to
            where = f"{one.neuron}.{self._letters[one.neuron, one.label]}"
            made = f"{one.method:<14} " if mixed else ""
            label, size = f"label {one.label}", counted(one.size, "example")
            about = f"{label:<9} {size:>12} {made}"
            yield Text.assemble(f"  {one.similarity:5.2f}  {where:<10} ", (about, "dim"), line)
        if mixed:
            yield Text(mixed, "dim")


class NamedClusters:
    """Names of clusters, a line each: letter, size, score and null where there are some, the name."""

    def __init__(self, found: Iterable[Label], unit: Unit = "neuron") -> None:
        self._found, self._unit = found, unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        before = None
        for one in self._found:
            if one.neuron != before:
                yield Text(f"{self._unit} {one.neuron}", "bold")
                before = one.neuron
            fits = (
                "            "
                if one.score is None or one.null_score is None
                else (f"{one.score:.2f} / {one.null_score:.2f} ")
            )
            yield Text.assemble(f"  {one.letter:<3}", (f"{one.size:5}  {fits} ", "dim"), characters.visible(one.text))


class ImportanceText:
    """An example up to its key token: the text in one line, and each token that matters with a bar below."""

    LEAST = 0.05  # of the key token's own importance

    def __init__(self, importance: Importance, example: Example) -> None:
        self._importance, self._example = importance, example

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        one, relative = self._importance, self._importance.relative
        parts = one.parts
        yield Text.assemble((f"{one.neuron} ", "bold"), f"#{one.example}  {one.activation:.2f}")
        before = cropped(Text(characters.visible("".join(one.tokens[:-1]))), options.max_width - 24, from_the_left=True)
        yield before.append_text(key_text(characters.displayed(self._example.key_part), has_colour(console)))
        shown = [i for i in range(len(one.tokens) - 1) if relative[i] >= self.LEAST]
        for i in shown:
            bar = "█" * max(round(float(relative[i]) * 20), 1)
            yield Text.assemble(f"  {relative[i]:4.0%} ", (f"{bar:<20} ", "#2a6fdb"), characters.named(parts[i]))
        if not shown:
            yield Text(f"  no token before it changes the activation by {self.LEAST:.0%} of what it does itself", "dim")


def explanation(
    tokens: Iterable[ExplainedToken],
    letters: Mapping[tuple[NeuronId, int], str] | None = None,
    unit: Unit = "neuron",
) -> RenderableType:
    """A row a token: each neuron's activation and cluster, in a column of its own where the neurons were named.

    letters  of these neurons' clusters, by neuron and label; None: they were not named
    """
    found = list(tokens)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("token", no_wrap=True)
    if letters is not None:
        for firing in found[0].firings:
            table.add_column(str(firing.neuron), no_wrap=True)
    else:
        table.add_column("fires hardest, as a share of its maximum")
    texts = [token.text for token in found]
    for i, token in enumerate(found):
        part = characters.part(texts, i, *token.part_of)
        if letters is None:
            table.add_row(Text(characters.displayed(part)), Text("   ").join(map(_share, token.firings)))
        else:
            table.add_row(Text(characters.displayed(part)), *(_firing(firing, letters) for firing in token.firings))
    if letters is None:
        return table
    note = f"activation, cluster at the smallest mean distance (A is the {unit}'s largest); ∅ where none is near enough"
    return Group(table, Text(), Text(note, "dim"))


def _firing(firing: Firing, letters: Mapping[tuple[NeuronId, int], str]) -> Text:
    activation = f"{firing.activation:6.2f}"
    if not firing.fires:
        return Text(activation, "dim")
    name = NEAR_NONE if firing.cluster is None else letters[firing.neuron, firing.cluster]
    near = "" if firing.distance is None else f"  {name} at {firing.distance:.2f}"
    return Text.assemble((activation, shade_style(min(firing.share or 0.0, 1.0))), near)


def _share(firing: Firing) -> Text:
    share = firing.share or 0.0
    return Text(f"{firing.neuron} {share:.0%}", "" if firing.fires else "dim")
