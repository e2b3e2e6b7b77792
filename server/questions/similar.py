"""The work of similar clusters: central examples of all neurons' clusters, compared by one matrix product a layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import NotFound
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronId, NeuronRange
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.proto.questions.similar import SimilarBatch, Similarity, SimilarQuery
from polysem.server.questions.central import central_units, kept
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.clusters_of_trees import Clusters
from polysem.server.questions.engine import Engine, Plan

MARGIN = 1e-4  # float32 products of unit vectors are nearer than that; what is within it is compared in float64


class _Found(NamedTuple):
    """Rows of Clusters, most similar first, and the cosines."""

    rows: Array
    similarities: Array


@dataclass(frozen=True, eq=True)
class SimilarWork:
    """Items are clusters: (layer, neuron, label). clustering: the work that made `clusters`, of the whole index."""

    clustering: ClusterWork
    similarity: Similarity
    every_layer: bool
    n_similar: int
    clusters: Clusters = field(compare=False, repr=False)

    def items(self, neuron: NeuronId, labels: Sequence[int]) -> IntArray:
        """(B, 3) of the neuron's clusters with these labels, or of all; raises NotFound for one that it lacks, and
        FailedPrecondition where it is too large for what was asked."""
        self.clustering.check(neuron)
        first, last = self._rows_of(neuron)
        n = last - first
        if missing := next((label for label in labels if label >= n), None):
            raise NotFound(self._missing(neuron, missing, n))
        if labels and not n:
            raise NotFound(self._missing(neuron, labels[0], n))
        chosen = np.array(list(dict.fromkeys(labels)) or range(n), np.int32)
        return np.column_stack([np.tile(np.array(neuron, np.int32), (len(chosen), 1)), chosen])

    def _missing(self, neuron: NeuronId, label: int, n: int) -> str:
        if not n:
            return f"{self.clustering.index.info.unit} {neuron} has no dataset examples, so no cluster {label}"
        cut = self.clustering.clustering.distance_threshold
        has = "one cluster, 0" if n == 1 else f"clusters 0 to {n - 1}"
        return f"{self.clustering.index.info.unit} {neuron} has no cluster {label}: cut at {cut:g} it has {has}"

    def costs(self, items: IntArray) -> Array:
        """A multiplication with each central example, and as much again to choose among the products."""
        n = len(self.clusters.labels) if self.every_layer else np.diff(self._layer_starts).max()
        return np.full(len(items), 2.0 * n * self.clustering.model.info.d_model)

    def run(self, items: IntArray) -> SimilarBatch:
        rows = np.array([self._rows_of(NeuronId(*item[:2]))[0] + item[2] for item in items.tolist()], np.int64)
        found = self._find(rows)
        similar = np.concatenate([f.rows for f in found])
        return SimilarBatch(
            neurons=items[:, :2],
            labels=items[:, 2],
            centrals=self.clusters.centrals[rows],
            n_similar=np.array([len(f.rows) for f in found], np.int32),
            similar_neurons=self.clusters.neurons[similar],
            similar_labels=self.clusters.labels[similar],
            similar_centrals=self.clusters.centrals[similar],
            similar_sizes=self.clusters.sizes[similar],
            similarities=np.concatenate([f.similarities for f in found]),
            methods=self.clusters.methods[rows],
            similar_methods=self.clusters.methods[similar],
        )

    def _find(self, rows: Array) -> list[_Found]:
        """Find for each of the rows (B,) the most similar clusters of other neurons."""
        found: dict[int, _Found] = {}
        of_layers = self.clusters.neurons[rows, 0]
        for layer in np.unique(of_layers).tolist():
            layers = self.clustering.index.info.held_layers if self.every_layer else (layer,)
            start = self._first_row(layers[0])
            asked = rows[of_layers == layer]
            units = self._units(layer)[
                torch.from_numpy(asked - self._first_row(layer)).to(self.clustering.model.device)
            ]
            cosines = torch.cat([units @ self._units(other).T for other in layers], dim=1)  # float32 (B, C)
            for i, row in enumerate(asked.tolist()):
                first, last = self._rows_of(NeuronId(*self.clusters.neurons[row].tolist()))
                cosines[i, first - start : last - start] = -torch.inf  # its own neuron's
                n_others = cosines.shape[1] - (last - first)
                found[row] = self._nearest(cosines[i], units[i], start, min(self.n_similar, n_others))
        return [found[row] for row in rows.tolist()]

    def _nearest(self, cosines: Tensor, unit: Tensor, start: int, k: int) -> _Found:
        """The k clusters with the highest of the cosines (C,), which are those of the rows from `start` on."""
        if not k:
            return _Found(np.zeros(0, np.int64), np.zeros(0))
        least = cosines.topk(k).values[-1] - MARGIN
        near = torch.nonzero(cosines >= least)[:, 0].cpu().numpy() + start  # ascending: layer, neuron, label
        exact = self._cosines(near, unit)
        order = np.argsort(-exact, kind="stable")[:k]
        return _Found(near[order], exact[order])

    def _cosines(self, rows: Array, unit: Tensor) -> Array:
        """(K,) float64, each from its own two embeddings alone: no batch changes it, and equals are equal."""
        exact, one = np.empty(len(rows)), unit.cpu().numpy().astype(np.float64)
        layers = self.clusters.neurons[rows, 0]
        for layer in np.unique(layers).tolist():
            of_layer = layers == layer
            units = _rows(self._units(layer), rows[of_layer] - self._first_row(layer)).astype(np.float64)  # (K, D)
            exact[of_layer] = (units * one).sum(axis=1)
        return np.clip(exact, -1.0, 1.0)

    def _units(self, layer: int) -> Tensor:
        """(C, D) float32: unit embeddings of the layer's central examples; 0 where an embedding is."""
        clustering, of = self.clustering, slice(self._first_row(layer), self._first_row(layer + 1))
        choice = EmbeddingChoice(self.similarity, clustering.choice.layer_norm, clustering.choice.frame)
        neurons, centrals = self.clusters.neurons[of, 1], self.clusters.centrals[of]
        return kept(
            clustering.model.device,
            (clustering, self.similarity, layer),
            lambda: central_units(clustering.model, clustering.index, layer, neurons, centrals, choice),
        )

    def _rows_of(self, neuron: NeuronId) -> tuple[int, int]:
        """First and last + 1 of the neuron's clusters."""
        first, last = self._first_row(neuron.layer), self._first_row(neuron.layer + 1)
        of_layer = self.clusters.neurons[first:last, 1]
        ends = np.searchsorted(of_layer, [neuron.neuron, neuron.neuron + 1])
        return first + int(ends[0]), first + int(ends[1])

    def _first_row(self, layer: int) -> int:
        return int(self._layer_starts[layer])

    @cached_property
    def _layer_starts(self) -> Array:
        """(L + 1,) first row of each layer."""
        return np.searchsorted(self.clusters.neurons[:, 0], np.arange(self.clustering.model.info.n_layers + 1))


def _rows(units: Tensor, places: Array) -> Array:
    """A few rows, on the CPU. NumPy takes them there: torch would wake its threads for each."""
    if units.device.type == "cpu":
        return units.numpy()[places]
    return units[torch.from_numpy(places).to(units.device)].cpu().numpy()


class SimilarPlan(NamedTuple):
    """clustering: of the whole index."""

    clustering: ClusterWork
    query: SimilarQuery
    provenance: Provenance

    def plan(self, clusters: Clusters) -> Plan:
        """The plan, given all clusters of the index. Raises NotFound for a cluster that the neuron does not have."""
        query = self.query
        work = SimilarWork(self.clustering, query.similarity, query.every_layer, query.n_similar, clusters)
        return Plan(work, work.items(query.neuron, query.clusters), self.provenance)


def plan(engine: Engine, query: SimilarQuery) -> SimilarPlan:
    index = engine.index(query.index, query.side)
    engine.model_of(index).check_choice(query.choice)
    engine.neurons(index, [NeuronRange(query.neuron.layer, query.neuron.neuron, query.neuron.neuron)])
    work = work_of(engine, index, query.choice, query.clustering)
    return SimilarPlan(work, query, engine.provenance(index, query.choice, query.clustering))
