"""The commands of whole models: measure, table1, rank."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import click

from polysem.client.client import Client
from polysem.client.commands import next_steps
from polysem.client.commands.options import (
    BULK,
    FORCE,
    NEURONS_HELP,
    SIDE,
    connect,
    connects,
    destination_of,
    executes,
    measures,
    print_json,
    published,
    ray_options,
    tested,
)
from polysem.client.measuring import measurements, ranking, table1
from polysem.client.measuring.measure import Measuring, variants
from polysem.client.questions.clustering import Neuron
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.questions.clustering import Algorithm, Embedding, Frame, LayerNorm, Linkage
from polysem.proto.sides import Side

FILE = click.argument("file", type=click.Path(path_type=Path))


def asks_either(command: Any) -> Any:
    """Options of commands that ask a server, or one that they run in their own process."""
    command = BULK(connects(command))
    for option in (
        click.option(
            "--index",
            metavar="NAME|FOLDER",
            help="Index to measure: its name on the server, or its folder without --server.",
        ),
        click.option(
            "--server",
            envvar="POLYSEM_SERVER",
            show_envvar=True,
            metavar="HOST:PORT",
            help="Server to ask. Default: do the work in this process.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def asked(server: str | None, index: str | None) -> Iterator[tuple[Client, str | None]]:
    """A client, and the name of the index to ask."""
    if server is not None:
        with connect(server) as client:
            yield client, index
        return
    found = entry_points(group="polysem.local")
    local = next(iter(found)).load()  # polysem.server.local
    with local(*([] if index is None else [Path(os.path.expanduser(index))])) as client:
        yield client, None


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1)
@click.option(
    "--out", required=True, help="Parquet file to write, or a URL such as s3://bucket/name; one row per clustering."
)
@FORCE
@measures(get_args(Algorithm))
@SIDE
@executes
@asks_either
def measure(
    neurons: Sequence[str],
    out: str,
    force: bool,
    algorithms: Sequence[Algorithm],
    linkage: Linkage,
    embeddings: Sequence[Embedding],
    layer_norms: Sequence[LayerNorm],
    frames: Sequence[Frame],
    distance_threshold: float,
    best_cut: bool,
    n_null: int,
    seed: int,
    side: Side,
    server: str | None,
    index: str | None,
    executor: str,
    **ray: Any,
) -> None:
    """Cluster every neuron in several ways; write a Parquet file.

    If it is interrupted, the same command resumes it.

    \b
    polysem measure --out demo.parquet                      the demo's index, in this process
    polysem measure --index gpt2-texts --out gpt2.parquet   your own
    polysem measure --server gpu-box:50051 --out gpt2.parquet
    polysem measure --null 99 --out demo.parquet            what of it is more than chance: hac of neuron embeddings
    polysem measure --index gpt2-texts --executor ray --out gpt2.parquet
    polysem table1 gpt2.parquet
    polysem rank gpt2.parquet --by n_clusters
    """
    algorithms, embeddings = tested(n_null, algorithms, embeddings)
    asked_for = variants(algorithms, embeddings, layer_norms, linkage, frames)
    from polysem.client.terminal.progress import bars

    destination = destination_of(out, force)
    with published(destination):
        if not destination.made:
            with (
                bars({"measure": "trees"}) as shown,
                workers(executor, server, index, ray, shown.note) as (client, name, where),
            ):
                measuring = Measuring(
                    client,
                    neurons or ("*",),
                    asked_for,
                    distance_threshold=distance_threshold,
                    best_cut=best_cut,
                    index=name,
                    side=side,
                    n_null=n_null,
                    seed=seed,
                )
                measuring.run(destination.local, partial(_advance, shown, measuring.n_trees), force, where)
        n_trees = len(measurements.read(destination.local))
    click.echo(f"{out}: {n_trees // len(asked_for):,} neurons by {len(asked_for)} clusterings")
    if destination.url is None:
        next_steps.say("table1", out)


def _advance(shown: Any, total: int, n_trees: int) -> None:
    shown.advance("measure", n_trees, total)


@contextmanager
def workers(
    executor: str, server: str | None, index: str | None, ray: dict[str, Any], note: Callable[[str], None]
) -> Iterator[tuple[Any, str | None, Any]]:
    """Whom to ask, the name of the index to ask for, and the executor (None: the asking process itself)."""
    options = ray_options(ray)
    if server is not None:
        if executor == "ray":
            raise click.UsageError(
                "--executor ray works without a server; leave out --server, and unset POLYSEM_SERVER"
            )
        with connect(server) as client:
            yield client, index, None
        return
    (found,) = entry_points(group="polysem.executors", name=executor)  # `measuring` of local_client or ray_cluster
    measuring = found.load()
    with measuring(None if index is None else Path(os.path.expanduser(index)), options, note) as (asked_for, where):
        yield asked_for, None, where


@click.command("table1")
@FILE
@click.option("--per-layer", is_flag=True, help="Also print a row for each layer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per row.")
def print_table1(file: Path, per_layer: bool, as_json: bool) -> None:
    """Print the paper's Table 1, and a fairer comparison."""
    measured = measurements.read(Path(os.path.expanduser(file)))
    if as_json:
        for row in table1.rows(measured, per_layer):
            print_json(table1.as_json(row))
        return
    from polysem.client import terminal

    terminal.console().print(table1.tables(measured, per_layer))


