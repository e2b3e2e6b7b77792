"""Trees and their cuts, many at once, without the distances; and the columns that come of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polysem.client.measuring.agreement import adjusted_rand_indexes
from polysem.client.measuring.measurements import UNDEFINED
from polysem.proto.arrays import Array
from polysem.proto.questions.clustering import (
    METHODS,
    Algorithm,
    ClusterBatch,
    Embedding,
    EmbeddingChoice,
    Frame,
    LayerNorm,
    Linkage,
)
from polysem.proto.sides import Side

MATCHED = ("matched_intra", "matched_inter", "matched_silhouette")
METRICS = ("max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share")


class Variant(NamedTuple):
    """A way to cluster a neuron; linkage is None but for hac."""

    algorithm: Algorithm
    linkage: Linkage | None
    embedding: Embedding
    layer_norm: LayerNorm
    frame: Frame = "raw"

    @property
    def choice(self) -> EmbeddingChoice:
        return EmbeddingChoice(self.embedding, self.layer_norm, self.frame)

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


class Trees:
    """Trees of B neurons and their cut, padded to M merges: all that follows from them without the distances.

    n          (B,) examples
    kept       (B,) merges at or below the cut
    heights    (B, M) +inf in padding
    intra_at   (B, M + 1) intra with so many merges kept; NaN where undefined, and in padding
    inter_at   (B, M + 1) likewise
    silhouette_at  (B, M + 1) likewise; all NaN where the batch holds no cut_silhouettes

    The pairs that meet in a merge are those of its node without those of its two children, so sums over the merges kept
    are sums over all pairs in the same cluster.
    """

    def __init__(self, batch: ClusterBatch, distance_threshold: float) -> None:
        self.batch = batch
        self.distance_threshold = distance_threshold
        self.n = batch.n_examples.astype(np.int64)
        n_merges = np.maximum(self.n - 1, 0)
        self._used = np.arange(n_merges.max(initial=0)) < n_merges[:, None]  # (B, M)
        self.heights = self._padded(batch.heights, np.inf)
        self.kept = (self.heights <= distance_threshold).sum(axis=1)
        self._children = self._padded(batch.merges[:, 0], 0), self._padded(batch.merges[:, 1], 0)
        self._sizes = self._node_sizes()
        self.intra_at, self.inter_at = self._curves()
        asked = batch.cut_silhouettes.ndim == 2 and batch.cut_silhouettes.shape[1] > 0
        every = batch.cut_silhouettes[:, 0] if asked else np.full(len(batch.heights), np.nan)
        self.silhouette_at = np.pad(self._padded(every, np.nan), ((0, 0), (1, 0)), constant_values=np.nan)

    def _padded(self, flat: Array, fill: float) -> Array:
        padded = np.full(self._used.shape, fill, flat.dtype)
        padded[self._used] = flat
        return padded

    def _of_children(self, of_merges: Array, of_example: float) -> tuple[Array, Array]:
        """The values (B, M) of each merge's two children, examples being worth `of_example`."""
        left, right = (
            np.where(nodes < self.n[:, None], of_example, np.take_along_axis(of_merges, self._rows(nodes), axis=1))
            for nodes in self._children
        )
        return left, right

    def _rows(self, nodes: Array) -> Array:
        """The merge that each node is; 0 for an example."""
        return np.maximum(nodes - self.n[:, None], 0)

    def _node_sizes(self) -> Array:
        """(B, M) float64 examples under each merge; children come first."""
        sizes: Array = np.zeros(self._used.shape)
        every = np.arange(len(sizes))
        for m in range(self._used.shape[-1]):
            for nodes in self._children:
                row = nodes[:, m] - self.n
                sizes[:, m] += np.where(row < 0, 1, sizes[every, np.maximum(row, 0)])
        return sizes

    def _curves(self) -> tuple[Array, Array]:
        totals = self._padded(self.batch.node_mean_distances, 0.0) * self._sizes * (self._sizes - 1) / 2
        left, right = self._of_children(totals, 0.0)
        size_left, size_right = self._of_children(self._sizes, 1.0)
        meeting = np.maximum(totals - left - right, 0.0)  # rounding must not make distances negative
        distance, pairs = (_sums(np.where(self._used, x, 0.0)) for x in (meeting, size_left * size_right))
        beyond = np.arange(distance.shape[1]) > np.maximum(self.n - 1, 0)[:, None]
        intra = _ratio(distance, pairs)
        inter = _ratio(np.maximum(distance[:, -1:] - distance, 0.0), pairs[:, -1:] - pairs)
        return np.where(beyond, np.nan, intra), np.where(beyond, np.nan, inter)

    def kept_for(self, n_clusters: Array) -> Array:
        """(B,) merges to keep for so many clusters, or for the nearest number that a cut gives; of two the smaller."""
        edges = np.pad(self.heights, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
        m = np.arange(edges.shape[1] - 1)
        possible = (edges[:, :-1] < edges[:, 1:]) | (m == np.maximum(self.n - 1, 0)[:, None])
        off = np.abs(m - (self.n - n_clusters)[:, None]).astype(float)
        off[~possible | (m > np.maximum(self.n - 1, 0)[:, None])] = np.inf
        kept: Array = len(m) - 1 - off[:, ::-1].argmin(axis=1)
        return kept

    def root_heights(self) -> Array:
        """(B,) NaN below two examples."""
        last = self.heights[np.arange(len(self.n)), np.maximum(self.n - 2, 0)] if self.heights.size else self.n
        return np.where(self.n > 1, last, np.nan)

    def largest_heights(self) -> Array:
        """(B,) height of the largest cluster's top merge, of equals the lowest; 0 of an example, NaN without any."""
        below = np.arange(self.heights.shape[1]) < self.kept[:, None]
        tops = below.copy()
        for nodes in self._children:
            neuron, merge = np.nonzero(below & (nodes >= self.n[:, None]))
            tops[neuron, self._rows(nodes)[neuron, merge]] = False
        if not tops.size:
            return np.where(self.n > 0, 0.0, np.nan)
        largest = np.where(tops, self._sizes, 0).argmax(axis=1)
        heights = self.heights[np.arange(len(self.n)), largest]
        return np.where(tops.any(axis=1), heights, np.where(self.n > 0, 0.0, np.nan))

    def second_shares(self) -> Array:
        """(B,) share of the examples in the second largest cluster; 0 with one cluster, NaN without examples."""
        counts = _counts(np.repeat(np.arange(len(self.n)), self.n), self.batch.labels, len(self.n))
        second = np.sort(counts, axis=1)[:, -2]
        return _ratio(second, self.n)


def _sums(values: Array) -> Array:
    """(B, M + 1) sums of the first 0, 1 … M values of each row."""
    sums: Array = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
    return sums


def _ratio(a: Array, b: Array) -> Array:
    """a / b; NaN where b is 0."""
    ratio: Array = np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)
    return ratio


