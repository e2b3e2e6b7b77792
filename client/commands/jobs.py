"""The commands `polysem jobs …` and `polysem corpus …`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from polysem.client.commands import next_steps
from polysem.client.commands.options import (
    FORCE,
    INDEX,
    NEURONS_HELP,
    SIDE,
    asks_server,
    connect,
    measures,
    print_json,
    reads_corpus,
    tested,
)
from polysem.client.jobs import HEARTBEAT_S
from polysem.proto.facts import Selection
from polysem.proto.jobs import IndexSpec, Job, MeasureSpec
from polysem.proto.questions.clustering import Algorithm, Embedding

ID = click.argument("id_", metavar="ID")
REQUEST_ID = click.option(
    "--request-id",
    metavar="TEXT",
    help="Name of your own for this request; the same name returns the same job.",
)


@click.group()
def jobs() -> None:
    """Let the server measure a model or index a corpus.

    A job lives on the server: close the laptop, and find it again by its id from another machine. It goes on by itself
    when the server is restarted. Results are kept for as long as `polysem jobs list` says.

    \b
    polysem jobs submit measure '*'                      prints the job's id
    polysem jobs watch 5f0c2b9de1a37c44                  until it has finished
    polysem jobs fetch 5f0c2b9de1a37c44 --out all.parquet
    polysem corpus upload texts.jsonl
    polysem jobs submit index texts --corpus texts.jsonl
    polysem cluster 7.1234 --index texts                 once it is done
    """


@jobs.group()
def submit() -> None:
    """Queue a job and print its id. Jobs run one after another."""


@submit.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1)
@measures(MeasureSpec().algorithms)
@INDEX
@SIDE
@REQUEST_ID
@asks_server
def measure(
    neurons: Sequence[str],
    algorithms: Sequence[Algorithm],
    embeddings: Sequence[Embedding],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Cluster NEURONS, or all, in every way you name.

    The result is the Parquet file that `polysem measure` writes.

    \b
    polysem jobs submit measure '*'
    polysem jobs submit measure '*' --null 99     what of it is more than chance: hac of neuron embeddings
    """
    algorithms, embeddings = tested(options["n_null"], algorithms, embeddings)
    with connect(server, timeout_s) as client:
        _show(client.jobs.measure(*neurons, algorithms=algorithms, embeddings=embeddings, **options), as_json)


@submit.command()
@click.argument("name")
@click.option("--corpus", required=True, metavar="NAME", help="Corpus to read, by its name in `polysem corpus list`.")
@click.option(
    "--selection", type=click.Choice(["first", "top", "quantile"]), default="first", show_default=True,
    help="Rule that chooses the dataset examples.",
)  # fmt: skip
@click.option(
    "--min-activation-fraction",
    type=float,
    default=0.75,
    show_default=True,
    help="Least activation of an example, as a share of the neuron's maximum (first).",
)
@click.option("--max-examples", type=int, default=100, show_default=True, help="Most examples per neuron.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed by which `quantile` draws contexts."
)
@click.option(
    "--context-length", type=click.IntRange(min=1), help="Tokens per context. Default: as many as the model can read."
)
@click.option(
    "--windows",
    type=click.Choice(["first", "all"]),
    default="first",
    show_default=True,
    help="Contexts to read of each document.",
)
@reads_corpus
@click.option("--max-documents", type=click.IntRange(min=1), help="Most documents to read, counted from the first.")
@click.option("--text-field", default="text", show_default=True, help="Field of a JSON line that holds the text.")
@click.option("--skip-bad-documents", is_flag=True, help="Leave out documents that are not text. Default: fail.")
@click.option("--units", metavar="sae:NAME", help="Index the latents of an SAE that the server has, not neurons.")
@click.option("--shared", is_flag=True, help="Let other keys use the index as well.")
@REQUEST_ID
@asks_server
def index(
    name: str,
    corpus: str,
    selection: Any,
    min_activation_fraction: float,
    max_examples: int,
    seed: int,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    layers: tuple[int, ...] | None,
    skip_positions: int | None,
    **options: Any,
) -> None:
    """Make the index NAME of a corpus with the server's model.

    When the job is done, requests of your key can say --index NAME. The result to fetch is the index's manifest.
    """
    rule = Selection(selection, min_activation_fraction, max_examples, seed)
    with connect(server, timeout_s) as client:
        _show(
            client.jobs.index(
                name, corpus, selection=rule, layers=layers or (), skip_positions=skip_positions or 0, **options
            ),
            as_json,
        )


