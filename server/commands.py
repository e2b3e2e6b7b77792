"""Commands that the server adds to `polysem`: demo, index, keys, serve. Heavy modules are imported late."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polysem.client.commands import next_steps
from polysem.client.commands.options import (
    DEVICE,
    DTYPE,
    destination_of,
    executes,
    published,
    ray_options,
    reads_corpus,
    rotations,
)
from polysem.server.key_commands import keys as keys

if TYPE_CHECKING:
    from polysem.proto.work.shards import Executor
    from polysem.server.corpus.documents import Corpus
    from polysem.server.index.format import Index
    from polysem.server.indexing.builder import Recipe
    from polysem.server.model.model import ModelDescription
    from polysem.server.serving.books import Books
    from polysem.server.settings import Settings


@click.command()
@click.option(
    "--model", default="demo", show_default=True, help="Model to read with: demo, a folder, or a hub name such as gpt2."
)
@click.option(
    "--units",
    metavar="sae:NAME",
    help="Cluster the latents of an SAE or transcoder, a folder or a hub name, instead of the model's neurons.",
)
@click.option(
    "--corpus",
    default="pydocs",
    show_default=True,
    help="Texts to read: pydocs, a .jsonl, .jsonl.gz, .txt or .parquet file, a folder, or hf:NAME:CONFIG:SPLIT.",
)
@click.option("--out", help="Folder to write, or a URL such as s3://bucket/name; it must not exist yet.")
@click.option(
    "--preset",
    type=click.Choice(["paper"]),
    default="paper",
    show_default=True,
    help="Set of defaults for the options below.",
)
@click.option(
    "--selection",
    type=click.Choice(["first", "top", "quantile"]),
    help="Rule that chooses the dataset examples. Default: first.",
)
@click.option(
    "--min-activation-fraction",
    type=float,
    help="Least activation of an example, as a share of the neuron's maximum (first). Default: 0.75.",
)
@click.option("--max-examples", type=int, help="Most examples per neuron. Default: 100.")
@click.option("--seed", type=int, help="Seed by which `quantile` draws contexts. Default: 0.")
@click.option(
    "--max-activations",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Maxima to use for the selection in place of the corpus's own: .npy, (layers, neurons) floats.",
)
@click.option("--context-length", type=int, help="Tokens per context. Default: as many as the model can read.")
@click.option(
    "--windows", type=click.Choice(["first", "all"]), help="Contexts to read of each document. Default: first."
)
@reads_corpus
@click.option("--max-documents", type=click.IntRange(min=1), help="Most documents to read, counted from the first.")
@click.option("--text-field", default="text", show_default=True, help="Field of a JSON line that holds the text.")
@click.option("--skip-bad-documents", is_flag=True, help="Leave out documents that are not text. Default: stop.")
@DEVICE
@click.option("--split-layers", metavar="cuda:0,cuda:1", help="Devices to spread the model's layers over.")
@DTYPE
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    help="Tokens per forward pass; does not change the result. Default: 4,096 on a CPU, 65,536 on a GPU.",
)
@executes
@click.option(
    "--null",
    "n_null",
    type=rotations(1),
    help="Then compare each neuron with so many rotations of its examples and keep the results for listings.",
)
@click.option(
    "--add-nulls",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Add these results to an index that is there, 99 rotations by default, and do nothing else.",
)
@click.option(
    "--test-clusters",
    is_flag=True,
    help="Also test each neuron's merges, and how stable its clusters are; several times the time of --null alone.",
)
@click.option(
    "--verify",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Check every byte of this index and do nothing else.",
)
def index(
    model: str,
    units: str | None,
    corpus: str,
    out: str | None,
    preset: str,
    text_field: str,
    skip_bad_documents: bool,
    max_documents: int | None,
    device: str,
    split_layers: str | None,
    dtype: str,
    batch_tokens: int | None,
    max_activations: Path | None,
    verify: Path | None,
    n_null: int | None,
    add_nulls: Path | None,
    test_clusters: bool,
    executor: str,
    **flags: Any,
) -> None:
    """Read a corpus with a model and write an index.

    If it is interrupted, the same command resumes it. The first pass of the model keeps what the second would read
    again, in at most a fourth of the free memory.

    \b
    polysem index --model gpt2 --corpus openwebtext.jsonl --max-documents 10000 --out gpt2-owt
    polysem index --model gpt2 --units sae:gpt2-resid-16k --corpus openwebtext.jsonl --out gpt2-latents
    polysem index --model gpt2 --corpus openwebtext.jsonl --executor ray --out gpt2-owt
    polysem index --verify gpt2-owt
    polysem index --add-nulls gpt2-owt --test-clusters
    """
    if verify is not None:
        _verify(verify)
        return
    machines = _Machines(executor, device, split_layers, dtype, ray_options(flags))
    if add_nulls is not None:
        _add_nulls(add_nulls, n_null or 99, flags["seed"], test_clusters, machines)
        return
    if out is None:
        raise click.UsageError("say where the index goes: --out FOLDER")
    if test_clusters and n_null is None:
        raise click.UsageError("--test-clusters goes with --null N, or with --add-nulls DIR")
    from polysem.client.terminal.progress import INDEXING, bars
    from polysem.server.corpus.documents import Corpus
    from polysem.server.index.format import open_index
    from polysem.server.indexing import builder, maxima
    from polysem.server.questions import holding

    how = _recipe(builder.PRESETS[preset], **flags)
    source = Corpus(corpus, text_field, skip_bad_documents, max_documents)
    given = None if max_activations is None else maxima.read(Path(os.path.expanduser(max_activations)))
    destination = destination_of(out)
    with published(destination):
        if not destination.made:
            with bars(INDEXING) as shown:
                described = machines.model(model, units, how.layers)
                if not (destination.local / holding.WORK).exists():  # killed while neurons were tested
                    with machines.reading(described, source, shown.note) as (reader, where):
                        builder.build(reader, source, destination.local, how, shown.advance, batch_tokens, given, where)
                if n_null is not None:
                    made, seed = open_index(destination.local), how.selection.seed
                    with machines.testing(described, made, shown.note) as where:
                        holding.hold(described, made, n_null, seed, shown.advance, test_clusters, where)
        info = open_index(destination.local).info
    click.echo(
        f"{out}: {info.n_examples:,} dataset examples of {info.n_neurons_with_examples:,} {info.unit}s "
        f"from {info.n_contexts:,} contexts ({info.n_tokens:,} tokens)"
    )
    if "negative" in info.sides:
        click.echo(
            f"negative side: {info.n_negative_examples:,} dataset examples of "
            f"{info.n_neurons_with_negative_examples:,} neurons"
        )
    for note in info.notes:
        click.echo(note)
    if destination.url is None:
        next_steps.say("serve", "--index", out)
    else:
        click.echo("next: serve a copy of it")


@dataclass(frozen=True)
class _Machines:
    """The machines that make an index: this one, or the workers of a cluster."""

    executor: str
    device: str
    split_layers: str | None
    dtype: str
    ray: dict[str, Any]

    def model(self, name: str, units: str | None = None, layers: Sequence[int] = ()) -> "ModelDescription":
        """Load the model, or describe it where workers load it; with latents of these layers where units name some."""
        found = self._model(name)
        if units is None:
            return found
        from polysem.server.model import latent_model

        return latent_model.described(found, units, layers)

    def _model(self, name: str) -> "ModelDescription":
        if self.executor == "local":
            from polysem.server.model.loading import load
            from polysem.server.settings import devices_of

            return load(name, self.device, self.dtype, devices_of(self.split_layers))
        if self.split_layers:
            raise click.UsageError("--split-layers is for one machine; leave it out with --executor ray")
        from polysem.server.ray_cluster import sessions

        return sessions.describe(name, self.dtype)

    @contextlib.contextmanager
    def reading(
        self, model: "ModelDescription", corpus: "Corpus", note: Callable[[str], None]
    ) -> Iterator[tuple["ModelDescription", "Executor | None"]]:
        """Yield what reads the corpus: the model here, or as workers have it, and their executor."""
        if self.executor == "local":
            yield model, None
            return
        from polysem.server.ray_cluster import sessions
        from polysem.server.ray_cluster.pool import RayOptions

        with sessions.building(model, corpus, self.device, RayOptions(**self.ray), note) as found:
            yield found

    @contextlib.contextmanager
    def testing(
        self, model: "ModelDescription", index: "Index", note: Callable[[str], None]
    ) -> Iterator["Executor | None"]:
        """Yield the executor whose workers test the index's neurons; None: this process does."""
        if self.executor == "local":
            yield None
            return
        from polysem.server.ray_cluster import sessions
        from polysem.server.ray_cluster.pool import RayOptions

        with sessions.holding(model, index, self.device, RayOptions(**self.ray), note) as found:
            yield found


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


