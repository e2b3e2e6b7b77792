"""The work of explaining a text: what neurons make of each of its tokens.

The text is read once, as one context; where it is asked for in parts, the first to run does it all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
from polysem.server.model.model import EmbeddingWeights, Model, Visit
from polysem.server.model.tokenizer import Pieces
from polysem.server.questions import characters, frames
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.resident import device_batches


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
            fires=self._fires(activations, maximum).astype(np.int32),
            clusters=clusters.astype(np.int32),
            distances=distances.astype(np.float32),
            part_numbers=np.array([number for number, _ in parts], np.int32),
            part_counts=np.array([of for _, of in parts], np.int32),
        )

    def _fires(self, activations: Array, maximum: Array) -> Array:
        strength, most = self.index.sign * activations, self.index.sign * maximum
        return (strength > 0) & (strength >= np.float32(self.min_activation_fraction) * most)

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
                    fired = self._fires(activations[:, place], self.index.statistics.maximum[*asked[place]])
                    if fired.any() and len(self.labels[place]):
                        found = self._nearest(asked[place : place + 1], self.labels[place], xhat[np.flatnonzero(fired)])
                        clusters[fired, place], distances[fired, place] = found

        self._read(visit)
        repeated = np.tile(asked, (len(self.ids), 1))
        return _Firings(repeated, activations.ravel(), clusters.ravel(), distances.ravel())

    def _nearest(self, neuron: IntArray, labels: Array, xhat: Tensor) -> tuple[Array, Array]:
        """Cluster, −1 beyond the threshold, and smallest mean distance (F,) of tokens with x̂ (F, D).

        The mean distance to a cluster's members is 1 − ⟨unit embedding, mean of theirs⟩.
        """
        (batch,) = device_batches(self.model, self.index, neuron, self.choice)
        rows, scales = batch.rows[batch.example_rows[0]].double(), batch.scales
        if scales is not None:
            rows = rows * scales[batch.example_rows[0]][:, None]
        members = self._units(rows, batch.how)  # (n, D)
        which = torch.from_numpy(labels.astype(np.int64)).to(members.device)
        sums = torch.zeros((int(labels.max()) + 1, members.shape[1]), dtype=torch.float64, device=members.device)
        means = sums.index_add(0, which, members) / torch.bincount(which)[:, None]  # (C, D)
        mean_distances = 1 - self._units(self._framed(neuron, xhat), batch.how) @ means.T  # (F, C)
        least, nearest = (found.cpu().numpy() for found in mean_distances.min(dim=1))
        return np.where(least <= self.clustering.distance_threshold, nearest, -1), least.clip(0, 2)

    def _framed(self, neuron: IntArray, xhat: Tensor) -> Tensor:
        """Return what the weights embed of tokens with x̂ (F, D): x̂, or the embedding in the layer's frame."""
        if self.choice.frame == "raw" or not self.model.weights_vary(self.choice):
            return xhat
        layer, j = neuron[0].tolist()
        how = frames.weights(self.model, self.index, layer, torch.tensor([j]), self.choice).double()
        x = frames.layer_frame(self.model, self.index, layer, self.choice, xhat.double())
        return self._embedded(x, how, xhat.double())

    def _units(self, xhat: Tensor, how: EmbeddingWeights) -> Tensor:
        """(P, D) float64 unit embeddings of x̂ (P, D) by one neuron; 0 where the embedding is."""
        x = xhat.double()
        return functional.normalize(self._embedded(x, how.double(), x), dim=1)

    def _embedded(self, x: Tensor, how: EmbeddingWeights, read: Tensor) -> Tensor:
        """(P, D) float64 embeddings of x (P, D) by one neuron, whose gates are those of x̂ as it is, `read` (P, D)."""
        weights, offsets, up, biases = how
        if up is not None and biases is not None:
            weights = (read @ up.T + biases[:, 1]) * weights + (read @ weights.T + biases[:, 0]) * up
        e = x * weights
        return e if offsets is None else e + offsets

    # ---- The strongest

    def _of_the_strongest(self) -> _Firings:
        """Return for each token the neurons with the highest shares of their maxima, hardest first; no clusters."""
        comparable = _comparable(self.index)  # (L, N)
        sign = self.index.sign
        maximum = torch.from_numpy(np.where(comparable, self.index.statistics.maximum, 0)).to(self.model.device)
        n, k = maximum.shape[1], min(self.n_strongest, int(comparable.sum()))
        found: list[tuple[Tensor, Tensor, Tensor]] = []  # shares, activations, flat neurons: (T, k) of each layer

        def visit(layer: int, _residual: Tensor, a: Tensor) -> None:
            activations = a[0, self._n_before :].float()  # (T, N)
            shares = torch.where(sign * maximum[layer] > 0, activations / maximum[layer], -torch.inf)
            best = shares.topk(min(k, n), dim=1).indices
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
    engine.model.check_choice(query.choice)
    neurons = engine.neurons(index, query.neurons) if query.neurons else np.zeros((0, 2), np.int32)
    if len(neurons) > MAX_EXPLAINED:
        raise InvalidArgument(
            f"{len(neurons)} neurons were named; explain a text by at most {MAX_EXPLAINED} at once, or name none "
            "for those that fire hardest",
            "neurons",
        )
    (pieces,) = engine.model.tokenizer.pieces([query.text])
    ids = pieces.ids
    room = engine.model.info.context_length - index.info.bos
    if len(ids) > room:
        beside = " beside BOS" if index.info.bos else ""
        raise InvalidArgument(
            f"the text has {len(ids)} tokens, the model reads {room} at once{beside}; shorten it, or explain it in "
            "parts",
            "text",
        )
    if not ids:
        raise InvalidArgument("the text has no tokens: give one with letters", "text")
    work = work_of(engine, index, query.choice, query.clustering)
    provenance = engine.provenance(index, query.choice, query.clustering)
    return ExplainPlan(work, neurons, pieces, query, provenance)
