"""Neurons with their feature clusters: `Client.cluster`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack, overload

import numpy as np

from polysem.client import cutting, hooks, letters, tables
from polysem.client.baselines import Baselines, baseline_columns, baselines_of, key_tokens_of, nulls_of
from polysem.client.calls import Call
from polysem.client.hooks import Hook
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.counted import N_NULL, n_named
from polysem.client.questions.embedding import Embeddings
from polysem.client.questions.examples import Example
from polysem.client.questions.options import ClusteringOptions, numbers, read_options
from polysem.client.questions.significance import (
    TESTS,
    Significance,
    stability_of,
    strength_of,
    test_columns,
    tests_of,
    verdict,
)
from polysem.client.questions.silhouettes import silhouettes_of
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import in_words, or_none, or_nones
from polysem.proto import checks
from polysem.proto.arrays import DoubleArray, FloatArray, IntArray
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Answer, Provenance, Timing
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.clustering import (
    METHODS,
    ClusterBatch,
    Clustering,
    ClusterQuery,
    Embedding,
    Library,
    Method,
    check_distance_threshold,
    encode_cluster_query,
    library_of,
    made_by,
)
from polysem.proto.questions.tested import LEAST_IN_CLUSTER
from polysem.proto.sides import Side
from polysem.proto.wire import columns

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of one neuron's clustering at a cut. None where undefined; distances lie in 0..2.

    max_distance, mean_distance  over all pairs of examples
    intra, inter                 mean distance over all pairs in the same cluster, in different clusters
    silhouette                   -1..1; None after a `cut` on the client, which does not have the distances
    largest_share                0..1: examples in the largest cluster
    """

    n_examples: int
    n_clusters: int
    max_distance: float | None
    mean_distance: float | None
    intra: float | None
    inter: float | None
    silhouette: float | None
    largest_share: float | None


METRICS = tuple(field.name for field in fields(Metrics))


class Asker(Protocol):
    """Whom a neuron asks for more: a Client."""

    @property
    def cluster(self) -> "Callable[..., Sequence[Neuron]]": ...
    @property
    def examples(self) -> Callable[..., Sequence[Example]]: ...
    @property
    def embed(self) -> Callable[..., Sequence[Embeddings]]: ...