def _add_nulls(folder: Path, n_null: int, seed: int | None, clusters: bool, machines: _Machines) -> None:
    from polysem.client.terminal.progress import INDEXING, bars
    from polysem.server.index.format import open_index
    from polysem.server.questions import holding

    found = open_index(Path(os.path.expanduser(folder)))
    with bars(INDEXING) as shown:
        model = machines.model(found.info.model_id)
        with machines.testing(model, found, shown.note) as where:
            holding.hold(model, found, n_null, seed or 0, shown.advance, clusters, where)
    also = ", its merges and clusters tested" if clusters else ""
    click.echo(
        f"{folder}: each neuron compared with {n_null} rotations of its examples{also}; serve it anew to see them"
    )


def _verify(folder: Path) -> None:
    from polysem.server.index.format import open_index, verify

    n_bytes = verify(open_index(Path(os.path.expanduser(folder))))
    click.echo(f"{folder}: sound ({n_bytes / 1e6:,.1f} MB, every byte as the manifest says)")


@click.command()
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of an index; the first is the default one. Repeatable. Default: the demo's index.",
)
@click.option(
    "--measurements",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File of `polysem measure --null` whose tests listings show, in place of the index's own. Repeatable.",
)
@click.option("--model", help="Path of the indexes' model, if it has moved.")
@click.option("--units", metavar="sae:FOLDER", help="Folder of the SAE of an index of latents, if it has moved.")
@click.option("--host", help="Address to listen on, or unix:/path of a socket. Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; 0 takes any free one. Default: 50051.")
@click.option("--insecure", is_flag=True, default=None, help="Listen on other addresses without TLS or keys.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM certificate; reloaded when it changes.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM private key of the certificate.")
@click.option(
    "--require-keys/--no-keys",
    default=None,
    help="Require a key of `polysem keys`. Default: yes, except on loopback and unix sockets.",
)
@click.option("--state", type=click.Path(path_type=Path), help="Folder for keys, audit log and jobs, on a local disk.")
@click.option(
    "--audit-log",
    type=click.Path(path_type=Path),
    help="Audit log to write, one JSON line per call. Default: in the state folder.",
)
@click.option("--audit-max-bytes", type=int, help="Most bytes of audit files. Default: 100 MiB.")
@click.option("--audit-days", type=float, help="Days to keep audit files. Default: 90.")
@click.option("--metrics-port", type=int, help="Port for Prometheus and `polysem top`, by custom 9464. Default: none.")
@click.option("--metrics-host", help="Address to serve metrics on. Default: 127.0.0.1.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Format of the log. Default: text.")
@click.option(
    "--device",
    help="Device to use: cpu, cuda, cuda:N, or auto (default). Several (cuda:0,cuda:1) get a copy of the model each.",
)
@click.option("--split-layers", metavar="cuda:0,cuda:1", help="Devices to spread the model's layers over.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "tf32", "bfloat16"]),
    help="Number format of the model's arithmetic. Default: float32.",
)
@click.option(
    "--neighbour-library",
    type=click.Choice(["auto", "cuml", "scikit-learn", "torch"]),
    help="Library that searches nearest neighbours. Default: auto (torch; cuML if a GPU serves large neurons).",
)
@click.option(
    "--max-batch-cost", type=float, help="Largest cost of a batch, n_examples² · d_model summed over neurons."
)
@click.option("--max-wait-ms", type=float, help="Milliseconds a batch waits to be filled. Default: 0.")
@click.option("--bulk-batch-ms", type=float, help="Milliseconds a batch of bulk work should take. Default: 20.")
@click.option("--max-requests-in-flight", type=int, help="Most requests at a time; more are refused. Default: 1024.")
@click.option(
    "--max-queued-cost", type=float, help="Largest cost of all waiting work; more is refused. Default: 10,000 batches."
)
@click.option("--drain-s", type=float, help="Seconds that requests may take when the server stops. Default: 30.")
@click.option(
    "--corpora",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Corpus that jobs may index by its file name: a .jsonl, .jsonl.gz or .txt file, or a folder. Repeatable.",
)
@click.option(
    "--saes",
    multiple=True,
    metavar="NAME",
    help="SAE whose latents jobs may index by its folder's name: a folder or a hub name. Repeatable.",
)
@click.option("--max-jobs", type=int, help="Most unfinished jobs; more are refused. Default: 100.")
@click.option("--max-result-bytes", type=int, help="Most bytes of results, with indexes. Default: 50 GiB.")
@click.option("--max-upload-bytes", type=int, help="Most bytes of all uploaded corpora. Default: 10 GiB.")
@click.option("--key-share", type=float, help="Share of jobs, results and uploads per key. Default: 0.5.")
@click.option(
    "--min-free-bytes", type=int, help="Bytes of the disk that jobs and uploads leave free. Default: 256 MiB."
)
@click.option("--result-days", type=float, help="Days to keep results and uploads. Default: 30.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    help="Machines that jobs run on: this one (local), or the workers of a Ray cluster.",
)
@click.option(
    "--ray-address", metavar="auto|local|HOST:PORT", help="Ray cluster. Default: the one this machine belongs to."
)
@click.option(
    "--ray-gpus", type=float, help="GPUs per worker; 0.5 puts two workers on one. Default: 1 if there are GPUs."
)
@click.option("--ray-workers", type=int, help="Number of workers. Default: as many as the cluster has room for.")
@click.option("--ray-wait-s", type=float, help="Seconds to wait for a first worker. Default: 300.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with these settings.")
def serve(config: Path | None, **flags: Any) -> None:
    """Serve indexes over gRPC until Ctrl-C or SIGTERM.

    Every setting is also read from the environment (POLYSEM_PORT=…) and from a TOML file (--config); flags win.
    """
    # torch's threads wait for each other at every matrix product. Where others need the cores, too, one that waits
    # busily keeps the other from running: a forward of 90 tokens took 700 ms instead of 20. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from polysem.server import settings as reading

    flags |= {name: list(flags[name]) or None for name in ("index", "measurements", "corpora", "saes")}
    settings = reading.read(config, **flags)
    from polysem.proto.errors import PolysemError
    from polysem.server import paths
    from polysem.server.serving import address, logs
    from polysem.server.serving.books import Books

    paths.open_many_files()
    books = Books()
    logs.configure(settings, books)
    if settings.log_format == "json":
        logs.everything_as_json()
    try:
        address.check(settings)
        _until_stopped(settings, books)
    except PolysemError as error:
        if settings.log_format != "json":
            raise
        logs.log.critical(error.message)
        sys.exit(1)


