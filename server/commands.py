"""Commands that the server adds to `polysem`: demo, index, serve. Heavy modules are imported when a command runs."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from polysem.server.indexing import Progress, Recipe

UNITS = {"tokenise": "documents", "check corpus": "documents", "scan": "tokens", "collect": "tokens", "write": "layers"}


@click.command()
@click.option("--model", default="demo", show_default=True, help="demo, a folder, or a hub name such as gpt2.")
@click.option(
    "--corpus",
    default="pydocs",
    show_default=True,
    help="pydocs, a .jsonl, .jsonl.gz, .txt or .parquet file, a folder, or hf:NAME:CONFIG:SPLIT.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The index's folder; it must not exist yet.")
@click.option(
    "--preset", type=click.Choice(["paper"]), default="paper", show_default=True, help="What the others default to."
)
@click.option(
    "--selection", type=click.Choice(["first", "top", "quantile"]), help="Which contexts become dataset examples."
)
@click.option("--min-activation-fraction", type=float, help="Of the neuron's maximum, for `first`; paper: 0.75.")
@click.option("--max-examples", type=int, help="Of each neuron; paper: 100.")
@click.option("--seed", type=int, help="Of the order in which `quantile` draws contexts; default 0.")
@click.option(
    "--max-activations",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Each neuron's maximum for the selection, instead of the corpus's own: .npy, (layers, neurons) floats.",
)
@click.option("--context-length", type=int, help="Tokens that the model reads at once; default: all that it can.")
@click.option("--windows", type=click.Choice(["first", "all"]), help="Of each document; paper: first.")
@click.option("--bos/--no-bos", default=None, help="Begin each window with BOS; paper: yes.")
@click.option("--max-documents", type=click.IntRange(min=1), help="Read only the first so many with text in them.")
@click.option("--text-field", default="text", show_default=True, help="The field of JSON lines that holds the text.")
@click.option("--skip-bad-documents", is_flag=True, help="Leave out what is no text, instead of stopping at it.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Tokens read at once; changes no choice.",
)
@click.option("--verify", type=click.Path(path_type=Path), metavar="DIR", help="Only check every byte of this index.")
def index(
    model: str,
    corpus: str,
    out: Path | None,
    preset: str,
    text_field: str,
    skip_bad_documents: bool,
    max_documents: int | None,
    device: str,
    dtype: str,
    batch_tokens: int,
    max_activations: Path | None,
    verify: Path | None,
    **recipe: Any,
) -> None:
    """Read a corpus with a model and keep what clustering needs, in a folder.

    Interrupted, it goes on where it was when the same command is given again.

    \b
    polysem index --model gpt2 --corpus openwebtext.jsonl --max-documents 10000 --out gpt2-owt
    polysem index --verify gpt2-owt
    """
    if verify is not None:
        _verify(verify)
        return
    if out is None:
        raise click.UsageError("say where the index goes: --out FOLDER")
    from polysem.server import indexing
    from polysem.server import model as models
    from polysem.server.corpus import Corpus

    how = _recipe(indexing.PRESETS[preset], **recipe)
    source = Corpus(corpus, text_field, skip_bad_documents, max_documents)
    maxima = None if max_activations is None else indexing.read_maxima(max_activations.expanduser())
    loaded = models.load(model, device, dtype)
    try:
        with _progress() as progress:
            built = indexing.build(loaded, source, out.expanduser(), how, progress, batch_tokens, maxima)
    except KeyboardInterrupt:
        click.echo(f"stopped; what is done is kept in {out}.tmp, and the same command goes on from there", err=True)
        raise
    info = built.info
    click.echo(
        f"{out}: {info.n_examples:,} dataset examples of {info.n_neurons_with_examples:,} neurons "
        f"from {info.n_contexts:,} contexts ({info.n_tokens:,} tokens)"
    )
    if source.n_skipped:
        click.echo(f"{source.n_skipped:,} documents were no text and were left out")
    click.echo(f"next: polysem serve --index {out}")


def _recipe(preset: "Recipe", **given: Any) -> "Recipe":
    """The preset, with what was given in its place."""
    given = {name: value for name, value in given.items() if value is not None}
    rule = {
        field: given.pop(option)
        for option, field in (
            ("selection", "rule"),
            ("min_activation_fraction", "min_activation_fraction"),
            ("max_examples", "max_examples"),
            ("seed", "seed"),
        )
        if option in given
    }
    return replace(preset, selection=replace(preset.selection, **rule), **given)


def _verify(folder: Path) -> None:
    from polysem.server.index import open_index, verify

    n_bytes = verify(open_index(folder.expanduser()))
    click.echo(f"{folder}: sound ({n_bytes / 1e6:,.1f} MB, every byte as the manifest says)")


@contextlib.contextmanager
def _progress() -> Iterator["Progress"]:
    """A bar a stage, with rate and time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.completed:>12,} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    def progress(stage: str, n: int, total: int | None) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, unit=UNITS[stage], rate="")
        bars.advance(tasks[stage], n)
        task = bars.tasks[tasks[stage]]
        speed = task.finished_speed or task.speed
        bars.update(tasks[stage], rate=f"{speed:,.0f}/s" if speed else "")

    with bars:
        yield progress


