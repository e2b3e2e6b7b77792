"""The work of maps: the nearest neighbours of a layer's clusters, and the names of their groups.

Clusters are those of two examples or more in the default clustering. They are compared by the pre-MLP embeddings of
their central examples, as similar clusters are, in the frame that `docs/decisions.md` tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.large.neighbours import nearest_of
from polysem.proto.arrays import Array, DoubleArray, FloatArray, IntArray
from polysem.proto.facts import Provenance
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.proto.questions.maps import MapBatch, MapQuery
from polysem.proto.wire import columns
from polysem.proto.wire.columns import Axis, columnar
from polysem.server.index.draws import draws
from polysem.server.mapping.file import LayerMap
from polysem.server.mapping.groups import N_NEIGHBOURS, Grouped
from polysem.server.mapping.names import N_TEXTS, group_name
from polysem.server.naming.places import Place, places
from polysem.server.questions.central import central_units, kept
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.clusters_of_trees import Clusters
from polysem.server.questions.engine import Engine
from polysem.server.questions.held import CHOICE, CLUSTERING

COST_OF_TEXT = 1e7  # of a name of a group: some 1 ms, as clustering costs
BLOCK = 1 << 21  # similarities of a block: some 50 ms


class Centrals(NamedTuple):
    """Clusters of a layer, C of them, by neuron and label: (C,) int32 each.

    ranks  how many clusters of the neuron are larger
    sizes  examples
    """

    neurons: IntArray
    labels: IntArray
    ranks: IntArray
    sizes: IntArray
    centrals: IntArray


def centrals_of(clusters: Clusters, layer: int) -> Centrals:
    """Return the layer's clusters of two examples or more."""
    first, last = np.searchsorted(clusters.neurons[:, 0], [layer, layer + 1])
    neurons, labels, sizes = clusters.neurons[first:last, 1], clusters.labels[first:last], clusters.sizes[first:last]
    order = np.lexsort((labels, -sizes, neurons))
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order)) - np.searchsorted(neurons[order], neurons[order])
    of = sizes > 1
    return Centrals(neurons[of], labels[of], ranks[of], sizes[of], clusters.centrals[first:last][of])


@columnar(None, "block", Axis("row", ["columns", "distances", "units"], "n_rows"))
@dataclass(frozen=True, eq=False)
class NeighbourBatch:
    """B blocks of R clusters, each with its k nearest others.

    blocks     (B, 2) int32: first and last + 1 of the clusters; n_rows (B,)
    columns    (R, k) int32: the others, the nearest first
    distances  (R, k) float32
    units      (R, D) float32: the unit embeddings
    """

    blocks: IntArray
    n_rows: IntArray
    columns: IntArray
    distances: FloatArray
    units: FloatArray


