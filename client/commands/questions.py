"""The commands that ask more of neurons: similar, labels, importance, explain, logit-effects, ablate."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import click

from polysem.client import letters
from polysem.client.client import Client
from polysem.client.commands.options import (
    BULK,
    INDEX,
    NEURONS_HELP,
    SIDE,
    asks_server,
    clusters_examples,
    connect,
    print_json,
    say_if_none,
    thresholds_of,
)
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.client.questions.explain import Firing
from polysem.client.questions.importance import Importance
from polysem.client.questions.logit_effects import LogitEffects
from polysem.client.questions.options import ClusteringOptions
from polysem.client.questions.similar import SimilarCluster
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neuron
from polysem.proto.questions.ablation import ABLATIONS, MAX_CONTROLS, MAX_SEED, MAX_TOKENS
from polysem.proto.questions.logit_effects import DEFAULT_LISTED, MAX_LISTED
from polysem.proto.questions.similar import Similarity
from polysem.proto.sides import Side


@click.command(epilog=NEURONS_HELP)
@click.argument("neuron", metavar="NEURON")
@click.option(
    "--cluster",
    "clusters",
    metavar="A|0",
    multiple=True,
    help="Search only for this cluster, by its letter (A is the largest) or its label. Repeatable.",
)
@click.option(
    "--similarity",
    type=click.Choice(get_args(Similarity)),
    default="pre_mlp",
    show_default=True,
    help="Embedding of the central examples to compare.",
)
@click.option("--every-layer", is_flag=True, help="Search the whole model instead of the neuron's own layer.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Number of similar clusters per cluster. Default: 20 for one, 3 for several.",
)
@clusters_examples
@INDEX
@SIDE
@asks_server
def similar(
    neuron: str,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    clusters: Sequence[str],
    limit: int | None,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Find clusters of other neurons that are like NEURON's.

    Clusters are compared by the cosine of their central examples' embeddings. With pre_mlp, similar clusters fire on
    similar tokens in similar contexts; with neuron, they also read the same directions of the residual stream.

    \b
    polysem similar 7.1234                   the nearest of each of its clusters
    polysem similar 7.1234 --cluster A --similarity neuron --every-layer
    """
    with connect(server, timeout_s) as client:
        own = partial(_clustered, client, thresholds_of(thresholds), options)
        labels = [_label(neuron, cluster, own) for cluster in clusters]
        found = client.similar(
            neuron,
            labels or None,
            limit=limit or (20 if len(labels) == 1 else 3),
            thresholds=thresholds_of(thresholds),
            **options,
        )
        of = letters.of_clusters(own(neuron, *(one.neuron for one in found))) if len(found) else {}
        if as_json:
            for one in found:
                named = {"neuron": str(one.neuron), "letter": of[one.neuron, one.label], "side": options["side"]}
                print_json(one._asdict() | named)
            if found.mixed:
                click.echo(f"note: {found.mixed}", err=True)
            return
        from polysem.client import terminal

        texts = _centrals(client, found, options["index"], options["side"])
        unit = found.unit if len(found) else own(neuron)[0].provenance.unit
        terminal.console().print(terminal.SimilarClusters(neuron, found, texts, of, unit))


def _clustered(client: Client, thresholds: Any, options: dict[str, Any], *neurons: NeuronLike) -> Sequence[Neuron]:
    """The neurons clustered by those of a command's options that say how."""
    how = {name: options[name] for name in (*ClusteringOptions.__annotations__, "index", "side") if name in options}
    return client.cluster(*neurons, n_null=0, **how | {"thresholds": thresholds})


def _label(neuron: str, cluster: str, own: Callable[[NeuronLike], Sequence[Neuron]]) -> int:
    """The label of a cluster that is named by its label or its letter. Raises BadParameter and NotFound."""
    if cluster.isascii() and cluster.isdecimal():
        return int(cluster)
    if not (cluster.isascii() and cluster.isalpha()):
        raise click.BadParameter(f"{cluster!r} is neither a cluster's letter, such as A, nor its label")
    return letters.label_of(own(parse_neuron(neuron))[0], cluster)


