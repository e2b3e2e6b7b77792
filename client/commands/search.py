"""The command that searches clusters: search."""

from collections.abc import Sequence
from typing import Any

import click

from polysem.client import characters, letters
from polysem.client.client import Client
from polysem.client.commands.options import INDEX, SIDE, asks_server, connect, print_json
from polysem.client.found import why
from polysem.client.questions.search import EVERY_S, FiringCluster
from polysem.proto.questions.search import FOUND_BY, LEAST, MAX_COUNTED, MAX_PAGE, PAGE, FoundCluster, SearchAnswer


@click.command()
@click.argument("query")
@click.option("--text", "is_text", is_flag=True, help="Read QUERY as a text with the model: which clusters fire in it?")
@click.option(
    "--by", "found_by", type=click.Choice(FOUND_BY), multiple=True, help="Search only this. Repeatable. Default: all."
)
@click.option("--layer", type=click.IntRange(0), help="Search only this layer.")
@click.option(
    "--least-size", type=click.IntRange(LEAST), default=LEAST, show_default=True, help="Least examples of a cluster."
)
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=PAGE, show_default=True, help="Clusters to show.")
@click.option("--cursor", default="", help="Go on behind an earlier answer, which printed this.")
@INDEX
@SIDE
@asks_server
def search(
    query: str,
    is_text: bool,
    found_by: Sequence[Any],
    layer: int | None,
    least_size: int,
    limit: int,
    cursor: str,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    index: str | None,
    side: Any,
) -> None:
    """Search the feature clusters of a whole index by word, phrase or key token.

    QUERY is words, all of which must be there, and "phrases" in quotes. A cluster is found by its key token, by its
    name, or by the words around its examples, in this order. The first search of an index makes its search file on the
    server.

    \b
    polysem search import
    polysem search '"of the"' --by text --layer 2
    polysem search --text "import the module"
    """
    with connect(server, timeout_s) as client:
        if is_text:
            _firing(client, query, limit, as_json, index, side)
            return
        how = {"found_by": found_by or None, "layer": layer, "least_size": least_size, "limit": limit, "cursor": cursor}
        found = _waited(client, query, how | {"index": index, "side": side})
    for one in found.clusters:
        if as_json:
            print_json(one._asdict() | {"neuron": str(one.neuron), "letter": letters.letter(one.rank), "side": side})
        else:
            click.echo(_line(one))
    if not as_json:
        _say(found, query)


def _waited(client: Client, query: str, how: dict[str, Any]) -> SearchAnswer:
    """The answer, once the search file is made; what it waits for is said meanwhile."""
    import time

    said = False
    while (found := client.search(query, wait=False, **how)).n_to_do:
        done = f"{found.n_done:,} of {found.n_to_do:,} {found.provenance.unit}s"
        click.echo(f"\rthe server makes the search file: {done}", err=True, nl=False)
        said = True
        time.sleep(EVERY_S)
    if said:
        click.echo("", err=True)
    return found


def _line(one: FoundCluster) -> str:
    where = f"{one.neuron}.{letters.letter(one.rank)}"
    return f"{where:<12} {one.size:5}  {characters.visible(one.name)}  ({why(one)})"


def _say(found: SearchAnswer, query: str) -> None:
    if not found.clusters:
        click.echo(f"no cluster has {query!r} as key token, in its name or in its texts; fewer words may find more")
    if found.counts:
        counts = (f"{n}{'+' * (n == MAX_COUNTED)} by {by}" for by, n in found.counts.items())
        in_layers = (f"{n} in layer {layer}" for layer, n in found.layers.items())
        click.echo("; ".join(filter(None, [", ".join(counts), ", ".join(in_layers)])), err=True)
    if found.cursor:
        click.echo(f"more: --cursor {found.cursor}", err=True)
    if found.stopped:
        click.echo("the search took too long and was stopped, so there may be more; add a word", err=True)


def _firing(client: Client, text: str, limit: int, as_json: bool, index: str | None, side: Any) -> None:
    found = client.firing(text, index=index, side=side)[:limit]
    ids = list(dict.fromkeys(one.neuron for one in found))
    of = letters.of_clusters(client.cluster(*ids, n_null=0, index=index, side=side)) if ids else {}
    for one in found:
        letter = of[one.neuron, one.cluster]
        if as_json:
            print_json(one._asdict() | {"neuron": str(one.neuron), "letter": letter, "side": side})
        else:
            click.echo(f"{f'{one.neuron}.{letter}':<12} {one.share:4.0%} at {_token(one)}")
    if not found and not as_json:
        click.echo("no cluster fires in this text")


def _token(one: FiringCluster) -> str:
    """Quoted, with its blanks; of a part of a character, the character and which part."""
    text = repr(characters.visible(one.character))
    return f"{text} {one.part}".rstrip()


COMMANDS = (search,)
