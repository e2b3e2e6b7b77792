"""Every neuron by every clustering asked for, a row each: what `polysem measure` writes.

The neurons come through a `Client`, so a server far away and one in this process are measured alike. A chunk of neurons
is asked for at a time, so memory does not grow with the model. Per chunk everything is a flat or padded array, letters
as elsewhere: B neurons, E examples, M merges of the neuron that has most.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from polysem.client import calls, measurements
from polysem.client.agreement import adjusted_rand_indexes
from polysem.client.client import Client
from polysem.client.measurements import COLUMNS, UNDEFINED, Array, Rows
from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.proto.facts import IndexInfo, ServerInfo
from polysem.proto.neurons import NeuronLike, NeuronRange, parse_neurons
from polysem.proto.questions.clustering import (
    METHODS,
    Algorithm,
    ClusterBatch,
    Clustering,
    Embedding,
    EmbeddingChoice,
    LayerNorm,
    Linkage,
    check_choice,
    check_clustering,
    check_distance_threshold,
)
from polysem.proto.wire import columns
from polysem.proto.work import shards
from polysem.proto.work.shards import Executor, Here, Ledger, Shard

# Closer where distances are small: raw pre-MLP embeddings are all much alike.
BEST_CUT_THRESHOLDS = (
    *(0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35),
    *(0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0),
)
EXAMPLES_AT_ONCE = 1 << 18  # of a chunk of neurons, at most
CALLS_AT_ONCE = 3  # so that the server works while an answer is read
Progress = Callable[[int], None]

METRICS = ("max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share")


class Variant(NamedTuple):
    """A way to cluster a neuron; linkage is None but for hac."""

    algorithm: Algorithm
    linkage: Linkage | None
    embedding: Embedding
    layer_norm: LayerNorm

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


def variants(
    algorithms: Iterable[Algorithm] = ("hac", "scc"),
    embeddings: Iterable[Embedding] = ("neuron", "pre_mlp"),
    layer_norms: Iterable[LayerNorm] = ("folded",),
    linkage: Linkage = "average",
) -> tuple[Variant, ...]:
    """Each algorithm on each embedding in each mode, once.

    Raises InvalidArgument for an unknown name.
    """
    found = dict.fromkeys(
        Variant(algorithm, linkage if algorithm == "hac" else None, embedding, layer_norm)
        for algorithm, embedding, layer_norm in product(algorithms, embeddings, layer_norms)
    )
    for variant in found:
        check_clustering(Clustering(variant.algorithm, linkage))
        check_choice(EmbeddingChoice(variant.embedding, variant.layer_norm))
    if not found:
        raise InvalidArgument("nothing is to be measured: name an algorithm, an embedding and a LayerNorm mode")
    return tuple(found)


class Asked(Protocol):
    """What `Measuring` must know of a server: a Client, or what one said."""

    target: str

    def info(self) -> ServerInfo: ...

    def indexes(self) -> list[IndexInfo]: ...


class Measuring:
    """What is to be measured, checked; nothing is clustered yet.

    client              of the server that holds the index; without an executor, a Client
    neurons             as `Client.cluster` takes them; each is measured once, in the model's order
    variants            how each is clustered
    distance_threshold  0..2: where each tree is cut
    best_cut            also cut at all of BEST_CUT_THRESHOLDS, for the best silhouette
    index               of the server; None: its default

    n_trees  trees that the server will make
    about    what the numbers depend on, for the file's metadata

    Raises InvalidArgument, UnknownIndex, UnknownNeuron, and what `Client.info` raises.
    """

    def __init__(
        self,
        client: Asked,
        neurons: Sequence[NeuronLike] = ("*",),
        variants: Sequence[Variant] = variants(),
        *,
        distance_threshold: float = 0.5,
        best_cut: bool = True,
        index: str | None = None,
    ) -> None:
        check_distance_threshold(distance_threshold)
        self._client = client
        self._variants = variants
        self._threshold = distance_threshold
        self._grid = BEST_CUT_THRESHOLDS if best_cut else ()
        ranges = parse_neurons(*neurons)
        about = client.info()
        self._index = _index(client, index or about.default_index)
        self._version = about.version
        self._neurons = _neurons(ranges, self._index)
        self.n_trees = len(self._neurons) * len(variants)
        self.about: dict[str, Any] = {
            "software_version": about.version,
            "device": about.device,
            "index": asdict(self._index),
            "neurons": [str(r) for r in ranges],
            "variants": [variant._asdict() for variant in variants],
            "distance_threshold": distance_threshold,
            "best_cut_thresholds": list(self._grid),
            "columns": {name: column.meaning for name, column in COLUMNS.items()},
        }

    @property
    def n_neurons(self) -> int:
        return len(self._neurons)

    def run(
        self,
        out: Path,
        progress: Progress = lambda n_trees: None,
        force: bool = False,
        executor: Executor | None = None,
    ) -> None:
        """Measure, and write the rows to `out`: by neuron, then in the order of the variants.

        Work goes on in OUT.tmp, a shard of neurons at a time; killed, it goes on there when it is run again, and ends
        with the same bytes. OUT appears in one rename.

        progress  told of every batch of trees that arrives, and of those that were done before
        executor  where servers are asked; None: the client's, a shard after another

        Raises what `Client.cluster` raises, and FailedPrecondition where `out` cannot be written or exists (unless
        `force`), where OUT.tmp holds other measurements, or where the server's index changes on the way.
        """
        with measurements.Writer(out, force) as writer:
            work = out.with_name(out.name + ".tmp")
            with measurements.told(out, f"what is finished is kept in {str(work)!r}"):
                work.mkdir(exist_ok=True)
                with shards.sole_worker(work):
                    self._check_begun(work)
                    for part in self._finish(work, progress, executor or Here(self._client)):
                        writer.write(self.about, shards.read(part.path))
        shutil.rmtree(work, ignore_errors=True)

    def _check_begun(self, work: Path) -> None:
        """OUT.tmp must hold pieces of these very measurements."""
        path, about = work / "about.json", json.loads(json.dumps(self.about))
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(about, indent=1))
            partial.rename(path)
            return
        begun = json.loads(path.read_text())
        if differing := [name for name in about if about[name] != begun.get(name)]:
            raise FailedPrecondition(
                f"the unfinished measurements in {str(work)!r} were begun with another {' and '.join(differing)}; "
                "go on with the same arguments, or remove that folder"
            )

    def _finish(self, work: Path, progress: Progress, executor: Executor) -> list[Shard]:
        """All shards, done."""
        size = max(EXAMPLES_AT_ONCE // max(self._index.selection.max_examples, 1), 1)
        key = shards.key(**self.about)
        stage = shards.Stage(
            [
                Shard(first, last, work / f"{key}-{first:09d}.npz")
                for first, last in shards.ranges(len(self._neurons), size)
            ],
            lambda shard: self._neurons[shard.first : shard.last],
            Chunks(self._variants, self._threshold, self._grid, self._index.name, self._index.sha256, self._version),
            progress,
            lambda shard: (shard.last - shard.first) * len(self._variants),
        )
        with closing(Ledger(work)) as ledger:
            executor.finish(ledger, stage)
        return list(stage.shards)


@dataclass(frozen=True)
class Chunks:
    """Measures chunks of neurons with any client of a server that holds the index; pickles."""

    variants: Sequence[Variant]
    threshold: float
    grid: Sequence[float]
    index: str
    index_sha256: str
    software_version: str

    def __call__(self, client: Client, neurons: Array, advance: Progress) -> Callable[[], Rows]:
        """Ask for the trees of the neurons (B, 2); what is returned measures them."""
        asked = _ranges(neurons)
        pool = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="polysem-measure")
        try:
            answers = list(pool.map(lambda variant: self._ask(client, asked, variant, advance), self.variants))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is under way ends with the client's channel
        return lambda: self._rows(answers)

    def _rows(self, answers: Sequence[ClusterBatch]) -> Rows:
        trees = {variant: Trees(answer, self.threshold) for variant, answer in zip(self.variants, answers, strict=True)}
        parts = [
            _own(variant, tree) | _agreement(variant, trees) | _matched(variant, trees)
            | _best(self.grid, tree.batch.silhouettes)
            for variant, tree in trees.items()
        ]  # fmt: skip
        return {name: np.stack([part[name] for part in parts], axis=1).reshape(-1) for name in COLUMNS}

    def _ask(self, client: Client, neurons: Sequence[NeuronRange], variant: Variant, advance: Progress) -> ClusterBatch:
        linkage = variant.linkage or "average"
        call = calls.cluster(
            neurons, variant.algorithm, linkage, variant.embedding, variant.layer_norm, self.threshold, None, False,
            self.index, self.grid,
        )  # fmt: skip
        batches: list[ClusterBatch] = []
        for answer in client._answers(call):
            found = answer.provenance
            if (found.index_sha256, found.software_version) != (self.index_sha256, self.software_version):
                raise FailedPrecondition(f"the server's index {self.index!r} changed on the way; measure anew")
            advance(len(answer.batch.neurons))
            batches.append(answer.batch)
        return _joined(batches)


def _index(client: Asked, name: str) -> IndexInfo:
    found = {index.name: index for index in client.indexes()}
    if name not in found:
        raise UnknownIndex(f"there is no index {name!r} at {client.target}; it has {', '.join(found)}")
    return found[name]


def _neurons(ranges: Iterable[NeuronRange], index: IndexInfo) -> Array:
    """(B, 2) int64 layer and number of the neurons that the ranges name, in the model's order."""
    named = np.zeros((index.n_layers, index.n_neurons_per_layer), bool)
    for r in ranges:
        if r.layer is None:
            named[:] = True
        elif r.layer >= index.n_layers or (r.last or 0) >= index.n_neurons_per_layer:
            raise UnknownNeuron(
                f"there is no neuron {r.layer}.{r.last or 0}; index {index.name!r} has layers 0 to "
                f"{index.n_layers - 1} of neurons 0 to {index.n_neurons_per_layer - 1}"
            )
        else:
            named[r.layer, r.first : None if r.last is None else r.last + 1] = True
    return np.argwhere(named)


