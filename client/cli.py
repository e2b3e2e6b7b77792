"""The `polysem` command. The server's own commands (index, serve, demo) join it through `polysem.commands`."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import numpy as np

from polysem.client import connection
from polysem.client.calls import DEFAULT_TARGET
from polysem.client.client import Client
from polysem.client.results import Example, Importance, Neuron, SimilarCluster, Statistics
from polysem.proto.errors import PolysemError
from polysem.proto.neurons import NeuronId
from polysem.proto.types import Algorithm, Embedding, LayerNorm, Linkage, Similarity

Command = TypeVar("Command", bound=Callable[..., Any])

NEURONS_HELP = """
\b
NEURONS are written
  7.1234 or L7N1234   neuron 1234 of layer 7
  7.0-99              neurons 0 to 99 of layer 7
  '7.*'  '*'          a layer, the whole model (quote them for the shell)
"""


class Commands(click.Group):
    """Commands of this package and of those that joined it."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*(name for name in _joined()), *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if (own := super().get_command(context, name)) is not None:
            return own
        joined = _joined().get(name)
        return None if joined is None else joined.load()


def _joined() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group="polysem.commands"))}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("polysem"))
def cli() -> None:
    """Split polysemantic neurons into their features.

    \b
    polysem demo                         see it work, with nothing but this package
    polysem index --model gpt2 --corpus texts.jsonl --out gpt2-texts
    polysem serve --index gpt2-texts     on the machine with the GPU
    polysem cluster 7.1234               from anywhere, with --server HOST:PORT
    """


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    context.meta[f"polysem.{option.name}"] = value


def connect(server: str, timeout_s: float | None = None) -> Client:
    """A client with what the options of `connects` say."""
    given = {name: click.get_current_context().meta.get(f"polysem.{name}") for name in ("token", "tls", "ca", "bulk")}
    return Client(
        server,
        timeout_s=timeout_s,
        token=given["token"],
        tls=given["ca"] or bool(given["tls"]),
        bulk=bool(given["bulk"]),
    )


BULK = click.option(
    "--bulk", is_flag=True, expose_value=False, callback=_keep, help="It may wait behind interactive requests."
)


def connects(command: Command) -> Command:
    """Options of who asks, and over what; `connect` reads them."""
    for option in (
        click.option(
            "--token",
            envvar="POLYSEM_TOKEN",
            show_envvar=True,
            expose_value=False,
            callback=_keep,
            help="The key that the server's owner gave you.",
        ),
        click.option("--tls", is_flag=True, expose_value=False, callback=_keep, help="Speak TLS with the server."),
        click.option(
            "--ca",
            envvar="POLYSEM_CA",
            show_envvar=True,
            expose_value=False,
            callback=_keep,
            metavar="FILE",
            help="Speak TLS; the certificate of the server or its CA.",
        ),
    ):
        command = option(command)
    return command


def asks_server(command: Command) -> Command:
    """Options of every command that asks a server."""
    command = connects(command)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of pictures."),
        click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait."),
        click.option(
            "--server",
            default=DEFAULT_TARGET,
            envvar="POLYSEM_SERVER",
            show_default=True,
            show_envvar=True,
            metavar="HOST:PORT",
            help="The server to ask, or unix:/path of its socket.",
        ),
    ):
        command = option(command)
    return command


def clusters_examples(command: Command) -> Command:
    """Options of every command that clusters dataset examples."""
    for option in reversed(
        (
            click.option("--algorithm", type=click.Choice(get_args(Algorithm)), default="hac", show_default=True),
            click.option(
                "--linkage", type=click.Choice(get_args(Linkage)), default="average", show_default=True, help="Of hac."
            ),
            click.option("--embedding", type=click.Choice(get_args(Embedding)), default="neuron", show_default=True),
            click.option("--layer-norm", type=click.Choice(get_args(LayerNorm)), default="folded", show_default=True),
            click.option(
                "--distance-threshold",
                type=float,
                default=0.5,
                show_default=True,
                help="Cosine distance at which the tree is cut, 0 to 2.",
            ),
            click.option(
                "--thresholds", help="Of scc's rounds: linear, geometric, or increasing numbers like 0.1,0.3,0.5."
            ),
            click.option("--until-stable", is_flag=True, help="Of scc: repeat each round until nothing merges."),
        )
    ):
        command = option(command)
    return command


INDEX = click.option("--index", metavar="NAME", help="One of the server's indexes (see `polysem info`).")


