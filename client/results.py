"""What the client hands out: neurons with their feature clusters, embeddings and examples.

Answers arrive as flat batches and stay so; a `Neuron` is a view into its batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, overload

import numpy as np

from polysem.client import cutting
from polysem.proto.arrays import DoubleArray, FloatArray, IntArray
from polysem.proto.facts import Answer, Provenance, Timing
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import METHODS, ClusterBatch, Embedding, Method, check_distance_threshold
from polysem.proto.questions.embedding import EmbeddingBatch
from polysem.proto.questions.examples import ExampleBatch
from polysem.proto.questions.explain import ExplanationBatch
from polysem.proto.questions.importance import ImportanceBatch
from polysem.proto.questions.listing import NEURON_METRICS, NeuronTable
from polysem.proto.questions.similar import SimilarBatch
from polysem.proto.questions.statistics import StatisticsBatch
from polysem.proto.wire import columns

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, slots=True)
class Metrics:
    """Of one neuron's clustering at a cut. None where undefined; distances lie in 0..2.

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


class Cluster(NamedTuple):
    """A feature cluster.

    label          its number in the neuron's labels
    members        (size,) int32: its examples, by their place in the labels
    central        the member with the highest mean similarity to the others
    mean_distance  over its pairs; None of a single example
    """

    label: int
    members: IntArray
    central: int
    mean_distance: float | None

    @property
    def size(self) -> int:
        return len(self.members)


@dataclass(frozen=True, eq=False)
class Example:
    """A dataset example: a context in which the neuron fires strongly.

    document     the corpus's name of its text
    context      its number in the index
    position     the key token's place in the context (BOS is 0)
    activation   of the neuron at the key token, after the activation function
    tokens       the text around the key token, token by token; joined they are the text
    activations  (len(tokens),) float32
    key          the key token's place in `tokens`
    """

    neuron: NeuronId
    place: int
    document: str
    context: int
    position: int
    activation: float
    tokens: Sequence[str]
    activations: FloatArray
    key: int

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def __repr__(self) -> str:
        before, key, after = (
            "".join(self.tokens[part])
            for part in (slice(self.key), slice(self.key, self.key + 1), slice(self.key + 1, None))
        )
        return f"<Example {self.neuron} #{self.place} {self.activation:.2f} {f'{before}[[{key}]]{after}'!r}>"


class Embeddings(NamedTuple):
    """A neuron's embeddings (n, D) float32, in the order of its labels."""

    id: NeuronId
    embeddings: FloatArray


@dataclass(frozen=True, eq=False)
class Statistics:
    """A neuron's key activations over all contexts of an index: each context's highest, after the activation function.

    maximum_activation, mean_activation  over all contexts
    share_positive                       0..1: contexts above 0
    histogram                            (64,) int32: contexts in equal bins from 0 to the maximum; at or below 0: none
    n_examples                           dataset examples
    lowest_example, highest_example      the band they come from; None without examples
    threshold                            what an example had to reach; None for another rule of selection than `first`
    """

    id: NeuronId
    maximum_activation: float
    mean_activation: float
    share_positive: float
    histogram: IntArray
    n_examples: int
    lowest_example: float | None
    highest_example: float | None
    threshold: float | None

    @property
    def bin_edges(self) -> DoubleArray:
        """(65,) float64: bin b of the histogram lies between edges b and b + 1."""
        return np.linspace(0.0, max(self.maximum_activation, 0.0), len(self.histogram) + 1)


@dataclass(frozen=True, slots=True)
class ListedNeuron:
    """A neuron in a listing. None where undefined; so are its clusters if it is too large for the linkage asked for.

    second_share        0..1: examples in the second largest cluster
    maximum_activation  and mean_activation: of its key activations over all contexts
    share_positive      0..1: contexts in which it is positive
    rare                a common and a rare behaviour: of 20 or more examples at least 0.9 but not all in one cluster
    """

    id: NeuronId
    n_examples: int
    n_clusters: int | None
    max_distance: float | None
    mean_distance: float | None
    intra: float | None
    inter: float | None
    silhouette: float | None
    largest_share: float | None
    second_share: float | None
    maximum_activation: float
    mean_activation: float
    share_positive: float
    rare: bool


