"""The work of explaining a text: what neurons make of each of its tokens.

The text is read once, as one context; where it is asked for in parts, the first to run does it all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.facts import Provenance
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.proto.questions.explain import (
    LEAST_EXAMPLES_OF_STRONGEST,
    LEAST_MAXIMUM_OF_STRONGEST,
    MAX_EXPLAINED,
    ExplainQuery,
    ExplanationBatch,
)
from polysem.proto.wire import columns
from polysem.server.index.format import Index
from polysem.server.model.model import Model, Visit
from polysem.server.model.tokenizer import Pieces
from polysem.server.questions import characters
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.nearest import NearestClusters


class _Firings(NamedTuple):
    """F pairs of a token and a neuron, token by token: neurons (F, 2); activations, clusters and distances (F,)."""

    neurons: IntArray
    activations: Array
    clusters: Array
    distances: Array


@dataclass(frozen=True, eq=True)
class ExplainWork:
    """Items are tokens of the text: (position,).

    ids          the text's tokens, without BOS
    texts        of each of them
    neurons      (layer, neuron) of each, in the order asked; none: the n_strongest at each token
    labels       of each neuron's dataset examples, as `clustering` has them
    """

    model: Model
    index: Index
    ids: tuple[int, ...]
    neurons: tuple[tuple[int, int], ...]
    choice: EmbeddingChoice
    clustering: Clustering
    min_activation_fraction: float
    n_strongest: int
    labels: Sequence[Array] = field(compare=False, repr=False)
    texts: Sequence[str] = field(compare=False, repr=False)
    _done: list[ExplanationBatch] = field(default_factory=list, compare=False, repr=False)

    def items(self) -> IntArray:
        """(T, 1)."""
        return np.arange(len(self.ids), dtype=np.int32)[:, None]

    def costs(self, items: IntArray) -> Array:
        """Return the cost of the whole text: one forward, plus one pass over each neuron's examples."""
        reading = float(self.model.reading_cost(np.array(len(self.ids))))
        return np.full(len(items), (reading + 1e3 * self.model.info.d_model * len(self.neurons)) / len(self.ids))

    def run(self, items: IntArray) -> ExplanationBatch:
        if not self._done:
            self._done.append(self._explain())
        every = self._done[0]
        offsets, positions = columns.offsets(every)["activation"], items[:, 0].tolist()
        where = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in positions])
        return ExplanationBatch(
            positions=items[:, 0],
            tokens=[every.tokens[i] for i in positions],
            n_activations=every.n_activations[positions],
            active_neurons=every.active_neurons[where],
            activations=every.activations[where],
            shares=every.shares[where],
            fires=every.fires[where],
            clusters=every.clusters[where],
            distances=every.distances[where],
            part_numbers=every.part_numbers[positions],
            part_counts=every.part_counts[positions],
        )

    def _explain(self) -> ExplanationBatch:
        neurons, activations, clusters, distances = self._of_those_named() if self.neurons else self._of_the_strongest()
        maximum = self.index.statistics.maximum[neurons[:, 0], neurons[:, 1]]
        n_each = len(neurons) // len(self.ids)
        parts = characters.parts(self.model.tokenizer, self.ids, self.texts, range(len(self.ids)))
        return ExplanationBatch(
            positions=self.items()[:, 0],
            tokens=self.texts,
            n_activations=np.full(len(self.ids), n_each, np.int32),
            active_neurons=neurons,
            activations=activations.astype(np.float32),
            shares=np.divide(
                activations,
                maximum,
                out=np.full(len(neurons), np.nan, np.float32),
                where=self.index.sign * maximum > 0,
            ),
            fires=self._nearest.fires(activations, maximum).astype(np.int32),
            clusters=clusters.astype(np.int32),
            distances=distances.astype(np.float32),
            part_numbers=np.array([number for number, _ in parts], np.int32),
            part_counts=np.array([of for _, of in parts], np.int32),
        )

    @property
    def _nearest(self) -> NearestClusters:
        return NearestClusters(self.model, self.index, self.choice, self.clustering, self.min_activation_fraction)

    # ---- Neurons that were named

    def _of_those_named(self) -> _Firings:
        """Return for each token all K neurons, in the order asked."""
        asked = np.array(self.neurons, np.int32)
        shape = len(self.ids), len(asked)
        activations, clusters, distances = np.zeros(shape, np.float32), np.full(shape, -1), np.full(shape, np.nan)

        def visit(layer: int, residual: Tensor, a: Tensor) -> None:
            places = np.flatnonzero(asked[:, 0] == layer)
            if len(places):
                index = torch.from_numpy(asked[places, 1].astype(np.int64)).to(a.device)
                activations[:, places] = a[0, self._n_before :, index].float().cpu().numpy()
                xhat = self.model.normalise(layer, residual[0, self._n_before :])  # (T, D)
                for place in places.tolist():
                    fired = self._nearest.fires(activations[:, place], self.index.statistics.maximum[*asked[place]])
                    if fired.any() and len(self.labels[place]):
                        neuron, labels = asked[place : place + 1], self.labels[place]
                        found = self._nearest(neuron, labels, xhat[np.flatnonzero(fired)])
                        clusters[fired, place], distances[fired, place] = found

        self._read(visit)
        repeated = np.tile(asked, (len(self.ids), 1))
        return _Firings(repeated, activations.ravel(), clusters.ravel(), distances.ravel())

    # ---- The strongest

    def _of_the_strongest(self) -> _Firings:
        """Return for each token the neurons with the highest shares of their maxima, hardest first; no clusters."""
        comparable = _comparable(self.index)  # (L, N)
        sign = self.index.sign
        maximum = torch.from_numpy(np.where(comparable, self.index.statistics.maximum, 0)).to(self.model.device)
        n, k = maximum.shape[1], min(self.n_strongest, int(comparable.sum()))  # n: of the widest layer
        found: list[tuple[Tensor, Tensor, Tensor]] = []  # shares, activations, flat neurons: (T, k) of each layer

        def visit(layer: int, _residual: Tensor, a: Tensor) -> None:
            activations = a[0, self._n_before :].float()  # (T, N)
            most = maximum[layer, : a.shape[2]]
            shares = torch.where(sign * most > 0, activations / most, -torch.inf)
            best = shares.topk(min(k, a.shape[2]), dim=1).indices
            found.append((shares.gather(1, best), activations.gather(1, best), layer * n + best))

        self._read(visit)
        shares, activations, flat = (torch.cat(parts, dim=1).cpu().numpy() for parts in zip(*found, strict=True))
        best = np.lexsort((flat, -shares), axis=1)[:, :k]  # of equals the lower layer and neuron
        chosen, activations = (np.take_along_axis(x, best, 1).ravel() for x in (flat, activations))
        neurons = np.stack(np.divmod(chosen, n), axis=1).astype(np.int32)
        return _Firings(neurons, activations, np.full(len(chosen), -1), np.full(len(chosen), np.nan))

    # ---- The model

    def _read(self, visit: Visit) -> None:
        before = [self.model.tokenizer.bos_id] if self.index.info.bos else []
        held = self.index.info.held_layers
        self.model.read(torch.tensor([[*before, *self.ids]]), visit, held[-1])

    @property
    def _n_before(self) -> int:
        """Tokens that the model reads before the text."""
        return int(self.index.info.bos)


