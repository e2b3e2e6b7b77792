"""The overview: clarity by layer, kinds of neurons, and rows with the three largest features of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from polysem.client.client import Client
from polysem.client.explorer.features import features, plain
from polysem.client.explorer.naming import RowNames, Texts
from polysem.client.explorer.questions import Table, View
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.listing import ListedNeuron, Listing
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.summary import N_STEPS, NeuronKind, NeuronSummary

N_ROWS = 50  # before "more"
N_FEATURES = 3  # of a row
BEYOND_CHANCE, CLEAREST = "-excess_silhouette", "-best_silhouette"


class Kind(NamedTuple):
    """A kind of neurons in words, and the shares of clusters that its pictogram shows (of 200)."""

    name: NeuronKind
    words: str
    what: str
    choice: str
    shares: tuple[int, ...]


def kinds(tested: bool) -> list[Kind]:
    """Return the kinds in the page's order. tested: whether the index holds rotation tests."""
    blurred = ("no more than chance", "not told from random rotations", "no more features than chance")
    return [
        Kind("one", "one feature", "nine in ten examples in one cluster", "one feature", (190, 3, 2)),
        Kind("few", "a few features", "two clusters hold most examples", "a few features", (100, 60, 16, 8)),
        Kind(
            "several",
            "several features",
            "smaller clusters, clear enough",
            "several features",
            (66, 36, 26, 20, 16, 12, 10),
        ),
        Kind(
            "blurred",
            *(blurred if tested else ("blurred", "many small clusters, little structure", "blurred examples")),
            (18, 17, 16, 15, 15, 14, 13, 13, 12, 12, 12, 11),
        ),
        Kind("too_few", "too few examples", "fewer than 20: not judged", "too few examples", (20,)),
    ]


def orders(table: Table, tested: bool) -> list[tuple[str, str]]:
    """Return what neurons may be sorted by, with its words; the order in force is among them."""
    found = [
        ("", "clearest beyond chance first" if tested else "clearest first"),
        ("-n_clusters", "most clusters first"),
        ("-maximum_activation", "strongest first"),
        ("-", "by number"),
    ]
    if table.sort_by in dict(found):
        return found
    words = table.sort_by.removeprefix("-").removeprefix("n_").replace("_", " ")
    return [*found, (table.sort_by, f"by {words}, {'largest' if table.sort_by[0] == '-' else 'smallest'} first")]


def listing(client: Client, view: View, table: Table) -> Listing:
    """Return the neurons on a page of N_ROWS, with the summary of all. Raises Unsupported where the server is older.

    Where no order is asked for, the clearest beyond chance come first; where the index holds no rotation tests, the
    clearest.
    """
    found = sorted_by(client, view, table, table.sort_by or BEYOND_CHANCE, N_ROWS, summary=True)
    if table.sort_by or (found.summary and found.summary.n_tested):
        return found
    return sorted_by(client, view, table, CLEAREST, N_ROWS, summary=True)


def sorted_by(client: Client, view: View, table: Table, sort_by: str, limit: int, summary: bool = False) -> Listing:
    """Return the neurons on a page of `limit`, by a metric, or by number ("-")."""
    return client.neurons(
        *table.ranges(),
        sort_by=sort_by if sort_by != "-" else None,
        where=dict(table.where),
        kind=table.kind or None,  # type: ignore[arg-type]
        cell=table.cell,
        summary=summary,
        limit=limit,
        skip=limit * (table.page - 1),
        **view.clustering(),
    )


def field(summary: NeuronSummary, table: Table) -> dict[str, Any]:
    """Return clarity by layer as the page's script draws it."""
    return {
        "layers": summary.layers.tolist(),
        "counts": summary.clarity.tolist(),
        "step": 1 / N_STEPS,
        "chosen": None if table.cell is None else {"layer": table.cell[0], "step": table.cell[1]},
    }


def rows(client: Client, view: View, listed: Sequence[ListedNeuron], names: RowNames) -> list[dict[str, Any]]:
    """Return neurons as the page's script draws them, with the names that are known already.

    Cost: one call for all clusters, one for kept names, one a neuron for its texts.
    """
    ids = [one.id for one in listed if one.n_clusters]
    clustered = list(client.cluster(*ids, n_null=0, **view.clustering())) if ids else []
    largest = [(neuron, [c for c in neuron.clusters if c.size > 1][:N_FEATURES]) for neuron in clustered]
    found = dict(zip(ids, zip(clustered, features(client, view, largest, 1), strict=True), strict=True))
    known = names.known(view, clustered)
    return [_row(one, found, known.get(one.id, {}), view) for one in listed]


def _row(
    one: ListedNeuron, found: dict[NeuronId, tuple[Neuron, list[dict[str, Any]]]], names: Texts, view: View
) -> dict[str, Any]:
    neuron, shown = found.get(one.id, (None, []))
    many = [plain(cluster) for cluster in neuron.clusters if cluster.size > 1] if neuron else []
    for cluster in (*many, *shown):
        cluster["name"] = names.get(cluster["label"])
    beyond, chance = one.excess_silhouette, one.null_silhouette
    return {
        "id": str(one.id),
        "address": f"/neuron/{one.id}{view.query()}",
        "n": one.n_examples,
        "most": one.maximum_activation,
        "many": many,
        "single": len(neuron.clusters) - len(many) if neuron else 0,
        "features": shown,
        "clear": one.best_silhouette if beyond is None or chance is None else chance + beyond,
        "chance": chance,
        "p": one.p_value,
    }