def _ranges(neurons: Array) -> list[NeuronRange]:
    """The neurons (B, 2), which are in order, as few ranges."""
    runs = groupby(enumerate(neurons.tolist()), key=lambda item: (item[1][0], item[1][1] - item[0]))
    found = []
    for (layer, _), run in runs:
        members = [neuron for _, (_, neuron) in run]
        found.append(NeuronRange(layer, members[0], members[-1]))
    return found


def _joined(batches: Sequence[ClusterBatch]) -> ClusterBatch:
    names = columns.LAYOUTS[ClusterBatch].axes
    return ClusterBatch(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names})


# ---- Trees and their cuts


class Trees:
    """Trees of B neurons and their cut, padded to M merges: all that follows from them without the distances.

    n          (B,) examples
    kept       (B,) merges at or below the cut
    heights    (B, M) +inf in padding
    intra_at   (B, M + 1) intra with so many merges kept; NaN where undefined, and in padding
    inter_at   (B, M + 1) likewise

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


# ---- Columns of a variant, each (B,)


def _own(variant: Variant, trees: Trees) -> dict[str, Array]:
    batch, n = trees.batch, len(trees.n)
    texts = {name: np.full(n, text or "") for name, text in variant._asdict().items()}
    return {
        "layer": batch.neurons[:, 0],
        "neuron": batch.neurons[:, 1],
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


def _agreement(variant: Variant, trees: dict[Variant, Trees]) -> dict[str, Array]:
    """How far hac and scc agree, in the rows of both."""
    both = {
        other.algorithm: trees[other]
        for other in trees
        if other[2:] == variant[2:] and other.algorithm in ("hac", "scc")
    }
    if variant.algorithm not in both or len(both) < 2:
        return {"ari_hac_scc": np.full(len(trees[variant].n), np.nan)}
    hac, scc = both["hac"].batch, both["scc"].batch
    return {"ari_hac_scc": adjusted_rand_indexes(hac.labels, scc.labels, hac.n_examples)}


def _matched(variant: Variant, trees: dict[Variant, Trees]) -> dict[str, Array]:
    """The tree cut to as many clusters as the neuron embedding's has; undefined unless both embeddings are there."""
    mine = trees[variant]
    if not all(variant._replace(embedding=embedding) in trees for embedding in ("neuron", "pre_mlp")):
        nothing = np.full(len(mine.n), np.nan)
        return {
            "matched_n_clusters": np.full(len(mine.n), UNDEFINED),
            "matched_intra": nothing,
            "matched_inter": nothing,
        }
    wanted = trees[variant._replace(embedding="neuron")].batch.n_clusters
    kept = mine.kept_for(wanted)[:, None]
    return {
        "matched_n_clusters": mine.n - kept[:, 0],
        "matched_intra": np.take_along_axis(mine.intra_at, kept, axis=1)[:, 0],
        "matched_inter": np.take_along_axis(mine.inter_at, kept, axis=1)[:, 0],
    }


def _best(thresholds: Sequence[float], silhouettes: Array) -> dict[str, Array]:
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