@dataclass(frozen=True, eq=True)
class NeighbourWork:
    """Items are blocks of a layer's clusters: (first, last + 1). clustering: the work that made them."""

    clustering: ClusterWork
    layer: int
    centrals: Centrals = field(compare=False, repr=False)

    def items(self) -> IntArray:
        """(B, 2) blocks of all clusters."""
        n = len(self.centrals.neurons)
        firsts = np.arange(0, n, max(1, BLOCK // max(n, 1)))
        return np.column_stack([firsts, np.append(firsts[1:], [n] * (n > 0))]).astype(np.int32)

    def costs(self, items: IntArray) -> Array:
        """A multiplication with each cluster, and as much again to choose among the products."""
        n = len(self.centrals.neurons)
        return 2.0 * (items[:, 1] - items[:, 0]) * n * self.clustering.model.info.d_model

    def run(self, items: IntArray) -> NeighbourBatch:
        device = self.clustering.model.device
        rows = torch.cat([torch.arange(*block, device=device) for block in items.tolist()])
        unit = self._units()
        distances, others = nearest_of(unit, rows, min(N_NEIGHBOURS, len(unit) - 1))
        return NeighbourBatch(
            items,
            np.diff(items)[:, 0].astype(np.int32),
            others.int().cpu().numpy(),
            distances.cpu().numpy(),
            unit[rows].cpu().numpy(),
        )

    def _units(self) -> Tensor:
        model, index, of = self.clustering.model, self.clustering.index, self.centrals
        choice = EmbeddingChoice("pre_mlp", CHOICE.layer_norm, "centred" if index.has_moments else "raw")
        return kept(
            model.device,
            (self.clustering, choice, self.layer),
            lambda: central_units(model, index, self.layer, of.neurons, of.centrals, choice),
        )


@columnar(None, "group")
@dataclass(frozen=True, eq=False)
class NameBatch:
    """groups (B, 1) int32; texts: their names; scores, null_scores (B,) float64."""

    groups: IntArray
    texts: Sequence[str] = field(repr=False)
    scores: DoubleArray
    null_scores: DoubleArray


@dataclass(frozen=True, eq=True)
class GroupNameWork:
    """Items are groups of a layer's clusters: (group,)."""

    clustering: ClusterWork
    layer: int
    centrals: Centrals = field(compare=False, repr=False)
    grouped: Grouped = field(compare=False, repr=False)

    def items(self) -> IntArray:
        """(G, 1) all groups."""
        return np.arange(len(self.grouped.sizes), dtype=np.int32)[:, None]

    def costs(self, items: IntArray) -> Array:
        return COST_OF_TEXT * (N_TEXTS + np.minimum(self.grouped.sizes[items[:, 0]], N_TEXTS))

    def run(self, items: IntArray) -> NameBatch:
        index, tokenizer = self.clustering.index, self.clustering.model.tokenizer
        names = [group_name(index, tokenizer, *self._texts(group)) for group in items[:, 0].tolist()]
        scores = np.array([name[1:] for name in names], np.float64)
        return NameBatch(items, [name.text for name in names], scores[:, 0], scores[:, 1])

    def _texts(self, group: int) -> tuple[list[Place], list[Place]]:
        """The central examples of a group's clusters, and of some others, drawn by seed."""
        ends = columns.from_counts(self.grouped.sizes)
        members = self.grouped.order[ends[group] : ends[group + 1]]
        drawn = np.argsort(draws(np.arange(len(self.centrals.neurons)), self.layer), kind="stable")
        others = drawn[np.isin(drawn, members, invert=True)][:N_TEXTS]
        return self._places(members), self._places(others)

    def _places(self, clusters: Array) -> list[Place]:
        """Places of N_TEXTS clusters or fewer, evenly spread, those of one place once."""
        index, of = self.clustering.index, self.centrals
        stored = index.layer(self.layer)
        rows = np.asarray(stored.rows)[stored.offsets[of.neurons[clusters]] + of.centrals[clusters]]
        contexts, positions = (
            np.asarray(each)[rows].astype(np.int64) for each in (stored.row_contexts, stored.row_positions)
        )
        _, first = np.unique(contexts << 32 | positions, return_index=True)
        first = np.sort(first)
        some = first[np.arange(min(len(first), N_TEXTS)) * len(first) // max(min(len(first), N_TEXTS), 1)]
        return places(index, self.clustering.model.tokenizer, contexts[some], positions[some])


def layer_map(centrals: Centrals, grouped: Grouped, recall: float, names: Sequence[NameBatch]) -> LayerMap:
    """Return the map of a layer."""
    neurons, labels, ranks, sizes, central = (of[grouped.order] for of in centrals)
    none = [np.zeros(0)]
    return LayerMap(
        n_clusters=len(centrals.neurons),
        recall=recall,
        sizes=grouped.sizes.astype(np.int32),
        scores=np.concatenate([*none, *(batch.scores for batch in names)]),
        null_scores=np.concatenate([*none, *(batch.null_scores for batch in names)]),
        neurons=neurons,
        labels=labels,
        ranks=ranks,
        n_examples=sizes,
        centrals=central,
        similarities=grouped.similarities,
        texts=[text for batch in names for text in batch.texts],
    )


class MapPlan(NamedTuple):
    """clustering: of the whole index."""

    clustering: ClusterWork
    layers: Sequence[int]
    groups: Sequence[int]
    provenance: Provenance

    def batch(self, layer: int, found: LayerMap) -> MapBatch:
        """Return the groups of a layer's map that were asked for."""
        n_groups = len(found.sizes)
        groups = np.array([group for group in self.groups if group < n_groups] if self.groups else range(n_groups), int)
        ends = columns.from_counts(found.sizes)
        of = np.concatenate([np.zeros(0, np.int64), *(np.arange(ends[g], ends[g + 1]) for g in groups)]).astype(
            np.int64
        )
        one = np.int32
        return MapBatch(
            layers=np.array([layer], one),
            n_clusters=np.array([found.n_clusters], one),
            n_grouped=np.array([found.sizes.sum()], one),
            n_groups=np.array([n_groups], one),
            recalls=np.array([found.recall]),
            n_listed=np.array([len(groups)], one),
            groups=groups.astype(one),
            texts=[found.texts[group] for group in groups],
            scores=found.scores[groups],
            null_scores=found.null_scores[groups],
            sizes=found.sizes[groups],
            neurons=found.neurons[of],
            labels=found.labels[of],
            ranks=found.ranks[of],
            n_examples=found.n_examples[of],
            centrals=found.centrals[of],
            similarities=found.similarities[of],
        )


def plan(engine: Engine, query: MapQuery) -> MapPlan:
    """Raises UnknownNeuron for a layer that the model lacks, FailedPrecondition for one that the index lacks."""
    index = engine.index(query.index, query.side)
    for layer in query.layers:
        index.check_layer(layer)
    work = work_of(engine, index, CHOICE, CLUSTERING)
    layers = query.layers or index.info.held_layers
    return MapPlan(work, layers, query.groups, engine.provenance(index, CHOICE, CLUSTERING))
