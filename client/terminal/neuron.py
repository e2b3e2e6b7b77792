"""A neuron falling apart: its dendrogram in strokes, and the texts at its leaves."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from polysem.client.drawing import colours, dendrogram
from polysem.client.drawing.dendrogram import Layout
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.client.terminal.tables import counted, written
from polysem.client.terminal.texts import example_lines, has_colour, key_text, shaded
from polysem.proto.arrays import DoubleArray, IntArray


def neuron_panel(
    neuron: Neuron, examples: Sequence[Example], *, max_examples_per_cluster: int = 5, max_clusters: int = 12
) -> RenderableType:
    """A neuron falling apart, as in the paper's Figure 2: its dendrogram, with an example at each leaf.

    examples                  its own, in the order of its labels
    max_examples_per_cluster  of a larger cluster only some are shown, the central one always
    max_clusters              the largest ones
    """
    if len(examples) != len(neuron.labels):
        raise ValueError(
            f"{neuron.provenance.unit} {neuron.id} has {len(neuron.labels)} examples; {len(examples)} were given"
        )
    parts: list[RenderableType] = [_header(neuron)]
    if len(examples):
        parts += [Text(), _Figure(neuron, examples, max_examples_per_cluster, max_clusters)]
    unit = neuron.provenance.unit
    title = Text.assemble(f"{unit} ", (neuron.title.removeprefix(f"{unit} "), "bold"))
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="dim", padding=(0, 1))


def _header(neuron: Neuron) -> Text:
    m = neuron.metrics
    if not m.n_examples:
        return Text(f"no dataset examples: on this corpus the {neuron.provenance.unit} is never {neuron.side}")
    examples, clusters = counted(m.n_examples, "example"), counted(m.n_clusters, "cluster")
    verb = "falls" if m.n_examples == 1 else "fall"
    split = Text.assemble(
        (f"{examples} {verb} into {clusters}", "bold"),
        f" ({neuron.made_by or 'distance'}, cut at {neuron.distance_threshold:.4g})",
    )
    return split.append(
        f"\nmean distance {written(m.intra)} within clusters, {written(m.inter)} between; "
        f"silhouette {written(m.silhouette)}"
    ).append(_by_chance(neuron) + _of_tokens(neuron) + _significance(neuron))


def _by_chance(neuron: Neuron) -> str:
    """Say what rotations have at the cut; nothing if they were not requested."""
    b = neuron.baselines
    if b.null_n_clusters is None:
        return ""
    return (
        f"\nby chance {written(b.null_intra)} within clusters, {written(b.null_inter)} between; silhouette "
        f"{written(b.null_silhouette)}; {b.null_n_clusters:.1f} clusters"
    )


def _of_tokens(neuron: Neuron) -> str:
    """Whether the clusters are more than key tokens; nothing from an older server."""
    b = neuron.baselines
    if neuron.key_tokens is None:
        return ""
    singletons, of_one = (written(share, "{:.0%}") for share in (b.singleton_share, b.single_token_share))
    return (
        f"\n{written(b.token_agreement)} agreement with the key token (AMI); {singletons} of clusters are singletons, "
        f"{of_one} of the others one key token"
    )


def _significance(neuron: Neuron) -> str:
    return f"\n{against_chance(neuron)}" if neuron.significance else ""


def against_chance(neuron: Neuron) -> str:
    """Whether the neuron is more than chance, in words; nothing where it is not tested."""
    found = neuron.significance
    if found is None:
        return ""
    split = counted(neuron.significant_clusters or 0, "significant cluster")
    if neuron.significant_clusters is None:
        split = "its merges were not tested"
    elif neuron.significant_clusters > 1:
        strength = written(neuron.prediction_strength)
        split += f", as at a cut of {neuron.significant_cut:.2f}; prediction strength {strength}"
    return (
        f"{neuron.verdict} (p {found.p_value:.3g}, frame own): best silhouette {found.best_silhouette:.2f}, by "
        f"chance {found.null_mean:.2f}; {split}"
    )


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
        self._colours = colours.of_clusters(neuron.clusters, any_ground=True)
        self._max_examples = max_examples
        self._clusters = {cluster.label: cluster for cluster in neuron.clusters[:max_clusters]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = has_colour(console)
        tree_width = min(max(options.max_width * 3 // 10, 14), 36)
        lines = list(self._lines(max(options.max_width - tree_width - 1, 8), coloured))
        drawn = self._layout.pruned(line.example for line in lines if line.example is not None)
        rows = np.array([row for row, line in enumerate(lines) if line.example is not None])
        axis = _Axis(drawn.heights.max(), self._neuron.distance_threshold, tree_width)
        tree = _tree(drawn, rows, len(lines), axis, self._colours)
        head = _pair(Text("cosine distance", "dim"), _legend(coloured, bool(drawn.significant.any())), tree_width)
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
            held = counted(sum(cluster.size for cluster in hidden), "example")
            yield _Line(None, Text())
            yield _Line(None, Text(f"… {counted(len(hidden), 'more cluster')} with {held}", "dim"))

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
    """Describe the cluster in a line: how many examples, and the tokens they fire on."""
    name = (f"{cluster.letter} · {counted(cluster.size, 'example')}", "bold")
    stable = "" if cluster.stability is None else f"stability {cluster.stability:.2f} · "
    label = (f" · label {cluster.label}", "dim")
    heading = Text.assemble(("■ ", colour), name, label, " · ")  # letters of that colour would be too faint somewhere
    heading.append(f"{stable}fires on")
    for token, n in dendrogram.key_tokens(examples):
        heading.append("  ").append_text(key_text(token, coloured)).append(f" ×{n}" if n > 1 else "")
    heading.truncate(width, overflow="ellipsis")
    return heading


def _legend(coloured: bool, significant: bool) -> Text:
    marks = f"◆ central  {SIGNIFICANT} significant merge  " if significant else "◆ central  "
    if not coloured:
        return Text(f"{marks}«key token»", "dim")
    ramp = shaded((" ", level / 8) for level in range(1, 9))
    return Text.assemble(
        (marks, "dim"), key_text("key token", coloured), ("  activation 0 ", "dim"), ramp, (" max", "dim")
    )


def _pair(left: Text, right: Text, width: int) -> Text:
    left = left.copy()
    left.truncate(width, pad=True)
    line = left.append(" ").append_text(right)
    line.rstrip()
    return line


# ---- The tree

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
STROKES = " ╵╷│╴╯╮┤╶╰╭├─┴┬┼"  # by the sum of the directions that meet in a cell
SIGNIFICANT = "◇"


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
    """The dendrogram, a Text a row; leaf i stands in row rows[i]. ● where a cluster's branch crosses the cut, ◇ at
    significant merges."""
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
    marked = set(zip(y[n:][drawn.significant].tolist(), x[n:][drawn.significant].tolist(), strict=True))
    return [
        _tree_line(strokes[row], owner[row], axis.cut, colours, {column for at, column in marked if at == row})
        for row in range(n_rows)
    ]


def _tree_line(
    strokes: npt.NDArray[np.int8], owner: IntArray, cut: int, colours: dict[int, str], marked: set[int]
) -> Text:
    line = Text()
    for column, (stroke, label) in enumerate(zip(strokes.tolist(), owner.tolist(), strict=True)):
        colour = colours.get(label, "")
        if column in marked:
            line.append(SIGNIFICANT, f"bold {colour}")
        elif column != cut:
            line.append(STROKES[stroke], colour)
        elif stroke:
            line.append("●", f"bold {colour}")
        else:
            line.append("┊", "dim")
    return line
