"""Effects of a neuron's feature clusters on what the model predicts: `Client.ablate`."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Unpack

import numpy as np

from polysem.client import characters, tables
from polysem.client.calls import Call
from polysem.client.questions.options import ClusteringOptions, read_options
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id, or_nones
from polysem.proto import checks
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neuron
from polysem.proto.questions.ablation import (
    DIFFERENCES,
    EFFECTS,
    Ablated,
    AblateQuery,
    Ablation,
    AblationBatch,
    ablated_of,
    encode_ablate_query,
)
from polysem.proto.sides import Side
from polysem.proto.wire import columns


class MovedToken(NamedTuple):
    """A token whose probability an ablation changes.

    token   its text within a text, with a leading space where it has one
    id      in the model's vocabulary
    change  of its probability, -1..1: mean over the sample
    before  0..1: its mean probability without ablation
    """

    token: str
    id: int
    change: float
    before: float


class Effect(NamedTuple):
    """Change of the next token's distribution by one ablation: means over the tokens of a cluster's sample.

    cluster           label of the cluster at whose tokens it is measured
    ablated           what is set: "cluster", the neuron where that cluster fires; "neuron", the neuron at every token;
                      "other", the neuron where another of its clusters fires in the same contexts; "control", another
                      neuron where the cluster fires. None: something that this client does not know
    neuron            the neuron that is set
    other             label of the other cluster; else None
    n_tokens          tokens of the sample
    n_next            those of them whose next token is known
    n_set             tokens at which the neuron is set, in all contexts of the sample; 0: this ablation does nothing
    activation        of the neuron that is set, with nothing ablated; None, like the next four, without tokens
    divergence        KL divergence of the distribution with ablation from that without, in nats
    divergence_error  its standard error; None with fewer than two tokens
    loss_change       how much the loss of the next token grows, in nats
    loss_change_error its standard error
    likelier          the 5 tokens whose probability grows most, the most first
    less_likely       the 5 whose probability falls most
    """

    cluster: int
    ablated: Ablated | None
    neuron: NeuronId
    other: int | None
    n_tokens: int
    n_next: int
    n_set: int
    activation: float | None
    divergence: float | None
    divergence_error: float | None
    loss_change: float | None
    loss_change_error: float | None
    likelier: tuple[MovedToken, ...]
    less_likely: tuple[MovedToken, ...]

    def __repr__(self) -> str:
        said = "–" if self.divergence is None else f"{self.divergence:.2g} nats"
        moved = ", ".join(f"{characters.spaced(one.token)} {one.change:+.3f}" for one in self.less_likely[:3])
        return f"<Effect of {self.ablated} {self.neuron} at cluster {self.cluster}: {said}; {moved or 'nothing moves'}>"


class Difference(NamedTuple):
    """Distance between what a neuron's ablation moves at the tokens of different clusters.

    neuron     the neuron asked about, or a control at the same tokens
    distance   0..2: mean cosine distance between two clusters' mean changes of probabilities, over all pairs
    null_mean  the same of 99 random partitions of the tokens into groups of the clusters' sizes
    p_value    share of partitions, this one among them, that are as far apart. A small one alone does not say that
               clusters cause different things, for different contexts move different tokens: compare `excess` with
               that of the controls
    """

    neuron: NeuronId
    distance: float
    null_mean: float
    p_value: float

    @property
    def excess(self) -> float:
        """Distance of the clusters beyond that of random groups."""
        return self.distance - self.null_mean


def effects_of(answer: Answer) -> list[Effect]:
    """The effects of an answer, cluster by cluster."""
    batch: AblationBatch = answer.batch
    moved = [
        MovedToken(*one)
        for one in zip(
            batch.tokens, batch.token_ids.tolist(), batch.changes.tolist(), batch.probabilities.tolist(), strict=True
        )
    ]
    ends = columns.from_counts(batch.n_moved).tolist()
    means = zip(*(or_nones(getattr(batch, name)) for name in EFFECTS), strict=True)
    counts = zip(batch.n_tokens.tolist(), batch.n_next.tolist(), batch.n_set.tolist(), strict=True)
    return [
        Effect._make(
            (
                int(batch.labels[i]),
                ablated_of(int(batch.ablated[i])),
                neuron_id(batch.targets[i]),
                None if batch.others[i] < 0 else int(batch.others[i]),
                *of_tokens,
                *of_means,
                tuple(one for one in moved[ends[i] : ends[i + 1]] if one.change > 0),
                tuple(one for one in moved[ends[i] : ends[i + 1]] if one.change < 0),
            )
        )
        for i, (of_tokens, of_means) in enumerate(zip(counts, means, strict=True))
    ]


NAMES = ("activation", "divergence", "divergence_error", "loss_change", "loss_change_error")


def _by_effect(batches: Sequence[AblationBatch]) -> Columns:
    of = tables.columns_of(batches, dict.fromkeys(("labels", "others", "n_tokens", "n_next", "n_set"), np.int32))
    means = tables.columns_of(batches, dict.fromkeys(EFFECTS, np.float64))
    return {
        "cluster": of["labels"],
        "ablated": [ablated_of(number) or "" for batch in batches for number in batch.ablated.tolist()],
        **tables.neurons([batch.targets for batch in batches]),
        "other": of["others"],
        **{name: of[name] for name in ("n_tokens", "n_next", "n_set")},
        **dict(zip(NAMES, means.values(), strict=True)),
    }


def _by_token(batches: Sequence[AblationBatch]) -> Columns:
    counts = tables.joined([batch.n_moved for batch in batches])
    return {
        "effect": np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        "token": tables.texts(batches, "tokens"),
        "token_id": tables.joined([batch.token_ids for batch in batches]),
        "change": tables.joined([batch.changes for batch in batches], dtype=np.float64),
        "before": tables.joined([batch.probabilities for batch in batches], dtype=np.float64),
    }


def _by_difference(batches: Sequence[AblationBatch]) -> Columns:
    of = tables.columns_of(batches, dict.fromkeys(DIFFERENCES, np.float64))
    return {
        **tables.neurons([batch.difference_neurons for batch in batches]),
        "distance": of["distances"],
        "null_mean": of["null_means"],
        "p_value": of["p_values"],
    }


class Effects(Stream[Effect]):
    """Effects of ablations, cluster by cluster, in the order asked, else the largest first.

    As a table: a row an effect, `per="token"` a listed token, or `per="difference"`.
    """

    _noun = "effects"
    _tables: ClassVar = {"effect": _by_effect, "token": _by_token, "difference": _by_difference}

    @property
    def differences(self) -> list[Difference]:
        """Return whether clusters move different tokens: of the neuron first, then of each control at the same tokens.

        Empty with fewer than two clusters of two tokens or more.
        """
        self._has(-1)
        return [
            Difference(neuron_id(neuron), *values)
            for answer in self._read
            for neuron, *values in zip(
                answer.batch.difference_neurons,
                *(getattr(answer.batch, name).tolist() for name in DIFFERENCES),
                strict=True,
            )
        ]


def call(
    neuron: NeuronLike,
    clusters: int | Sequence[int] | None,
    other: int | None,
    text: str | None,
    ablation: Ablation,
    n_tokens: int,
    n_controls: int,
    seed: int,
    min_activation_fraction: float,
    index: str | None,
    side: Side,
    **options: Unpack[ClusteringOptions],
) -> Call[Effects]:
    choice, clustering = read_options(**options)
    query = AblateQuery(
        neuron=parse_neuron(neuron),
        index=checks.index_name(index),
        clusters=() if clusters is None else checks.whole_numbers(clusters, "clusters", "a cluster"),
        other=other,
        text=text,
        ablation=ablation,
        n_tokens=n_tokens,
        n_controls=n_controls,
        seed=seed,
        choice=choice,
        clustering=clustering,
        min_activation_fraction=min_activation_fraction,
        side=side,
    )
    return Call("AblateClusters", encode_ablate_query(query), AblationBatch, effects_of, Effects)