def _until_stopped(settings: "Settings", books: "Books") -> None:
    from polysem.client.terminal.progress import INDEXING, bars
    from polysem.server.app import until_stopped
    from polysem.server.opening import open_engine
    from polysem.server.questions import resident
    from polysem.server.questions.engine import Engine
    from polysem.server.serving import address, hint, logs

    say: Callable[[str], None] = logs.log.info if settings.log_format == "json" else click.echo
    served: list[Engine] = []

    def load() -> Engine:
        if settings.log_format == "json":
            served.append(open_engine(settings))
        else:
            with bars(INDEXING) as shown:
                served.append(open_engine(settings, shown.advance))
        return served[0]

    def ready(port: int) -> None:
        engine = served[0]
        for model in (engine.model, *engine.copies):
            say(f"model {model.info.id} on {model.device} ({model.dtype}, {model.n_bytes / 1e6:,.0f} MB)")
            for one in engine.indexes.values():
                rows = resident.resident(model.device).keep(one)
                say(f"index {one.info.name}: {one.info.n_examples:,} dataset examples, {rows} ({one.folder})")
        say(f"listening on {address.target(settings, port)}; Ctrl-C stops")
        layers = engine.index("").info.held_layers
        layer = 1 if 1 in layers else layers[0]
        for line in hint.lines(settings, port, f"{layer}.0", next_steps.command()):
            say(line)

    asyncio.run(until_stopped(settings, load, ready, books))
    say("stopped")


