"""The commands for names that the server keeps: name, names."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from polysem.client import characters
from polysem.client.by_model.asking import Budget
from polysem.client.client import Client
from polysem.client.commands.options import (
    INDEX,
    NEURONS_HELP,
    SIDE,
    asks_server,
    clusters_examples,
    connect,
    print_json,
    thresholds_of,
)
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.kept_names import from_line, to_line
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName, members_text
from polysem.proto.sides import SIDES

AT_ONCE = 1000  # lines of a file


@click.command(epilog=NEURONS_HELP)
@click.argument("words", nargs=-1, required=True, metavar="NEURON A|0 TEXT")
@click.option("--forget", is_flag=True, help="Forget the cluster's kept name.")
@click.option("--by-model", is_flag=True, help="Let a language model name the clusters of the NEURONS given.")
@click.option(
    "--base-url", envvar="POLYSEM_MODEL_URL", show_envvar=True, metavar="URL", help="OpenAI-compatible endpoint to ask."
)
@click.option("--model", envvar="POLYSEM_MODEL_NAME", show_envvar=True, help="Name of the model at the endpoint.")
@click.option("--show", is_flag=True, help="Print the questions for names, and send nothing.")
@click.option("--max-calls", type=click.IntRange(1), default=200, show_default=True, help="Most calls to make.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=500_000, show_default=True, help="Most tokens to spend, in and out."
)
@click.option(
    "--model-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds to wait for an answer of the model.",
)
@click.option("--least-size", type=click.IntRange(2), default=4, show_default=True, help="Least examples of a cluster.")
@click.option("--replace", is_flag=True, help="Also name clusters that have a kept name.")
@click.option("--cache", type=click.Path(path_type=Path), help="File of answers. Default: in the user's cache.")
@clusters_examples
@INDEX
@SIDE
@asks_server
def name(
    words: Sequence[str],
    forget: bool,
    by_model: bool,
    base_url: str | None,
    model: str | None,
    show: bool,
    max_calls: int,
    max_tokens: int,
    model_timeout: float,
    least_size: int,
    replace: bool,
    cache: Path | None,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Name a feature cluster, for everybody who sees the index.

    The server keeps the name with your key's owner and the time. It belongs to the set of the cluster's examples: any
    clustering that finds the same set shows it, and where the cut moves it is listed as detached.

    \b
    polysem name 7.1234 B "exceptions that are raised again"
    polysem name 7.1234 B --forget
    polysem name --by-model 7.0-99 --base-url http://127.0.0.1:8000/v1 --model NAME

    With --by-model, a language model at any OpenAI-compatible endpoint reads half of each cluster's examples and names
    it. The other half, beside the neuron's other clusters, says how well the model tells the cluster by that name
    (detection) and the key token among others (fuzzing), each beside the name of another cluster. The texts go to that
    endpoint alone; --show prints the questions for names and sends nothing. The key comes from POLYSEM_MODEL_KEY. What
    was answered is kept in the cache, so the same command goes on where it was stopped.
    """
    if by_model:
        from polysem.client.commands.by_model import Options, name_by_model

        if forget or not base_url or not model:
            raise click.UsageError("--by-model needs --base-url and --model, and names no texts of yours")
        budget = Budget(max_calls, max_tokens)
        asked = Options(base_url, model, model_timeout, budget, cache, show, least_size, replace)
        with connect(server, timeout_s) as client:
            how = options | {"thresholds": thresholds_of(thresholds)}
            name_by_model(client, words, how, asked, as_json)
        return
    if show or len(words) != (2 if forget else 3) or not all(word.strip() for word in words):
        raise click.UsageError("give a neuron, the letter of a cluster and a text, or --forget in place of the text")
    neuron, cluster, text = (*words, "")[:3]
    with connect(server, timeout_s) as client:
        client.name(neuron, cluster, text, thresholds=thresholds_of(thresholds), **options)
    if as_json:
        print_json({"neuron": neuron, "cluster": cluster, "text": text.strip()})
    else:
        click.echo(f"{neuron} {cluster}: " + ("forgotten" if forget else text.strip()))


@click.group()
def names() -> None:
    """List, export and import the names that the server keeps.

    \b
    polysem names list 7.1234
    polysem names export > names.jsonl
    polysem names import names.jsonl
    """