@cli.command()
@asks_server
def info(server: str, timeout_s: float | None, as_json: bool) -> None:
    """Show a server's model, device, limits and indexes."""
    with connect(server, timeout_s) as client:
        about, indexes = client.info(), client.indexes()
    if as_json:
        _print_json(asdict(about) | {"indexes": [asdict(index) for index in indexes]})
        return
    from polysem.client import terminal

    terminal.console().print(terminal.server_info(server, about, indexes))


@cli.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@clusters_examples
@INDEX
@BULK
@asks_server
def cluster(
    neurons: Sequence[str], server: str, timeout_s: float | None, as_json: bool, thresholds: str | None, **options: Any
) -> None:
    """Cluster the dataset examples of NEURONS into features.

    One neuron is shown with its tree and texts, several as a table of metrics. With --json each is an object on a line
    of its own, printed as it arrives.
    """
    with connect(server, timeout_s) as client:
        clusters = client.cluster(*neurons, thresholds=_thresholds(thresholds), **options)
        if as_json:
            for neuron in clusters:
                _print_json(neuron_json(neuron))
            return
        from polysem.client import terminal

        if len(clusters) == 1:
            terminal.console().print(terminal.neuron_panel(clusters[0], clusters[0].examples))
        else:
            terminal.console().print(terminal.metrics_table(clusters))


@cli.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@click.option(
    "--place", "places", type=click.IntRange(min=0), multiple=True, help="Only this example; may be repeated."
)
@click.option("--whole-context", is_flag=True, help="All that the model read, not only the text around the key token.")
@INDEX
@BULK
@asks_server
def examples(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    places: Sequence[int],
    whole_context: bool,
    index: str | None,
) -> None:
    """Show the texts on which NEURONS fire, highlighted by activation."""
    with connect(server, timeout_s) as client:
        found = client.examples(*neurons, places=places, whole_context=whole_context, index=index)
        if as_json:
            for example in found:
                _print_json(example_json(example))
            return
        from polysem.client import terminal

        console = terminal.console()
        for example in found:
            console.print(terminal.ExampleText(example, whole_context))
        _say_if_none(found, places)


@cli.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@INDEX
@asks_server
def statistics(neurons: Sequence[str], server: str, timeout_s: float | None, as_json: bool, index: str | None) -> None:
    """Show how strongly NEURONS fire over the corpus.

    Of each context only the highest activation counts. One neuron is shown with its histogram and the band that its
    dataset examples come from, several as a table. With --json each is an object on a line of its own.
    """
    with connect(server, timeout_s) as client:
        found = client.statistics(*neurons, index=index)
        if as_json:
            for one in found:
                _print_json(statistics_json(one))
            return
        from polysem.client import terminal

        shown = terminal.statistics_table(found) if len(found) > 1 else terminal.StatisticsPanel(found[0])
        terminal.console().print(shown)