@click.command()
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    multiple=True,
    help="An index's folder; the first is the default. None: the demo's.",
)
@click.option("--model", help="The indexes' model, where it is no longer at its place.")
@click.option("--host", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; default 50051; 0: any free one.")
@click.option("--insecure", is_flag=True, default=None, help="Listen on other addresses, without TLS or keys.")
@click.option("--device", help="cpu, cuda, cuda:N, or auto (default).")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Of the model's arithmetic; default float32.")
@click.option("--max-batch-cost", type=float, help="n_examples² · d_model of one batch on the device.")
@click.option("--max-requests-in-flight", type=int, help="Further ones are refused.")
@click.option("--drain-s", type=float, help="Seconds that requests in flight get when the server stops; default 30.")
@click.option("--state", type=click.Path(path_type=Path), help="Folder of jobs and their results, on a local disk.")
@click.option(
    "--corpora",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A corpus that jobs may index, by its file name: a .jsonl, .jsonl.gz or .txt file, or a folder.",
)
@click.option("--max-jobs", type=int, help="Unfinished jobs; further ones are refused; default 100.")
@click.option("--max-result-bytes", type=int, help="Of all kept results, indexes too; default 50 GiB.")
@click.option("--max-upload-bytes", type=int, help="Of all uploaded corpora together; default 10 GiB.")
@click.option("--result-days", type=float, help="How long results and uploads are kept; default 30.")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with these settings.")
def serve(index: tuple[Path, ...], corpora: tuple[Path, ...], config: Path | None, **flags: Any) -> None:
    """Serve indexes over gRPC until Ctrl-C or SIGTERM.

    Every setting is also read from the environment (POLYSEM_PORT=…) and from a TOML file (--config); flags win.
    """
    from polysem.server import gather
    from polysem.server import settings as reading

    settings = reading.read(config, index=list(index) or None, corpora=list(corpora) or None, **flags)
    from polysem.server.engine import Engine
    from polysem.server.opening import open_engine
    from polysem.server.serve import until_stopped

    served: list[Engine] = []

    def load() -> Engine:
        with _progress() as progress:
            served.append(open_engine(settings, progress))
        return served[0]

    def ready(port: int) -> None:
        engine = served[0]
        held = f"{engine.model.n_bytes / 1e6:,.0f} MB"
        click.echo(f"model {engine.model.info.id} on {engine.model.device} ({engine.model.dtype}, {held})")
        for one in engine.indexes.values():
            rows = gather.resident(engine.model.device).keep(one)
            click.echo(f"index {one.info.name}: {one.info.n_examples:,} dataset examples, {rows} ({one.folder})")
        click.echo(f"listening on {settings.host}:{port}; Ctrl-C stops")
        click.echo(f"try:  polysem cluster 1.0 --server {settings.host}:{port}")

    asyncio.run(until_stopped(settings, load, ready))
    click.echo("stopped")


@click.command()
@click.option("--svg", type=click.Path(path_type=Path), help="Also draw the first neuron into this file.")
def demo(svg: Path | None) -> None:
    """See it work: a small model, its neurons fallen apart, through the real server and client.

    Builds an index of the embedded model over Python's own documentation and source (kept for the next time), serves
    it on a loopback port, and asks through the client.
    """
    from polysem.server.demo import indexes, tour

    with _progress() as progress:
        folder = indexes.ensure(progress)
    tour.show(folder, svg)
