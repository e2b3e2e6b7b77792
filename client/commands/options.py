"""Options that commands share, and what they do with them."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

import click

from polysem.client.calls import DEFAULT_TARGET
from polysem.client.client import Client
from polysem.proto.jobs import MeasureSpec
from polysem.proto.neurons import parse_layers
from polysem.proto.questions.clustering import (
    LEAST_NULLS,
    MAX_NULLS,
    Algorithm,
    Clustering,
    Embedding,
    EmbeddingChoice,
    Frame,
    LayerNorm,
    Linkage,
)
from polysem.proto.sides import SIDES
from polysem.proto.work.publishing import Destination

Command = TypeVar("Command", bound=Callable[..., Any])

NEURONS_HELP = """
\b
NEURONS are written
  7.1234 or L7N1234   neuron 1234 of layer 7
  7.0-99              neurons 0 to 99 of layer 7
  '7.*'  '*'          a layer, the whole model (quote them for the shell)
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


def rotations(least: int) -> click.IntRange:
    """The range of a number of rotations in a test."""
    return click.IntRange(least, MAX_NULLS)


FORCE = click.option("--force", is_flag=True, help="Overwrite an existing file.")

BULK = click.option(
    "--bulk", is_flag=True, expose_value=False, callback=_keep, help="Let this request wait behind interactive ones."
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
            help="Access key, from whoever runs the server.",
        ),
        click.option("--tls", is_flag=True, expose_value=False, callback=_keep, help="Connect with TLS."),
        click.option(
            "--ca",
            envvar="POLYSEM_CA",
            show_envvar=True,
            expose_value=False,
            callback=_keep,
            metavar="FILE",
            help="Connect with TLS; the server's certificate or that of its CA.",
        ),
    ):
        command = option(command)
    return command


def asks_server(command: Command) -> Command:
    """Options of every command that asks a server."""
    command = connects(command)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line."),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            help="Seconds to wait for the answer.",
        ),
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


def _one_of(option: str, names: Any, default: str, about: str) -> Callable[[Command], Command]:
    return click.option(option, type=click.Choice(get_args(names)), default=default, show_default=True, help=about)


def _several_of(option: str, name: str, names: Any, default: Sequence[str], about: str) -> Callable[[Command], Command]:
    kind = click.Choice(get_args(names))
    return click.option(option, name, type=kind, multiple=True, default=default, show_default=True, help=about)


LINKAGE = _one_of("--linkage", Linkage, Clustering().linkage, "Linkage that hac uses.")
DISTANCE_THRESHOLD = click.option(
    "--distance-threshold",
    type=float,
    default=Clustering().distance_threshold,
    show_default=True,
    help="Cosine distance at which to cut the tree (0 to 2).",
)
_THRESHOLDS = click.option(
    "--thresholds", help="Thresholds of SCC's rounds: linear, geometric, or increasing numbers such as 0.1,0.3,0.5."
)
_UNTIL_STABLE = click.option("--until-stable", is_flag=True, help="Repeat each round of SCC until nothing merges.")
_NEIGHBOURS = click.option(
    "--neighbours",
    type=int,
    metavar="K",
    help="Cluster the graph of K nearest neighbours instead of all distances (scc, or single linkage).",
)
_ALGORITHM, _LAYER_NORM = (
    "Clustering algorithm.",
    "Whether LayerNorm's γ is folded into the weights (folded) or applied to the input (raw).",
)
_EMBEDDING = "Embedding to cluster; gate and up: of gated neurons; permuted and other: controls with other weights."
_FRAME = (
    "Mean to subtract first: none (raw), the layer's (centred; standardised also divides by its deviations), "
    "or the neuron's own."
)
_REPEATABLE = "Repeatable."


