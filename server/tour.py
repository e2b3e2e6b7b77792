"""The first-time tour: a few of the most polysemantic neurons of the demo model, and Table 1, in the terminal."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

import polysem.server
from polysem.client import Client, Clusters, Neuron, files, terminal
from polysem.client.commands import next_steps
from polysem.client.drawing import report
from polysem.client.measuring.table1 import PAPER

N_SHOWN = 3
LEAST_MEMBERS = 4  # of a cluster that counts as a behaviour
LEAST_EXAMPLES = 25
MOST_BEHAVIOURS = 6  # more say no more


def show_first(folder: Path) -> None:
    """Serve the index in `folder`, and print the first of its neurons."""
    console = terminal.console()
    with polysem.server.local(folder) as client:
        info = client.indexes()[0]
        one = f"An SAE's {sum(info.widths):,} latents in a" if info.encoders else "A"
        each = "" if info.encoders else f" of {info.n_neurons_per_layer:,} neurons"
        console.print(
            f"{one} GPT-2 with {info.n_layers} layers{each} {'have' if info.encoders else 'has'} read "
            f"{info.n_contexts:,} texts ({info.n_tokens:,} tokens) of Python's own documentation and source.\n"
            "A server in this process answers for it; everything below came through the client.\n"
        )
        neuron = most_polysemantic(client.cluster("*"))[0]
        console.print(Rule(style="dim"), terminal.neuron_panel(neuron, neuron.examples))


def show(folder: Path, svg: Path | None, page: Path, force: bool) -> None:
    """Serve the index in `folder`, now that it is tested, and print what else comes back; `show_first` came before.

    svg    where the first neuron is drawn as a picture
    page   where the neurons are written as a report
    force  replace both files where they are there
    """
    console = terminal.console()
    with polysem.server.local(folder) as client:
        info = client.indexes()[0]
        clusters = client.cluster("*")
        shown = most_polysemantic(clusters)
        console.print(f"\n{info.unit.capitalize()} {shown[0].id}: {terminal.against_chance(shown[0])}")
        for i, neuron in enumerate(shown):
            if i:
                console.print(Rule(style="dim"), terminal.neuron_panel(neuron, neuron.examples))
            console.print(terminal.comparison(neuron, client.cluster(neuron.id, algorithm="scc", n_null=0)[0]))
        console.print(Rule(style="dim"))
        console.print(table_1(client, clusters))
        if svg is not None:
            draw(shown[0], svg, force)
        _write(page, report.make(client, *(str(neuron.id) for neuron in shown)).html, force)
    console.print(f"\nThe same {info.unit}s as a page for a browser, where their trees can be cut anew:")
    console.print(str(page.resolve()), soft_wrap=True)
    index = f" --index {folder}" if info.encoders else ""
    console.print(_next_steps(shown[0], next_steps.command(), index), soft_wrap=True)


def draw(neuron: Neuron, svg: Path, force: bool) -> None:
    """Write the neuron as the terminal shows it, as a picture."""
    canvas = Console(record=True, width=112, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    canvas.print(terminal.neuron_panel(neuron, neuron.examples))
    _write(svg, canvas.export_svg(title=f"polysem cluster {neuron.id}"), force)


def _write(out: Path, text: str, force: bool) -> None:
    with files.writing(out, force) as file:
        file.write(text.encode())


def most_polysemantic(clusters: Clusters, n: int = N_SHOWN) -> list[Neuron]:
    """The neurons with the most behaviours, of equals the clearest (silhouette); the widest split first."""

    def score(neuron: Neuron) -> tuple[int, float]:
        return min(_n_behaviours(neuron), MOST_BEHAVIOURS), neuron.metrics.silhouette or -1.0

    enough = [neuron for neuron in clusters if neuron.metrics.n_examples >= LEAST_EXAMPLES]
    return sorted(sorted(enough, key=score, reverse=True)[:n], key=lambda neuron: -(neuron.metrics.inter or 0))


def _n_behaviours(neuron: Neuron) -> int:
    return int((np.bincount(neuron.labels) >= LEAST_MEMBERS).sum())


def table_1(client: Client, neuron_hac: Clusters) -> Group:
    """The paper's Table 1 for this model: medians and means over neurons of intra and inter."""
    table = Table(title="Table 1 of this model (cut at distance 0.5)", title_justify="left")
    for column in ("", "intra median", "mean", "inter median", "mean", "clusters, mean", "undefined intra / inter"):
        table.add_column(column, justify="left" if not column else "right")
    for algorithm in ("hac", "scc"):
        for embedding in ("pre_mlp", "neuron"):
            same = (algorithm, embedding) == ("hac", "neuron")
            asked = neuron_hac if same else client.cluster("*", algorithm=algorithm, embedding=embedding)
            table.add_row(f"{algorithm}, {embedding}", *_row(asked))
    table.add_section()
    for embedding, (intra, inter) in PAPER.items():
        table.add_row(f"paper (GPT2-small), {embedding}", f"{intra:.2f}", "", f"{inter:.2f}", "", "", "", style="dim")
    note = (
        "intra: mean distance of examples in the same cluster; inter: in different ones. Undefined: no cluster of two, "
        "or only one cluster. One cut at 0.5 gives the two embeddings different numbers of clusters, so the rows are "
        "not a fair race."
    )
    return Group(Text(), table, Text(note, style="dim"))


def _row(clusters: Clusters) -> Sequence[str]:
    columns = clusters.columns()
    intra, inter = columns["intra"], columns["inter"]
    has = columns["n_examples"] > 0
    return (
        f"{np.nanmedian(intra):.3f}",
        f"{np.nanmean(intra):.3f}",
        f"{np.nanmedian(inter):.3f}",
        f"{np.nanmean(inter):.3f}",
        f"{columns['n_clusters'][has].mean():.2f}",
        f"{np.isnan(intra[has]).sum():,} / {np.isnan(inter[has]).sum():,}",
    )


def _next_steps(neuron: Neuron, polysem: str, index: str) -> Text:
    """Commands that work as they stand, in their order, each under what it is for; never wrapped.

    index  what `serve` is told to serve; "": nothing
    """
    unit = neuron.provenance.unit
    lines = (
        (f"serve{index} &", "keep this index served at 127.0.0.1:50051, in the background (`kill %1` stops it)"),
        ("health --wait 120", "wait until it answers"),
        (f"cluster {neuron.id}", f"this {unit} again"),
        (f"cluster {neuron.id} --embedding pre_mlp", f"the same by what all {unit}s of the layer read"),
        (f"cluster {neuron.id} --distance-threshold 0.7", "cut higher"),
        (f"examples {neuron.id} --whole-context --example 0", "a whole text"),
        ("explore", f"every {unit} in a web browser (pip install 'polysem[explorer]'); Ctrl-C stops"),
        (
            "index --model demo --corpus pydocs --max-documents 100 --out my-index",
            "an index of your own: --model takes a folder or a hub name, --corpus a .jsonl or .txt file of texts",
        ),
    )
    text = Text("\nType next:\n")
    for arguments, meaning in lines:
        text.append(f"\n  # {meaning}\n", "dim").append(f"  {polysem} {arguments}\n", "bold")
    return text
