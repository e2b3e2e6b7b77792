"""The commands that make something to look at: report, figure, explore."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from polysem.client import files
from polysem.client.commands.options import (
    FORCE,
    INDEX,
    NEURONS_HELP,
    SIDE,
    asks_server,
    clusters_examples,
    connect,
    print_json,
    thresholds_of,
)
from polysem.client.lists import ClusterList
from polysem.client.questions.counted import wholly_tested


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1)
@click.option("--list", "listed", metavar="LINK", help="Neurons of a list of clusters: its link, or its clusters.")
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="File to write.")
@FORCE
@clusters_examples
@INDEX
@SIDE
@asks_server
def report(
    neurons: Sequence[str],
    listed: str | None,
    out: Path,
    force: bool,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Write NEURONS, their trees and texts into one HTML file.

    The file needs no server and no network, and its trees can be cut again in it. It has room for 40 neurons; of more,
    those with most clusters are drawn and the others are listed in a table.
    """
    from polysem.client.drawing import report as reports

    neurons = [*neurons, *(str(neuron) for neuron in (ClusterList.of(listed).neurons if listed else ()))]
    if not neurons:
        raise click.UsageError("name neurons, or a list of clusters with --list")
    files.check_free(out, force)
    with connect(server, timeout_s) as client:
        made = reports.make(client, *neurons, thresholds=thresholds_of(thresholds), **options)
    with files.writing(out, force) as file:
        file.write(made.html.encode())
    if as_json:
        print_json({"out": str(out), "n_neurons": made.n_asked, "n_drawn": made.n_drawn})
        return
    rest = "" if made.n_drawn == made.n_asked else f", {made.n_drawn} of them with their texts"
    click.echo(f"{out}: {made.n_asked:,} neuron{'' if made.n_asked == 1 else 's'}{rest}")


@click.command()
@click.argument("neuron")
@click.option(
    "--kind",
    type=click.Choice(["dendrogram", "behaviours", "comparison"]),
    default="dendrogram",
    show_default=True,
    help="Figure to draw: the paper's Figure 2, 3 or 4.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="figure.svg",
    show_default=True,
    help="File to write, ending in .svg, .png, .pdf or .html.",
)
@FORCE
@clusters_examples
@INDEX
@SIDE
@asks_server
def figure(
    neuron: str,
    kind: str,
    out: Path,
    force: bool,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Draw a figure of a NEURON for a paper.

    \b
    dendrogram  the tree with its clusters in colour and a text at each leaf (Foote 2024, Figure 2)
    behaviours  a few texts of both sides of the tree's last merge: a common and a rare behaviour (Figure 3)
    comparison  the trees by pre-MLP and by neuron embeddings side by side, over their projections (Figure 4)
    """
    from polysem.client.drawing import figures

    figures.format_of(out)
    files.check_free(out, force)
    try:
        with connect(server, timeout_s) as client:
            options["n_null"] = wholly_tested(None, neuron)
            found = client.cluster(neuron, thresholds=thresholds_of(thresholds), **options)
            if len(found) != 1:
                raise click.UsageError(f"{neuron} names {len(found):,} neurons; a figure shows one, like 7.1234")
            if kind == "dendrogram":
                drawn = found[0].plot_dendrogram()
            elif kind == "behaviours":
                drawn = figures.plot_behaviours(found[0], found[0].examples)
            else:
                drawn = found[0].plot_compare()
        figures.save(drawn, out, f"{found[0].provenance.unit} {found[0].id}", force)
    except ModuleNotFoundError as error:
        raise click.ClickException(error.msg) from None
    if as_json:
        print_json({"out": str(out), "neuron": str(found[0].id), "kind": kind})
    else:
        click.echo(f"{out}: {found[0].provenance.unit} {found[0].id}, {kind}")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to listen on; 0 takes any free one.",
)
@click.option("--insecure", is_flag=True, help="Listen on other addresses than loopback, without TLS or a password.")
@asks_server
def explore(server: str, timeout_s: float | None, as_json: bool, host: str, port: int, insecure: bool) -> None:
    """Look at neurons in a web browser.

    Starts a small web application on this machine, which asks the server. It shows a neuron's tree with a cut to drag,
    its clusters with their texts, and a table of all neurons. Every view has an address to share. Ctrl-C stops it. To
    reach it from another machine, use a tunnel: ssh -L 8765:localhost:8765 HOST
    """
    if not insecure and host not in ("127.0.0.1", "::1", "localhost"):
        raise click.UsageError(
            f"at {host} anyone who reaches this machine could ask the server through these pages; use an SSH tunnel, "
            "or allow it with --insecure"
        )
    try:
        from polysem.client.explorer import serving
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the explorer needs packages that are not installed here: pip install 'polysem[explorer]' ({error})"
        ) from None

    def ready(address: str) -> None:
        if as_json:
            print_json({"address": address})
        else:
            click.echo(f"{address} shows the neurons of {server}; Ctrl-C stops")

    with connect(server, timeout_s) as client:
        try:
            serving.serve(client, host, port, ready)
        except OSError as error:
            raise click.ClickException(
                f"cannot listen at {host}:{port}: {error.strerror}; choose another --port, or 0 for any free one"
            ) from None


COMMANDS = (report, figure, explore)
