"""A whole index under one clustering: every neuron's metrics and every feature cluster's central example.

It is made by ordinary cluster work in the batcher, so that other callers are served meanwhile, and shared.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from polysem.proto.arrays import Array, DoubleArray, IntArray
from polysem.proto.questions.clustering import METHODS, ClusterBatch
from polysem.proto.questions.listing import OF_CLUSTERS, OF_TESTS, NeuronTable, is_rare
from polysem.proto.questions.summary import kinds_of
from polysem.proto.questions.tested import q_values
from polysem.server.questions.clustering import ClusterWork, empty_cluster_batch
from polysem.server.questions.clusters_of_trees import Clusters, clusters_of, joined
from polysem.server.questions.held import held_clusters
from polysem.server.serving import callers
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.shared import Shared

MAX_KEPT = 8  # whole indexes; GPT2-small's takes some 15 MB


METRICS = (
    "n_examples",
    "n_clusters",
    "max_distance",
    "mean_distance",
    "intra",
    "inter",
    "silhouette",
    "largest_share",
    "methods",
    "best_silhouette",
    "p_value",
    "null_silhouette",
    "excess_silhouette",
)


@dataclass(frozen=True, eq=False)
class WholeIndex:
    """Neurons that are too large for what was asked have no clusters, and NaN as metrics.

    table: every neuron's row, by layer and neuron. compute_ns: what it took, waiting included.
    """

    table: NeuronTable
    clusters: Clusters
    compute_ns: int


class WholeIndexes:
    """The last MAX_KEPT whole indexes, by the work that makes them. Lives in one event loop."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._shared: Shared[ClusterWork, WholeIndex] = Shared(MAX_KEPT)

    async def get(self, work: ClusterWork) -> WholeIndex:
        """Kept, or made now; raises what the work and the batcher raise, and then keeps nothing."""
        return await self._shared.get(work, lambda: self._make(work))

    async def _make(self, work: ClusterWork) -> WholeIndex:
        started_ns = time.monotonic_ns()
        work = replace(work, clustering=replace(work.clustering, cut_silhouettes=True))
        items = work.index.every_neuron
        taken = work.takes(work.index.n_examples[items[:, 0], items[:, 1]])
        nothing = empty_cluster_batch(items[:0], np.zeros(0, np.int32), work.clustering)
        metrics = [_metrics(nothing)]
        clusters = [clusters_of(nothing, 0.0)]
        async for answer in self._batcher.stream(work, items[taken], callers.current.get()):
            batch = answer.batch
            assert isinstance(batch, ClusterBatch)
            metrics.append(_metrics(batch))
            clusters.append(await asyncio.to_thread(clusters_of, batch, work.clustering.distance_threshold))
        every = joined(clusters)
        table = await asyncio.to_thread(_table, work, taken, metrics, every)
        return WholeIndex(table, every, time.monotonic_ns() - started_ns)


def _metrics(batch: ClusterBatch) -> dict[str, Array]:
    """Return METRICS of each neuron, (B,), those of tests NaN where the index holds none."""
    found = {name: getattr(batch, name) for name in METRICS if name not in ("best_silhouette", *OF_TESTS)}
    B = len(batch.neurons)
    best, mean, _, p = batch.significance.T if batch.significance.shape[1] else np.full((4, B), np.nan)
    tests = {"p_value": p, "null_silhouette": mean, "excess_silhouette": best - mean}
    return found | {"best_silhouette": _best_silhouettes(batch)} | tests


def _best_silhouettes(batch: ClusterBatch) -> DoubleArray:
    """(B,) over all cuts: 0 where none separates anything, NaN below 3 examples and where cuts have none."""
    neuron = np.repeat(np.arange(len(batch.neurons)), np.maximum(batch.n_examples - 1, 0))
    best = np.full(len(batch.neurons), -np.inf)
    np.fmax.at(best, neuron, batch.cut_silhouettes[:, 0])
    known = (batch.n_examples > 2) & (batch.methods == METHODS.index("matrix") + 1)
    return np.where(known, np.where(np.isinf(best), 0.0, best), np.nan)


def _table(work: ClusterWork, taken: Array, parts: Sequence[dict[str, Array]], clusters: Clusters) -> NeuronTable:
    """taken (J,) bool: the neurons of the parts."""
    m = {name: _filled([part[name] for part in parts], taken) for name in METRICS}
    index = work.index
    neurons, statistics = index.every_neuron, index.statistics
    at = neurons[:, 0], neurons[:, 1]
    m["n_examples"] = index.n_examples[at].astype(np.int32)
    m["q_value"] = q_values(m["p_value"])
    m |= dict(zip(OF_CLUSTERS, held_clusters(index, work.choice, work.clustering).T, strict=True))
    m["second_share"] = _second_shares(clusters, neurons, m["n_examples"])
    judged_by = ("n_examples", "largest_share", "second_share", "silhouette", "best_silhouette", "p_value")
    return NeuronTable(
        neurons=neurons,
        **m,
        kinds=kinds_of(*(m[name] for name in judged_by)),
        maximum_activation=statistics.maximum[at].astype(np.float64),
        mean_activation=statistics.mean[at].astype(np.float64),
        share_positive=statistics.share_positive[at].astype(np.float64),
        rare=is_rare(m["n_examples"], m["largest_share"], m["significant_clusters"], m["p_value"]).astype(np.int32),
    )


def _filled(parts: Sequence[Array], taken: Array) -> Array:
    """(J,) the parts' values where taken; elsewhere NaN, or 0 among integers."""
    values = np.concatenate(parts)
    every = np.full(len(taken), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    every[taken] = values
    return every


def _second_shares(clusters: Clusters, neurons: IntArray, n_examples: Array) -> Array:
    """(J,) share of each neuron's examples in its second largest cluster; NaN with fewer than two.

    neurons  (J, 2), in order
    """
    found, wanted = (of[:, 0].astype(np.int64) << 32 | of[:, 1] for of in (clusters.neurons, neurons))
    order = np.lexsort((-clusters.sizes, found))
    found, sizes = found[order], clusters.sizes[order]
    starts = np.searchsorted(found, wanted)
    counts = np.searchsorted(found, wanted, side="right") - starts
    shares = np.full(len(n_examples), np.nan)
    several = np.flatnonzero(counts > 1)
    shares[several] = sizes[starts[several] + 1] / n_examples[several]
    return shares
