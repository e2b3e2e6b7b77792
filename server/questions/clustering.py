"""The work of clustering: x̂ → distances → tree → cut → metrics, batch by batch, and large neurons one by one.

A neuron's number of examples and the algorithm decide how its tree is made (METHODS):

matrix          up to 4,096 examples: all pairwise distances, many neurons in one launch
linear          up to 20,000: the same tree in memory that grows with the examples only. Single linkage: any number
neighbours      more, for SCC: on the graph of the 25 nearest neighbours
neighbour_tree  only where `neighbours` asks for it: single linkage on that graph

`neighbours` asks for one of the last two at any size. Then each neuron's tree is made by itself, the rest in batches.

On a GPU two batches are under way at a time (`lanes`), and nothing waits for the device before a batch's results do:
what is wrong with its values is a flag among them (`polysem.kernels.faults`).
"""

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels import (
    agglomerative,
    clusterings,
    distances,
    faults,
    metrics,
    products,
    scc,
    silhouettes,
    splits,
    stability,
    tree,
)
from polysem.kernels.definitions import Clusterings, TreeMetrics
from polysem.kernels.faults import Faults
from polysem.kernels.large import libraries, neighbour_tree, neighbours
from polysem.kernels.large import trees as large_trees
from polysem.kernels.large.embeddings import unit_embeddings
from polysem.kernels.large.metrics import tree_metrics
from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import FailedPrecondition
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import (
    LIBRARIES,
    METHODS,
    ClusterBatch,
    Clustering,
    ClusterQuery,
    EmbeddingChoice,
    Library,
    Method,
    threshold_schedule,
)
from polysem.proto.wire import columns
from polysem.server.index.format import Index
from polysem.server.model import transfers
from polysem.server.model.model import Model
from polysem.server.model.transfers import Arriving
from polysem.server.questions import costs, lanes, memory, nulls, resident, rotation_tests
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.held import held_nulls, held_tests
from polysem.server.questions.resident import DeviceBatch

MAX_IN_MATRIX = 4096
MAX_IN_LINEAR_MEMORY = 20_000
COST_OF_ONE = {"cpu": 1e8, "cuda": 3e9}  # some 5 ms: what one tree costs that is made by itself, besides

log = logging.getLogger(__name__)


class Clustered(NamedTuple):
    """Results of the kernels for a batch."""

    trees: Tensor
    labels: Tensor
    metrics: TreeMetrics
    silhouettes: Tensor  # (B, C) of the further cuts
    cut_silhouettes: Tensor | None = None  # (B, N - 1), like the others None where not asked for
    significance: Tensor | None = None  # (B, 4), and of merges (B, N - 1, 2); None: not asked for
    merge_tests: Tensor | None = None
    null_metrics: Tensor | None = None  # (B, 4)
    stability: Tensor | None = None  # (B, N)
    prediction_strength: Tensor | None = None  # (B,)
    is_faulty: Tensor | None = None  # () whether a kernel's check found something; None: each was looked at


class Begun(NamedTuple):
    """A batch under way on a lane."""

    batch: DeviceBatch
    arriving: Arriving[Clustered]
    lane: AbstractContextManager[object]


class MadeTree(NamedTuple):
    """One neuron's tree (N - 1, 4) float64, how it was made, and what searched nearest neighbours for it."""

    linkage: Tensor
    method: Method
    library: Library = "polysem"