class SimilarCluster(NamedTuple):
    """A feature cluster of another neuron.

    to          label of the cluster that it is similar to
    neuron      whose it is
    label       its number in that neuron's labels, at the same cut
    central     its central example's place
    size        its examples
    similarity  −1..1: cosine of the two central examples' embeddings
    """

    to: int
    neuron: NeuronId
    label: int
    central: int
    size: int
    similarity: float


@dataclass(frozen=True, eq=False)
class Importance:
    """How much of an example's key activation is lost when a token up to the key token is masked.

    activation   at the key token, nothing masked
    tokens       the texts before the key token, and it as the last
    importances  (len(tokens),) float32: 1 − a_masked / a; 1: all is lost, 0: nothing, negative: it grows
    """

    neuron: NeuronId
    place: int
    activation: float
    tokens: Sequence[str]
    importances: FloatArray

    @property
    def relative(self) -> FloatArray:
        """(len(tokens),) float32 in 0..1: importances as shares of the key token's own, as the paper's site shows them.

        Zero everywhere where the key token's own is not positive.
        """
        own = self.importances[-1]
        return np.clip(self.importances / own, 0, 1) if own > 0 else np.zeros_like(self.importances)

    def __repr__(self) -> str:
        most = np.argsort(-self.importances[:-1], kind="stable")[:3]
        named = ", ".join(f"{self.tokens[i]!r} {self.relative[i]:.2f}" for i in most)
        return f"<Importance {self.neuron} #{self.place} {self.tokens[-1]!r} after {named or 'nothing'}>"


class Firing(NamedTuple):
    """What a neuron makes of a token.

    activation  after the activation function
    share       of the neuron's maximum over the corpus; above 1 where the text excites it more; None where that is not
                positive
    fires       the activation is positive and high enough, by min_activation_fraction
    cluster     label of the feature cluster that the token falls in; None where it does not fire, or near no cluster
    distance    0..2: smallest mean distance to a cluster's members; None where it does not fire
    """

    neuron: NeuronId
    activation: float
    share: float | None
    fires: bool
    cluster: int | None
    distance: float | None


class ExplainedToken(NamedTuple):
    """A token of a text. firings: of the neurons asked for, in that order, or of those that fire hardest."""

    position: int
    text: str
    firings: tuple[Firing, ...]


FetchExamples = Callable[[NeuronId], Sequence[Example]]
EmbedAgain = Callable[["Neuron", Embedding], tuple["Neuron", FloatArray]]  # clustered by that embedding, and those


