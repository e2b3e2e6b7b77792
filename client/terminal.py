"""Neurons in a terminal, as rich renderables: `console.print(neuron_panel(neuron, neuron.examples))`.

Texts of a corpus are untrusted: they become Text objects, never markup, and hold no control characters.
Without colour (a pipe, NO_COLOR) the key token stands in «…».
"""

import os
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from polysem.client import colours, dendrogram
from polysem.client.dendrogram import Layout
from polysem.client.results import (
    Cluster,
    Example,
    ExplainedToken,
    Firing,
    Importance,
    ListedNeuron,
    Metrics,
    Neuron,
    SimilarCluster,
    Statistics,
)
from polysem.client.streams import Listing
from polysem.proto.neurons import NeuronId
from polysem.proto.types import DoubleArray, IndexInfo, IntArray, Limits, ServerInfo

# ---- A neuron


def neuron_panel(
    neuron: Neuron, examples: Sequence[Example], *, max_examples_per_cluster: int = 5, max_clusters: int = 12
) -> RenderableType:
    """A neuron falling apart, as in the paper's Figure 2: its dendrogram, with an example at each leaf.

    examples                  its own, in the order of its labels
    max_examples_per_cluster  of a larger cluster only some are shown, the central one always
    max_clusters              the largest ones
    """
    if len(examples) != len(neuron.labels):
        raise ValueError(f"neuron {neuron.id} has {len(neuron.labels)} examples; {len(examples)} were given")
    parts: list[RenderableType] = [_header(neuron)]
    if len(examples):
        parts += [Text(), _Figure(neuron, examples, max_examples_per_cluster, max_clusters)]
    title = Text.assemble("neuron ", (str(neuron.id), "bold"))
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="dim", padding=(0, 1))


def _header(neuron: Neuron) -> Text:
    m = neuron.metrics
    if not m.n_examples:
        return Text("no dataset examples: on this corpus the neuron never fires")
    examples, clusters = _count(m.n_examples, "example"), _count(m.n_clusters, "cluster")
    verb = "falls" if m.n_examples == 1 else "fall"
    split = Text.assemble(
        (f"{examples} {verb} into {clusters}", "bold"), f" ({_method(neuron)}, cut at {neuron.distance_threshold:g})"
    )
    return split.append(
        f"\nmean distance {_shown(m.intra)} within clusters, {_shown(m.inter)} between; "
        f"silhouette {_shown(m.silhouette)}"
    )


def _method(neuron: Neuron) -> str:
    clustering = neuron.provenance.clustering
    if clustering is None:
        return "distance"
    names = {"hac": f"HAC, {clustering.linkage} linkage", "scc": "SCC", "components": "connected components"}
    return names[clustering.algorithm]


class _Line(NamedTuple):
    """A line of the figure: the example whose leaf it is, if any, and what stands beside the tree."""

    example: int | None
    text: Text