@cli.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1)
@click.option("--sort", "sort_by", metavar="METRIC", help="Sort by it; -METRIC puts the largest first.")
@click.option("--min", "least", metavar="METRIC=N", multiple=True, help="Only at least; may be repeated.")
@click.option("--max", "most", metavar="METRIC=N", multiple=True, help="Only at most; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), help="How many; with --json all, else 20.")
@click.option("--skip", type=click.IntRange(min=0), default=0, help="How many to pass over first.")
@clusters_examples
@INDEX
@asks_server
def neurons(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    least: Sequence[str],
    most: Sequence[str],
    limit: int | None,
    thresholds: str | None,
    **options: Any,
) -> None:
    """List NEURONS, or all of the index, filtered and sorted by their metrics.

    METRIC is n_examples, n_clusters, max_distance, mean_distance, intra, inter, silhouette, largest_share,
    second_share, maximum_activation, mean_activation or share_positive. Neurons of which it is undefined come last.

    \b
    polysem neurons --sort -n_clusters --min n_examples=25
    polysem neurons '7.*' --sort intra --max largest_share=0.5 --json

    The first question about a clustering clusters the whole index; those that follow are quick.
    """
    where: dict[Any, tuple[float | None, float | None]] = {}
    for name, end in map(_metric_end, least):
        where[name] = (end, None)
    for name, end in map(_metric_end, most):
        where[name] = (where.get(name, (None, None))[0], end)
    with connect(server, timeout_s) as client:
        found = client.neurons(
            *neurons,
            where=where,
            limit=limit or (None if as_json else 20),
            thresholds=_thresholds(thresholds),
            **options,
        )
        if as_json:
            for neuron in found:
                _print_json({"neuron": str(neuron.id)} | {k: v for k, v in asdict(neuron).items() if k != "id"})
            return
        from polysem.client import terminal

        terminal.console().print(terminal.listing(found, options["skip"]))


def _metric_end(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no METRIC=NUMBER such as n_examples=25") from None


@cli.command(epilog=NEURONS_HELP)
@click.argument("neuron", metavar="NEURON")
@click.option(
    "--cluster", "labels", type=click.IntRange(min=0), multiple=True, help="Only of this cluster; may be repeated."
)
@click.option(
    "--similarity",
    type=click.Choice(get_args(Similarity)),
    default="pre_mlp",
    show_default=True,
    help="Which embedding of the central examples is compared.",
)
@click.option("--every-layer", is_flag=True, help="Search the whole model instead of the neuron's own layer.")
@click.option("--limit", type=click.IntRange(min=1), help="How many for each cluster; else 20 for one, 3 for several.")
@clusters_examples
@INDEX
@asks_server
def similar(
    neuron: str,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    labels: Sequence[int],
    limit: int | None,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Find the clusters of other neurons that are most similar to NEURON's.

    Clusters are compared by the cosine of their central examples' embeddings: with pre_mlp they fire on like tokens in
    like contexts, with neuron they also read the same directions of the residual stream.

    \b
    polysem similar 7.1234                   the nearest of each of its clusters
    polysem similar 7.1234 --cluster 0 --similarity neuron --every-layer
    """
    with connect(server, timeout_s) as client:
        found = client.similar(
            neuron,
            labels or None,
            limit=limit or (20 if len(labels) == 1 else 3),
            thresholds=_thresholds(thresholds),
            **options,
        )
        if as_json:
            for one in found:
                _print_json(one._asdict() | {"neuron": str(one.neuron)})
            return
        from polysem.client import terminal

        terminal.console().print(terminal.SimilarClusters(neuron, found, _centrals(client, found, options["index"])))


def _centrals(
    client: Client, found: Sequence[SimilarCluster], index: str | None
) -> dict[tuple[NeuronId, int], Example]:
    """The central examples of clusters, by neuron and place; a call a place."""
    by_place: dict[int, list[NeuronId]] = {}
    for one in found:
        by_place.setdefault(one.central, []).append(one.neuron)
    return {
        (example.neuron, place): example
        for place, of in by_place.items()
        for example in client.examples(*of, places=[place], index=index)
    }


@cli.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@click.option(
    "--place", "places", type=click.IntRange(min=0), multiple=True, help="Only this example; may be repeated."
)
@click.option("--tokens-before", type=click.IntRange(min=0), default=20, show_default=True, help="How many are masked.")
@click.option("--mask-token", type=click.IntRange(min=0), metavar="ID", help="What stands in for them; else the BOS.")
@INDEX
@asks_server
def importance(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    places: Sequence[int],
    tokens_before: int,
    mask_token: int | None,
    index: str | None,
) -> None:
    """Show which earlier tokens the key activations of NEURONS' examples depend on.

    Each token before the key token is masked in turn; shown is the share of the key activation that is lost, relative
    to what is lost when the key token itself is masked. The model reads an example once for each token: name the
    --place of those that you want to see.
    """
    with connect(server, timeout_s) as client:
        found = client.importance(
            *neurons, places=places, tokens_before=tokens_before, mask_token=mask_token, index=index
        )
        if as_json:
            for one in found:
                _print_json(importance_json(one))
            return
        from polysem.client import terminal

        console = terminal.console()
        for one in found:
            console.print(terminal.ImportanceText(one))
        _say_if_none(found, places)


def _say_if_none(found: Sequence[Any], places: Sequence[int]) -> None:
    if not len(found):
        click.echo("none of these neurons has " + ("an example at such a place" if places else "dataset examples"))


@cli.command(epilog=NEURONS_HELP)
@click.argument("text")
@click.argument("neurons", nargs=-1)
@click.option(
    "--min-activation-fraction",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="A neuron fires from this share of its maximum on.",
)
@click.option(
    "--strongest",
    "n_strongest",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Without NEURONS: how many.",
)
@clusters_examples
@INDEX
@asks_server
def explain(
    text: str,
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Show what NEURONS make of your own TEXT, token by token.

    Where a neuron fires, the feature cluster that the token falls in is named: the one with the smallest mean distance
    to its members, if that is at most the distance threshold. Without NEURONS: those that fire hardest at each token,
    as shares of their maximum over the corpus; not those whose maximum is below half of their layer's median, or that
    have fewer than 5 dataset examples. TEXT - reads it from standard input.

    \b
    polysem explain "import the module" 7.1234 7.99
    polysem explain "import the module" --strongest 3
    """
    if text == "-":
        text = sys.stdin.read()
    with connect(server, timeout_s) as client:
        found = client.explain(text, *neurons, thresholds=_thresholds(thresholds), **options)
        if as_json:
            for token in found:
                firings = [firing._asdict() | {"neuron": str(firing.neuron)} for firing in token.firings]
                _print_json(token._asdict() | {"firings": firings})
            return
        from polysem.client import terminal

        terminal.console().print(terminal.explanation(found, bool(neurons)))


def importance_json(importance: Importance) -> dict[str, Any]:
    """An example's importance as `polysem importance --json` prints it."""
    return {
        "neuron": str(importance.neuron),
        "place": importance.place,
        "activation": importance.activation,
        "tokens": list(importance.tokens),
        "importances": [round(float(i), 4) for i in importance.importances],
        "relative": [round(float(i), 4) for i in importance.relative],
    }


def statistics_json(statistics: Statistics) -> dict[str, Any]:
    """Statistics as `polysem statistics --json` prints them."""
    return {"neuron": str(statistics.id)} | {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(statistics).items()
        if name != "id"
    }


@cli.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@click.option("--out", type=click.Path(dir_okay=False, writable=True), default="report.html", show_default=True)
@clusters_examples
@INDEX
@asks_server
def report(
    neurons: Sequence[str],
    out: str,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Write a page about NEURONS, with their trees and texts, into one HTML file.

    It needs no server and no network to be read, and its trees can be cut anew in it. A page has room for 40 neurons;
    of more, those with most clusters are drawn and the others stand in a table.
    """
    from polysem.client import report as reports

    with connect(server, timeout_s) as client:
        made = reports.make(client, *neurons, thresholds=_thresholds(thresholds), **options)
    try:
        Path(out).write_text(made.html, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror}; name another file with --out") from None
    if as_json:
        _print_json({"out": out, "n_neurons": made.n_asked, "n_drawn": made.n_drawn})
        return
    rest = "" if made.n_drawn == made.n_asked else f", {made.n_drawn} of them with their texts"
    click.echo(f"{out}: {made.n_asked:,} neuron{'' if made.n_asked == 1 else 's'}{rest}")


@cli.command()
@click.argument("neuron")
@click.option("--kind", type=click.Choice(["dendrogram", "behaviours", "comparison"]), default="dendrogram")
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    default="figure.svg",
    show_default=True,
    help="Its name ends in svg, png, pdf or html.",
)
@clusters_examples
@INDEX
@asks_server
def figure(
    neuron: str,
    kind: str,
    out: str,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Draw a figure of a NEURON such as 7.1234 for a paper.

    \b
    dendrogram  the tree with its clusters in colour and a text at each leaf (Foote 2024, Figure 2)
    behaviours  a few texts of both sides of the tree's last merge: a common and a rare behaviour (Figure 3)
    comparison  the trees by pre-MLP and by neuron embeddings side by side, over their projections (Figure 4)
    """
    from polysem.client import figures

    try:
        with connect(server, timeout_s) as client:
            found = client.cluster(neuron, thresholds=_thresholds(thresholds), **options)
            if len(found) != 1:
                raise click.UsageError(f"{neuron} names {len(found):,} neurons; a figure shows one, like 7.1234")
            if kind == "dendrogram":
                drawn = found[0].plot_dendrogram()
            elif kind == "behaviours":
                drawn = figures.plot_behaviours(found[0], found[0].examples)
            else:
                drawn = found[0].plot_compare()
        figures.save(drawn, Path(out), f"neuron {found[0].id}")
    except ModuleNotFoundError as error:
        raise click.ClickException(error.msg) from None
    except PolysemError:
        raise
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror}; name another file with --out") from None
    if as_json:
        _print_json({"out": out, "neuron": str(found[0].id), "kind": kind})
    else:
        click.echo(f"{out}: neuron {found[0].id}, {kind}")


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free one.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback, though pages have neither TLS nor a password.")
@asks_server
def explore(server: str, timeout_s: float | None, as_json: bool, host: str, port: int, insecure: bool) -> None:
    """Look at neurons in a web browser.

    Starts a small web application at this machine, which asks the server: a neuron's tree with a cut that is dragged,
    its clusters with their texts, the table of all neurons. Every view has an address of its own to share. Ctrl-C
    stops. From another machine, reach it through a tunnel: ssh -L 8765:localhost:8765 HOST
    """
    if not insecure and host not in ("127.0.0.1", "::1", "localhost"):
        raise click.UsageError(
            f"at {host} anyone who reaches this machine could ask the server through these pages; use an SSH tunnel, "
            "or allow it with --insecure"
        )
    try:
        from polysem.client.explorer import app
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the explorer needs packages that are not installed here: pip install 'polysem[explorer]' ({error})"
        ) from None

    def ready(address: str) -> None:
        if as_json:
            _print_json({"address": address})
        else:
            click.echo(f"{address} shows the neurons of {server}; Ctrl-C stops")

    with connect(server, timeout_s) as client:
        try:
            app.serve(client, host, port, ready)
        except OSError as error:
            raise click.ClickException(
                f"cannot listen at {host}:{port}: {error.strerror}; choose another --port, or 0 for any free one"
            ) from None


@cli.command()
@asks_server
@click.option(
    "--server-name",
    envvar="POLYSEM_SERVER_NAME",
    show_envvar=True,
    metavar="NAME",
    help="The name in the server's certificate, where it is not the host's.",
)
def health(server: str, timeout_s: float | None, as_json: bool, server_name: str | None) -> None:
    """Say whether a server answers requests: exit status 0 if it does, else 1. Needs no key.

    For a container's health check, and for scripts that wait for a server:

    \b
    until polysem health; do sleep 1; done
    """
    meta = click.get_current_context().meta
    serving = connection.serving(server, meta["polysem.ca"] or meta["polysem.tls"], timeout_s or 5.0, server_name)
    if as_json:
        _print_json({"serving": serving})
    else:
        click.echo("serving" if serving else "not serving: it is warming up, or stopping")
    if not serving:
        sys.exit(1)


@cli.command()
@click.option(
    "--metrics",
    default="127.0.0.1:9464",
    envvar="POLYSEM_METRICS",
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="Where the server's metrics are: its --metrics-port.",
)
@click.option("--every", "every_s", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Show one picture and leave.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object each time instead of a picture.")
def top(metrics: str, every_s: float, once: bool, as_json: bool) -> None:
    """Watch a server at work: its queue, batches, device, calls, refusals, and who uses it.

    Reads the port of `polysem serve --metrics-port 9464`; from another machine through `ssh -L 9464:localhost:9464`.
    """
    from rich.live import Live

    from polysem.client import terminal
    from polysem.client import top as looking

    figures = looking.summaries(metrics, every_s)
    if as_json or once:
        for one in figures:
            _print_json(one) if as_json else terminal.console().print(looking.picture(metrics, one))
            if once:
                return
    with Live(looking.picture(metrics, next(figures)), console=terminal.console(), screen=True) as live:
        for one in figures:
            live.update(looking.picture(metrics, one))


def neuron_json(neuron: Neuron) -> dict[str, Any]:
    """A neuron as `polysem cluster --json` prints it; undefined metrics are null."""
    return {
        "neuron": str(neuron.id),
        "method": neuron.method,
        **asdict(neuron.metrics),
        "clusters": [
            {"label": c.label, "size": c.size, "central": c.central, "members": c.members.tolist()}
            for c in neuron.clusters
        ],
        "labels": neuron.labels.tolist(),
        "linkage": neuron.linkage.tolist(),
        "provenance": asdict(neuron.provenance),
    }


def example_json(example: Example) -> dict[str, Any]:
    """An example as `polysem examples --json` prints it."""
    return {
        "neuron": str(example.neuron),
        "place": example.place,
        "document": example.document,
        "context": example.context,
        "position": example.position,
        "activation": example.activation,
        "key": example.key,
        "tokens": list(example.tokens),
        "activations": [round(float(a), 4) for a in example.activations],
    }


def _thresholds(text: str | None) -> Any:
    if text is None or text.strip().isalpha():
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a schedule's name nor numbers like 0.1,0.3,0.5") from None


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def main() -> None:
    """Run the command line; errors are one sentence on stderr. Exit status: 1 an error, 2 wrong usage, 130 Ctrl-C."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `polysem … | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("polysem"):
            raise
        _complain(
            f"this command needs the server, which is not installed here: pip install 'polysem[server]' ({error})"
        )
    except PolysemError as error:
        shown = error.request_id and error.request_id not in error.message
        _complain(f"{error.message} (request {error.request_id})" if shown else error.message)


def _complain(message: str) -> None:
    click.echo(f"polysem: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