class Neuron:
    """A neuron's dataset examples as feature clusters.

    id        NeuronId, prints as 7.1234
    labels    (n,) int32: feature cluster of each example, numbered by first appearance
    linkage   (n − 1, 4) float64: the whole tree as SciPy writes it
    metrics   Metrics at this cut
    clusters  largest first
    method    how the tree was made: "matrix" from all pairwise distances; "linear" the same tree without a matrix (many
              examples); approximations from each example's nearest neighbours are "neighbours" (scc) and
              "neighbour_tree" (single linkage)
    significance  the rotation test of the neuron; None where it was not asked for, or has fewer than 3 examples
    merge_tests  (n − 1, 2) float64: of each merge the p-value of its examples, NaN where they were not tested, and 1
              where it is significant at its level (Kimes et al. 2017); None where not asked for
    prediction_strength  0..1, at as many clusters as are significant (Tibshirani and Walther 2005): 0.8 and more is
              well supported, 1 for one cluster; None where not tested, and where half of the examples are fewer
    cut_silhouettes  of the cuts at the silhouette_thresholds that were asked for, None where undefined
    key_tokens  (n,) int32: the model's id of each example's key token; None from an older server
    library   what searched those neighbours: "cuml", "scikit-learn" or "torch"; "polysem" where none were searched;
              None where the server is older and does not say
    """

    def __init__(
        self,
        id_: NeuronId,
        labels: IntArray,
        tree: cutting.Tree,
        metrics: Metrics,
        distance_threshold: float,
        method: Method,
        provenance: Provenance,
        timing: Timing,
        asker: Asker | None,
        library: Library | None = None,
        significance: Significance | None = None,
        merge_tests: DoubleArray | None = None,
        key_tokens: IntArray | None = None,
        null_metrics: DoubleArray | None = None,
        stability: DoubleArray | None = None,
        prediction_strength: float | None = None,
        cut_silhouettes: Sequence[float | None] = (),
    ) -> None:
        self.id = id_
        self.labels = labels
        self.metrics = metrics
        self.distance_threshold = distance_threshold
        self.method = method
        self.library = library
        self.significance = significance
        self.merge_tests = merge_tests
        self.key_tokens = key_tokens
        self._null_metrics = null_metrics
        self._stability = stability
        self.prediction_strength = prediction_strength
        self.cut_silhouettes = cut_silhouettes
        self.provenance = provenance
        self.timing = timing
        self._tree = tree
        self._asker = asker

    @cached_property
    def baselines(self) -> Baselines:
        """Baselines to compare the clusters with: key tokens, singletons, and chance at the same cut."""
        return baselines_of(self.labels, self.key_tokens, self._null_metrics)

    @property
    def verdict(self) -> str | None:
        """The p-value in words; None where not tested."""
        clustering = self.provenance.clustering
        return self.significance and verdict(self.significance.p_value, clustering.n_null if clustering else 0)

    @cached_property
    def significant_labels(self) -> IntArray | None:
        """(n,) groups that the significant merges tell apart, by first appearance; None where not tested."""
        if self.merge_tests is None:
            return None
        return cutting.significant_labels(self._tree, len(self.labels), self.merge_tests[:, 1].astype(np.int32))

    @cached_property
    def significant_clusters(self) -> int | None:
        """Number of those groups with 3 examples or more; 1 if nothing is significant; None if not tested."""
        groups = self.significant_labels
        return None if groups is None else int((np.bincount(groups) >= LEAST_IN_CLUSTER).sum())

    @cached_property
    def significant_cut(self) -> float | None:
        """The distance whose cut agrees best with the significant groups; None where not tested."""
        groups = self.significant_labels
        return None if groups is None else cutting.suggested_cut(self._tree, len(self.labels), groups)

    @property
    def side(self) -> Side:
        """The end of its activations that the examples are from."""
        return self.provenance.side

    @property
    def title(self) -> str:
        """neuron 7.1234, or neuron 7.1234, negative side; latent 7.1234 of an index of latents"""
        return f"{self.provenance.unit} {self.id}" + ", negative side" * (self.side == "negative")

    @property
    def hook(self) -> Hook:
        """Its place in TransformerLens: the hook point's name, the index there, and a line of code."""
        return hooks.hook(*self.id, self.provenance.unit)

    @property
    def made_by(self) -> str:
        """Return how the tree was made: "average linkage", "Sub-Cluster Component of nearest neighbours"."""
        return made_by(self.provenance.clustering, self.method)

    @property
    def tree(self) -> cutting.Tree:
        """The merges as they came: nodes, heights, and of each merge's node the central example and mean distance."""
        return self._tree

    @cached_property
    def linkage(self) -> DoubleArray:
        """(n − 1, 4) float64: the whole tree in SciPy's linkage format."""
        return cutting.linkage(self._tree)

    @cached_property
    def clusters(self) -> tuple[Cluster, ...]:
        """The feature clusters at this cut, largest first."""
        tops = cutting.top_nodes(self._tree, len(self.labels), self.distance_threshold)
        found = [self._cluster(label, node) for label, node in enumerate(tops)]
        found.sort(key=lambda cluster: -cluster.size)  # stable: of equals the lower label first
        return tuple(c._replace(letter=letters.letter_of(rank, c.size)) for rank, c in enumerate(found))

    def _cluster(self, label: int, node: int) -> Cluster:
        merge = node - len(self.labels)
        members = np.flatnonzero(self.labels == label).astype(np.int32)
        if merge < 0:
            return Cluster(label, members, node, None)
        stability = None if self._stability is None else or_none(self._stability[members[0]])
        mean_distance = float(self._tree.mean_distances[merge])
        return Cluster(label, members, int(self._tree.centrals[merge]), mean_distance, stability)

    def with_members(self, members: Sequence[int]) -> Cluster | None:
        """Return the cluster of exactly these examples; None where no cluster has them at this cut."""
        wanted = tuple(members)
        return next((cluster for cluster in self.clusters if tuple(cluster.members.tolist()) == wanted), None)

    def cut(self, distance_threshold: float) -> "Neuron":
        """The same neuron cut at another distance (0..2), without asking the server.

        Everything is as the server would give it, but the silhouette and what rotations have there, which are None.
        """
        check_distance_threshold(distance_threshold)
        n = len(self.labels)
        tops = cutting.top_nodes(self._tree, n, distance_threshold)
        labels = cutting.labels(self._tree, n, distance_threshold)
        intra, inter = cutting.intra_and_inter(self._tree, n, tops)
        metrics = Metrics(
            n_examples=n,
            n_clusters=len(tops),
            max_distance=self.metrics.max_distance,
            mean_distance=self.metrics.mean_distance,
            intra=intra,
            inter=inter,
            silhouette=None,
            largest_share=float(np.bincount(labels).max() / n) if n else None,
        )
        return Neuron(
            self.id,
            labels,
            self._tree,
            metrics,
            distance_threshold,
            self.method,
            self.provenance,
            self.timing,
            self._asker,
            self.library,
            self.significance,
            self.merge_tests,
            self.key_tokens,
            prediction_strength=self.prediction_strength,
        )

    @cached_property
    def examples(self) -> Sequence[Example]:
        """The texts, in the order of the labels; asked of the server on first use.

        Raises FailedPrecondition for a neuron without a connection: from AsyncClient, pickled or copied.
        """
        return self._connected().examples(self.id, index=self.provenance.index, side=self.side)

    def _connected(self) -> Asker:
        if self._asker is None:
            raise FailedPrecondition(
                f"{self.title} is without a connection, as it comes from AsyncClient or was pickled or copied: ask "
                f"client.examples({str(self.id)!r}) for its texts, of AsyncClient with await"
            )
        return self._asker

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_asker": None}
        if not (isinstance(texts := state.get("examples"), Stream) and texts.complete):
            state.pop("examples", None)  # to read them would take the connection
        return state

    def plot_dendrogram(self, *, texts: bool = True, max_per_cluster: int = 6) -> "matplotlib.figure.Figure":
        """The tree with a text at each leaf, as the paper's Figure 2; needs matplotlib (`polysem[figures]`)."""
        from polysem.client.drawing import figures

        return figures.plot_dendrogram(self, self.examples if texts else None, max_per_cluster=max_per_cluster)

    def plot_compare(self) -> "matplotlib.figure.Figure":
        """This neuron by pre-MLP and by neuron embeddings side by side, as the paper's Figure 4.

        Asks the server for the clustering by the other embedding, at the same cut, and for both embeddings; needs
        matplotlib (`polysem[figures]`).
        """
        from polysem.client.drawing import figures

        pre_mlp, neuron = figures.Side(*self._embedded("pre_mlp")), figures.Side(*self._embedded("neuron"))
        return figures.plot_comparison(pre_mlp, neuron)

    def _embedded(self, embedding: Embedding) -> "tuple[Neuron, FloatArray]":
        """This neuron clustered by an embedding, otherwise as it is and at its cut, and those embeddings."""
        choice, clustering, index = self.provenance.choice, self.provenance.clustering, self.provenance.index
        same = clustering is None or choice.embedding == embedding
        (embedded,) = self._connected().embed(
            self.id, embedding=embedding, layer_norm=choice.layer_norm, frame=choice.frame, index=index, side=self.side
        )
        return self if same else self._again(embedding=embedding), embedded.embeddings

    def _again(self, **changed: Any) -> "Neuron":
        """Ask the server the question of this neuron again, with `changed`, and without the test."""
        choice, clustering = self.provenance.choice, self.provenance.clustering or Clustering()
        options = {
            "algorithm": clustering.algorithm,
            "linkage": clustering.linkage,
            "embedding": choice.embedding,
            "layer_norm": choice.layer_norm,
            "frame": choice.frame,
            "distance_threshold": self.distance_threshold,
            "thresholds": clustering.thresholds if clustering.algorithm == "scc" else None,
            "until_stable": clustering.until_stable,
            "neighbours": clustering.neighbours,
            "index": self.provenance.index,
            "side": self.side,
            "n_null": 0,
        }
        return self._connected().cluster(self.id, **options | changed)[0]

    @cached_property
    def silhouettes(self) -> list[tuple[float, float | None]]:
        """Silhouettes at the merges, (distance, silhouette); see silhouettes.py. Asked of the server on first use."""
        ask = self._again
        return silhouettes_of(self._tree.heights, lambda steps: ask(silhouette_thresholds=steps).cut_silhouettes)

    def __repr__(self) -> str:
        m = self.metrics
        sizes = ", ".join([*(str(cluster.size) for cluster in self.clusters[:6]), *["…"] * (len(self.clusters) > 6)])
        return (
            f"<Neuron {self.id}: {m.n_examples} examples in {m.n_clusters} clusters ({sizes}) at distance "
            f"{self.distance_threshold:g}, intra {in_words(m.intra)}, inter {in_words(m.inter)}>"
        )

    def _repr_html_(self) -> str:
        from polysem.client.drawing import notebook

        return notebook.neuron_html(self)


