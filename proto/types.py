"""What is asked and answered, as plain Python and NumPy: the same on both ends.

Letters in shapes: B neurons, E dataset examples of those neurons together, M merges of those neurons together (a neuron
with n examples has max(n - 1, 0)), T tokens, D d_model. Batches are flat: neuron b's examples follow neuron b - 1's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from polysem.proto.neurons import NeuronId, NeuronRange

Algorithm = Literal["hac", "scc", "components"]
Linkage = Literal["average", "complete", "single"]
Embedding = Literal["neuron", "pre_mlp"]
LayerNorm = Literal["folded", "raw"]
ThresholdSchedule = Literal["linear", "geometric"]
Similarity = Literal["pre_mlp", "neuron"]
NeuronMetric = Literal[
    "n_examples",
    "n_clusters",
    "max_distance",
    "mean_distance",
    "intra",
    "inter",
    "silhouette",
    "largest_share",
    "second_share",
    "maximum_activation",
    "mean_activation",
    "share_positive",
]
Method = Literal["matrix", "linear", "neighbours"]

IntArray: TypeAlias = npt.NDArray[np.int32]
FloatArray: TypeAlias = npt.NDArray[np.float32]
DoubleArray: TypeAlias = npt.NDArray[np.float64]

DEFAULT_DISTANCE_THRESHOLD = 0.5
MAX_DISTANCE = 2.0
MAX_THRESHOLDS = 1024
MAX_SILHOUETTE_THRESHOLDS = 64
MAX_MESSAGE_BYTES = 1 << 20
MAX_PAGE_SIZE = 4096
MAX_METRIC_RANGES = 64
MAX_SIMILAR = 1000
MAX_EXPLAINED = 256  # neurons
MAX_STRONGEST = 100  # neurons a token
MAX_TEXT_BYTES = 256 << 10
METHODS: tuple[Method, ...] = get_args(Method)
NEURON_METRICS: tuple[NeuronMetric, ...] = get_args(NeuronMetric)
LEAST_EXAMPLES_OF_RARE = 20  # of a neuron with a common and a rare behaviour
LEAST_EXAMPLES_OF_STRONGEST = 5  # of a neuron that may be among the hardest firing; fewer where an index keeps fewer
LEAST_MAXIMUM_OF_STRONGEST = 0.5  # as a share of the median maximum of its layer
LEAST_SHARE_OF_COMMON = 0.9  # the paper's Figure 3: about 50 to 1

# ---- What is asked


@dataclass(frozen=True, slots=True)
class EmbeddingChoice:
    """Which of the four embeddings of x̂ to compute."""

    embedding: Embedding = "neuron"
    layer_norm: LayerNorm = "folded"


@dataclass(frozen=True, slots=True)
class Clustering:
    """An algorithm with its parameters; those of other algorithms stand at their defaults.

    thresholds: of SCC's rounds, on distance, strictly increasing; a schedule's name stands for its numbers.
    silhouette_thresholds: further cuts of which only the silhouette is wanted.
    """

    algorithm: Algorithm = "hac"
    linkage: Linkage = "average"
    distance_threshold: float = DEFAULT_DISTANCE_THRESHOLD
    thresholds: tuple[float, ...] | ThresholdSchedule = "linear"
    until_stable: bool = False
    silhouette_thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterQuery:
    neurons: tuple[NeuronRange, ...]
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()


@dataclass(frozen=True, slots=True)
class EmbedQuery:
    neurons: tuple[NeuronRange, ...]
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()


@dataclass(frozen=True, slots=True)
class ExampleQuery:
    """examples: places in each neuron's labels; empty: all. whole_context: else the tokens around the key token."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    examples: tuple[int, ...] = ()
    whole_context: bool = False


@dataclass(frozen=True, slots=True)
class StatisticsQuery:
    neurons: tuple[NeuronRange, ...]
    index: str = ""


@dataclass(frozen=True, slots=True)
class MetricRange:
    """least <= metric <= most; None: open."""

    metric: NeuronMetric
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """neurons: none stands for all. sort_by: None for layer and neuron. page_size: 1..MAX_PAGE_SIZE."""

    neurons: tuple[NeuronRange, ...] = ()
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    sort_by: NeuronMetric | None = None
    descending: bool = False
    where: tuple[MetricRange, ...] = ()
    page_size: int = 1000
    page_token: str = ""
    skip: int = 0


@dataclass(frozen=True, slots=True)
class SimilarQuery:
    """clusters: labels of the neuron's feature clusters; empty: all. every_layer: else the neuron's own."""

    neuron: NeuronId
    index: str = ""
    clusters: tuple[int, ...] = ()
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    similarity: Similarity = "pre_mlp"
    every_layer: bool = False
    n_similar: int = 20