class Neuron:
    """A neuron's dataset examples as feature clusters.

    id        NeuronId, prints as 7.1234
    labels    (n,) int32: feature cluster of each example, numbered by first appearance
    linkage   (n − 1, 4) float64: the whole tree as SciPy writes it
    metrics   Metrics at this cut
    clusters  largest first
    method    how the tree was made: "matrix" from all pairwise distances, "linear" the same tree without a matrix (many
              examples), "neighbours" an approximation from each example's 25 nearest neighbours (very many)
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
        fetch_examples: FetchExamples | None,
        embed_again: EmbedAgain | None = None,
    ) -> None:
        self.id = id_
        self.labels = labels
        self.metrics = metrics
        self.distance_threshold = distance_threshold
        self.method = method
        self.provenance = provenance
        self.timing = timing
        self._tree = tree
        self._fetch_examples = fetch_examples
        self._embed_again = embed_again

    @property
    def tree(self) -> cutting.Tree:
        """The merges as they came: nodes, heights, and of each merge's node the central example and mean distance."""
        return self._tree

    @cached_property
    def linkage(self) -> DoubleArray:
        return cutting.linkage(self._tree)

    @cached_property
    def clusters(self) -> tuple[Cluster, ...]:
        tops = cutting.top_nodes(self._tree, len(self.labels), self.distance_threshold)
        found = [self._cluster(label, node) for label, node in enumerate(tops)]
        return tuple(sorted(found, key=lambda cluster: -cluster.size))  # stable: of equals the lower label first

    def _cluster(self, label: int, node: int) -> Cluster:
        merge = node - len(self.labels)
        members = np.flatnonzero(self.labels == label).astype(np.int32)
        if merge < 0:
            return Cluster(label, members, node, None)
        return Cluster(label, members, int(self._tree.centrals[merge]), float(self._tree.mean_distances[merge]))

    def cut(self, distance_threshold: float) -> "Neuron":
        """The same neuron cut at another distance (0..2), without asking the server.

        Everything but the silhouette is as the server would give it.
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
            self._fetch_examples,
            self._embed_again,
        )

    @cached_property
    def examples(self) -> Sequence[Example]:
        """The texts, in the order of the labels; asked of the server on first use."""
        if self._fetch_examples is None:
            raise RuntimeError(f"await client.examples({str(self.id)!r}) for the texts of a neuron from AsyncClient")
        return self._fetch_examples(self.id)

    def plot_dendrogram(self, *, texts: bool = True, max_per_cluster: int = 6) -> "matplotlib.figure.Figure":
        """The tree with a text at each leaf, as the paper's Figure 2; needs matplotlib (`polysem[figures]`)."""
        from polysem.client import figures

        return figures.plot_dendrogram(self, self.examples if texts else None, max_per_cluster=max_per_cluster)

    def plot_compare(self) -> "matplotlib.figure.Figure":
        """This neuron by pre-MLP and by neuron embeddings side by side, as the paper's Figure 4.

        Asks the server for the clustering by the other embedding, at the same cut, and for both embeddings; needs
        matplotlib (`polysem[figures]`).
        """
        from polysem.client import figures

        if self._embed_again is None:
            raise RuntimeError(f"ask a Client for neuron {self.id} to compare its embeddings, not an AsyncClient")
        pre_mlp, neuron = (figures.Side(*self._embed_again(self, name)) for name in get_args(Embedding)[::-1])
        return figures.plot_comparison(pre_mlp, neuron)

    def __repr__(self) -> str:
        m = self.metrics
        sizes = ", ".join(str(cluster.size) for cluster in self.clusters[:6]) + (
            ", …" if len(self.clusters) > 6 else ""
        )
        return (
            f"<Neuron {self.id}: {m.n_examples} examples in {m.n_clusters} clusters ({sizes}) at distance "
            f"{self.distance_threshold:g}, intra {_shown(m.intra)}, inter {_shown(m.inter)}>"
        )

    def _repr_html_(self) -> str:
        from polysem.client import notebook

        return notebook.neuron_html(self)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def neurons_of(
    answer: Answer, fetch_examples: FetchExamples | None, embed_again: EmbedAgain | None = None
) -> Sequence[Neuron]:
    """The views of a batch of clusterings."""
    return _Neurons(answer, fetch_examples, embed_again)


class _Neurons(Sequence[Neuron]):
    """Each made when it is first looked at, and kept: a whole model's take a twelfth of the clustering's time."""

    def __init__(
        self, answer: Answer, fetch_examples: FetchExamples | None, embed_again: EmbedAgain | None = None
    ) -> None:
        self._answer = answer
        self._asking = fetch_examples, embed_again
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
            *self._asking,
        )

    @cached_property
    def _plain(self) -> tuple[list[list[int]], list[int], list[int], list[tuple[Any, ...]]]:
        """Ids, offsets of examples and of merges, and metrics as Python's numbers; NaN is None."""
        batch: ClusterBatch = self._answer.batch
        offsets = columns.offsets(batch)
        numbers = (_or_nones(getattr(batch, name)) for name in METRICS)
        return (
            batch.neurons.tolist(),
            offsets["example"].tolist(),
            offsets["merge"].tolist(),
            list(zip(*numbers, strict=True)),
        )


def embeddings_of(answer: Answer) -> list[Embeddings]:
    """The views of a batch of embeddings."""
    batch: EmbeddingBatch = answer.batch
    offsets = columns.offsets(batch)["example"]
    return [
        Embeddings(_id(neuron), batch.embeddings[offsets[i] : offsets[i + 1]]) for i, neuron in enumerate(batch.neurons)
    ]