@jobs.command("list")
@click.option("--limit", type=click.IntRange(min=1), help="Number of jobs to list, latest first.")
@asks_server
def list_jobs(server: str, timeout_s: float | None, as_json: bool, limit: int | None) -> None:
    """List jobs, latest first."""
    with connect(server, timeout_s) as client:
        found = [job for _, job in zip(range(limit or 1 << 30), client.jobs.list(), strict=False)]
    if as_json:
        for job in found:
            print_json(job_json(job))
        return
    if not found:
        click.echo("no jobs yet")
        next_steps.say_of_server("jobs", "submit", "--help")
        return
    from rich.table import Table

    from polysem.client import terminal

    table = Table(box=None, pad_edge=False)
    several = len({job.owner for job in found}) > 1
    for heading in ("id", "job", "state", "submitted (UTC)", "result until (UTC)", *["key"] * several):
        table.add_column(heading)
    for job in found:
        cells = (job.id, _what(job), _state(job), _when(job.created_at), _when(job.expires_at))
        table.add_row(*cells, *[job.owner] * several)
    terminal.console().print(table)


@jobs.command()
@ID
@asks_server
def show(id_: str, server: str, timeout_s: float | None, as_json: bool) -> None:
    """Show a job as it is now."""
    with connect(server, timeout_s) as client:
        _show(client.jobs.get(id_), as_json)


@jobs.command()
@ID
@click.option(
    "--heartbeat", "heartbeat_s", type=click.FloatRange(0.1, 60), default=HEARTBEAT_S, show_default=True,
    help="Seconds of silence after which the server sends a sign of life.",
)  # fmt: skip
@asks_server
def watch(id_: str, server: str, timeout_s: float | None, as_json: bool, heartbeat_s: float) -> None:
    """Follow a job until it ends. Exit status 1 if it failed or was cancelled.

    Ctrl-C stops watching; the job goes on. With --json every change is an object on a line of its own.
    """
    with connect(server, timeout_s) as client:
        job = None
        for job in client.jobs.watch(id_, heartbeat_s=heartbeat_s):
            if as_json:
                print_json(job_json(job))
            elif sys.stderr.isatty():
                click.echo(f"\r\x1b[K{job.id}  {_state(job)}", err=True, nl=job.finished)
            elif job.finished:
                click.echo(f"{job.id}  {_state(job)}")
    if job is None or job.state != "done":
        sys.exit(1)
    if not as_json:
        _hint(job)


@jobs.command()
@ID
@asks_server
def cancel(id_: str, server: str, timeout_s: float | None, as_json: bool) -> None:
    """Stop a job and remove what it made. A finished job stays as it is."""
    with connect(server, timeout_s) as client:
        _show(client.jobs.cancel(id_), as_json)


@jobs.command()
@ID
@asks_server
def delete(id_: str, server: str, timeout_s: float | None, as_json: bool) -> None:
    """Delete a finished job and its result, an index too."""
    with connect(server, timeout_s) as client:
        client.jobs.delete(id_)
    print_json({"deleted": id_}) if as_json else click.echo(f"{id_} is deleted")


@jobs.command()
@ID
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@FORCE
@asks_server
def fetch(id_: str, server: str, timeout_s: float | None, as_json: bool, out: Path, force: bool) -> None:
    """Write the result of a done job to a file, and check its sha256.

    If it is interrupted, the same command resumes it.
    """
    with connect(server, timeout_s) as client:
        job = client.jobs.get(id_)
        with _bar("fetch", job.result_bytes) as progress:
            client.jobs.fetch(id_, out, force=force, progress=progress)
    if as_json:
        print_json({"out": str(out), "bytes": job.result_bytes, "sha256": job.result_sha256})
    else:
        click.echo(f"{out}: {job.result_bytes:,} bytes, sha256 {job.result_sha256}")


@click.group()
def corpus() -> None:
    """Upload, list and delete corpora on the server."""