class _Neurons(Sequence[Neuron]):
    """A batch's neurons: each made when it is first looked at, and kept.

    A whole model's take a twelfth of the clustering's time.
    """

    def __init__(self, answer: Answer, asker: Asker | None) -> None:
        self._answer, self._asker = answer, asker
        self._made: dict[int, Neuron] = {}

    def __len__(self) -> int:
        return len(self._answer.batch.neurons)

    @overload
    def __getitem__(self, index: int) -> Neuron: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Neuron]: ...
    def __getitem__(self, index: int | slice) -> Neuron | Sequence[Neuron]:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        made = self._made.get(place)
        return made if made is not None else self._made.setdefault(place, self._make(place))

    def _make(self, i: int) -> Neuron:
        batch: ClusterBatch = self._answer.batch
        ids, examples, merges, metrics = self._plain
        example, merge = slice(examples[i], examples[i + 1]), slice(merges[i], merges[i + 1])
        clustering = self._answer.provenance.clustering
        return Neuron(
            NeuronId(*ids[i]),
            batch.labels[example],
            cutting.Tree(
                batch.merges[merge], batch.heights[merge], batch.node_centrals[merge], batch.node_mean_distances[merge]
            ),
            Metrics(*metrics[i]),
            clustering.distance_threshold if clustering else 0.0,
            METHODS[batch.methods[i] - 1],
            self._answer.provenance,
            self._answer.timing,
            self._asker,
            library_of(int(batch.libraries[i])),
            *tests_of(batch, i, merge),
            key_tokens=None if (tokens := key_tokens_of(batch)) is None else tokens[example],
            null_metrics=nulls_of(batch, i),
            stability=None if (of_examples := stability_of(batch)) is None else of_examples[example],
            prediction_strength=strength_of(batch, i),
            cut_silhouettes=or_nones(batch.silhouettes[i]) if batch.silhouettes.ndim == 2 else (),
        )

    @cached_property
    def _plain(self) -> tuple[list[list[int]], list[int], list[int], list[tuple[Any, ...]]]:
        """Ids, offsets of examples and of merges, and metrics as Python's numbers; NaN is None."""
        batch: ClusterBatch = self._answer.batch
        offsets = columns.offsets(batch)
        numbers = (or_nones(getattr(batch, name)) for name in METRICS)
        return (
            batch.neurons.tolist(),
            offsets["example"].tolist(),
            offsets["merge"].tolist(),
            list(zip(*numbers, strict=True)),
        )


