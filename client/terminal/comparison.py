"""The same neuron clustered twice, side by side."""

import string
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from polysem.client.drawing import colours, dendrogram
from polysem.client.measuring.agreement import adjusted_rand_index
from polysem.client.questions.clustering import Neuron
from polysem.client.terminal.tables import metric_text
from polysem.client.terminal.texts import has_colour
from polysem.proto.arrays import DoubleArray, IntArray

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
        table.add_row(words, *(metric_text(neuron.metrics, name) for neuron in neurons))
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
            yield Text.assemble((f"{name}  ", "bold"), *(_cell(rank, has_colour(console)) for rank in ranks[shown]))


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


def _shared(a: IntArray, b: IntArray) -> DoubleArray:
    """(clusters of a, clusters of b) examples in both."""
    table = np.zeros((a.max(initial=-1) + 1, b.max(initial=-1) + 1))
    np.add.at(table, (a, b), 1)
    return table