def _counts(rows: Array, labels: Array, n_rows: int) -> Array:
    """(n_rows, labels) how often each label comes in each row; at least two columns."""
    width = max(int(labels.max(initial=0)) + 1, 2)
    return np.bincount(rows * width + labels, minlength=n_rows * width).reshape(n_rows, width)


def own_columns(variant: Variant, trees: Trees, side: Side) -> dict[str, Array]:
    batch, n = trees.batch, len(trees.n)
    texts = {name: np.full(n, text or "") for name, text in variant._asdict().items()}
    return {
        "layer": batch.neurons[:, 0],
        "neuron": batch.neurons[:, 1],
        "side": np.full(n, side),
        **texts,
        "distance_threshold": np.full(n, trees.distance_threshold),
        "method": np.array(METHODS)[batch.methods - 1],
        "n_examples": batch.n_examples,
        "n_clusters": batch.n_clusters,
        **{name: getattr(batch, name) for name in METRICS},
        "second_share": trees.second_shares(),
        "largest_height": trees.largest_heights(),
        "root_height": trees.root_heights(),
    }


def agreement_columns(variant: Variant, trees: dict[Variant, Trees]) -> dict[str, Array]:
    """Return how far hac and scc agree, in the rows of both."""
    both = {
        other.algorithm: trees[other]
        for other in trees
        if other[2:] == variant[2:] and other.algorithm in ("hac", "scc")
    }
    if variant.algorithm not in both or len(both) < 2:
        return {"ari_hac_scc": np.full(len(trees[variant].n), np.nan)}
    hac, scc = both["hac"].batch, both["scc"].batch
    return {"ari_hac_scc": adjusted_rand_indexes(hac.labels, scc.labels, hac.n_examples)}


def matched_columns(variant: Variant, trees: dict[Variant, Trees]) -> dict[str, Array]:
    """The tree cut to as many clusters as the neuron embedding's has; undefined unless it and another are there."""
    mine, neuron = trees[variant], variant._replace(embedding="neuron")
    if neuron not in trees or not any(neuron == v._replace(embedding="neuron") for v in trees if v != neuron):
        nothing = np.full(len(mine.n), np.nan)
        return {"matched_n_clusters": np.full(len(mine.n), UNDEFINED)} | dict.fromkeys(MATCHED, nothing)
    kept = mine.kept_for(trees[neuron].batch.n_clusters)[:, None]
    curves = mine.intra_at, mine.inter_at, mine.silhouette_at
    return {
        "matched_n_clusters": mine.n - kept[:, 0],
        **{name: np.take_along_axis(at, kept, axis=1)[:, 0] for name, at in zip(MATCHED, curves, strict=True)},
    }


def best_cut_columns(thresholds: Sequence[float], silhouettes: Array) -> dict[str, Array]:
    """The highest of the silhouettes (B, C) over ascending thresholds, and the lowest threshold that has it."""
    if not thresholds:
        nothing = np.full(len(silhouettes), np.nan)
        return {"best_silhouette": nothing, "best_threshold": nothing}
    best = np.where(np.isnan(silhouettes), -np.inf, silhouettes).argmax(axis=1)
    highest = silhouettes[np.arange(len(best)), best]
    return {
        "best_silhouette": highest,
        "best_threshold": np.where(np.isnan(highest), np.nan, np.array(thresholds)[best]),
    }
