"""Maps of a layer's feature clusters, in groups of similar ones: `Client.map`."""

import itertools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from polysem.client import letters, tables
from polysem.client.calls import Call
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import or_none
from polysem.proto import checks
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.maps import MapBatch, MapQuery, encode_map_query
from polysem.proto.sides import Side
from polysem.proto.wire import columns


class GroupedCluster(NamedTuple):
    """A feature cluster of a group, in the default clustering.

    neuron      whose cluster it is
    cluster     its number in the neuron's labels
    letter      its name for people: A for the neuron's largest
    size        its examples
    central     number of its central example
    similarity  mean cosine of the central example with those of the group's other clusters
    """

    neuron: NeuronId
    cluster: int
    letter: str
    size: int
    central: int
    similarity: float


class ClusterGroup(NamedTuple):
    """A group of a layer's clusters whose central examples are similar.

    layer       where its neurons are
    number      of the group in its layer: 0 has the most clusters
    text        its name: what its clusters' central examples have in common, with texts of the corpus in backticks
    score       0..1: how often one of them that the name was not chosen by fits it better than another cluster's or a
                place of the corpus (area under the ROC curve; ½ is chance); None for a group of fewer than 8
    null_score  the same of names of random groups of the layer's clusters, as large
    clusters    two or more, those nearest to the others first
    """

    layer: int
    number: int
    text: str
    score: float | None
    null_score: float | None
    clusters: tuple[GroupedCluster, ...]

    @property
    def n_neurons(self) -> int:
        """Number of neurons with a cluster in it."""
        return len({one.neuron for one in self.clusters})

    def __repr__(self) -> str:
        return f"<ClusterGroup {self.number} of layer {self.layer}: {len(self.clusters)} clusters, {self.text}>"


class LayerMap(NamedTuple):
    """A layer's clusters of two examples or more, in groups.

    layer       its number
    n_clusters  how many clusters
    n_grouped   how many of them are in a group
    n_groups    groups of two clusters or more
    recall      0..1: the share of each cluster's nearest others that the neighbour graph has, in a seeded sample; None
                of a layer with fewer than two clusters
    groups      the largest first; only those that were asked for
    """

    layer: int
    n_clusters: int
    n_grouped: int
    n_groups: int
    recall: float | None
    groups: tuple[ClusterGroup, ...]

    def __repr__(self) -> str:
        return (
            f"<LayerMap of layer {self.layer}: {self.n_grouped} of {self.n_clusters} clusters, {self.n_groups} groups>"
        )


def layers_of(answer: Answer) -> list[LayerMap]:
    """The layers of an answer."""
    batch: MapBatch = answer.batch
    ends = columns.from_counts(batch.n_listed).tolist()
    of_groups = columns.from_counts(batch.sizes).tolist()
    found = []
    for i, (begin, end) in enumerate(itertools.pairwise(ends)):
        layer = int(batch.layers[i])
        groups = tuple(_group(batch, layer, g, of_groups[g], of_groups[g + 1]) for g in range(begin, end))
        n_clusters, n_grouped, n_groups = (int(of[i]) for of in (batch.n_clusters, batch.n_grouped, batch.n_groups))
        found.append(LayerMap(layer, n_clusters, n_grouped, n_groups, or_none(batch.recalls[i]), groups))
    return found


def _group(batch: MapBatch, layer: int, g: int, begin: int, end: int) -> ClusterGroup:
    names = ("neurons", "labels", "ranks", "n_examples", "centrals", "similarities")
    rows = zip(*(getattr(batch, name)[begin:end].tolist() for name in names), strict=True)
    clusters = tuple(
        GroupedCluster(NeuronId(layer, neuron), label, letters.letter(rank), size, central, similarity)
        for neuron, label, rank, size, central, similarity in rows
    )
    scores = or_none(batch.scores[g]), or_none(batch.null_scores[g])
    return ClusterGroup(layer, int(batch.groups[g]), batch.texts[g], *scores, clusters)


def _by_group(batches: Sequence[MapBatch]) -> Columns:
    of = tables.columns_of(
        batches, {"groups": np.int32, "sizes": np.int32, "scores": np.float64, "null_scores": np.float64}
    )
    return {
        "layer": tables.joined([np.repeat(batch.layers, batch.n_listed) for batch in batches]),
        "group": of["groups"],
        "text": tables.texts(batches, "texts"),
        "score": of["scores"],
        "null_score": of["null_scores"],
        "n_clusters": of["sizes"],
    }


def _by_cluster(batches: Sequence[MapBatch]) -> Columns:
    of = tables.columns_of(batches, dict.fromkeys(("neurons", "labels", "n_examples", "centrals"), np.int32))
    return {
        "layer": tables.joined([np.repeat(np.repeat(b.layers, b.n_listed), b.sizes) for b in batches]),
        "group": tables.joined([np.repeat(batch.groups, batch.sizes) for batch in batches]),
        "neuron": of["neurons"],
        "cluster": of["labels"],
        "size": of["n_examples"],
        "central": of["centrals"],
        "similarity": tables.joined([batch.similarities for batch in batches], dtype=np.float64),
    }


class Maps(Stream[LayerMap]):
    """Maps of layers, in the order asked. As a table: a row a group, or `per="cluster"`."""

    _noun = "layers"
    _tables: ClassVar = {"group": _by_group, "cluster": _by_cluster}


def call(layers: Sequence[int], groups: int | Sequence[int] | None, index: str | None, side: Side) -> Call[Maps]:
    query = MapQuery(
        checks.whole_numbers(layers, "layers", "a layer"),
        () if groups is None else checks.whole_numbers(groups, "groups", "a group"),
        checks.index_name(index),
        side,
    )
    return Call("MapClusters", encode_map_query(query), MapBatch, layers_of, Maps)