def _by_neuron(batches: Sequence[ClusterBatch]) -> Columns:
    found = [baseline_columns(batch) | test_columns(batch) for batch in batches]
    return (
        tables.neurons([batch.neurons for batch in batches])
        | tables.columns_of(batches, {name: np.int32 if name[:2] == "n_" else np.float64 for name in METRICS})
        | {name: tables.joined([of[name] for of in found]) for name in (*Baselines._fields, *TESTS)}
        | {"method": [METHODS[method - 1] for batch in batches for method in batch.methods.tolist()]}
    )


def _by_example(batches: Sequence[ClusterBatch]) -> Columns:
    return tables.neurons([np.repeat(batch.neurons, batch.n_examples, axis=0) for batch in batches]) | {
        "example": tables.within(tables.joined([batch.n_examples for batch in batches])),
        "label": tables.joined([batch.labels for batch in batches]),
        "letter": [name for batch in batches for name in letters.of_examples(batch.labels, batch.n_examples.tolist())],
        "method": [METHODS[m - 1] for batch in batches for m in np.repeat(batch.methods, batch.n_examples).tolist()],
    }


class Clusters(Stream[Neuron]):
    """Clustered neurons, in the order asked."""

    _noun = "neurons"
    _tables: ClassVar = {"neuron": _by_neuron, "example": _by_example}

    def _lonely_view(self) -> Callable[[Answer], Sequence[Neuron]]:
        return partial(_Neurons, asker=None)

    def _repr_html_(self) -> str:
        from polysem.client.drawing import notebook

        return notebook.table_html(self.columns())


def call(
    neurons: Sequence[NeuronLike],
    index: str | None,
    asker: Asker | None,
    side: Side = "positive",
    n_null: int | None = None,
    seed: int = 0,
    silhouette_thresholds: Sequence[float] = (),
    **options: Unpack[ClusteringOptions],
) -> Call[Clusters]:
    """asker: whom the neurons ask for more; None: they cannot. n_null None: N_NULL of one neuron alone, else none."""
    choice, clustering = read_options(**options)
    neuron_only = n_null is None
    if n_null is None:
        n_null = N_NULL if n_named(neurons) == 1 else 0
    further = numbers(silhouette_thresholds, "silhouette_thresholds")
    clustering = replace(
        clustering, n_null=n_null, neuron_only=neuron_only and n_null > 0, seed=seed, silhouette_thresholds=further
    )
    query = ClusterQuery(parse_neurons(*neurons), checks.index_name(index), choice.seeded(seed), clustering, side)
    return cluster_call(query, asker, n_named(neurons))


def cluster_call(query: ClusterQuery, asker: Asker | None = None, expected: int | None = None) -> Call[Clusters]:
    view = partial(_Neurons, asker=asker)
    return Call("ClusterNeurons", encode_cluster_query(query), ClusterBatch, view, Clusters, expected)
