"""The command that writes clusters for other tools: export."""

from collections.abc import Sequence
from typing import Any

import click

from polysem.client.commands.options import (
    INDEX,
    NEURONS_HELP,
    SIDE,
    asks_server,
    clusters_examples,
    connect,
    destination_of,
    print_json,
    published,
    thresholds_of,
)
from polysem.client.exporting.formats import FORMATS


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True, help="Tool whose files are written.")
@click.option("--out", required=True, help="Folder to make, or a URL such as s3://bucket/name.")
@click.option("--licence", "--license", default="", help="Licence of the corpus's texts, for card and manifest.")
@click.option(
    "--whole-context", is_flag=True, help="Export all that the model read, not only the text around each key token."
)
@clusters_examples
@INDEX
@SIDE
@asks_server
def export(
    neurons: Sequence[str],
    format_: Any,
    out: str,
    licence: str,
    whole_context: bool,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Write the feature clusters of NEURONS in the format of another tool.

    \b
    circuit-tracer  a file a neuron for its pages; a cluster is a quantile, with its name
    neuronpedia     batches for its import; a cluster is a bin of activations, its name an explanation
    delphi          a cache of latents; a cluster is a latent, the neuron's other clusters its neighbours
    datasets        Parquet and a card for Hugging Face's hub; a cluster is a configuration

    Neurons without dataset examples are left out. An export that was stopped goes on by the same command, and nothing
    is sent anywhere but to the URL that you name.
    """
    from polysem.client.exporting.writing import export as write

    destination = destination_of(out)
    with published(destination), connect(server, timeout_s) as client:
        n = 0 if destination.made else write(
            client, format_, destination.local, *neurons, licence=licence, whole_context=whole_context,
            progress=_progress, thresholds=thresholds_of(thresholds), **options,
        )  # fmt: skip
    if as_json:
        print_json({"out": out, "format": format_, "n_neurons": n})
    else:
        click.echo(f"{out}: {n:,} neuron{'' if n == 1 else 's'} for {format_}" if n else f"{out}: copied")


def _progress(done: int, total: int) -> None:
    if done < total:
        click.echo(f"{done:,} of {total:,} neurons", err=True)


COMMANDS = (export,)