@dataclass(frozen=True, eq=True)
class ClusterWork:
    """Items are neurons: (layer, neuron). library: what searches nearest neighbours."""

    model: Model
    index: Index
    choice: EmbeddingChoice
    clustering: Clustering
    library: libraries.Library = "torch"

    def costs(self, items: IntArray) -> Array:
        """n_examples² · d_model, what tests cost, and a constant for a tree made by itself: batches stay short."""
        n = self.index.n_examples[items[:, 0], items[:, 1]].astype(np.float64)
        by_itself = 0.0 if self.clustering.neighbours is None else COST_OF_ONE[self.model.device.type]
        testing = costs.of_tests(n, self.clustering.n_null, self.clustering.neuron_only, self._is_held)
        return (n**2 + 1) * self.model.info.d_model + by_itself + testing

    def takes(self, n_examples: Array) -> Array:
        """(B,) bool: whether neurons of so many examples are not too large for what was asked."""
        return np.asarray(n_examples <= self._most_examples)

    def check(self, neuron: NeuronId) -> None:
        """Raises FailedPrecondition for a neuron that is too large for what was asked."""
        n = int(self.index.n_examples[neuron])
        if not self.takes(np.array(n)):
            raise FailedPrecondition(
                f"{self.index.info.unit} {neuron} has {n:,} examples, and {self.clustering.linkage} linkage takes at "
                f"most {self._most_examples:,}; ask for algorithm scc or for single linkage, or serve an index with "
                "fewer --max-examples"
            )

    @property
    def _most_examples(self) -> float:
        if self.clustering.algorithm == "scc" or self.clustering.linkage == "single":
            return np.inf
        return MAX_IN_LINEAR_MEMORY if self.clustering.linkage == "average" else MAX_IN_MATRIX

    def run(self, items: IntArray) -> ClusterBatch:
        """Raises FailedPrecondition for a neuron that is too large for what was asked, or for the device."""
        n_examples = self.index.n_examples[items[:, 0], items[:, 1]]
        out = empty_cluster_batch(items, n_examples, self.clustering)
        offsets = columns.offsets(out)
        self._put_key_tokens(out, offsets["example"])
        small = np.flatnonzero(n_examples <= MAX_IN_MATRIX)
        batches = resident.device_batches(self.model, self.index, items[small], self.choice, self.clustering.n_null > 0)
        for batch, clustered in self._in_lanes(batches):
            _put(out, offsets, batch._replace(places=small[batch.places]), clustered)
        if self.clustering.neighbours is not None:
            _say(out, small, "neighbours" if self.clustering.algorithm == "scc" else "neighbour_tree", self.library)
        for place in np.flatnonzero(n_examples > MAX_IN_MATRIX):
            (batch,) = resident.device_batches(self.model, self.index, items[place : place + 1], self.choice)
            self.check(NeuronId(*items[place].tolist()))
            made, clustered = self._large(batch)
            read = transfers.fetch(clustered, self.model.device).wait()
            _put(out, offsets, batch._replace(places=np.array([place])), read)
            _say(out, np.array([place]), made.method, made.library)
        return replace(out, significance=held_tests(self.index, self.choice, items)) if self._is_held else out

    @property
    def _is_held(self) -> bool:
        """Whether the index holds all that is wanted of rotation tests."""
        held, wanted = held_nulls(self.index, self.choice), self.clustering
        asked = wanted.neuron_only and held is not None and (held.n_null, held.seed) == (wanted.n_null, wanted.seed)
        return held is not None and (wanted.n_null == 0 or asked)

    def _put_key_tokens(self, out: ClusterBatch, ends: columns.Offsets) -> None:
        """The key token of each example, layer by layer."""
        for layer in np.unique(out.neurons[:, 0]).tolist():
            stored = self.index.layer(layer)
            mine = np.flatnonzero(out.neurons[:, 0] == layer)
            counts = out.n_examples[mine].astype(np.int64)
            within = np.arange(counts.sum()) - np.repeat(columns.from_counts(counts)[:-1], counts)
            stored_at = np.repeat(stored.offsets[out.neurons[mine, 1]], counts) + within
            rows = np.asarray(stored.rows)[stored_at]
            self.index.check_rows(layer, rows.astype(np.int64))
            out.key_tokens[np.repeat(ends[mine], counts) + within] = self.index.key_tokens(layer, rows)

    def _in_lanes(self, batches: Iterator[DeviceBatch]) -> Iterator[tuple[DeviceBatch, Clustered]]:
        """Begin a batch before the one before it is read."""
        around = lanes.lanes(self.model.device)
        begun: deque[Begun] = deque()
        for lane in itertools.cycle(around):
            with lane, self._checks() as found:  # the batch's own tensors are made on the lane, too
                batch = next(batches, None)
                if batch is None:
                    break
                begun += [Begun(*part, lane) for part in self._clustered(batch, found)]
            while len(begun) >= len(around):
                yield self._read(begun.popleft())
        while begun:
            yield self._read(begun.popleft())

    def _read(self, begun: Begun) -> tuple[DeviceBatch, Clustered]:
        """Wait for a batch, the only time that anybody does. Raises what the kernels say of values in fault."""
        made = begun.arriving.wait()
        if made.is_faulty:
            with begun.lane:
                made = transfers.fetch(self._cluster(begun.batch), self.model.device).wait()  # each check looked at
        return begun.batch, made

    def _checks(self) -> AbstractContextManager[Faults]:
        """Collect the kernels' checks, unless tests of merges will wait for the device in any case."""
        waits = self.clustering.n_null > 0 and not self.clustering.neuron_only
        return nullcontext(Faults()) if waits else faults.collected()

    def _clustered(self, batch: DeviceBatch, found: Faults) -> list[tuple[DeviceBatch, Arriving[Clustered]]]:
        """The batch's clusterings, on their way; in halves where the device has not the memory for it."""
        n = len(batch.places)
        try:
            made = self._cluster(batch)
            return [(batch, transfers.fetch(made._replace(is_faulty=found.found), self.model.device))]
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            if n == 1:
                raise _too_little(error, batch) from error
        log.warning("out of memory with %d neurons of up to %d examples; going on with half", n, batch.used.shape[1])
        torch.cuda.empty_cache()
        return self._clustered(batch.part(0, n // 2), found) + self._clustered(batch.part(n // 2, n), found)

    def _cluster(self, batch: DeviceBatch) -> Clustered:
        n = batch.n_examples
        how = batch.how
        d = distances.gathered_cosine_distances(
            batch.rows, batch.example_rows, how.weights, n, how.offsets, up=how.up, factors=batch.factors
        )
        trees, labels, measured = self._clusterings(batch, d)
        at = [
            metrics.cluster_metrics(d, tree.cut(trees, n, t), n).silhouette
            for t in self.clustering.silhouette_thresholds
        ]
        wanted = self.clustering.cut_silhouettes and self.clustering.neighbours is None
        every = silhouettes.cut_silhouettes(d, trees, n) if wanted else None
        made = Clustered(trees, labels, measured, _side_by_side(at, n), every)
        return made if self.clustering.n_null == 0 else self._tested(batch, made, d)

    def _clusterings(self, batch: DeviceBatch, d: Tensor) -> Clusterings:
        n, clustering = batch.n_examples, self.clustering
        cut = clustering.distance_threshold
        if clustering.neighbours is not None:
            return clusterings.measured(d, self._neighbour_trees(batch), n, cut)
        if clustering.algorithm != "scc":
            return clusterings.hac_clusterings(d, n, cut, clustering.linkage)
        return clusterings.scc_clusterings(d, n, cut, self._thresholds(d.device), clustering.until_stable)

    def _tested(self, batch: DeviceBatch, made: Clustered, d: Tensor) -> Clustered:
        """Add the rotation test of each neuron and, unless it is asked for alone, those of its merges, and stability.

        A tree of a graph of nearest neighbours has the test alone: the graph holds no distances of samples.
        """
        n_null, seed = self.clustering.n_null, self.clustering.seed
        embedded = rotation_tests.embedded_rows(batch)
        n = embedded.n_examples
        if self.clustering.neighbours is None:
            gram = products.gathered_products(*embedded)
            made = made._replace(null_metrics=nulls.null_metrics(gram, n, self._labels, n_null, seed))
        if self._is_held:
            return made
        if self.clustering.neuron_only:
            return made._replace(significance=torch.stack(list(rotation_tests.tests_of(batch, n_null, seed)), dim=1))
        trees = made.trees.where((n > 0)[:, None, None], torch.nan)
        rows, at, weights, n, offsets = embedded
        found = splits.significant_merges(rows, at, weights, n, trees, offsets, n_null=n_null, seed=seed)
        tests = torch.stack([found.p_value, found.significant.double()], dim=2)
        made = made._replace(significance=torch.stack(list(found.root), dim=1), merge_tests=tests)
        if self.clustering.neighbours is not None:
            return made
        k = splits.significant_clusters(trees, found.significant, n)
        return made._replace(
            stability=stability.cluster_stability(d, made.labels, n, self._labels, seed=seed),
            prediction_strength=stability.prediction_strength(d, n, k, self._trees, seed=seed),
        )

    def _labels(self, d: Tensor, n: Tensor) -> Tensor:
        """(B, N) the clusters at the cut."""
        return tree.cut(self._trees(d, n), n, self.clustering.distance_threshold)

    def _trees(self, d: Tensor, n: Tensor) -> Tensor:
        """(B, N - 1, 4) float64."""
        clustering = self.clustering
        if clustering.algorithm != "scc":
            return agglomerative.linkage(d, n, clustering.linkage)
        return scc.linkage(d, n, self._thresholds(d.device), clustering.until_stable)

    def _neighbour_trees(self, batch: DeviceBatch) -> Tensor:
        """(B, N - 1, 4) float64, one neuron after the other."""
        counts = batch.n_examples.tolist()
        shape = len(counts), max(batch.used.shape[1] - 1, 0), 4
        trees = torch.full(shape, torch.nan, dtype=torch.float64, device=batch.n_examples.device)
        for b, n in enumerate(counts):
            trees[b, : max(n - 1, 0)] = self._tree(_unit(batch, b, n)).linkage
        return trees

    def _thresholds(self, device: torch.device) -> Tensor:
        thresholds = self.clustering.thresholds
        if isinstance(thresholds, str):
            thresholds = threshold_schedule(thresholds)
        return transfers.send(torch.tensor(thresholds, dtype=torch.float64), device)

    def _large(self, batch: DeviceBatch) -> tuple[MadeTree, Clustered]:
        """One neuron of more examples than a matrix takes."""
        try:
            return self._without_matrix(batch)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            raise _too_little(error, batch) from error

    def _without_matrix(self, batch: DeviceBatch) -> tuple[MadeTree, Clustered]:
        unit = _unit(batch, 0, int(batch.n_examples[0]))
        made = self._tree(unit)
        trees = made.linkage[None]
        labels = tree.cut(trees, batch.n_examples, self.clustering.distance_threshold)
        cuts = (tree.cut(trees, batch.n_examples, t) for t in self.clustering.silhouette_thresholds)
        at = [tree_metrics(unit, made.linkage, cut[0]).clusters.silhouette for cut in cuts]
        measured = tree_metrics(unit, made.linkage, labels[0])
        return made, Clustered(trees, labels, measured, _side_by_side(at, batch.n_examples))

    def _tree(self, unit: Tensor) -> MadeTree:
        """One neuron's, without its distances."""
        clustering, library, k = self.clustering, self.library, self.clustering.neighbours
        if clustering.algorithm == "scc":
            thresholds, until_stable = self._thresholds(unit.device), clustering.until_stable
            if k is None and len(unit) <= MAX_IN_LINEAR_MEMORY:
                return MadeTree(large_trees.scc_linkage(unit, thresholds, until_stable), "linear")
            k = k or neighbours.N_NEIGHBOURS
            return MadeTree(neighbours.scc_linkage(unit, thresholds, k, until_stable, library), "neighbours", library)
        if k is not None:
            return MadeTree(neighbour_tree.single_linkage(unit, k, library), "neighbour_tree", library)
        linkage = large_trees.single_linkage if clustering.linkage == "single" else large_trees.average_linkage
        return MadeTree(linkage(unit), "linear")


def _unit(batch: DeviceBatch, b: int, n: int) -> Tensor:
    """(n, D) float32: the unit embeddings of the batch's neuron b."""
    weights, offsets, up, _ = (None if of is None else of[b] for of in batch.how)
    assert weights is not None
    factors = None if batch.factors is None else batch.factors[b, :n]
    return unit_embeddings(batch.rows[batch.example_rows[b, :n]], weights, offsets, up, factors)


def _too_little(error: Exception, batch: DeviceBatch) -> FailedPrecondition:
    """The answer where memory ran out with one neuron."""
    what = f"a neuron of {batch.used.shape[1]} examples"
    return memory.in_words(error, what, "serve an index with fewer --max-examples")


def _say(out: ClusterBatch, places: Array, method: Method, library: Library) -> None:
    """Return how the trees at these places were made."""
    out.methods[places] = METHODS.index(method) + 1
    out.libraries[places] = LIBRARIES.index(library) + 1


def _side_by_side(of_cuts: list[Tensor], n_examples: Tensor) -> Tensor:
    """(B, C) of C tensors (B,)."""
    if not of_cuts:
        return torch.empty((len(n_examples), 0), dtype=torch.float64, device=n_examples.device)
    return torch.stack(of_cuts, dim=1)


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
    if clustered.cut_silhouettes is not None:
        out.cut_silhouettes[to_merge, 0] = clustered.cut_silhouettes.numpy()[merges]
    if clustered.significance is not None:
        out.significance[places] = clustered.significance.numpy()
    if clustered.merge_tests is not None:
        out.merge_tests[to_merge] = clustered.merge_tests.numpy()[merges]
    if clustered.null_metrics is not None:
        out.null_metrics[places] = clustered.null_metrics.numpy()
    if clustered.stability is not None and clustered.prediction_strength is not None:
        out.stability[to_example, 0] = clustered.stability.numpy()[batch.used]
        out.prediction_strength[places, 0] = clustered.prediction_strength.numpy()
    for name in ("n_clusters", *_METRICS):
        getattr(out, name)[places] = getattr(clusters, name).numpy()


_METRICS = ("max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share")


def empty_cluster_batch(neurons: IntArray, n_examples: IntArray, clustering: Clustering) -> ClusterBatch:
    b, e, m = len(neurons), int(n_examples.sum()), int(np.maximum(n_examples - 1, 0).sum())
    n_cuts, n_null = len(clustering.silhouette_thresholds), clustering.n_null
    of_merges = n_null and not clustering.neuron_only
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
        libraries=np.full(b, LIBRARIES.index("polysem") + 1, np.int32),
        significance=np.full((b, 4 if n_null else 0), np.nan),
        merge_tests=np.tile([[np.nan, 0.0]], (m, 1)) if of_merges else np.empty((m, 0)),
        key_tokens=np.empty(e, np.int32),
        null_metrics=np.full((b, 4 if n_null else 0), np.nan),
        stability=np.full((e, 1 if of_merges else 0), np.nan),
        prediction_strength=np.full((b, 1 if of_merges else 0), np.nan),
        cut_silhouettes=np.full((m, 1 if clustering.cut_silhouettes else 0), np.nan),
    )


def work_of(engine: Engine, index: Index, choice: EmbeddingChoice, clustering: Clustering) -> ClusterWork:
    """The work of clustering neurons of the index. Raises InvalidArgument for an embedding that they do not have."""
    model = engine.model_of(index)
    model.check_choice(choice)
    return ClusterWork(model, index, choice, clustering.canonical(), engine.neighbour_library)


def plan(engine: Engine, query: ClusterQuery) -> Plan:
    """Raises UnknownIndex, UnknownNeuron, InvalidArgument; so do the plans of other questions."""
    index = engine.index(query.index, query.side)
    work = work_of(engine, index, query.choice, query.clustering)
    return Plan(work, engine.neurons(index, query.neurons), engine.provenance(index, query.choice, work.clustering))