@names.command("list", epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1)
@click.option("--history", is_flag=True, help="Also show names that were replaced or forgotten.")
@clusters_examples
@INDEX
@SIDE
@asks_server
def list_names(
    neurons: Sequence[str],
    history: bool,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    index: str | None,
    side: Any,
    **options: Any,
) -> None:
    """List the kept names of NEURONS.

    NEURONS are the whole index by default. Each name stands beside the letter of its cluster at the cut, or is
    detached: no cluster of the cut has its examples.
    """
    with connect(server, timeout_s) as client:
        found = list(client.names(*neurons, history=history, index=index, side=side))
        ids = list(dict.fromkeys(one.neuron for one in found))
        how = options | {"thresholds": thresholds_of(thresholds), "index": index, "side": side}
        clustered = {neuron.id: neuron for neuron in client.cluster(*ids, n_null=0, **how)} if ids else {}
    if as_json:
        for one in found:
            print_json(_as_json(one, clustered[one.neuron]))
        return
    for one in found:
        click.echo(_line(one, clustered[one.neuron]))
    if not found:
        click.echo("no names are kept of these neurons")


def _as_json(name: KeptName, neuron: Neuron) -> dict[str, Any]:
    cluster = neuron.with_members(name.members)
    fields = name._asdict() | {"neuron": str(name.neuron), "members": members_text(name.members)}
    fields |= {"time": name.time and name.time.isoformat(), "scores": name.scores and name.scores._asdict()}
    return fields | {"cluster": cluster and cluster.label, "letter": cluster and cluster.letter}


def _line(name: KeptName, neuron: Neuron) -> str:
    cluster = neuron.with_members(name.members)
    where = f"{cluster.letter:<3}" if cluster else f"detached from the set {_shortened(members_text(name.members))} "
    when = "" if name.time is None else f"{name.time:%Y-%m-%d %H:%M}"
    text = characters.visible(name.text) or "(forgotten)"
    by = "" if name.method == "person" else f" by {name.method}"
    return f"{name.neuron}  {where} {text}  ({characters.visible(name.author)}{by}, {when})"


def _shortened(members: str) -> str:
    return members if len(members) <= 40 else f"{members[:39]}…"


@names.command()
@click.argument("neurons", nargs=-1)
@INDEX
@asks_server
def export(neurons: Sequence[str], server: str, timeout_s: float | None, as_json: bool, index: str | None) -> None:
    """Print the kept names of NEURONS as JSON lines.

    NEURONS are the whole index by default. Both sides of the index are printed. The same names make the same bytes.
    """
    with connect(server, timeout_s) as client:
        info = _index_of(client, index)
        for side in info.sides:
            for one in client.names(*neurons, index=index, side=side):
                click.echo(to_line(one, info.sha256).encode())


def _index_of(client: Client, name: str | None) -> Any:
    """The index of that name. Raises UnknownIndex as every question does."""
    indexes = client.indexes()
    for info in indexes:
        if name in (None, info.name):
            return info
    return client.names(NeuronId(0, 0), index=name)[0]


@names.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@INDEX
@asks_server
def import_names(file: Path, server: str, timeout_s: float | None, as_json: bool, index: str | None) -> None:
    """Keep the names of FILE.

    It holds JSON lines as `polysem names export` prints them; - reads standard input.

    All lines are read before any name is kept. A name that is kept already changes nothing. Author and time of the
    lines are kept for an administrator's key, and on a server without keys; else they are your key's owner and now.
    """
    with connect(server, timeout_s) as client:
        info = _index_of(client, index)
        with click.open_file(str(file), "rb") as lines:
            found = list(_read(lines, info.sha256))
        changed = 0
        for side in SIDES:
            of_side = [(number, one) for number, one in found if one.side == side]
            for first in range(0, len(of_side), AT_ONCE):
                changed += _keep(client, of_side[first : first + AT_ONCE], index)
    if as_json:
        print_json({"n_names": len(found), "n_changed": changed})
    else:
        click.echo(f"{len(found):,} names, {changed:,} of them new or changed")


def _read(lines: Iterable[bytes], index_sha256: str) -> Iterable[tuple[int, KeptName]]:
    """Yield the names with the numbers of their lines. Raises InvalidArgument that names the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, from_line(line.decode("utf-8"), index_sha256)
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"line {number}: it is not UTF-8 (byte {error.start})") from None
        except InvalidArgument as error:
            raise InvalidArgument(f"line {number}: {error.message}", error.field) from None


def _keep(client: Client, numbered: Sequence[tuple[int, KeptName]], index: str | None) -> int:
    try:
        return client.keep_names(*(one for _, one in numbered), index=index)
    except InvalidArgument as error:
        place, bracket, _ = error.field.removeprefix("names[").partition("]")
        if not bracket:
            raise
        raise InvalidArgument(f"line {numbered[int(place)][0]}: {error.message}", error.field) from None


COMMANDS = (name, names)