class _Figure:
    """The dendrogram on the left, its root outermost, and the examples at its leaves."""

    def __init__(self, neuron: Neuron, examples: Sequence[Example], max_examples: int, max_clusters: int) -> None:
        self._neuron = neuron
        self._examples = examples
        self._layout = dendrogram.layout(neuron)
        self._colours = self._layout.colours()
        self._max_examples = max_examples
        self._clusters = {cluster.label: cluster for cluster in neuron.clusters[:max_clusters]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = _coloured(console)
        tree_width = min(max(options.max_width * 3 // 10, 14), 36)
        lines = list(self._lines(max(options.max_width - tree_width - 1, 8), coloured))
        drawn = self._layout.pruned(line.example for line in lines if line.example is not None)
        rows = np.array([row for row, line in enumerate(lines) if line.example is not None])
        axis = _Axis(drawn.heights.max(), self._neuron.distance_threshold, tree_width)
        tree = _tree(drawn, rows, len(lines), axis, self._colours)
        head = _pair(Text("cosine distance", "dim"), _legend(coloured), tree_width)
        head.truncate(options.max_width)
        yield head
        yield from axis.texts()
        for left, line in zip(tree, lines, strict=True):
            yield _pair(left, line.text, tree_width)

    def _lines(self, width: int, coloured: bool) -> Iterator[_Line]:
        shown = {
            cluster.label: dendrogram.representatives(cluster, self._layout, self._examples, self._max_examples)
            for cluster in self._clusters.values()
        }
        places = [i for members in shown.values() for i in members]
        fitted = example_lines([self._examples[i] for i in places], width - 2, coloured)
        texts = dict(zip(places, fitted, strict=True))
        before: Cluster | None = None
        for label in self._layout.clusters():
            if (cluster := self._clusters.get(label)) is None:
                continue
            if before and max(before.size, cluster.size) > 1:
                yield _Line(None, Text())
            yield from self._cluster_lines(cluster, {i: texts[i] for i in shown[label]}, width, coloured)
            before = cluster
        hidden = self._neuron.clusters[len(self._clusters) :]
        if hidden:
            held = _count(sum(cluster.size for cluster in hidden), "example")
            yield _Line(None, Text())
            yield _Line(None, Text(f"… {_count(len(hidden), 'more cluster')} with {held}", "dim"))

    def _cluster_lines(self, cluster: Cluster, texts: dict[int, Text], width: int, coloured: bool) -> Iterator[_Line]:
        colour = self._colours[cluster.label]
        if cluster.size > 1:
            yield _Line(None, _heading(cluster, [self._examples[i] for i in cluster.members], colour, width, coloured))
        for i in self._layout.leaves.tolist():
            if i in texts:
                marker = "◆ " if i == cluster.central and cluster.size > 1 else "  "
                yield _Line(i, Text.assemble((marker, colour), texts[i]))
        if cluster.size > len(texts):
            yield _Line(None, Text(f"  … {cluster.size - len(texts)} more", "dim"))


def _heading(cluster: Cluster, examples: Sequence[Example], colour: str, width: int, coloured: bool) -> Text:
    """What sets the cluster apart, in a line: how many examples, and the tokens they fire on."""
    name = (f"cluster {cluster.label} · {_count(cluster.size, 'example')}", "bold")
    heading = Text.assemble(("■ ", colour), name, " · ")  # letters of that colour would be too faint on some ground
    heading.append("fires on")
    for token, n in dendrogram.key_tokens(examples):
        heading.append("  ").append_text(_key(token, coloured)).append(f" ×{n}" if n > 1 else "")
    heading.truncate(width, overflow="ellipsis")
    return heading


def _legend(coloured: bool) -> Text:
    if not coloured:
        return Text("◆ central  «key token»", "dim")
    ramp = _shaded((" ", level / 8) for level in range(1, 9))
    return Text.assemble(
        ("◆ central  ", "dim"), _key("key token", coloured), ("  activation 0 ", "dim"), ramp, (" max", "dim")
    )


def _coloured(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _pair(left: Text, right: Text, width: int) -> Text:
    left = left.copy()
    left.truncate(width, pad=True)
    line = left.append(" ").append_text(right)
    line.rstrip()
    return line


# ---- The tree

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
STROKES = " ╵╷│╴╯╮┤╶╰╭├─┴┬┼"  # by the sum of the directions that meet in a cell


class _Axis:
    """Distances along the width: the largest at column 1, 0 at the last but one, the cut never on a merge's column."""

    def __init__(self, highest: float, distance_threshold: float, width: int) -> None:
        self.width = width
        self.zero = width - 2
        self.top = max(highest, distance_threshold) or 1.0
        self.distance_threshold = distance_threshold
        self.cut = int(np.clip(self._column(distance_threshold), 2, self.zero - 1))

    def _column(self, distances: npt.ArrayLike) -> IntArray:
        return np.rint(1 + (1 - np.asarray(distances) / self.top) * (self.zero - 1)).astype(np.int32)

    def of_merges(self, heights: DoubleArray) -> IntArray:
        """(M,) column of each merge: on its side of the cut."""
        columns = self._column(heights)
        above = np.minimum(columns, self.cut - 1)
        return np.where(heights > self.distance_threshold, above, np.maximum(columns, self.cut + 1))

    def texts(self) -> list[Text]:
        """The numbers, and the ruler under them."""
        top, cut = f"{self.top:.2g}", f"cut {self.distance_threshold:.3g}"
        numbers, ruler = [" "] * self.width, ["─"] * self.width
        start = max(min(self.cut - len(cut) // 2, self.zero - len(cut) - 1), len(top) + 2)  # clear of both numbers
        for text, column in (("0", self.zero), (top, 1), (cut, start)):
            if text != cut or start + len(cut) < self.zero:
                numbers[column : column + len(text)] = text
        ruler[0] = ruler[-1] = " "
        ruler[1], ruler[self.cut], ruler[self.zero] = "├┼┤"
        return [Text("".join(line).rstrip(), "dim") for line in (numbers, ruler)]


def _tree(drawn: Layout, rows: IntArray, n_rows: int, axis: _Axis, colours: dict[int, str]) -> list[Text]:
    """The dendrogram, a Text a row; leaf i stands in row rows[i]. ● where a cluster's branch crosses the cut."""
    strokes = np.zeros((n_rows, axis.width), np.int8)
    owner = np.full(strokes.shape, dendrogram.ABOVE_THE_CUT)
    n = len(drawn.leaves)
    y = np.floor(drawn.places(rows)).astype(int)
    x = np.concatenate([np.full(n, axis.width), axis.of_merges(drawn.heights[n:])])

    def branch(node: int, start: int) -> None:
        """From the parent's column to the node's own, in the colour of the node from the cut on."""
        strokes[y[node], start] |= RIGHT
        strokes[y[node], start + 1 : x[node]] |= LEFT | RIGHT
        strokes[y[node], x[node] : x[node] + 1] |= LEFT
        owner[y[node], max(start + 1, axis.cut) : x[node] + 1] = drawn.labels[node]

    branch(len(x) - 1, 0)
    strokes[y[-1], 0] |= LEFT
    for i in range(len(drawn.merges) - 1, -1, -1):
        column, (first, second) = x[n + i], drawn.merges[i]
        strokes[y[first] + 1 : y[second] + 1, column] |= UP
        strokes[y[first] : y[second], column] |= DOWN
        owner[y[first] : y[second] + 1, column] = drawn.labels[n + i]
        for node in (first, second):
            if x[node] > column:
                branch(node, column)
    return [_tree_line(strokes[row], owner[row], axis.cut, colours) for row in range(n_rows)]


def _tree_line(strokes: npt.NDArray[np.int8], owner: IntArray, cut: int, colours: dict[int, str]) -> Text:
    line = Text()
    for column, (stroke, label) in enumerate(zip(strokes.tolist(), owner.tolist(), strict=True)):
        colour = colours.get(label, "")
        if column != cut:
            line.append(STROKES[stroke], colour)
        elif stroke:
            line.append("●", f"bold {colour}")
        else:
            line.append("┊", "dim")
    return line


# ---- An example


class _Parts(NamedTuple):
    """An example around its key token."""

    before: Text
    key: Text
    after: Text

    def fitted(self, left: int, width: int) -> Text:
        """The key token at column `left`, further left where it would not fit, and as much as fits around it."""
        if self.key.cell_len > width:
            return _cropped(self.key, width)
        left = min(left, width - self.key.cell_len)
        line = _cropped(self.before, left, from_the_left=True)
        line.pad_left(left - line.cell_len)
        line.append_text(self.key)
        return line.append_text(_cropped(self.after, width - line.cell_len))


def example_lines(examples: Sequence[Example], width: int, coloured: bool = True) -> list[Text]:
    """Each text on one line of at most `width` cells, the key tokens in view and one under the other.

    Tokens are shaded from grey to red by their activation as a share of the example's maximum; without colour the key
    token stands in «…».
    """
    parts = [_parts(example, coloured) for example in examples]
    left = max((part.before.cell_len for part in parts), default=0)
    right = max((part.key.cell_len + part.after.cell_len for part in parts), default=0)
    column = min(left, max(width * 11 // 20, width - right))
    return [part.fitted(column, width) for part in parts]


def _parts(example: Example, coloured: bool) -> _Parts:
    pieces = list(zip(map(dendrogram.visible, example.tokens), dendrogram.shades(example).tolist(), strict=True))
    key = pieces[example.key][0]
    indent = len(key) - len(key.lstrip(" ")) if key.strip(" ") else 0  # the blank before a word is not emphasised
    before = _shaded([*pieces[: example.key], (key[:indent], 0.0)])
    return _Parts(before, _key(key[indent:], coloured), _shaded(pieces[example.key + 1 :]))


def _key(token: str, coloured: bool) -> Text:
    return Text(token, KEY_STYLE) if coloured else Text(f"«{token}»", "bold")


def _shaded(pieces: Iterable[tuple[str, float]]) -> Text:
    return Text.assemble(*((piece, _shade_style(shade)) for piece, shade in pieces))


def _cropped(text: Text, width: int, from_the_left: bool = False) -> Text:
    """At most `width` cells of the text, from its start or its end; … where something is missing."""
    if text.cell_len <= width:
        return text
    if width < 1:
        return Text()
    characters = text.plain[::-1] if from_the_left else text.plain
    used = np.cumsum([cell_len(character) for character in characters])
    n = int(np.searchsorted(used, width - 1, side="right"))
    kept, more = text[len(text) - n :] if from_the_left else text[:n], ("…", "dim")
    return Text.assemble(more, kept) if from_the_left else Text.assemble(kept, more)


def _shade_style(shade: float) -> Style | str:
    """Grey to red at one lightness, with white letters: it reads on white and on black."""
    level = int(shade * 8)
    return Style(color="#ffffff", bgcolor=_between((110, 104, 104), (205, 20, 30), level / 8)) if level else ""


def _between(low: tuple[int, int, int], high: tuple[int, int, int], share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


KEY_STYLE = Style(color="#ffffff", bgcolor="#cd141e", bold=True, underline=True)


# ---- Two clusterings, and many neurons

_METRICS = {
    "intra": "mean distance within clusters",
    "inter": "mean distance between clusters",
    "silhouette": "silhouette",
    "largest_share": "largest cluster",
}


def comparison(hac_neuron: Neuron, scc_neuron: Neuron) -> RenderableType:
    """The same neuron clustered twice, side by side: clusters, sizes, metrics and how far the two agree."""
    index = adjusted_rand_index(hac_neuron.labels, scc_neuron.labels)
    neurons = (hac_neuron, scc_neuron)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column()
    for name in ("HAC", "SCC"):
        table.add_column(name, header_style="bold")
    table.add_row("clusters", *(str(neuron.metrics.n_clusters) for neuron in neurons))
    table.add_row("sizes", *(_sizes(neuron) for neuron in neurons))
    for name, words in _METRICS.items():
        table.add_row(words, *(_metric(neuron.metrics, name) for neuron in neurons))
    title = Text.assemble("neuron ", (str(hac_neuron.id), "bold"), ": HAC beside SCC")
    agreement = Text.assemble("adjusted Rand index ", (f"{index:.2f}", "bold"), f" ({_agreement(index)})")
    parts: list[Any] = [table, Text(), _Strips(hac_neuron, scc_neuron), Text(), agreement]
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="dim", padding=(0, 1))


def _sizes(neuron: Neuron, limit: int = 8) -> str:
    sizes = [str(cluster.size) for cluster in neuron.clusters]
    return " ".join(sizes[:limit]) + (f" … {len(sizes) - limit} more" if len(sizes) > limit else "")


def _agreement(index: float) -> str:
    if index == 1:
        return "the same clusters"
    return "1 is the same clusters, 0 no more alike than by chance"


class _Strips:
    """Each example as a cell with its cluster's letter, in the order of HAC's tree: once by HAC, once by SCC.

    An SCC cluster has the letter and colour of the HAC cluster that it is matched with.
    """

    def __init__(self, hac: Neuron, scc: Neuron) -> None:
        leaves = dendrogram.layout(hac).leaves
        ranks = _by_first_appearance(hac.labels[leaves])
        self._ranks = {"HAC": ranks, "SCC": _matched(scc.labels[leaves], ranks)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        n, width = len(self._ranks["HAC"]), max(options.max_width - 5, 1)
        n_cells = n * min(width // max(n, 1), 2) if n <= width else width
        shown = np.arange(n_cells) * n // max(n_cells, 1)  # the example in each cell
        for name, ranks in self._ranks.items():
            yield Text.assemble((f"{name}  ", "bold"), *(_cell(rank, _coloured(console)) for rank in ranks[shown]))


def _cell(rank: int, coloured: bool) -> tuple[str, str]:
    letter = string.ascii_letters[rank] if rank < len(string.ascii_letters) else "·"
    colour = colours.PALETTE[rank % len(colours.PALETTE)]
    return letter, f"{colours.letters_on(colour)} on {colour}" if coloured else ""


def _by_first_appearance(labels: IntArray) -> IntArray:
    """(n,) the same clusters, numbered in the order they come in."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def _matched(labels: IntArray, others: IntArray) -> IntArray:
    """(n,) clusters by the number of the one in `others` they are matched with: pairs that share most examples first.

    Those left over get new numbers.
    """
    shared = _shared(labels, others)
    numbers: dict[int, int] = {}
    for flat in np.argsort(-shared, axis=None, kind="stable").tolist():
        label, other = divmod(flat, shared.shape[1])
        if shared[label, other] and label not in numbers and other not in numbers.values():
            numbers[label] = other
    left_over = [label for label in range(len(shared)) if label not in numbers]
    numbers |= {label: shared.shape[1] + i for i, label in enumerate(left_over)}
    return np.array([numbers[label] for label in labels.tolist()], np.int32)


def adjusted_rand_index(a: IntArray, b: IntArray) -> float:
    """How far two clusterings (n,) of the same examples agree: 1 the same, about 0 by chance, down to −0.5."""
    if len(a) != len(b):
        raise ValueError(f"clusterings of {len(a)} and of {len(b)} examples cannot be compared")
    table = _shared(a, b)
    together, in_a, in_b, pairs = map(_n_pairs, (table, table.sum(1), table.sum(0), np.array([len(a)])))
    expected = in_a * in_b / pairs if pairs else 0.0
    largest = (in_a + in_b) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def _shared(a: IntArray, b: IntArray) -> DoubleArray:
    """(clusters of a, clusters of b) examples in both."""
    table = np.zeros((a.max(initial=-1) + 1, b.max(initial=-1) + 1))
    np.add.at(table, (a, b), 1)
    return table


def _n_pairs(counts: DoubleArray) -> float:
    return float((counts * (counts - 1) / 2).sum())


_COLUMNS = {
    "n_examples": "examples",
    "n_clusters": "clusters",
    "largest_share": "largest",
    "intra": "intra",
    "inter": "inter",
    "silhouette": "silhouette",
    "mean_distance": "mean",
    "max_distance": "max",
}
_ACTIVATION_COLUMNS = {
    "maximum_activation": "max act.",
    "mean_activation": "mean act.",
    "share_positive": "positive",
}


def metrics_table(neurons: Iterable[Neuron]) -> Table:
    """A row a neuron, in the order given; – where a metric is undefined."""
    table = _right_aligned("neuron", *_COLUMNS.values())
    for neuron in neurons:
        table.add_row(str(neuron.id), *(_metric(neuron.metrics, name) for name in _COLUMNS))
    return table


def listing(neurons: Listing, skipped: int = 0) -> RenderableType:
    """Neurons as a table, and how many there are; * at those with a common and a rare behaviour."""
    names = (*_COLUMNS, *_ACTIVATION_COLUMNS)
    table = _right_aligned("neuron", *_COLUMNS.values(), *_ACTIVATION_COLUMNS.values(), "")
    for neuron in neurons:
        table.add_row(str(neuron.id), *(_metric(neuron, name) for name in names), "*" if neuron.rare else "")
    if not len(neurons):
        n = neurons.n_matching
        return Text(f"only {_count(n, 'neuron')} match" if n else "no neuron matches")
    last = skipped + len(neurons)
    note = Text(f"{skipped + 1:,} to {last:,} of {neurons.n_matching:,} that match", "dim")
    if any(neuron.rare for neuron in neurons):
        note.append("; * a common and a rare behaviour: at least 90% of 20 or more examples in one cluster")
    if any(neuron.n_clusters is None for neuron in neurons):
        note.append("; – as clusters: too many examples for this linkage, ask for scc or for single linkage")
    return Group(table, Text(), note)


def statistics_table(found: Iterable[Statistics]) -> Table:
    """A row a neuron, in the order given."""
    names = ("n_examples", "lowest_example", "highest_example", "threshold")
    table = _right_aligned("neuron", *_ACTIVATION_COLUMNS.values(), "examples", "from", "to", "threshold")
    for one in found:
        table.add_row(str(one.id), *(_metric(one, name) for name in (*_ACTIVATION_COLUMNS, *names)))
    return table


class StatisticsPanel:
    """A neuron's histogram of key activations, with the band of its examples."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        s = self._statistics
        yield Text.assemble(
            *("neuron ", (str(s.id), "bold"), f": highest activation {s.maximum_activation:.2f}, "),
            f"mean {s.mean_activation:.2f}, above 0 in {s.share_positive:.1%} of the contexts",
        )
        yield Text(self._band())
        yield Text()
        if not s.histogram.any():
            yield Text("it is positive in no context", "dim")
            return
        counts, edges = s.histogram.reshape(16, 4).sum(axis=1), s.bin_edges[::4]
        widths = np.sqrt(counts / counts.max()) * max(options.max_width - 30, 8)
        yield Text("activation         contexts (a bar is as long as their square root)", "dim")
        for i, count in enumerate(counts.tolist()):
            held = s.lowest_example is not None and s.highest_example is not None
            inside = held and edges[i + 1] >= (s.lowest_example or 0) and edges[i] <= (s.highest_example or 0)
            yield Text.assemble(
                f"{edges[i]:6.2f} – {edges[i + 1]:6.2f} {count:9,} ",
                ("█" * round(widths[i]), "#cd141e" if inside else "dim"),
                " ◂" if inside else "",
            )

    def _band(self) -> str:
        s = self._statistics
        if not s.n_examples:
            return "no dataset examples"
        least = "" if s.threshold is None else f" (at least {s.threshold:.2f} was asked)"
        examples = _count(s.n_examples, "dataset example")
        return f"{examples} from {s.lowest_example:.2f} to {s.highest_example:.2f}{least}, marked ◂"


class SimilarClusters:
    """Similar clusters, a line each: similarity, neuron and cluster, its size, its central example."""

    def __init__(
        self,
        neuron: str,
        found: Sequence[SimilarCluster],
        texts: Mapping[tuple[NeuronId, int], Example],
    ) -> None:
        self._neuron, self._found, self._texts = neuron, found, texts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not len(self._found):
            yield Text(f"neuron {self._neuron} has no dataset examples, so no clusters")
        lines = example_lines(
            [self._texts[one.neuron, one.central] for one in self._found],
            max(options.max_width - 36, 20),
            _coloured(console),
        )
        before = None
        for one, line in zip(self._found, lines, strict=True):
            if one.to != before:
                yield Text(f"similar to cluster {one.to} of neuron {self._neuron}", "bold")
                before = one.to
            where = f"{one.neuron} cluster {one.label}"
            yield Text.assemble(f"  {one.similarity:5.2f}  {where:<20} ", (f"{one.size:4} ", "dim"), line)


class ImportanceText:
    """An example up to its key token: the text in one line, and each token that matters with a bar below."""

    LEAST = 0.05  # of the key token's own importance

    def __init__(self, importance: Importance) -> None:
        self._importance = importance

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        one, relative = self._importance, self._importance.relative
        texts = [dendrogram.visible(token) for token in one.tokens]
        yield Text.assemble((f"{one.neuron} ", "bold"), f"#{one.place}  {one.activation:.2f}")
        before = _cropped(Text("".join(texts[:-1])), options.max_width - 24, from_the_left=True)
        yield before.append_text(_key(texts[-1], _coloured(console)))
        shown = [i for i in range(len(texts) - 1) if relative[i] >= self.LEAST]
        for i in shown:
            bar = "█" * max(round(float(relative[i]) * 20), 1)
            yield Text.assemble(
                f"  {relative[i]:4.0%} ", (f"{bar:<20} ", "#2a6fdb"), texts[i].strip(" ") or repr(one.tokens[i])
            )
        if not shown:
            yield Text(f"  no token before it changes the activation by {self.LEAST:.0%} of what it does itself", "dim")


def explanation(tokens: Iterable[ExplainedToken], named: bool) -> RenderableType:
    """A row a token: each neuron's activation and cluster, in a column of its own where the neurons were named."""
    found = list(tokens)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("token", no_wrap=True)
    if named:
        for firing in found[0].firings:
            table.add_column(str(firing.neuron), no_wrap=True)
    else:
        table.add_column("fires hardest, as a share of its maximum")
    for token in found:
        cells = [_firing(firing) if named else _share(firing) for firing in token.firings]
        text = Text(dendrogram.visible(token.text))
        table.add_row(text, *(cells if named else [Text("   ").join(cells)]))
    note = "activation, cluster at the smallest mean distance; – where none is near enough" if named else ""
    return Group(table, Text(), Text(note, "dim")) if named else table


def _firing(firing: Firing) -> Text:
    activation = f"{firing.activation:6.2f}"
    if not firing.fires:
        return Text(activation, "dim")
    cluster = "–" if firing.cluster is None else str(firing.cluster)
    near = "" if firing.distance is None else f"  cluster {cluster} at {firing.distance:.2f}"
    return Text.assemble((activation, _shade_style(min(firing.share or 0.0, 1.0))), near)


def _share(firing: Firing) -> Text:
    share = firing.share or 0.0
    return Text(f"{firing.neuron} {share:.0%}", "" if firing.fires else "dim")


def _right_aligned(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _metric(metrics: Metrics | ListedNeuron | Statistics, name: str) -> str:
    value = getattr(metrics, name)
    if isinstance(value, int):
        return str(value)
    return _shown(value, "{:.0%}" if "share" in name else "{:.2f}")


def _shown(value: float | None, form: str = "{:.2f}") -> str:
    return "–" if value is None else form.format(value)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


# ---- The command line's own


def console(record: bool = False) -> Console:
    """Standard output: with colour in a terminal that has it, plain in a pipe. 120 columns wide where none is known."""
    sized = Console(record=record, highlight=False)
    if sized.is_terminal or "COLUMNS" in os.environ:
        return sized
    return Console(record=record, highlight=False, width=120)


def _own(limits: Limits) -> str:
    """The limits of the key that asks, where it has some."""
    own = []
    if limits.max_requests_in_flight_of_key:
        own.append(f"{limits.max_requests_in_flight_of_key:,} requests in flight")
    if limits.daily_cost_quota:
        own.append(f"cost {limits.daily_cost_quota:.3g} a day")
    return f"; your key: {', '.join(own)}" if own else ""


def server_info(target: str, about: ServerInfo, indexes: Sequence[IndexInfo]) -> RenderableType:
    """What a server is and has."""
    model = about.model
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("server", f"{target}, Polysem {about.version}"),
        (
            "model",
            f"{model.id} ({model.n_layers} layers of {model.n_neurons_per_layer:,} neurons, "
            f"weights {model.sha256[:12]}…)",
        ),
        ("device", f"{about.device}, {about.dtype}"),
        (
            "limits",
            f"{about.limits.max_neurons_per_request:,} neurons a request, {about.limits.max_requests_in_flight:,} "
            f"requests in flight, {about.limits.max_message_bytes:,} bytes a message{_own(about.limits)}",
        ),
    ):
        facts.add_row(Text(name, "dim"), Text(value))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("index", "corpus", "contexts", "tokens", "selection", "examples", "neurons with examples"):
        table.add_column(heading, justify="left" if heading in ("index", "corpus", "selection") else "right")
    for index in indexes:
        rule = index.selection
        least = f" ≥ {rule.min_activation_fraction:g} of max" if rule.rule == "first" else ""
        table.add_row(
            Text(index.name + (" (default)" if index.name == about.default_index else "")),
            Text(index.corpus_id),
            f"{index.n_contexts:,}",
            f"{index.n_tokens:,}",
            f"{rule.rule} {rule.max_examples}{least}",
            f"{index.n_examples:,}",
            f"{index.n_neurons_with_examples:,}",
        )
    return Group(facts, Text(), table)


class ExampleText:
    """An example with its neuron, document and activation in one line, and its text below: cropped to a line around the
    key token, or whole, wrapped as it stands."""

    def __init__(self, example: Example, whole: bool = False) -> None:
        self._example, self._whole = example, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        example, coloured = self._example, _coloured(console)
        yield Text.assemble(
            (f"{example.neuron} ", "bold"),
            f"#{example.place}  {example.activation:.2f}  ",
            (dendrogram.visible(example.document), "dim"),
        )
        if not self._whole:
            yield from example_lines([example], options.max_width - 2, coloured)
            return
        shades = dendrogram.shades(example).tolist()
        text = Text()
        for i, (token, shade) in enumerate(zip(example.tokens, shades, strict=True)):
            shown = "\n".join(dendrogram.visible(line) for line in token.split("\n"))
            text.append_text(_key(shown, coloured) if i == example.key else Text(shown, _shade_style(shade)))
        yield text
