"""Your own text as neurons see it: `Client.explain`."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Unpack

import numpy as np

from polysem.client import characters, tables
from polysem.client.calls import Call
from polysem.client.characters import Part
from polysem.client.questions.options import ClusteringOptions, read_options
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id, or_none
from polysem.proto import checks
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.explain import ExplainQuery, ExplanationBatch, encode_explain_query
from polysem.proto.sides import Side
from polysem.proto.wire import columns


class Firing(NamedTuple):
    """A neuron at one token of a text.

    activation  after the activation function
    share       of the neuron's maximum over the corpus, on the negative side of its minimum; above 1 where the text
                excites it more; None where that is not positive (negative)
    fires       the activation is of the side asked for and strong enough, by min_activation_fraction
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
    """A token of a text.

    text     joined they are the whole text: a character of several tokens stands at its last one
    firings  of the neurons asked for, in that order, or of those that fire hardest
    part_of  which of its character's tokens it is, and how many they are; (0, 0): an older server
    """

    position: int
    text: str
    firings: tuple[Firing, ...]
    part_of: tuple[int, int] = (0, 0)


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
    parts = list(zip(batch.part_numbers.tolist(), batch.part_counts.tolist(), strict=True))
    return [
        ExplainedToken(
            position,
            batch.tokens[i],
            tuple(firings[offsets[i] : offsets[i + 1]]),
            parts[i],
        )
        for i, position in enumerate(batch.positions.tolist())
    ]


def _by_firing(batches: Sequence[ExplanationBatch]) -> Columns:
    counts = [batch.n_activations for batch in batches]
    tokens = [np.repeat(np.arange(len(n)), n).tolist() for n in counts]
    names = {
        "activations": np.float32,
        "shares": np.float32,
        "fires": np.int32,
        "clusters": np.int32,
        "distances": np.float32,
    }
    of = tables.columns_of(batches, names)
    return {
        "position": tables.joined([np.repeat(batch.positions, n) for batch, n in zip(batches, counts, strict=True)]),
        "token": [batch.tokens[i] for batch, mine in zip(batches, tokens, strict=True) for i in mine],
        **tables.neurons([batch.active_neurons for batch in batches]),
        "activation": of["activations"],
        "share": of["shares"],
        "fires": of["fires"] > 0,
        "cluster": of["clusters"],
        "distance": of["distances"],
    }


class Explanation(Stream[ExplainedToken]):
    """A text token by token. As a table: a row a token and neuron; cluster −1: none."""

    @property
    def parts(self) -> list[Part]:
        """The tokens: the text of each, or the character of which it is a part."""
        texts = [token.text for token in self]
        return [characters.part(texts, i, *token.part_of) for i, token in enumerate(self)]

    _noun = "tokens"
    _tables: ClassVar = {"firing": _by_firing}


def call(
    text: str,
    neurons: Sequence[NeuronLike],
    min_activation_fraction: float,
    n_strongest: int,
    index: str | None,
    side: Side,
    **options: Unpack[ClusteringOptions],
) -> Call[Explanation]:
    choice, clustering = read_options(**options)
    query = ExplainQuery(
        text=text,
        neurons=parse_neurons(*neurons) if neurons else (),
        index=checks.index_name(index),
        choice=choice,
        clustering=clustering,
        min_activation_fraction=min_activation_fraction,
        n_strongest=n_strongest,
        side=side,
    )
    return Call("ExplainText", encode_explain_query(query), ExplanationBatch, explained_of, Explanation)