def examples_of(answer: Answer) -> list[Example]:
    """The views of a batch of examples."""
    batch: ExampleBatch = answer.batch
    offsets = columns.offsets(batch)["token"]
    return [
        Example(
            neuron=_id(batch.neurons[i]),
            place=int(batch.places[i]),
            document=batch.documents[i],
            context=int(batch.contexts[i]),
            position=int(batch.positions[i]),
            activation=float(batch.activations[i]),
            tokens=batch.tokens[offsets[i] : offsets[i + 1]],
            activations=batch.token_activations[offsets[i] : offsets[i + 1]],
            key=int(batch.keys[i]),
        )
        for i in range(len(batch.neurons))
    ]


def statistics_of(answer: Answer) -> list[Statistics]:
    """The views of a batch of statistics."""
    batch: StatisticsBatch = answer.batch
    return [
        Statistics(
            id=_id(batch.neurons[i]),
            maximum_activation=float(batch.maximum_activation[i]),
            mean_activation=float(batch.mean_activation[i]),
            share_positive=float(batch.share_positive[i]),
            histogram=batch.histogram[i],
            n_examples=int(batch.n_examples[i]),
            lowest_example=_or_none(batch.lowest_example[i]),
            highest_example=_or_none(batch.highest_example[i]),
            threshold=_or_none(batch.threshold[i]),
        )
        for i in range(len(batch.neurons))
    ]


def listed_of(answer: Answer) -> list[ListedNeuron]:
    """The rows of a page of neurons."""
    table: NeuronTable = answer.batch
    values: dict[str, list[Any]] = {name: getattr(table, name).tolist() for name in NEURON_METRICS}
    return [
        ListedNeuron(
            id=_id(id_),
            rare=bool(table.rare[i]),
            **_row(values, i) | ({"n_clusters": None} if table.unclustered[i] else {}),
        )
        for i, id_ in enumerate(table.neurons)
    ]


def similar_of(answer: Answer) -> list[SimilarCluster]:
    """The clusters found, those of each cluster asked for together."""
    batch: SimilarBatch = answer.batch
    return [
        SimilarCluster(to, _id(neuron), *numbers)
        for to, neuron, *numbers in zip(
            np.repeat(batch.labels, batch.n_similar).tolist(),
            batch.similar_neurons,
            batch.similar_labels.tolist(),
            batch.similar_centrals.tolist(),
            batch.similar_sizes.tolist(),
            batch.similarities.tolist(),
            strict=True,
        )
    ]


def importances_of(answer: Answer) -> list[Importance]:
    """The views of a batch of importances."""
    batch: ImportanceBatch = answer.batch
    offsets = columns.offsets(batch)["token"]
    return [
        Importance(
            neuron=_id(batch.neurons[i]),
            place=int(batch.places[i]),
            activation=float(batch.activations[i]),
            tokens=batch.tokens[offsets[i] : offsets[i + 1]],
            importances=batch.importances[offsets[i] : offsets[i + 1]],
        )
        for i in range(len(batch.neurons))
    ]


def explained_of(answer: Answer) -> list[ExplainedToken]:
    """The tokens of a part of a text."""
    batch: ExplanationBatch = answer.batch
    offsets = columns.offsets(batch)["activation"]
    firings = [
        Firing(
            _id(neuron),
            activation,
            _or_none(share),
            bool(fires),
            None if cluster < 0 else cluster,
            _or_none(distance),
        )
        for neuron, activation, share, fires, cluster, distance in zip(
            batch.active_neurons,
            batch.activations.tolist(),
            batch.shares.tolist(),
            batch.fires.tolist(),
            batch.clusters.tolist(),
            batch.distances.tolist(),
            strict=True,
        )
    ]
    return [
        ExplainedToken(position, batch.tokens[i], tuple(firings[offsets[i] : offsets[i + 1]]))
        for i, position in enumerate(batch.positions.tolist())
    ]


def _row(values: dict[str, list[Any]], i: int) -> dict[str, Any]:
    row = {name: column[i] for name, column in values.items()}
    return {name: None if value != value else value for name, value in row.items()}  # NaN


def _id(pair: IntArray) -> NeuronId:
    return NeuronId(int(pair[0]), int(pair[1]))


def _or_nones(values: Any) -> list[Any]:
    return [None if value != value else value for value in values.tolist()]  # NaN


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
