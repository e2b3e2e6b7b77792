"""Effects of a neuron's feature clusters on what the model predicts: AblateClusters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from polysem.proto import checks
from polysem.proto.arrays import Array, DoubleArray, IntArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import (
    Clustering,
    EmbeddingChoice,
    check_choice,
    check_clustering,
    decode_clustering,
    encode_clustering,
)
from polysem.proto.questions.explain import check_fraction, check_text
from polysem.proto.sides import Side
from polysem.proto.wire import columns
from polysem.proto.wire.columns import Axis, columnar
from polysem.proto.wire.names import decode_side, encode_side, name_of
from polysem.v1 import neuron_service_pb2 as pb

Ablation = Literal["zero", "mean"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)
NUMBERS: dict[str, Any] = {"zero": pb.ABLATION_ZERO, "mean": pb.ABLATION_MEAN}
Ablated = Literal["cluster", "neuron", "other", "control"]
ABLATED: tuple[Ablated, ...] = get_args(Ablated)
MAX_TOKENS = 256  # of each cluster's sample
MAX_CLUSTERS = 16
MAX_CONTROLS = 16
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class AblateQuery:
    """clusters: labels; none: the MAX_CLUSTERS largest of two examples or more.

    other  label of the cluster to compare with; None: the largest other one
    text   None: the clusters' own examples
    """

    neuron: NeuronId
    index: str = ""
    clusters: tuple[int, ...] = ()
    other: int | None = None
    text: str | None = None
    ablation: Ablation = "zero"
    n_tokens: int = 32
    n_controls: int = 4
    seed: int = 0
    choice: EmbeddingChoice = EmbeddingChoice()
    clustering: Clustering = Clustering()
    min_activation_fraction: float = 0.25
    side: Side = "positive"


def _n_listed(batch: "AblationBatch") -> Array:
    """(B,) tokens listed of all of a neuron's effects."""
    return np.diff(columns.from_counts(batch.n_moved)[columns.from_counts(batch.n_effects)])


EFFECTS = ("activations", "divergences", "divergence_errors", "loss_changes", "loss_change_errors")
DIFFERENCES = ("distances", "null_means", "p_values")


@columnar(
    pb.AblateClustersResponse,
    "neuron",
    Axis(
        "effect",
        ["labels", "ablated", "others", "targets", "n_tokens", "n_next", "n_set", *EFFECTS, "n_moved"],
        "n_effects",
    ),
    Axis("token", ["token_ids", "tokens", "changes", "probabilities"], _n_listed),
    Axis("difference", ["difference_neurons", *DIFFERENCES], "n_differences"),
)
@dataclass(frozen=True, eq=False)
class AblationBatch:
    """B neurons with E effects of ablations, in the order of the clusters asked for.

    neurons                  (B, 2) int32
    n_effects, n_differences (B,) int32
    labels                   (E,) int32: the cluster at whose tokens it is measured
    ablated                  (E,) int32: what is set, a place in ABLATED plus 1
    others                   (E,) int32: of "other" the other cluster's label, −1 else
    targets                  (E, 2) int32: the neuron that is set
    n_tokens, n_next, n_set  (E,) int32: tokens of the sample; those with a known next token; tokens at which it is set
    activations              (E,) float64: mean of the target's at those tokens, nothing ablated
    divergences              (E,) mean KL divergence of the next token's distribution from that without it, in nats
    loss_changes             (E,) mean growth of the next token's loss, in nats
    …_errors                 (E,) standard errors of these means; all four NaN where there are too few tokens
    n_moved                  (E,) int32: tokens listed of each, those made likelier first
    token_ids, tokens        of the K listed
    changes, probabilities   (K,) float64: mean change of each one's probability, and the mean without ablation
    difference_neurons       (F, 2) int32: the neuron, then its controls
    distances                (F,) float64: mean cosine distance between two clusters' mean changes of probabilities
    null_means, p_values     (F,) the same of random partitions into groups of equal sizes; share as far apart as it
    """

    neurons: IntArray
    n_effects: IntArray
    n_differences: IntArray
    labels: IntArray
    ablated: IntArray
    others: IntArray
    targets: IntArray
    n_tokens: IntArray
    n_next: IntArray
    n_set: IntArray
    activations: DoubleArray
    divergences: DoubleArray
    divergence_errors: DoubleArray
    loss_changes: DoubleArray
    loss_change_errors: DoubleArray
    n_moved: IntArray
    token_ids: IntArray
    tokens: Sequence[str] = field(repr=False)
    changes: DoubleArray
    probabilities: DoubleArray
    difference_neurons: IntArray
    distances: DoubleArray
    null_means: DoubleArray
    p_values: DoubleArray


def ablated_of(number: int) -> Ablated | None:
    """Return what is set by its number; None for one that is not known yet."""
    return ABLATED[number - 1] if 0 < number <= len(ABLATED) else None


def check_ablate(query: AblateQuery) -> None:
    """Raise InvalidArgument for what is outside its range."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    if query.text is not None:
        check_text(query.text, "ablate it in")
    if len(query.clusters) > MAX_CLUSTERS:
        raise InvalidArgument(
            f"{len(query.clusters)} clusters were named; ask about at most {MAX_CLUSTERS} at once", "clusters"
        )
    if query.other is not None:
        checks.check_count(query.other, "other", 0)
        if query.clusters == (query.other,):
            raise InvalidArgument(f"cluster {query.other} is compared with itself; name another one", "other")
    checks.check_one_of(query.ablation, ABLATIONS, "ablation")
    checks.check_count(query.n_tokens, "n_tokens", 1, MAX_TOKENS)
    checks.check_count(query.n_controls, "n_controls", 0, MAX_CONTROLS)
    checks.check_count(query.seed, "seed", 0, MAX_SEED)
    check_fraction(query.min_activation_fraction)


def encode_ablate_query(query: AblateQuery) -> pb.AblateClustersRequest:
    """The request; raises InvalidArgument as check_ablate does."""
    check_ablate(query)
    return pb.AblateClustersRequest(
        index=query.index,
        layer=query.neuron.layer,
        neuron=query.neuron.neuron,
        clustering=pb.Clustering(**encode_clustering(query.choice, query.clustering)),
        side=encode_side(query.side),
        clusters=query.clusters,
        other=query.other,
        text=query.text or "",
        ablation=NUMBERS[query.ablation],
        n_tokens=query.n_tokens,
        n_controls=query.n_controls,
        seed=query.seed,
        min_activation_fraction=query.min_activation_fraction,
    )


def decode_ablate_query(request: pb.AblateClustersRequest) -> AblateQuery:
    choice, clustering = decode_clustering(request.clustering)
    neuron = NeuronId(request.layer, request.neuron)
    default = AblateQuery(neuron)
    query = AblateQuery(
        neuron=neuron,
        index=request.index,
        clusters=tuple(request.clusters),
        other=request.other if request.HasField("other") else None,
        text=request.text or None,
        ablation=name_of(request.ablation, NUMBERS, "ablation"),
        n_tokens=request.n_tokens or default.n_tokens,
        n_controls=request.n_controls if request.HasField("n_controls") else default.n_controls,
        seed=request.seed,
        choice=choice,
        clustering=clustering,
        min_activation_fraction=(
            request.min_activation_fraction
            if request.HasField("min_activation_fraction")
            else default.min_activation_fraction
        ),
        side=decode_side(request.side),
    )
    check_ablate(query)
    return query
