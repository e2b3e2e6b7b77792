"""What neurons make of your own text: `Client.explain`."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from polysem.client.calls import Call
from polysem.client.questions.clustering import ClusteringOptions, read_options
from polysem.client.streams import Stream
from polysem.client.views import neuron_id, or_none
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.explain import ExplainQuery, ExplanationBatch, encode_explain_query
from polysem.proto.wire import columns


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


def explained_of(answer: Answer) -> list[ExplainedToken]:
    """The tokens of a part of a text."""
    batch: ExplanationBatch = answer.batch
    offsets = columns.offsets(batch)["activation"]
    firings = [
        Firing(
            neuron_id(neuron),
            activation,
            or_none(share),
            bool(fires),
            None if cluster < 0 else cluster,
            or_none(distance),
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


def call(
    text: str,
    neurons: Sequence[NeuronLike],
    min_activation_fraction: float,
    n_strongest: int,
    index: str | None,
    **options: Unpack[ClusteringOptions],
) -> Call[Stream[ExplainedToken]]:
    choice, clustering = read_options(**options)
    query = ExplainQuery(
        text=text,
        neurons=parse_neurons(*neurons) if neurons else (),
        index=index or "",
        choice=choice,
        clustering=clustering,
        min_activation_fraction=min_activation_fraction,
        n_strongest=n_strongest,
    )
    return Call("ExplainText", encode_explain_query(query), ExplanationBatch, explained_of, Stream)
