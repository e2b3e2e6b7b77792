"""A whole index under one clustering: every neuron's metrics and every feature cluster's central example.

It is made by ordinary cluster work in the batcher, so that other callers are served meanwhile, and the last few are
kept. Callers who ask for one that is being made wait for it together; when the last of them leaves, it is given up.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from polysem.proto.arrays import IntArray
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.questions.listing import LEAST_EXAMPLES_OF_RARE, LEAST_SHARE_OF_COMMON, NeuronTable
from polysem.proto.wire.columns import from_counts
from polysem.server import callers
from polysem.server.arrays import Array
from polysem.server.batcher import Batcher
from polysem.server.clustering import ClusterWork, empty_cluster_batch
from polysem.server.index import Index

MAX_KEPT = 8  # overviews; GPT2-small's takes some 15 MB


@dataclass(frozen=True, eq=False)
class Clusters:
    """The C feature clusters of neurons, neuron by neuron in the order of their labels.

    neurons   (C, 2) int32
    labels    (C,) int32
    centrals  (C,) int32: central example's place in the neuron's labels
    sizes     (C,) int32: examples
    """

    neurons: IntArray
    labels: IntArray
    centrals: IntArray
    sizes: IntArray


METRICS = (
    "n_examples",
    "n_clusters",
    "max_distance",
    "mean_distance",
    "intra",
    "inter",
    "silhouette",
    "largest_share",
)


@dataclass(frozen=True, eq=False)
class Overview:
    """Neurons that are too large for what was asked have no clusters, and NaN as metrics.

    table: every neuron's row, by layer and neuron. compute_ns: what it took, waiting included.
    """

    table: NeuronTable
    clusters: Clusters
    compute_ns: int


def clusters_of(batch: ClusterBatch, distance_threshold: float) -> Clusters:
    """The clusters of a batch, from its trees: the topmost kept nodes."""
    n = batch.n_examples.astype(np.int64)
    n_merges = np.maximum(n - 1, 0)
    first_example, first_node = from_counts(n)[:-1], from_counts(n + n_merges)[:-1]
    which_example, which_merge = np.repeat(np.arange(len(n)), n), np.repeat(np.arange(len(n)), n_merges)
    within = np.arange(len(which_merge)) - from_counts(n_merges)[which_merge]
    leaves = first_node[which_example] + np.arange(len(which_example)) - first_example[which_example]
    merges = (first_node + n)[which_merge] + within  # node of each merge
    n_nodes = len(leaves) + len(merges)
    neuron, central = np.empty(n_nodes, np.int64), np.empty(n_nodes, np.int64)
    neuron[leaves], neuron[merges] = which_example, which_merge
    central[leaves] = np.arange(len(leaves)) - first_example[which_example]
    central[merges] = batch.node_centrals
    kept = np.ones(n_nodes + 1, bool)
    kept[merges] = batch.heights <= distance_threshold
    kept[-1] = False  # above every root
    parents = np.full(n_nodes, n_nodes)
    for side in (0, 1):
        parents[first_node[which_merge] + batch.merges[:, side]] = merges
    tops = np.flatnonzero(kept[:-1] & ~kept[parents])
    labels = batch.labels[first_example[neuron[tops]] + central[tops]]
    order = np.lexsort((labels, neuron[tops]))
    tops, labels = tops[order], labels[order]
    of_example = from_counts(batch.n_clusters)[which_example] + batch.labels
    return Clusters(
        neurons=batch.neurons[neuron[tops]],
        labels=labels,
        centrals=central[tops].astype(np.int32),
        sizes=np.bincount(of_example, minlength=len(tops)).astype(np.int32),
    )


class Overviews:
    """The last MAX_KEPT overviews, by the work that makes them. Lives in one event loop."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._kept: OrderedDict[ClusterWork, asyncio.Task[Overview]] = OrderedDict()
        self._waiting: dict[ClusterWork, int] = {}

    async def get(self, work: ClusterWork) -> Overview:
        """Kept, or made now; raises what the work and the batcher raise, and then keeps nothing."""
        if work not in self._kept:
            self._kept[work] = asyncio.create_task(self._make(work))
        self._kept.move_to_end(work)
        task = self._kept[work]
        self._waiting[work] = self._waiting.get(work, 0) + 1
        try:
            return await asyncio.shield(task)
        finally:
            self._leave(work, task)

    def _leave(self, work: ClusterWork, task: "asyncio.Task[Overview]") -> None:
        self._waiting[work] -= 1
        if self._waiting[work]:
            return
        del self._waiting[work]
        unfinished = not task.done()
        if unfinished:
            task.cancel()
        if self._kept.get(work) is task and (unfinished or task.cancelled() or task.exception()):
            del self._kept[work]
        while len(self._kept) - len(self._waiting) > MAX_KEPT:
            del self._kept[next(work for work in self._kept if work not in self._waiting)]

    async def _make(self, work: ClusterWork) -> Overview:
        started_ns = time.monotonic_ns()
        items = every_neuron(work.index)
        taken = work.takes(work.index.n_examples.reshape(-1))
        nothing = empty_cluster_batch(items[:0], np.zeros(0, np.int32), 0)
        metrics = [{name: getattr(nothing, name) for name in METRICS}]
        clusters = [clusters_of(nothing, 0.0)]
        async for answer in self._batcher.stream(work, items[taken], callers.current.get()):
            batch = answer.batch
            assert isinstance(batch, ClusterBatch)
            metrics.append({name: getattr(batch, name) for name in METRICS})
            clusters.append(await asyncio.to_thread(clusters_of, batch, work.clustering.distance_threshold))
        every = _joined(clusters)
        table = await asyncio.to_thread(_table, work.index, taken, metrics, every)
        return Overview(table, every, time.monotonic_ns() - started_ns)


