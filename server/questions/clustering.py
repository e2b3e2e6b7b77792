"""The work of clustering: x̂ → distances → tree → cut → metrics, batch by batch, and large neurons one by one.

A neuron's number of examples and the algorithm decide how its tree is made (METHODS):

matrix      up to 4,096 examples: all pairwise distances, many neurons in one launch
linear      up to 20,000: the same tree in memory that grows with the examples only
neighbours  more, for SCC: on the graph of the 25 nearest neighbours. Single linkage is "linear" at any size

On a GPU two batches are under way at a time, each on a stream of its own, so that the matrix products of one go on
while the other's trees, which wait for memory, are made.
"""

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels import agglomerative, distances, metrics, scc, tree
from polysem.kernels.definitions import ClusterMetrics, NodeMetrics, TreeMetrics
from polysem.kernels.large import neighbours
from polysem.kernels.large import trees as large_trees
from polysem.kernels.large.embeddings import unit_embeddings
from polysem.kernels.large.metrics import tree_metrics
from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import FailedPrecondition
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import (
    METHODS,
    ClusterBatch,
    Clustering,
    ClusterQuery,
    EmbeddingChoice,
    Method,
    threshold_schedule,
)
from polysem.proto.wire import columns
from polysem.server.index.format import Index
from polysem.server.model.model import Model
from polysem.server.questions import resident
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.resident import DeviceBatch

MAX_IN_MATRIX = 4096
MAX_IN_LINEAR_MEMORY = 20_000

log = logging.getLogger(__name__)


class Clustered(NamedTuple):
    """What the kernels give for a batch."""

    trees: Tensor
    labels: Tensor
    metrics: TreeMetrics
    silhouettes: Tensor  # (B, C) of the further cuts