def _comparable(index: Index) -> Array:
    """(L, N) bool: whose share of its own maximum says something: it fires as strongly as its layer does, and often.

    One that hardly ever fires comes near its tiny maximum at any token.
    """
    maximum = index.sign * index.statistics.maximum  # (L, N)
    firing = np.where(maximum > 0, maximum, np.nan)
    usual = np.array([[np.nanmedian(of_layer) if (of_layer > 0).any() else np.inf] for of_layer in firing])
    least = min(LEAST_EXAMPLES_OF_STRONGEST, index.info.selection.max_examples)
    return (maximum >= LEAST_MAXIMUM_OF_STRONGEST * usual) & (index.n_examples >= least)


class ExplainPlan(NamedTuple):
    """clustering: of the neurons (K, 2) that were named. pieces: the text's tokens, without BOS."""

    clustering: ClusterWork
    neurons: IntArray
    pieces: Pieces
    query: ExplainQuery
    provenance: Provenance

    def plan(self, labels: Sequence[Array]) -> Plan:
        """The plan, given the labels of each neuron's dataset examples."""
        query = self.query
        work = ExplainWork(
            self.clustering.model,
            self.clustering.index,
            tuple(self.pieces.ids),
            tuple((layer, neuron) for layer, neuron in self.neurons.tolist()),
            query.choice,
            query.clustering,
            query.min_activation_fraction,
            query.n_strongest,
            labels,
            self.pieces.texts,
        )
        return Plan(work, work.items(), self.provenance)


def plan(engine: Engine, query: ExplainQuery) -> ExplainPlan:
    """Also raises InvalidArgument for a text that the model cannot read at once. Cost: the text is tokenised."""
    index = engine.index(query.index, query.side)
    engine.model_of(index).check_choice(query.choice)
    neurons = engine.neurons(index, query.neurons) if query.neurons else np.zeros((0, 2), np.int32)
    if len(neurons) > MAX_EXPLAINED:
        raise InvalidArgument(
            f"{len(neurons)} neurons were named; explain a text by at most {MAX_EXPLAINED} at once, or name none "
            "for those that fire hardest",
            "neurons",
        )
    pieces = read_text(engine, index, query.text)
    work = work_of(engine, index, query.choice, query.clustering)
    provenance = engine.provenance(index, query.choice, query.clustering)
    return ExplainPlan(work, neurons, pieces, query, provenance)


def read_text(engine: Engine, index: Index, text: str) -> Pieces:
    """Return a text as tokens, without BOS. Raises InvalidArgument where it has none, or more than the model reads."""
    (pieces,) = engine.model.tokenizer.pieces([text])
    ids = pieces.ids
    room = engine.model.info.context_length - index.info.bos
    if len(ids) > room:
        beside = " beside BOS" if index.info.bos else ""
        raise InvalidArgument(
            f"the text has {len(ids)} tokens, the model reads {room} at once{beside}; shorten it, or give it in parts",
            "text",
        )
    if not ids:
        raise InvalidArgument("the text has no tokens: give one with letters", "text")
    return pieces
