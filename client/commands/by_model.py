"""`polysem name --by-model`: a language model is asked for names, and they are kept."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from polysem.client import characters
from polysem.client.by_model import naming
from polysem.client.by_model.asking import Asking, Budget
from polysem.client.by_model.endpoint import Endpoint, body
from polysem.client.client import Client
from polysem.client.commands.options import print_json
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.proto.errors import QuotaExceeded
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName

KEY = "POLYSEM_MODEL_KEY"
CALLS_TO_SCORE = 6  # detection of 20 texts and fuzzing of 10, each with the name and with another


class Options(NamedTuple):
    """Options of naming by a model. least_size: examples of a cluster; replace: also name those that have a name."""

    base_url: str
    model: str
    timeout_s: float
    budget: Budget
    cache: Path | None
    show: bool
    least_size: int
    replace: bool


def name_by_model(
    client: Client, neurons: Sequence[str], how: Mapping[str, Any], options: Options, as_json: bool
) -> None:
    """Name the clusters of neurons and keep the names; `show` prints what would be sent, and sends nothing."""
    endpoint = Endpoint(options.base_url, options.model, os.environ.get(KEY, ""), options.timeout_s)
    given = {(name.neuron, name.members) for name in _kept(client, neurons, how)} if not options.replace else set()
    found = client.cluster(*neurons, n_null=0, **how)
    if options.show:
        _show(client, found, given, endpoint, options, how)
        return
    asking = Asking(endpoint, options.budget, options.cache or _cache())
    n, n_unread, last = 0, 0, ""
    try:
        for neuron, clusters, examples, elsewhere in texts(client, found, given, options, how):
            before, unnamed = last, {tuple(cluster.members.tolist()): cluster.letter for cluster in clusters}
            for name in naming.named(asking.ask, neuron, examples, elsewhere, clusters, options.model, before):
                client.keep_names(name, index=how.get("index"))
                n, last = n + 1, name.text
                n_unread += len(name.members) >= naming.LEAST_SCORED and name.scores is None
                _say(name, neuron, as_json)
                del unnamed[name.members]
            for letter in unnamed.values():
                click.echo(f"{neuron.id} {letter}: the model gave no name", err=True)
    except QuotaExceeded as error:
        click.echo(f"polysem: {error.message}", err=True)
    finally:
        asking.close()
        spent = f"{asking.n_calls:,} calls, {asking.n_tokens:,} tokens"
        unread = f"; of {n_unread:,} the model's judgements could not be read, so they have no scores" * bool(n_unread)
        click.echo(f"{n:,} names are kept{unread}; {spent}; {asking.n_kept:,} answers were there already", err=True)


def _kept(client: Client, neurons: Sequence[str], how: Mapping[str, Any]) -> Sequence[KeptName]:
    return client.names(*neurons, index=how.get("index"), side=how["side"])


def texts(
    client: Client, found: Sequence[Neuron], given: set[Any], options: Options, how: Mapping[str, Any]
) -> Iterator[tuple[Neuron, list[Cluster], Sequence[Example], Sequence[Example]]]:
    """Yield each neuron with its clusters that are to be named, its examples, and some of the neuron before."""
    before: Sequence[Example] = ()
    for neuron in found:
        clusters = [
            cluster
            for cluster in neuron.clusters
            if cluster.size >= options.least_size and (neuron.id, tuple(cluster.members.tolist())) not in given
        ]
        if not clusters:
            continue
        asked = {"index": how.get("index"), "side": how["side"]}
        examples = list(client.examples(neuron.id, **asked))
        yield neuron, clusters, examples, before or _neighbours(client, neuron.id, asked)
        before = examples


def _neighbours(client: Client, id_: NeuronId, asked: Mapping[str, Any]) -> list[Example]:
    """Examples of the neurons beside the first one."""
    index = next(one for one in client.indexes() if asked["index"] in (None, one.name))
    last = index.width(id_.layer) - 1
    around = f"{id_.layer}.{max(0, id_.neuron - 4)}-{min(last, id_.neuron + 4)}"
    return [example for example in client.examples(around, examples=range(4), **asked) if example.neuron != id_]


def _show(
    client: Client,
    found: Sequence[Neuron],
    given: set[Any],
    endpoint: Endpoint,
    options: Options,
    how: Mapping[str, Any],
) -> None:
    """Print what would be sent for names; the questions that score them follow from the names."""
    n = n_scored = 0
    for neuron, clusters, examples, _ in texts(client, found, given, options, how):
        for cluster in clusters:
            half = naming.halves(cluster, examples, 0)
            n, n_scored = n + 1, n_scored + bool(half.held_out)
            click.echo(f"# {neuron.id} {cluster.letter}: POST {endpoint.base_url.rstrip('/')}/chat/completions")
            print_json(body(endpoint, naming.question(half), naming.NAME_TOKENS))
    click.echo(
        f"nothing was sent: {n:,} questions for names, and at most {CALLS_TO_SCORE * n_scored:,} that score them",
        err=True,
    )


def _say(name: KeptName, neuron: Neuron, as_json: bool) -> None:
    cluster = neuron.with_members(name.members)
    letter = cluster.letter if cluster else ""
    if as_json:
        scores = name.scores and name.scores._asdict()
        print_json({"neuron": str(name.neuron), "letter": letter, "text": name.text, "scores": scores})
        return
    of = name.scores
    words = "" if of is None else (
        f"  detection {_shown(of.detection)} against {_shown(of.null_detection)}, "
        f"fuzzing {_shown(of.fuzzing)} against {_shown(of.null_fuzzing)}"
    )  # fmt: skip
    click.echo(f"{name.neuron} {letter}: {characters.visible(name.text)}{words}")


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:.2f}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "polysem" / "model-answers.sqlite"
