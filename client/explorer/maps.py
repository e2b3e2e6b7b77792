"""The pages of a map: a layer's groups of clusters, and the clusters of a group, each with lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from polysem.client import characters
from polysem.client.client import Client
from polysem.client.drawing import browser
from polysem.client.explorer.features import texts_of
from polysem.client.explorer.questions import View, whole_number
from polysem.client.explorer.search import row
from polysem.client.lists import Listed
from polysem.client.questions.maps import ClusterGroup, GroupedCluster, LayerMap
from polysem.proto.errors import NotFound
from polysem.proto.units import Unit

N_ROWS = 25  # of a page


class Wanted(NamedTuple):
    """A page that an address asks for. group: None for the layer's list of groups; page: from 1."""

    layer: int
    group: int | None
    page: int


def asked(parameters: Mapping[str, str], layers: Sequence[int]) -> Wanted:
    """Return what an address asks for, by default the first of the index's layers. Raises InvalidArgument."""
    layer, group, page = (whole_number(parameters, name) for name in Wanted._fields)
    return Wanted(layers[0] if layer is None else layer, group, max(page or 1, 1))


def page(client: Client, view: View, wanted: Wanted, unit: Unit) -> dict[str, Any]:
    """Return the page's values: of a list of groups, or of a group. Raises NotFound for a group that there is not.

    Cost: a call for the map, and one for the texts of each row's neurons.
    """
    first = N_ROWS * (wanted.page - 1)
    usual = View(side=view.side, index=view.index)  # the clustering that is mapped
    if wanted.group is None:
        (layer,) = client.map(wanted.layer, groups=range(first, first + N_ROWS), **view.asked_of())
        shown = [one for group in layer.groups for one in _lined(group)]
        texts = _texts(client, view, shown)
        rows = [_group_row(group, usual, texts, unit) for group in layer.groups]
        more = first + N_ROWS < layer.n_groups
        said = {"title": f"Map of layer {wanted.layer}", "first": first}
        return said | {"layer": layer, "data": {"rows": rows}, "more": more}
    (layer,) = client.map(wanted.layer, groups=wanted.group, **view.asked_of())
    group = _only(layer, wanted.group)
    shown = list(group.clusters[first : first + N_ROWS])
    texts = _texts(client, view, shown)
    rows = [_cluster_row(one, usual, texts) for one in shown]
    more = first + N_ROWS < len(group.clusters)
    name = characters.visible(group.text)
    said = {"title": f"Group {wanted.group} of layer {wanted.layer}", "name": name, "n_neurons": group.n_neurons}
    return said | {"layer": layer, "group": group, "data": {"rows": rows}, "more": more}


def _only(layer: LayerMap, number: int) -> ClusterGroup:
    if not layer.groups:
        has = (
            f"groups 0 to {layer.n_groups - 1}" if layer.n_groups > 1 else "group 0 alone" if layer.n_groups else "none"
        )
        raise NotFound(f"layer {layer.layer} has no group {number}: it has {has}")
    return layer.groups[0]


def _texts(client: Client, view: View, clusters: Sequence[GroupedCluster]) -> Mapping[Any, Any]:
    numbers: dict[Any, set[int]] = {}
    for one in clusters:
        numbers.setdefault(one.neuron, set()).add(one.central)
    return texts_of(client, view, numbers)


def _group_row(group: ClusterGroup, view: View, texts: Mapping[Any, Any], unit: Unit) -> dict[str, Any]:
    score = "" if group.score is None else f" · name {group.score:.2f}, by chance {group.null_score:.2f}"
    return {
        "address": f"/map{view.query(layer=str(group.layer), group=str(group.number))}",
        "name": characters.visible(group.text),
        "size": 0,
        "why": f"{len(group.clusters):,} clusters of {_counted(group.n_neurons, unit)}{score}",
        "lines": _lines(_lined(group), texts),
    }


def _lined(group: ClusterGroup) -> list[GroupedCluster]:
    """The clusters whose texts stand for a group: the nearest to the others, and the middle one."""
    return [group.clusters[0], group.clusters[len(group.clusters) // 2]]


def _cluster_row(one: GroupedCluster, view: View, texts: Mapping[Any, Any]) -> dict[str, Any]:
    why = {"why": f"cosine {one.similarity:.2f} with the others", "lines": _lines([one], texts)}
    return row(Listed(one.neuron, one.letter), view, one.size, "") | why


def _lines(clusters: Sequence[GroupedCluster], texts: Mapping[Any, Any]) -> list[dict[str, Any]]:
    return [browser.example_data(texts[one.neuron, one.central]) | {"place": one.central} for one in clusters]


def _counted(n: int, unit: Unit) -> str:
    return f"{n:,} {unit}{'s' * (n != 1)}"