@click.command("rank")
@FILE
@click.option(
    "--by", help="A column of FILE, or q_value.  [default: excess_silhouette where it was measured, else n_clusters]"
)
@click.option("--ascending", is_flag=True, help="List the lowest first.")
@click.option(
    "--rare", is_flag=True, help="List neurons with a common and a rare behaviour, with the rare one's texts."
)
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Number of neurons to list.")
@click.option("--least", multiple=True, metavar="COLUMN=NUMBER", help="Smallest value of a column to keep. Repeatable.")
@click.option("--most", multiple=True, metavar="COLUMN=NUMBER", help="Largest value of a column to keep. Repeatable.")
@click.option(
    "--algorithm", type=click.Choice(get_args(Algorithm)), help="Algorithm to list. Default: the file's first."
)
@click.option(
    "--embedding", type=click.Choice(get_args(Embedding)), help="Embedding to list. Default: the file's first."
)
@click.option(
    "--layer-norm", type=click.Choice(get_args(LayerNorm)), help="LayerNorm mode to list. Default: the file's first."
)
@click.option("--frame", type=click.Choice(get_args(Frame)), help="Frame to list. Default: the file's first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per neuron.")
@asks_either
def print_rank(
    file: Path,
    by: str | None,
    ascending: bool,
    rare: bool,
    top: int,
    least: Sequence[str],
    most: Sequence[str],
    as_json: bool,
    server: str | None,
    index: str | None,
    **variant: str | None,
) -> None:
    """List a measured file's neurons, sorted by any column.

    \b
    polysem rank gpt2.parquet --by n_clusters --least n_examples=25
    polysem rank gpt2.parquet --by inter --embedding pre_mlp --json
    polysem rank gpt2.parquet --by stability --most q_value=0.05    of a file measured with --null
    polysem rank gpt2.parquet --rare --server gpu-box:50051     with the rare texts
    """
    measured = measurements.read(Path(os.path.expanduser(file)))
    if rare:
        if by is not None or ascending or least or most:
            raise click.UsageError("--rare has an order of its own; leave out --by, --ascending, --least and --most")
        _print_rare(measured, ranking.rare(measured, **variant)[:top], server, index, as_json)
        return
    bounds = {"least": _bounds(least), "most": _bounds(most)}
    every = ranking.rank(measured, by, ascending=ascending, **bounds, **variant)  # type: ignore[arg-type]
    rows, mixed = every[:top], ranking.mixed(every)
    if as_json:
        for row in rows:
            print_json(row)
        if mixed:
            click.echo(f"note: {mixed}", err=True)
        return
    from polysem.client import terminal
    from polysem.client.terminal.fitting import Fitting

    shown = dict.fromkeys((by or ranking.default_order(measured), *ranking.shown(measured)))
    terminal.console().print(Fitting(ranking.table(rows, tuple(shown), mixed), 1 if mixed else 0))


def _bounds(words: Sequence[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{word!r} is not COLUMN=NUMBER, like n_examples=25") from None
    return found


def _print_rare(
    measured: measurements.Measurements,
    rows: list[dict[str, Any]],
    server: str | None,
    index: str | None,
    as_json: bool,
) -> None:
    from polysem.client import terminal
    from polysem.client.terminal.fitting import Fitting

    if not rows:
        click.echo("no neuron has one common behaviour and a rare one", err=True)
        return
    with asked(server, index) as (client, name):
        _check_index(client, measured, name)
        side: Side = measured.about.get("side", "positive")  # files of version 0.1.0 do not say
        neurons = [_clustered(client, row, name, side) for row in rows]
        if as_json:
            for row, neuron in zip(rows, neurons, strict=True):
                texts = [[neuron.examples[i].text for i in cluster.members.tolist()] for cluster in neuron.clusters[1:]]
                print_json(row | {"rare_texts": texts})
            return
        console = terminal.console()
        mixed = ranking.mixed(rows)
        console.print(Fitting(ranking.table(rows, ranking.SHOWN_OF_RARE, mixed), 1 if mixed else 0))
        for neuron in neurons:
            common, *others = neuron.clusters
            console.print(f"\n{neuron.id}: {common.size} examples such as", style="bold")
            console.print(terminal.ExampleText(neuron.examples[common.central]))
            console.print("and rarely", style="bold")
            for cluster in others[:5]:
                console.print(terminal.ExampleText(neuron.examples[cluster.central]))


def _check_index(client: Client, measured: measurements.Measurements, name: str | None) -> None:
    """The texts must be those that were measured."""
    about = measured.about["index"]
    default = client.info().default_index
    held = {index.name: index for index in client.indexes()}
    found = held.get(name or default)
    if found is None:
        raise InvalidArgument(f"there is no index {name!r} at {client.target}; it has {', '.join(held)}", "index")
    if found.sha256 != about["sha256"]:
        raise FailedPrecondition(
            f"{str(measured.path)!r} was measured on index {about['name']!r} ({about['sha256'][:12]}…), and "
            f"{found.name!r} at {client.target} is another; name the right one with --index, and its --server"
        )


def _clustered(client: Client, row: dict[str, Any], index: str | None, side: Side) -> Neuron:
    """The neuron, clustered as the row says."""
    return client.cluster(
        (row["layer"], row["neuron"]),
        algorithm=row["algorithm"],
        linkage=row["linkage"] or "average",
        embedding=row["embedding"],
        layer_norm=row["layer_norm"],
        frame=row["frame"],
        distance_threshold=row["distance_threshold"],
        index=index,
        side=side,
    )[0]


COMMANDS = (measure, print_table1, print_rank)