def _joined(parts: Sequence[Clusters]) -> Clusters:
    return Clusters(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Clusters)))


def _table(index: Index, taken: Array, parts: Sequence[dict[str, Array]], clusters: Clusters) -> NeuronTable:
    """taken (J,) bool: the neurons of the parts."""
    m = {name: _filled([part[name] for part in parts], taken) for name in METRICS}
    m["n_examples"] = index.n_examples.reshape(-1).astype(np.int32)
    statistics = index.statistics
    enough, share = m["n_examples"] >= LEAST_EXAMPLES_OF_RARE, m["largest_share"]
    rare = enough & (share >= LEAST_SHARE_OF_COMMON) & (share < 1)
    return NeuronTable(
        neurons=every_neuron(index),
        **m,
        second_share=_second_shares(clusters, m["n_examples"], index.info.n_neurons_per_layer),
        maximum_activation=statistics.maximum.reshape(-1).astype(np.float64),
        mean_activation=statistics.mean.reshape(-1).astype(np.float64),
        share_positive=statistics.share_positive.reshape(-1).astype(np.float64),
        rare=rare.astype(np.int32),
    )


def _filled(parts: Sequence[Array], taken: Array) -> Array:
    """(J,) the parts' values where taken; elsewhere NaN, or 0 among integers."""
    values = np.concatenate(parts)
    every = np.full(len(taken), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    every[taken] = values
    return every


def every_neuron(index: Index) -> IntArray:
    """(J, 2) int32 layer and index."""
    layers, n = index.info.n_layers, index.info.n_neurons_per_layer
    return np.stack(np.divmod(np.arange(layers * n), n), axis=1).astype(np.int32)


def _second_shares(clusters: Clusters, n_examples: Array, n_neurons_per_layer: int) -> Array:
    """(J,) share of each neuron's examples in its second largest cluster; NaN with fewer than two."""
    flat = clusters.neurons[:, 0].astype(np.int64) * n_neurons_per_layer + clusters.neurons[:, 1]
    order = np.lexsort((-clusters.sizes, flat))
    flat, sizes = flat[order], clusters.sizes[order]
    starts = np.searchsorted(flat, np.arange(len(n_examples)))
    counts = np.bincount(flat, minlength=len(n_examples))
    shares = np.full(len(n_examples), np.nan)
    several = np.flatnonzero(counts > 1)
    shares[several] = sizes[starts[several] + 1] / n_examples[several]
    return shares