@dataclass(frozen=True, slots=True)
class ImportanceQuery:
    """examples: places in each neuron's labels; empty: all. mask_token: its id; None: the model's BOS."""

    neurons: tuple[NeuronRange, ...]
    index: str = ""
    examples: tuple[int, ...] = ()
    tokens_before: int = 20
    mask_token: int | None = None


@dataclass(frozen=True, slots=True)
class ExplainQuery:
    """neurons: none stands for the n_strongest at each token. min_activation_fraction: of a neuron's maximum, 0..1."""

    text: str
    neurons: tuple[NeuronRange, ...] = ()
    index: str = ""
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    min_activation_fraction: float = 0.25
    n_strongest: int = 5


def threshold_schedule(name: ThresholdSchedule) -> tuple[float, ...]:
    """The rounds of SCC that a schedule's name stands for: 50 distance thresholds, strictly increasing.

    linear     0.02, 0.04 … 1.0, each the nearest float to its decimal, so a cut at 0.5 is exactly round 25
    geometric  the authors' demo, 1 − geomspace(1.0, 0.1, 50)
    """
    if name == "linear":
        return tuple(r / 50 for r in range(1, 51))
    return (0.0, *(float(t) for t in 1.0 - np.geomspace(1.0, 0.1, 50)[1:]))


# ---- What is answered


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts; costs are in n_examples² · d_model. The last two are the key's own; 0: no limit."""

    max_message_bytes: int
    max_neurons_per_request: int
    max_thresholds: int
    max_requests_in_flight: int
    max_batch_cost: float
    max_queued_cost: float = 0.0
    max_wait_ms: float = 0.0
    bulk_batch_ms: float = 0.0
    max_requests_in_flight_of_key: int = 0
    daily_cost_quota: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A resident GPT-2; context_length is in tokens."""

    id: str
    sha256: str
    n_layers: int
    n_neurons_per_layer: int
    d_model: int
    context_length: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    version: str
    model: ModelInfo
    device: str
    dtype: str
    default_index: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Selection:
    """Which contexts become dataset examples; see server/selection.py. seed: of the order that `quantile` draws in."""

    rule: Literal["first", "top", "quantile"] = "first"
    min_activation_fraction: float = 0.75
    max_examples: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class IndexInfo:
    name: str
    sha256: str
    model_id: str
    model_sha256: str
    corpus_id: str
    corpus_sha256: str
    selection: Selection
    context_length: int
    bos: bool
    windows: Literal["first", "all"]
    n_documents: int
    n_contexts: int
    n_tokens: int
    n_layers: int
    n_neurons_per_layer: int
    n_examples: int
    n_neurons_with_examples: int
    software_version: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything an answer depends on."""

    index: str
    index_sha256: str
    model_id: str
    model_sha256: str
    software_version: str
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """queue_ns: from the request to the start of its batch. compute_ns: the batch's time on the device."""

    queue_ns: int
    compute_ns: int
    batch_size: int


@dataclass(frozen=True, eq=False)
class ClusterBatch:
    """Trees, labels and metrics of B neurons.

    neurons              (B, 2) int32: layer, index
    n_examples           (B,) int32
    labels               (E,) int32: feature cluster at the cut, numbered by first appearance in each neuron
    merges               (M, 2) int32: the nodes joined; i < n is example i, n + i is merge i
    heights              (M,) float64, 0..2: where they join
    node_centrals        (M,) int32: medoid of each merge's node
    node_mean_distances  (M,) float64, 0..2: mean over the node's pairs
    n_clusters           (B,) int32
    max_distance … largest_share  (B,) float64, NaN where undefined
    methods              (B,) int32: how the tree was made, a place in METHODS plus 1
    silhouettes          (B, C) float64: of the cuts at the C silhouette_thresholds asked for
    """

    neurons: IntArray
    n_examples: IntArray
    labels: IntArray
    merges: IntArray
    heights: DoubleArray
    node_centrals: IntArray
    node_mean_distances: DoubleArray
    n_clusters: IntArray
    max_distance: DoubleArray
    mean_distance: DoubleArray
    intra: DoubleArray
    inter: DoubleArray
    silhouette: DoubleArray
    largest_share: DoubleArray
    methods: IntArray
    silhouettes: DoubleArray


@dataclass(frozen=True, eq=False)
class EmbeddingBatch:
    """neurons (B, 2) int32, n_examples (B,) int32, embeddings (E, D) float32."""

    neurons: IntArray
    n_examples: IntArray
    embeddings: FloatArray


@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """Texts of E dataset examples, T tokens in all.

    neurons            (E, 2) int32
    places             (E,) int32: place in the neuron's labels
    documents          E names
    contexts           (E,) int32: number of the context in the index
    positions          (E,) int32: key token's place in its context (BOS is 0)
    activations        (E,) float32: post-GELU, at the key token
    n_tokens           (E,) int32: tokens sent of each example
    keys               (E,) int32: the key token's place among them
    tokens             T texts
    token_activations  (T,) float32
    """

    neurons: IntArray
    places: IntArray
    documents: Sequence[str] = field(repr=False)
    contexts: IntArray
    positions: IntArray
    activations: FloatArray
    n_tokens: IntArray
    keys: IntArray
    tokens: Sequence[str] = field(repr=False)
    token_activations: FloatArray