def _all(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """The command with the options, in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def clusters_examples(command: Command) -> Command:
    """Options of every command that clusters dataset examples."""
    return _all(
        command,
        (
            _one_of("--algorithm", Algorithm, Clustering().algorithm, _ALGORITHM),
            LINKAGE,
            _one_of("--embedding", Embedding, EmbeddingChoice().embedding, _EMBEDDING),
            _one_of("--layer-norm", LayerNorm, EmbeddingChoice().layer_norm, _LAYER_NORM),
            _one_of("--frame", Frame, EmbeddingChoice().frame, _FRAME),
            DISTANCE_THRESHOLD,
            _THRESHOLDS,
            _UNTIL_STABLE,
            _NEIGHBOURS,
        ),
    )


def measures(algorithms: Sequence[str]) -> Callable[[Command], Command]:
    """Options of every command that measures neurons; algorithms: what is measured by default."""
    default = MeasureSpec()
    options = (
        _several_of("--algorithm", "algorithms", Algorithm, algorithms, f"{_ALGORITHM} {_REPEATABLE}"),
        LINKAGE,
        _several_of("--embedding", "embeddings", Embedding, default.embeddings, f"{_EMBEDDING} {_REPEATABLE}"),
        _several_of("--layer-norm", "layer_norms", LayerNorm, default.layer_norms, f"{_LAYER_NORM} {_REPEATABLE}"),
        _several_of("--frame", "frames", Frame, default.frames, f"{_FRAME} {_REPEATABLE}"),
        DISTANCE_THRESHOLD,
        click.option(
            "--best-cut/--no-best-cut",
            default=default.best_cut,
            show_default=True,
            help="Also find each tree's best silhouette over 20 cuts (slower).",
        ),
        click.option(
            "--null",
            "n_null",
            type=rotations(0),
            default=default.n_null,
            show_default=True,
            help="Number of random rotations to compare each neuron with (rows of hac only); 99 is usual.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=default.seed,
            show_default=True,
            help="Seed of rotations and controls.",
        ),
    )
    return lambda command: _all(command, options)


def tested(
    n_null: int, algorithms: Sequence[Algorithm], embeddings: Sequence[Embedding]
) -> tuple[Sequence[Algorithm], Sequence[Embedding]]:
    """Return what to measure: with --null, hac of neuron embeddings, unless the command line names others."""
    if 0 < n_null < LEAST_NULLS:
        click.echo(f"with {n_null} rotations no p-value can be .05 or less; --null {LEAST_NULLS} or more can", err=True)
    if not n_null:
        return algorithms, embeddings
    return _named("algorithms", algorithms, "hac"), _named("embeddings", embeddings, "neuron")


def _named(option: str, given: Sequence[Any], default: str) -> Sequence[Any]:
    """Return what the command line names for the option, else the default."""
    source = click.get_current_context().get_parameter_source(option)
    return (default,) if source is click.core.ParameterSource.DEFAULT else given


DEVICE = click.option("--device", default="auto", show_default=True, help="Device to use: cpu, cuda, cuda:N, or auto.")
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float32", "tf32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Number format of the model's arithmetic.",
)
INDEX = click.option("--index", metavar="NAME", help="Index to ask, by its name in `polysem info`.")
SIDE = click.option(
    "--side",
    type=click.Choice(SIDES),
    default="positive",
    show_default=True,
    help="Side of the activations to look at; negative only if the index holds it.",
)


def reads_corpus(command: Command) -> Command:
    """Options of every command that indexes a corpus: what is looked at in each context."""
    return _all(
        command,
        (
            click.option(
                "--bos/--no-bos", default=None, help="Begin each context with BOS. Default: as the model does."
            ),
            click.option(
                "--sides",
                type=click.Choice(["positive", "both"]),
                help="Also keep examples of each neuron's most negative activations. Default: both for gated models.",
            ),
            click.option(
                "--layers",
                callback=layers_of,
                metavar="4,12,20|0-7",
                help="Layers to keep. Default: all of the model's.",
            ),
            click.option(
                "--skip-positions",
                type=click.IntRange(min=0),
                help="Tokens at the start of each context, after BOS, that are never key tokens. Default: 0.",
            ),
            click.option(
                "--negatives",
                type=click.IntRange(min=0),
                help="Most negatives per neuron and kind, to score names by; 0: none. Default: 32, within a fifth of "
                "the index.",
            ),
        ),
    )


def layers_of(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """The layers of an option such as 4,12 or 0-7; None where it is not given."""
    return None if text is None else parse_layers(text)


def thresholds_of(text: str | None) -> Any:
    if text is None or text.strip().isalpha():
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a schedule's name nor numbers like 0.1,0.3,0.5") from None


def print_json(value: Any) -> None:
    """Print a JSON object on a line of its own; escaped where the output's encoding could not hold its texts."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    click.echo(json.dumps(value, ensure_ascii=encoding != "utf8", allow_nan=False))


def say_if_none(found: Sequence[Any], chosen: Sequence[int]) -> None:
    """Say so if a command that shows examples found none."""
    if not len(found):
        click.echo("none of these neurons has " + ("an example of such a number" if chosen else "dataset examples"))


def executes(command: Command) -> Command:
    """Options of where the bulk work goes on: `executor`, and `ray_…`, which `ray_options` reads."""
    for option in (
        click.option(
            "--ray-wait-s", type=float, default=300.0, show_default=True, help="Seconds to wait for a first worker."
        ),
        click.option(
            "--ray-workers", type=int, help="Number of workers. Default: as many as the cluster has room for."
        ),
        click.option(
            "--ray-gpus", type=float, help="GPUs per worker; 0.5 puts two workers on one. Default: 1 if there are GPUs."
        ),
        click.option(
            "--ray-address",
            default="auto",
            show_default=True,
            metavar="auto|local|HOST:PORT",
            help="Ray cluster: auto (the one this machine belongs to), local (this machine alone), or HOST:PORT.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Machines that do the work: this one (local), or the workers of a Ray cluster.",
        ),
    ):
        command = option(command)
    return command


def ray_options(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `executes` beside `executor` out of a command's flags."""
    return {name: flags.pop(f"ray_{name}") for name in ("address", "gpus", "workers", "wait_s")}


def destination_of(out: str, force: bool = False) -> Destination:
    """Return where the command's result goes; it depends on all arguments but those of where the work is done."""
    given = click.get_current_context().params.items()
    depends = {name: value for name, value in given if name not in ("executor", "force") and name[:4] != "ray_"}
    return Destination(out, force, json.dumps(depends, default=str, sort_keys=True))


@contextmanager
def published(destination: Destination) -> Iterator[None]:
    """Copy the result to its URL, if that is where it goes, once it is made; say what is kept where it was stopped."""
    try:
        yield
        if destination.url is not None:
            click.echo(f"copying {destination.local} to {destination.url}", err=True)
        destination.publish()
    except KeyboardInterrupt:
        click.echo(
            f"stopped; what is done is kept in {destination.kept}, and the same command goes on from there", err=True
        )
        raise
