"""The same neuron clustered twice, side by side."""

from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from polysem.client import letters
from polysem.client.drawing import colours, dendrogram
from polysem.client.drawing.matching import matched
from polysem.client.measuring.agreement import adjusted_rand_index
from polysem.client.questions.clustering import Neuron
from polysem.client.terminal.tables import metric_text
from polysem.client.terminal.texts import has_colour

N_LETTERS = 26  # of one character
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
    title = Text.assemble(f"{hac_neuron.provenance.unit} ", (str(hac_neuron.id), "bold"), ": HAC beside SCC")
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
        ranks = letters.ranks(np.bincount(hac.labels))[hac.labels[leaves]]
        self._ranks = {"HAC": ranks, "SCC": matched(scc.labels[leaves], ranks)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        n, width = len(self._ranks["HAC"]), max(options.max_width - 5, 1)
        n_cells = n * min(width // max(n, 1), 2) if n <= width else width
        shown = np.arange(n_cells) * n // max(n_cells, 1)  # the example in each cell
        for name, ranks in self._ranks.items():
            sizes = np.bincount(ranks)
            cells = (_cell(rank, int(sizes[rank]), has_colour(console)) for rank in ranks[shown].tolist())
            yield Text.assemble((f"{name}  ", "bold"), *cells)


def _cell(rank: int, size: int, coloured: bool) -> tuple[str, str]:
    letter = letters.letter_of(rank, size) if rank < N_LETTERS else letters.SINGLE
    colour = colours.SINGLE if size < 2 else colours.PALETTE[rank] if rank < len(colours.PALETTE) else colours.BEYOND
    return letter, f"{colours.letters_on(colour)} on {colour}" if coloured else ""