@dataclass(frozen=True, eq=False)
class StatisticsBatch:
    """Key activations of B neurons: each context's highest, after the activation function.

    neurons             (B, 2) int32
    maximum_activation  (B,) float32, and mean_activation: over all contexts of the index
    share_positive      (B,) float32, 0..1: of the contexts, above 0
    histogram           (B, 64) int32: contexts in equal bins from 0 to the maximum; at or below 0: in none
    n_examples          (B,) int32
    lowest_example      (B,) float32, and highest_example: of the dataset examples; NaN without any
    threshold           (B,) float32: what an example had to reach; NaN for another rule than `first`
    """

    neurons: IntArray
    maximum_activation: FloatArray
    mean_activation: FloatArray
    share_positive: FloatArray
    histogram: IntArray
    n_examples: IntArray
    lowest_example: FloatArray
    highest_example: FloatArray
    threshold: FloatArray


@dataclass(frozen=True, eq=False)
class NeuronTable:
    """Metrics of B neurons, in the order asked.

    neurons                        (B, 2) int32
    n_examples, n_clusters         (B,) int32
    max_distance … share_positive  (B,) float64, NaN where undefined; second_share: of the second largest cluster
    rare                           (B,) int32: 1 where of 20 or more examples at least 0.9, not all, are in one cluster

    A neuron with examples but no clusters is too large for the linkage asked for, and was left out.
    """

    neurons: IntArray
    n_examples: IntArray
    n_clusters: IntArray
    max_distance: DoubleArray
    mean_distance: DoubleArray
    intra: DoubleArray
    inter: DoubleArray
    silhouette: DoubleArray
    largest_share: DoubleArray
    second_share: DoubleArray
    maximum_activation: DoubleArray
    mean_activation: DoubleArray
    share_positive: DoubleArray
    rare: IntArray

    @property
    def unclustered(self) -> npt.NDArray[np.bool_]:
        """(B,) whether it has examples that were not clustered."""
        left_out: npt.NDArray[np.bool_] = (self.n_examples > 0) & (self.n_clusters == 0)
        return left_out


@dataclass(frozen=True, slots=True)
class NeuronPage:
    """n_matching: neurons on all pages. next_page_token: empty on the last."""

    table: NeuronTable
    n_matching: int
    next_page_token: str


@dataclass(frozen=True, eq=False)
class SimilarBatch:
    """B feature clusters of a neuron, each with its most similar clusters of other neurons, K in all.

    neurons, labels, centrals  (B, 2), (B,), (B,) int32: the clusters asked for
    n_similar                  (B,) int32
    similar_neurons            (K, 2) int32
    similar_labels, similar_centrals, similar_sizes  (K,) int32
    similarities               (K,) float64, −1..1: cosine of the central examples' embeddings, falling within each item
    """

    neurons: IntArray
    labels: IntArray
    centrals: IntArray
    n_similar: IntArray
    similar_neurons: IntArray
    similar_labels: IntArray
    similar_centrals: IntArray
    similar_sizes: IntArray
    similarities: DoubleArray


@dataclass(frozen=True, eq=False)
class ImportanceBatch:
    """E dataset examples up to their key tokens, T tokens in all.

    neurons      (E, 2) int32
    places       (E,) int32: place in the neuron's labels
    activations  (E,) float32: at the key token, nothing masked
    n_tokens     (E,) int32: the last of each example's is its key token
    tokens       T texts
    importances  (T,) float32: 1 − a_masked / a, the share of the key activation that is lost without the token
    """

    neurons: IntArray
    places: IntArray
    activations: FloatArray
    n_tokens: IntArray
    tokens: Sequence[str] = field(repr=False)
    importances: FloatArray


@dataclass(frozen=True, eq=False)
class ExplanationBatch:
    """T tokens of a text, with F activations.

    positions       (T,) int32: place in the text
    tokens          T texts
    n_activations   (T,) int32
    active_neurons  (F, 2) int32
    activations     (F,) float32
    shares          (F,) float32: of the neuron's maximum over the corpus; NaN where that is not positive
    fires           (F,) int32: 0 or 1
    clusters        (F,) int32: feature cluster that the token falls in, −1: none
    distances       (F,) float32: smallest mean distance to a cluster's members; NaN where it does not fire
    """

    positions: IntArray
    tokens: Sequence[str] = field(repr=False)
    n_activations: IntArray
    active_neurons: IntArray
    activations: FloatArray
    shares: FloatArray
    fires: IntArray
    clusters: IntArray
    distances: FloatArray

    @property
    def neurons(self) -> IntArray:
        """A row an item, as in the other batches, though items are tokens here."""
        return self.positions