def _centrals(
    client: Client, found: Sequence[SimilarCluster], index: str | None, side: Side
) -> dict[tuple[NeuronId, int], Example]:
    """The central examples of clusters, by neuron and number; a call a number."""
    by_number: dict[int, list[NeuronId]] = {}
    for one in found:
        by_number.setdefault(one.central, []).append(one.neuron)
    return {
        (example.neuron, number): example
        for number, of in by_number.items()
        for example in client.examples(*of, examples=[number], index=index, side=side)
    }


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@clusters_examples
@INDEX
@SIDE
@asks_server
def labels(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Name the feature clusters of NEURONS, by rules about their texts.

    A name is a key token with what stands around it more often than elsewhere: `def` after `@`. Its score is how often
    an example of the cluster fits it better than a negative does (½ is chance), beside the score of names of random
    groups. There is none for clusters below 8 examples, nor in an index without negatives.

    \b
    polysem labels 7.1234
    polysem labels '*' --json > names.jsonl
    """
    with connect(server, timeout_s) as client:
        found = client.labels(*neurons, thresholds=thresholds_of(thresholds), **options)
        if as_json:
            for one in found:
                print_json(one._asdict() | {"neuron": str(one.neuron), "side": options["side"]})
            return
        from polysem.client import terminal

        if len(found):
            terminal.console().print(terminal.NamedClusters(found, found.unit))
        say_if_none(found, ())


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@click.option(
    "--example",
    "--place",
    "chosen",
    type=click.IntRange(min=0),
    multiple=True,
    help="Show only the example with this number. Repeatable.",
)
@click.option(
    "--tokens-before",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Number of tokens before the key token to mask.",
)
@click.option(
    "--mask-token",
    type=click.IntRange(min=0),
    metavar="ID",
    help="Token to put in place of a masked one. Default: the model's BOS.",
)
@INDEX
@SIDE
@asks_server
def importance(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    chosen: Sequence[int],
    tokens_before: int,
    mask_token: int | None,
    index: str | None,
    side: Side,
) -> None:
    """Show which earlier tokens an activation depends on.

    Each token before the key token is masked in turn. The number is the share of the key activation that is lost,
    relative to masking the key token itself. The model reads an example once for each token, so name the --example
    that you want to see.
    """
    with connect(server, timeout_s) as client:
        found = client.importance(
            *neurons, examples=chosen, tokens_before=tokens_before, mask_token=mask_token, index=index, side=side
        )
        texts = client.examples(*neurons, examples=chosen, index=index, side=side)
        if as_json:
            for one, example in zip(found, texts, strict=True):
                print_json(importance_json(one, example))
            return
        from polysem.client import terminal

        console = terminal.console()
        for one, example in zip(found, texts, strict=True):
            console.print(terminal.ImportanceText(one, example))
        say_if_none(found, chosen)


def importance_json(importance: Importance, example: Example) -> dict[str, Any]:
    """An example's importance as `polysem importance --json` prints it."""
    return {
        "neuron": str(importance.neuron),
        "side": importance.side,
        "example": importance.example,
        "activation": importance.activation,
        "key_token": example.key_part.text,
        "key_part": example.key_part.fraction,
        "tokens": list(importance.tokens),
        "characters": [part.text for part in importance.parts],
        "parts": [part.fraction for part in importance.parts],
        "importances": [round(float(i), 4) for i in importance.importances],
        "relative": [round(float(i), 4) for i in importance.relative],
    }


@click.command(epilog=NEURONS_HELP)
@click.argument("text")
@click.argument("neurons", nargs=-1)
@click.option(
    "--min-activation-fraction",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Share of a neuron's maximum from which it counts as firing.",
)
@click.option(
    "--strongest",
    "n_strongest",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of neurons to show per token, if no NEURONS are given.",
)
@clusters_examples
@INDEX
@SIDE
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
    """Show what NEURONS make of your own TEXT.

    Where a neuron fires, the answer names the feature cluster that the token falls in: the one with the smallest mean
    distance to its members, if that is at most the distance threshold. Without NEURONS, it shows the neurons that fire
    most strongly at each token, as shares of their maximum over the corpus. It leaves out neurons whose maximum is
    below half of their layer's median, or that have fewer than 5 dataset examples. TEXT - reads standard input.

    \b
    polysem explain "import the module" 7.1234 7.99
    polysem explain "import the module" --strongest 3
    """
    if text == "-":
        text = _typed()
    with connect(server, timeout_s) as client:
        found = client.explain(text, *neurons, thresholds=thresholds_of(thresholds), **options)
        named = {firing.neuron for firing in found[0].firings} if neurons else ()
        of = letters.of_clusters(_clustered(client, thresholds_of(thresholds), options, *named)) if named else None
        if as_json:
            for token, part in zip(found, found.parts, strict=True):
                firings = [_firing(firing, of) for firing in token.firings]
                fields = token._asdict() | {"character": part.text, "part": part.fraction, "firings": firings}
                print_json(
                    {name: value for name, value in fields.items() if name != "part_of"} | {"side": options["side"]}
                )
            return
        from polysem.client import terminal

        terminal.console().print(terminal.explanation(found, of, found.unit))


def _firing(firing: Firing, of: Mapping[tuple[NeuronId, int], str] | None) -> dict[str, Any]:
    """A firing for JSON, with the letter of its cluster where the neurons were named."""
    fields = firing._asdict() | {"neuron": str(firing.neuron)}
    if of is None:
        return fields
    return fields | {"letter": None if firing.cluster is None else of[firing.neuron, firing.cluster]}


def _typed() -> str:
    """Standard input as it was written, line ends too."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not UTF-8 (byte {error.start})") from None


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@click.option(
    "--n-tokens",
    type=click.IntRange(1, MAX_LISTED),
    default=DEFAULT_LISTED,
    show_default=True,
    help="Number of tokens in each list.",
)
@INDEX
@SIDE
@BULK
@asks_server
def logit_effects(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    n_tokens: int,
    index: str | None,
    side: Side,
) -> None:
    """Show which tokens NEURONS make likelier, and which less likely.

    This is the direct effect of a neuron's output weights on the logits, through the final norm and the unembedding. It
    is up to a positive factor that depends on the context, so effects are in standard deviations over the vocabulary.
    What later layers make of it is not in it. --side negative: the effect where the activation is negative.

    \b
    polysem logit-effects 7.1234
    polysem logit-effects '7.*' --n-tokens 20 --json
    """
    with connect(server, timeout_s) as client:
        found = client.logit_effects(*neurons, n_tokens=n_tokens, index=index, side=side)
        if as_json:
            for one in found:
                print_json(logit_effects_json(one))
            return
        from polysem.client import terminal

        terminal.console().print(
            terminal.logit_effects_table(found) if len(found) > 1 else terminal.LogitEffectsPanel(found[0])
        )


def logit_effects_json(effects: LogitEffects) -> dict[str, Any]:
    """Logit effects as `polysem logit-effects --json` prints them."""
    return {
        "neuron": str(effects.id),
        "side": effects.side,
        "skewness": effects.skewness,
        "kurtosis": effects.kurtosis,
        "likelier": [token._asdict() for token in effects.likelier],
        "less_likely": [token._asdict() for token in effects.less_likely],
        "histogram": effects.histogram.tolist(),
    }


@click.command(epilog=NEURONS_HELP)
@click.argument("neuron", metavar="NEURON")
@click.option(
    "--cluster",
    "clusters",
    metavar="A|0",
    multiple=True,
    help="Ablate this cluster, by its letter (A is the largest) or its label. Repeatable. Default: the 16 largest.",
)
@click.option("--other", metavar="B|1", help="The cluster to compare with. Default: the largest other one.")
@click.option("--text", help="Ablate in this text, read as one context. Default: in the clusters' own examples.")
@click.option(
    "--to", type=click.Choice(ABLATIONS), default="zero", show_default=True, help="Value to set the neuron to."
)
@click.option(
    "--n-tokens",
    type=click.IntRange(1, MAX_TOKENS),
    default=32,
    show_default=True,
    help="Number of tokens in each cluster's sample.",
)
@click.option(
    "--controls",
    "n_controls",
    type=click.IntRange(0, MAX_CONTROLS),
    default=4,
    show_default=True,
    help="Number of control neurons, as active at the same tokens.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Seed of the samples.")
@click.option(
    "--min-activation-fraction",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Share of the neuron's maximum from which it counts as firing.",
)
@clusters_examples
@INDEX
@SIDE
@BULK
@asks_server
def ablate(
    neuron: str,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    clusters: Sequence[str],
    other: str | None,
    thresholds: str | None,
    **options: Any,
) -> None:
    """Show what each of NEURON's clusters causes.

    Sets the neuron to zero, or to its mean, only where a cluster fires, and compares the distribution of the next token
    (KL divergence, loss, tokens that move) with ablating the whole neuron, another cluster, and control neurons that
    are as active at the same tokens. The last lines say whether its clusters move different tokens.

    
    polysem ablate 7.1234
    polysem ablate 7.1234 --cluster A --to mean
    polysem ablate 7.1234 --text "import the module"
    """
    with connect(server, timeout_s) as client:
        how = {name: options[name] for name in (*ClusteringOptions.__annotations__, "index", "side") if name in options}
        own = partial(_clustered, client, thresholds_of(thresholds), how)
        found = client.ablate(
            neuron,
            [_label(neuron, cluster, own) for cluster in clusters] or None,
            other=None if other is None else _label(neuron, other, own),
            thresholds=thresholds_of(thresholds),
            **options,
        )
        len(found)
        of = letters.of_clusters(own(neuron))
        if as_json:
            id_ = parse_neuron(neuron)
            for one in found:
                named = {"neuron": str(one.neuron), "letter": of[id_, one.cluster], "side": options["side"]}
                tokens = {
                    name: [token._asdict() for token in getattr(one, name)] for name in ("likelier", "less_likely")
                }
                print_json(one._asdict() | tokens | named)
            for difference in found.differences:
                print_json(difference._asdict() | {"neuron": str(difference.neuron), "excess": difference.excess})
            return
        from polysem.client import terminal

        terminal.console().print(terminal.AblationTable(parse_neuron(neuron), found, of))


COMMANDS = (similar, labels, importance, explain, logit_effects, ablate)