@dataclass(frozen=True, eq=True)
class ClusterWork:
    """Items are neurons: (layer, neuron)."""

    model: Model
    index: Index
    choice: EmbeddingChoice
    clustering: Clustering

    def costs(self, items: IntArray) -> Array:
        n = self.index.n_examples[items[:, 0], items[:, 1]].astype(np.float64)
        return (n**2 + 1) * self.model.info.d_model

    def takes(self, n_examples: Array) -> Array:
        """(B,) bool: whether neurons of so many examples are not too large for what was asked."""
        return np.asarray(n_examples <= self._most_examples)

    def check(self, neuron: NeuronId) -> None:
        """Raises FailedPrecondition for a neuron that is too large for what was asked."""
        n = int(self.index.n_examples[neuron])
        if not self.takes(np.array(n)):
            raise FailedPrecondition(
                f"neuron {neuron} has {n:,} examples, and {self.clustering.linkage} linkage takes at most "
                f"{self._most_examples:,}; ask for algorithm scc or for single linkage, or serve an index with fewer "
                "--max-examples"
            )

    @property
    def _most_examples(self) -> float:
        if self.clustering.algorithm == "scc" or self.clustering.linkage == "single":
            return np.inf
        return MAX_IN_LINEAR_MEMORY if self.clustering.linkage == "average" else MAX_IN_MATRIX

    def run(self, items: IntArray) -> ClusterBatch:
        """Raises FailedPrecondition for a neuron that is too large for what was asked, or for the device."""
        n_examples = self.index.n_examples[items[:, 0], items[:, 1]]
        out = empty_cluster_batch(items, n_examples, len(self.clustering.silhouette_thresholds))
        offsets = columns.offsets(out)
        small = np.flatnonzero(n_examples <= MAX_IN_MATRIX)
        for batch, clustered in self._in_lanes(
            resident.device_batches(self.model, self.index, items[small], self.choice)
        ):
            _put(out, offsets, batch._replace(places=small[batch.places]), clustered)
        for place in np.flatnonzero(n_examples > MAX_IN_MATRIX):
            (batch,) = resident.device_batches(self.model, self.index, items[place : place + 1], self.choice)
            method, clustered = self._large(NeuronId(*items[place].tolist()), batch)
            _put(out, offsets, *_read(batch._replace(places=np.array([place])), clustered, nullcontext()))
            out.methods[place] = METHODS.index(method) + 1
        return out

    def _in_lanes(self, batches: Iterator[DeviceBatch]) -> Iterator[tuple[DeviceBatch, Clustered]]:
        """Begin a batch before the one before it is read."""
        lanes = _lanes(self.model.device)
        begun: deque[tuple[DeviceBatch, Clustered, AbstractContextManager[object]]] = deque()
        for lane in itertools.cycle(lanes):
            with lane:  # the batch's own tensors are made on the lane, too
                batch = next(batches, None)
                if batch is None:
                    break
                begun += [(*part, lane) for part in self._clustered(batch)]
            while len(begun) >= len(lanes):
                yield _read(*begun.popleft())
        while begun:
            yield _read(*begun.popleft())

    def _clustered(self, batch: DeviceBatch) -> list[tuple[DeviceBatch, Clustered]]:
        """The batch's clusterings; in halves where the device has not the memory for it."""
        try:
            return [(batch, self._cluster(batch))]
        except torch.cuda.OutOfMemoryError as error:
            n = len(batch.places)
            if n == 1:
                raise FailedPrecondition(
                    f"the device has not enough memory free for a neuron of {int(batch.n_examples[0])} examples; "
                    "serve an index with fewer --max-examples, or free its memory"
                ) from error
        log.warning("out of memory with %d neurons of up to %d examples; going on with half", n, batch.used.shape[1])
        torch.cuda.empty_cache()
        return self._clustered(batch.part(0, n // 2)) + self._clustered(batch.part(n // 2, n))

    def _cluster(self, batch: DeviceBatch) -> Clustered:
        n = batch.n_examples
        d = distances.gathered_cosine_distances(batch.rows, batch.example_rows, batch.weights, n, batch.offsets)
        trees = self._trees(d, n)
        labels = tree.cut(trees, n, self.clustering.distance_threshold)
        at = [
            metrics.cluster_metrics(d, tree.cut(trees, n, t), n).silhouette
            for t in self.clustering.silhouette_thresholds
        ]
        return Clustered(trees, labels, metrics.tree_metrics(d, trees, labels, n), _side_by_side(at, n))

    def _trees(self, d: Tensor, n: Tensor) -> Tensor:
        """(B, N - 1, 4) float64."""
        clustering = self.clustering
        if clustering.algorithm != "scc":
            return agglomerative.linkage(d, n, clustering.linkage)
        return scc.linkage(d, n, self._thresholds(d.device), clustering.until_stable)

    def _thresholds(self, device: torch.device) -> Tensor:
        thresholds = self.clustering.thresholds
        if isinstance(thresholds, str):
            thresholds = threshold_schedule(thresholds)
        return torch.tensor(thresholds, dtype=torch.float64, device=device)

    def _large(self, neuron: NeuronId, batch: DeviceBatch) -> tuple[Method, Clustered]:
        """One neuron of more examples than a matrix takes."""
        offsets = None if batch.offsets is None else batch.offsets[0]
        unit = unit_embeddings(batch.rows[batch.example_rows[0]], batch.weights[0], offsets)
        method, linkage = self._large_tree(neuron, unit)
        labels = tree.cut(linkage[None], batch.n_examples, self.clustering.distance_threshold)
        cuts = (tree.cut(linkage[None], batch.n_examples, t) for t in self.clustering.silhouette_thresholds)
        at = [tree_metrics(unit, linkage, cut[0]).clusters.silhouette for cut in cuts]
        measured = tree_metrics(unit, linkage, labels[0])
        return method, Clustered(linkage[None], labels, measured, _side_by_side(at, batch.n_examples))

    def _large_tree(self, neuron: NeuronId, unit: Tensor) -> tuple[Method, Tensor]:
        n, clustering = len(unit), self.clustering
        self.check(neuron)
        if clustering.algorithm == "scc":
            thresholds = self._thresholds(unit.device)
            if n <= MAX_IN_LINEAR_MEMORY:
                return "linear", large_trees.scc_linkage(unit, thresholds, clustering.until_stable)
            return "neighbours", neighbours.scc_linkage(unit, thresholds, until_stable=clustering.until_stable)
        if clustering.linkage == "single":
            return "linear", neighbours.single_linkage(unit)
        return "linear", large_trees.average_linkage(unit)


def _side_by_side(of_cuts: list[Tensor], n_examples: Tensor) -> Tensor:
    """(B, C) of C tensors (B,)."""
    if not of_cuts:
        return torch.empty((len(n_examples), 0), dtype=torch.float64, device=n_examples.device)
    return torch.stack(of_cuts, dim=1)


def _lanes(device: torch.device) -> list[AbstractContextManager[object]]:
    if device.type == "cpu":
        return [nullcontext()]
    return [torch.cuda.stream(torch.cuda.Stream(device)) for _ in range(2)]  # type: ignore[no-untyped-call]


def _read(
    batch: DeviceBatch, clustered: Clustered, lane: AbstractContextManager[object]
) -> tuple[DeviceBatch, Clustered]:
    """Wait for the lane, and bring its answers to the CPU."""
    with lane:
        clusters, nodes = clustered.metrics
        measured = TreeMetrics(ClusterMetrics(*map(Tensor.cpu, clusters)), NodeMetrics(*map(Tensor.cpu, nodes)))
        return batch, Clustered(clustered.trees.cpu(), clustered.labels.cpu(), measured, clustered.silhouettes.cpu())


def _put(out: ClusterBatch, offsets: dict[str, columns.Offsets], batch: DeviceBatch, clustered: Clustered) -> None:
    """Copy a batch's padded results to their flat places."""
    places, (clusters, nodes) = batch.places, clustered.metrics
    slots = np.arange(batch.used.shape[1])
    merges = batch.used[:, 1:]  # (B, N - 1): a neuron with n examples has n - 1
    to_example = (offsets["example"][places][:, None] + slots)[batch.used]
    to_merge = (offsets["merge"][places][:, None] + slots[: merges.shape[1]])[merges]
    z = clustered.trees.numpy()[merges]  # (M, 4)
    out.labels[to_example] = clustered.labels.numpy()[batch.used]
    out.merges[to_merge] = z[:, :2]
    out.heights[to_merge] = z[:, 2]
    out.node_centrals[to_merge] = nodes.central.numpy()[merges]
    out.node_mean_distances[to_merge] = nodes.mean_distance.numpy()[merges]
    out.silhouettes[places] = clustered.silhouettes.numpy()
    for name in ("n_clusters", *_METRICS):
        getattr(out, name)[places] = getattr(clusters, name).numpy()


_METRICS = ("max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share")


def empty_cluster_batch(neurons: IntArray, n_examples: IntArray, n_cuts: int) -> ClusterBatch:
    b, e, m = len(neurons), int(n_examples.sum()), int(np.maximum(n_examples - 1, 0).sum())
    return ClusterBatch(
        neurons=neurons,
        n_examples=n_examples,
        labels=np.empty(e, np.int32),
        merges=np.empty((m, 2), np.int32),
        heights=np.empty(m),
        node_centrals=np.empty(m, np.int32),
        node_mean_distances=np.empty(m),
        n_clusters=np.empty(b, np.int32),
        **{name: np.empty(b) for name in _METRICS},
        methods=np.full(b, METHODS.index("matrix") + 1, np.int32),
        silhouettes=np.empty((b, n_cuts)),
    )


def plan(engine: Engine, query: ClusterQuery) -> Plan:
    """Raises UnknownIndex, UnknownNeuron, InvalidArgument; so do the plans of other questions."""
    index, clustering = engine.index(query.index), query.clustering.canonical()
    work = ClusterWork(engine.model, index, query.choice, clustering)
    return Plan(work, engine.neurons(index, query.neurons), engine.provenance(index, query.choice, clustering))
