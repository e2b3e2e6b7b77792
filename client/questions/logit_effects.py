"""Direct logit effects, what neurons write: `Client.logit_effects`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from polysem.client import characters, tables
from polysem.client.calls import Call
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id, or_none
from polysem.proto import checks
from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.logit_effects import LogitEffectsBatch, LogitEffectsQuery, encode_logit_effects_query
from polysem.proto.sides import Side
from polysem.proto.wire import columns

LISTS = ("likelier", "less likely")


class OutputToken(NamedTuple):
    """A token, and what a neuron does to its logit.

    token   its text within a text, with a leading space where it has one
    id      in the model's vocabulary
    effect  on its logit, in standard deviations from the mean over the vocabulary
    """

    token: str
    id: int
    effect: float


@dataclass(frozen=True, eq=False)
class LogitEffects:
    """The direct effect of a neuron's output weights on the logits of all tokens: what it writes.

    It is the direct path alone, through the norms that follow and the unembedding, without what later layers make of
    it, and up to a positive factor that depends on the context. An effect is in standard deviations from the mean over
    the vocabulary. On the negative side effects are those of a negative activation.

    likelier     tokens whose logits it raises most, the most first
    less_likely  tokens whose logits it lowers most, the most first
    skewness     of all effects: positive where it raises few tokens far, negative where it lowers few far
    kurtosis     excess kurtosis of all effects: 0 of a normal distribution, large where few tokens stand out
    histogram    (64,) int32: tokens in equal bins from the smallest effect to the largest

    Of a neuron that moves all tokens alike the lists are empty, skewness and kurtosis None.
    """

    id: NeuronId
    likelier: Sequence[OutputToken]
    less_likely: Sequence[OutputToken]
    skewness: float | None
    kurtosis: float | None
    histogram: IntArray
    side: Side = "positive"

    @property
    def bin_edges(self) -> DoubleArray:
        """(65,) float64: bin b of the histogram lies between edges b and b + 1."""
        if not self.likelier:
            return np.zeros(len(self.histogram) + 1)
        return np.linspace(self.less_likely[0].effect, self.likelier[0].effect, len(self.histogram) + 1)

    def __repr__(self) -> str:
        first = [", ".join(characters.spaced(one.token) for one in of[:3]) for of in (self.likelier, self.less_likely)]
        return f"<LogitEffects {self.id} likelier {first[0] or '–'}; less likely {first[1] or '–'}>"


def effects_of(answer: Answer) -> list[LogitEffects]:
    """The views of a batch of logit effects."""
    batch: LogitEffectsBatch = answer.batch
    offsets = columns.offsets(batch)["token"]
    listed = [
        OutputToken(*token)
        for token in zip(batch.tokens, batch.token_ids.tolist(), batch.effects.tolist(), strict=True)
    ]
    return [
        LogitEffects(
            id=neuron_id(batch.neurons[i]),
            likelier=listed[offsets[i] : offsets[i] + n],
            less_likely=listed[offsets[i] + n : offsets[i + 1]],
            skewness=or_none(batch.skewness[i]),
            kurtosis=or_none(batch.kurtosis[i]),
            histogram=batch.histogram[i],
            side=answer.provenance.side,
        )
        for i, n in enumerate(batch.n_tokens.tolist())
    ]


def _by_token(batches: Sequence[LogitEffectsBatch]) -> Columns:
    counts = tables.joined([batch.n_tokens for batch in batches])
    halves = np.repeat(counts, 2)
    return tables.neurons([np.repeat(batch.neurons, 2 * batch.n_tokens, axis=0) for batch in batches]) | {
        "list": [LISTS[i % 2] for i, n in enumerate(halves.tolist()) for _ in range(n)],
        "rank": tables.within(halves),
        "token": tables.texts(batches, "tokens"),
        "token_id": tables.joined([batch.token_ids for batch in batches]),
        "effect": tables.joined([batch.effects for batch in batches], dtype=np.float32),
    }


def _by_neuron(batches: Sequence[LogitEffectsBatch]) -> Columns:
    return (
        tables.neurons([batch.neurons for batch in batches])
        | tables.columns_of(batches, {"skewness": np.float32, "kurtosis": np.float32})
        | {"histogram": tables.joined([batch.histogram for batch in batches], (0, 64))}
    )


class LogitEffectsOfNeurons(Stream[LogitEffects]):
    """Logit effects of neurons, in the order asked. As a table: a row a listed token, or `per="neuron"`."""

    _noun = "neurons"
    _tables: ClassVar = {"token": _by_token, "neuron": _by_neuron}


def call(neurons: Sequence[NeuronLike], n_tokens: int, index: str | None, side: Side) -> Call[LogitEffectsOfNeurons]:
    query = LogitEffectsQuery(parse_neurons(*neurons), checks.index_name(index), n_tokens, side)
    return Call(
        "GetLogitEffects", encode_logit_effects_query(query), LogitEffectsBatch, effects_of, LogitEffectsOfNeurons
    )
