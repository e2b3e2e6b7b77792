"""The commands that show neurons: cluster, examples, statistics, neurons."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from polysem.client.commands.options import (
    BULK,
    INDEX,
    NEURONS_HELP,
    SIDE,
    asks_server,
    clusters_examples,
    connect,
    print_json,
    rotations,
    say_if_none,
    thresholds_of,
)
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.counted import n_named, wholly_tested
from polysem.client.questions.examples import Example
from polysem.client.questions.statistics import Statistics
from polysem.proto.questions.clustering import mixed_methods
from polysem.proto.questions.summary import NEURON_KINDS, NeuronSummary
from polysem.proto.sides import Side


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@clusters_examples
@click.option(
    "--null",
    "n_null",
    type=rotations(0),
    help="Number of random rotations to compare each neuron with.  [default: 99 for one neuron, none for several]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of rotations and controls.")
@INDEX
@SIDE
@BULK
@asks_server
def cluster(
    neurons: Sequence[str], server: str, timeout_s: float | None, as_json: bool, thresholds: str | None, **options: Any
) -> None:
    """Cluster the dataset examples of NEURONS into features.

    One neuron is shown with its tree and texts, several as a table of metrics. With --json each is an object on a line
    of its own, printed as it arrives. In another frame than raw, one neuron is cut where its significant merges
    suggest, unless you name a cut.
    """
    options["n_null"] = wholly_tested(options["n_null"], *neurons)
    with connect(server, timeout_s) as client:
        ask = partial(client.cluster, *neurons, thresholds=thresholds_of(thresholds))
        clusters = ask(**options)
        if _lacks_a_cut(neurons, options["frame"]) and (cut := clusters[0].significant_cut) is not None:
            clusters = ask(**options | {"distance_threshold": cut})
        if as_json:
            for neuron in clusters:
                print_json(neuron_json(neuron))
            return
        from polysem.client import terminal

        if len(clusters) == 1:
            terminal.console().print(terminal.neuron_panel(clusters[0], clusters[0].examples))
        else:
            terminal.console().print(terminal.metrics_table(clusters))


def _lacks_a_cut(neurons: Sequence[str], frame: str) -> bool:
    """Whether one neuron is asked for, at no cut, in a frame that has no usual one."""
    source = click.get_current_context().get_parameter_source("distance_threshold")
    return frame != "raw" and source == ParameterSource.DEFAULT and n_named(neurons) == 1


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
    "--whole-context", is_flag=True, help="Show everything the model read, not only the text around the key token."
)
@INDEX
@SIDE
@BULK
@asks_server
def examples(
    neurons: Sequence[str],
    server: str,
    timeout_s: float | None,
    as_json: bool,
    chosen: Sequence[int],
    whole_context: bool,
    index: str | None,
    side: Side,
) -> None:
    """Show the texts on which NEURONS fire."""
    with connect(server, timeout_s) as client:
        found = client.examples(*neurons, examples=chosen, whole_context=whole_context, index=index, side=side)
        if as_json:
            for example in found:
                print_json(example_json(example))
            return
        from polysem.client import terminal

        console = terminal.console()
        for example in found:
            console.print(terminal.ExampleText(example, whole_context))
        say_if_none(found, chosen)


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1, required=True)
@INDEX
@SIDE
@asks_server
def statistics(
    neurons: Sequence[str], server: str, timeout_s: float | None, as_json: bool, index: str | None, side: Side
) -> None:
    """Show how strongly NEURONS fire over the corpus.

    Each context counts once, by its highest activation. One neuron is shown with its histogram and the band that its
    dataset examples come from, several as a table. With --json each is an object on a line of its own.
    """
    with connect(server, timeout_s) as client:
        found = client.statistics(*neurons, index=index, side=side)
        if as_json:
            for one in found:
                print_json(statistics_json(one))
            return
        from polysem.client import terminal

        many = len(found) > 1
        shown = terminal.statistics_table(found, found.unit) if many else terminal.StatisticsPanel(found[0], found.unit)
        terminal.console().print(shown)


@click.command(epilog=NEURONS_HELP)
@click.argument("neurons", nargs=-1)
@click.option("--sort", "sort_by", metavar="METRIC", help="Metric to sort by; -METRIC puts the largest first.")
@click.option(
    "--min", "least", metavar="METRIC=N", multiple=True, help="Smallest value of a metric to keep. Repeatable."
)
@click.option("--max", "most", metavar="METRIC=N", multiple=True, help="Largest value of a metric to keep. Repeatable.")
@click.option(
    "--kind",
    type=click.Choice(NEURON_KINDS),
    multiple=True,
    help="Kind of neurons to list, by how their examples fall into clusters. Repeatable.",
)
@click.option(
    "--summary", is_flag=True, help="Also count the neurons of each kind, and by layer how clear their clusters are."
)
@click.option("--limit", type=click.IntRange(min=1), help="Number of neurons to list. Default: 20; all with --json.")
@click.option("--skip", type=click.IntRange(min=0), default=0, help="Number of neurons to skip first.")
@clusters_examples
@INDEX
@SIDE
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
    """List neurons, filtered and sorted by their metrics.

    METRIC is n_examples, n_clusters, max_distance, mean_distance, intra, inter, silhouette, best_silhouette,
    largest_share, second_share, maximum_activation, mean_activation, share_positive, or of the tests that the index
    holds p_value, q_value, null_silhouette, excess_silhouette, significant_clusters, stability or prediction_strength.
    Neurons of which it is undefined come last.

    \b
    too_few   fewer than 20 examples: not judged
    one       at least 90% of the examples in one cluster
    few       at least 60% in the two largest clusters, 10% in the second
    blurred   best silhouette below 0.3; where the index holds tests: p_value above .05
    several   the rest

    \b
    polysem neurons --sort -n_clusters --min n_examples=25
    polysem neurons --kind few --sort -best_silhouette --summary
    polysem neurons '7.*' --sort intra --max largest_share=0.5 --json

    The first listing by a clustering takes as long as clustering the whole index; those that follow are quick.
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
            thresholds=thresholds_of(thresholds),
            **options,
        )
        if as_json:
            for neuron in found:
                print_json({"neuron": str(neuron.id)} | {k: v for k, v in asdict(neuron).items() if k != "id"})
            if found.summary is not None:
                print_json({"summary": _summary_json(found.summary)})
            if mixed := mixed_methods(found.n_approximate, found.n_matching):
                click.echo(f"note: {mixed}", err=True)
            return
        from polysem.client import terminal

        console = terminal.console()
        console.print(terminal.listing(found, options["skip"]))
        if found.summary is not None:
            console.print()
            console.print(terminal.summary(found.summary, found.unit))