@corpus.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name on the server. Default: the file's.")
@click.option("--shared", is_flag=True, help="Let jobs of other keys index it as well.")
@asks_server
def upload(file: Path, name: str | None, shared: bool, server: str, timeout_s: float | None, as_json: bool) -> None:
    """Send FILE (.jsonl, .jsonl.gz or .txt) to the server.

    If it is interrupted, nothing is left there. A file that is there already is not sent again.
    """
    with connect(server, timeout_s) as client, _bar("upload", None) as progress:
        kept = client.jobs.upload(file, name, shared=shared, sent=progress)
    if as_json:
        print_json(asdict(kept) | {"expires_at": _iso(kept.expires_at)})
    else:
        click.echo(f"{kept.name}: {kept.bytes:,} bytes, kept until {_when(kept.expires_at)} UTC")
        next_steps.say_of_server("jobs", "submit", "index", "NAME", "--corpus", kept.name)


@corpus.command("list")
@asks_server
def list_corpora(server: str, timeout_s: float | None, as_json: bool) -> None:
    """List the corpora that jobs can name."""
    with connect(server, timeout_s) as client:
        for one in client.jobs.corpora():
            if as_json:
                print_json(asdict(one) | {"expires_at": _iso(one.expires_at)})
            elif one.expires_at is None:
                click.echo(f"{one.name}  (the server's)")
            else:
                whose = ("shared, " if one.shared else "") + (f"of key {one.owner}, " if one.owner else "")
                click.echo(f"{one.name}  {whose}{one.bytes:,} bytes, until {_when(one.expires_at)} UTC")


@corpus.command("delete")
@click.argument("name")
@asks_server
def delete_corpus(name: str, server: str, timeout_s: float | None, as_json: bool) -> None:
    """Remove an uploaded corpus from the server."""
    with connect(server, timeout_s) as client:
        client.jobs.delete_corpus(name)
    print_json({"deleted": name}) if as_json else click.echo(f"{name} is deleted")


def job_json(job: Job) -> dict[str, Any]:
    """A job as `polysem jobs … --json` prints it."""
    values = asdict(job)
    spec = values.pop("spec")
    if isinstance(job.spec, MeasureSpec):
        spec["neurons"] = [str(neurons) for neurons in job.spec.neurons]
    for name in ("created_at", "started_at", "finished_at", "expires_at"):
        values[name] = _iso(values[name])
    return {"id": values.pop("id"), "kind": job.kind, "spec": spec, **values}


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job_json(job))
        return
    click.echo(f"{job.id}  {_what(job)}  {_state(job)}")
    if not job.finished:
        next_steps.say_of_server("jobs", "watch", job.id)
    _hint(job)


def _hint(job: Job) -> None:
    for note in job.notes:
        click.echo(note)
    if job.state != "done":
        return
    if job.expires_at is not None:
        click.echo(f"kept until {_when(job.expires_at)} UTC")
    if isinstance(job.spec, IndexSpec) and job.spec.units:
        next_steps.say_of_server("neurons", "--index", job.spec.name)
    elif isinstance(job.spec, IndexSpec):
        next_steps.say_of_server("cluster", f"{next(iter(job.spec.layers), 0)}.0", "--index", job.spec.name)
    else:
        next_steps.say_of_server("jobs", "fetch", job.id, "--out", "FILE.parquet")


def _what(job: Job) -> str:
    if isinstance(job.spec, MeasureSpec):
        neurons = " ".join(str(neurons) for neurons in job.spec.neurons)
        return f"measure {neurons if len(neurons) < 30 else neurons[:27] + '…'} of {job.spec.index}"
    units = f", {job.spec.units}" if job.spec.units else ""
    return f"index {job.spec.name} of {job.spec.corpus}{units}"


def _state(job: Job) -> str:
    if job.state == "queued":
        return f"queued, {job.n_ahead} ahead"
    if job.state == "running" and job.stage:
        share = f" {job.done / job.total:.0%}" if job.total else f" {job.done:,}"
        return f"running: {job.stage}{share}"
    return f"failed: {job.error}" if job.state == "failed" else job.state


def _when(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M}"


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=total)
        yield lambda n_bytes: bars.advance(task, n_bytes)


COMMANDS = (jobs, corpus)