@click.command()
@click.option("--units", type=click.Choice(["sae"]), help="Show the latents of an embedded SAE, not neurons.")
@click.option("--svg", type=click.Path(path_type=Path), help="SVG file to draw the first neuron into.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="HTML file to write the page to. Default: in the cache folder."
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def demo(units: str | None, svg: Path | None, report: Path | None, force: bool) -> None:
    """Show the embedded model's neurons, or an SAE's latents, through a real server.

    Builds an index of the embedded model over Python's own documentation and source (kept for the next time), serves
    it on a loopback port, and asks through the client. Writes the neurons shown as a page for a browser, too.
    """
    from polysem.client import files
    from polysem.client.terminal.progress import INDEXING, bars
    from polysem.server import tour
    from polysem.server.demo import indexes
    from polysem.server.paths import cache_folder

    kept = cache_folder() / ("demo-latents.html" if units else "demo.html")
    for named in (svg, report):
        if named is not None:
            named.parent.mkdir(parents=True, exist_ok=True)
            files.check_free(named, force)
    latents = units == "sae"
    with bars(INDEXING) as shown:
        folder = indexes.ensure(shown.advance, latents=latents, tested=False)
    tour.show_first(folder)
    with bars(INDEXING) as shown:
        indexes.ensure(shown.advance, latents=latents)
    tour.show(folder, svg, report or kept, force or report is None)