def _summary_json(summary: NeuronSummary) -> dict[str, Any]:
    columns = {"layers": summary.layers.tolist(), "clarity": summary.clarity.tolist()}
    return columns | {name: getattr(summary, name) for name in ("kinds", "n_neurons", "n_tested")}


def _metric_end(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no METRIC=NUMBER such as n_examples=25") from None


def _tests_json(neuron: Neuron) -> dict[str, Any]:
    """The rotation test, where it was asked for or the index holds it."""
    found, tests = neuron.significance, neuron.merge_tests
    if found is None:
        return {}
    of_neuron = {
        "significance": {name: None if value != value else value for name, value in found._asdict().items()},
        "excess_silhouette": found.excess,
    }
    if tests is None:
        return of_neuron
    return of_neuron | {
        "significant_clusters": neuron.significant_clusters,
        "significant_cut": neuron.significant_cut,
        "prediction_strength": neuron.prediction_strength,
        "significant_merges": np.flatnonzero(tests[:, 1]).tolist(),
    }


def neuron_json(neuron: Neuron) -> dict[str, Any]:
    """A neuron as `polysem cluster --json` prints it; undefined metrics are null."""
    return {
        "neuron": str(neuron.id),
        "method": neuron.method,
        "library": neuron.library,
        **asdict(neuron.metrics),
        "baselines": neuron.baselines._asdict(),
        **_tests_json(neuron),
        "clusters": [
            {"letter": c.letter, "label": c.label, "size": c.size, "central": c.central, "stability": c.stability}
            | {"members": c.members.tolist()}
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
        "side": example.side,
        "example": example.example,
        "document": example.document,
        "context": example.context,
        "position": example.position,
        "activation": example.activation,
        "key": example.key,
        "key_token": example.key_part.text,
        "key_part": example.key_part.fraction,
        "tokens": list(example.tokens),
        "activations": [round(float(a), 4) for a in example.activations],
    }


def statistics_json(statistics: Statistics) -> dict[str, Any]:
    """Statistics as `polysem statistics --json` prints them."""
    return {"neuron": str(statistics.id)} | {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(statistics).items()
        if name != "id"
    }


COMMANDS = (cluster, examples, neurons, statistics)
