"""The command that shows maps: map."""

from typing import Any

import click

from polysem.client import characters
from polysem.client.commands.options import INDEX, SIDE, asks_server, connect, print_json
from polysem.client.questions.maps import ClusterGroup, LayerMap

SHOWN = 20  # groups of a layer


@click.command("map")
@click.argument("layers", nargs=-1, type=click.IntRange(0))
@click.option("--group", "groups", type=click.IntRange(0), multiple=True, help="Show a group's clusters. Repeatable.")
@click.option("--limit", type=click.IntRange(1), default=SHOWN, show_default=True, help="Groups to show of each layer.")
@INDEX
@SIDE
@asks_server
def map_(
    layers: tuple[int, ...],
    groups: tuple[int, ...],
    limit: int,
    server: str,
    timeout_s: float | None,
    as_json: bool,
    index: str | None,
    side: Any,
) -> None:
    """Group the feature clusters of LAYERS whose central examples are similar; without LAYERS, of all.

    A group has a name, found by rules in its clusters' central examples. The first question about a layer makes its map
    on the server.

    \b
    polysem map 2
    polysem map 2 --group 0
    """
    with connect(server, timeout_s) as client:
        for layer in client.map(*layers, groups=groups or range(limit), index=index, side=side):
            for number in sorted(set(groups).difference(group.number for group in layer.groups)):
                click.echo(f"layer {layer.layer} has no group {number}: it has {layer.n_groups:,}, from 0 on", err=True)
            if as_json:
                for group in layer.groups:
                    print_json(_plain(layer, group) | {"side": side})
                continue
            click.echo(_of_layer(layer))
            for group in layer.groups:
                click.echo(_of_group(group))
                for one in group.clusters if groups else ():
                    click.echo(f"      {f'{one.neuron}.{one.letter}':<12} {one.size:5}  {one.similarity:.2f}")


def _of_layer(layer: LayerMap) -> str:
    recall = "" if layer.recall is None else f"; neighbours with a recall of {layer.recall:.3f}"
    clusters = f"{layer.n_grouped:,} of {layer.n_clusters:,} clusters"
    return f"layer {layer.layer}: {clusters} in {layer.n_groups:,} groups{recall}"


def _of_group(group: ClusterGroup) -> str:
    score = "" if group.score is None else f"  (score {group.score:.2f}, by chance {group.null_score:.2f})"
    size = f"{len(group.clusters):5} clusters"
    return f"{group.number:4} {size}  {characters.visible(group.text)}{score}"


def _plain(layer: LayerMap, group: ClusterGroup) -> dict[str, Any]:
    clusters = [one._asdict() | {"neuron": str(one.neuron)} for one in group.clusters]
    return group._asdict() | {"recall": layer.recall, "n_groups": layer.n_groups, "clusters": clusters}


COMMANDS = (map_,)
