"""The work of ablation: what becomes of the next token's distribution where a neuron is set to zero, or to its mean.

Stages, each through the queue: the neuron is clustered; `ActivityWork` reads the contexts of the sample up to the
neuron's layer, to choose control neurons that are as active at its tokens, and contexts of the corpus for means;
`AblationWork` reads each context once more, in as many rows as there are ablations and one without. Up to the neuron's
layer the rows are alike, and there the first says where the neuron fires.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array, DoubleArray, FloatArray, IntArray
from polysem.proto.errors import FailedPrecondition, NotFound
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronId, NeuronRange
from polysem.proto.questions.ablation import MAX_CLUSTERS, Ablated, AblateQuery
from polysem.proto.wire.columns import Axis, columnar
from polysem.server.index.draws import draws
from polysem.server.index.format import Index
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.explain import read_text
from polysem.server.questions.nearest import NearestClusters
from polysem.server.questions.units import refuse_latents

FORWARD_TOKENS = {"cpu": 1024, "cuda": 1 << 16}  # that are read together where contexts are short enough
LOGIT_ROWS = 64  # last vectors whose logits are made together
N_MEAN = 64  # contexts of the corpus whose tokens a mean is over
KEPT = 512  # tokens of the vocabulary that are kept of each prediction: those that move most, and the likeliest


class Context(NamedTuple):
    """Text that the model reads.

    ids      (T,) with BOS
    at       (P,) tokens whose predictions are asked for; None: where the neuron fires
    next_id  of the token behind the last, −1 where it is not known
    """

    ids: IntArray
    at: Array | None
    next_id: int = -1


class Sample(NamedTuple):
    """Contexts of a cluster. other: label of the cluster to compare with; −1: there is none."""

    label: int
    other: int
    contexts: Sequence[Context]


@columnar(None, "context")
@dataclass(frozen=True, eq=False)
class Activities:
    """Activity of a layer's N neurons at tokens of B contexts; never sent.

    n_tokens   (B,) int32
    totals     (B, N) float64: activations, summed over those tokens
    distances  (B, N) float64: squared differences from the neuron's own, summed likewise
    """

    n_tokens: IntArray
    totals: DoubleArray
    distances: DoubleArray


@dataclass(frozen=True, eq=False)
class ActivityWork:
    """Items are contexts: (number,)."""

    nearest: NearestClusters
    neuron: NeuronId
    contexts: Sequence[Context]

    def costs(self, items: IntArray) -> Array:
        model = self.nearest.model
        lengths = np.array([len(self.contexts[i].ids) for i in items[:, 0].tolist()])
        return model.reading_cost(lengths) * (self.neuron.layer + 1) / model.info.n_layers

    def run(self, items: IntArray) -> Activities:
        n_tokens, totals, distances = zip(*(self._read(self.contexts[i]) for i in items[:, 0].tolist()), strict=True)
        return Activities(np.array(n_tokens, np.int32), np.stack(totals), np.stack(distances))

    def _read(self, context: Context) -> tuple[int, Array, Array]:
        layer, j = self.neuron
        found: list[Tensor] = []

        def visit(seen: int, _residual: Tensor, a: Tensor) -> None:
            if seen == layer:
                at = self._fires(a[0, :, j]) if context.at is None else context.at
                found.append(a[0, torch.from_numpy(at.astype(np.int64)).to(a.device)].double())  # (P, N)

        self.nearest.model.read(torch.from_numpy(context.ids.astype(np.int64))[None], visit, layer)
        (a,) = found
        return len(a), a.sum(0).cpu().numpy(), (a - a[:, j : j + 1]).square().sum(0).cpu().numpy()

    def _fires(self, a: Tensor) -> Array:
        return np.flatnonzero(fires(self.nearest, self.neuron, a))


def fires(nearest: NearestClusters, neuron: NeuronId, a: Tensor) -> Array:
    """(T,) bool: where a neuron fires, given its activations (T,) over a context; never at BOS."""
    fired = nearest.fires(a.float().cpu().numpy(), nearest.index.statistics.maximum[*neuron])
    fired[: int(nearest.index.info.bos)] = False
    return fired


@columnar(
    None,
    "run",
    Axis(
        "token",
        ["activations", "divergences", "loss_changes", "moved_ids", "moves", "likely_ids", "probabilities"],
        "n_tokens",
    ),
)
@dataclass(frozen=True, eq=False)
class AblatedReadings:
    """B runs of contexts with T tokens that were predicted behind each of R ablations; never sent.

    clusters       (B,) int32: which of those measured
    n_tokens       (B,) int32
    n_set          (B, R) int32: tokens at which a neuron was set
    activations    (T, R) float64: of the neuron that was set, nothing ablated
    divergences    (T, R) float64: Kullback-Leibler, of the distribution with ablation from that without, in nats
    loss_changes   (T, R) float64: of the next token, NaN where it is not known
    moved_ids      (T, R, K) int32: the tokens whose probabilities change most
    moves          (T, R, K) float32: by how much
    likely_ids     (T, K) int32: the likeliest tokens without ablation
    probabilities  (T, K) float32: theirs
    """

    clusters: IntArray
    n_tokens: IntArray
    n_set: IntArray
    activations: DoubleArray
    divergences: DoubleArray
    loss_changes: DoubleArray
    moved_ids: IntArray
    moves: FloatArray
    likely_ids: IntArray
    probabilities: FloatArray


class _Set(NamedTuple):
    """The ablations of a context: tokens (P,) to predict behind, activations (P, R) there, and n_set (R,)."""

    at: Array
    activations: Array
    n_set: Array


@dataclass(frozen=True, eq=False)
class AblationWork:
    """Items are runs of the contexts of a cluster's sample: (cluster, first, last), by its place among `samples`.

    labels    (n,) of the neuron's examples
    units     (1 + C,) neurons of the layer that are set: itself, then controls
    values    (1 + C,) what each is set to
    n_tokens  of a sample, at most
    """

    nearest: NearestClusters
    neuron: NeuronId
    labels: Array
    samples: Sequence[Sample]
    units: Array
    values: Array
    n_tokens: int
    seed: int

    @cached_property
    def ablations(self) -> list[tuple[Ablated, int]]:
        """(R,) what is ablated, and the place of the neuron among `units`."""
        others: list[tuple[Ablated, int]] = [("other", 0)] if self.labels.max() > 0 else []
        return [("cluster", 0), ("neuron", 0), *others, *(("control", 1 + c) for c in range(len(self.units) - 1))]

    @property
    def _n_rows(self) -> int:
        return 1 + len(self.ablations)

    def items(self) -> IntArray:
        """(M, 3) of all samples."""
        most = FORWARD_TOKENS[self.nearest.model.device.type]
        found: list[tuple[int, int, int]] = []
        for place, sample in enumerate(self.samples):
            n = len(sample.contexts)
            longest = max(len(context.ids) for context in sample.contexts)
            step = max(most // (longest * self._n_rows), 1)
            found += [(place, first, min(first + step, n)) for first in range(0, n, step)]
        return np.array(found, np.int32)

    def costs(self, items: IntArray) -> Array:
        model = self.nearest.model
        runs = [self.samples[place].contexts[first:last] for place, first, last in items.tolist()]
        n_read = np.array([len(run) * max(len(context.ids) for context in run) for run in runs])
        n_predicted = np.array([sum(self._most_predicted(context) for context in run) for run in runs])
        return model.reading_cost(n_read * self._n_rows) + model.logits_cost(n_predicted * self._n_rows)

    def _most_predicted(self, context: Context) -> int:
        return min(len(context.ids), self.n_tokens) if context.at is None else len(context.at)

    def run(self, items: IntArray) -> AblatedReadings:
        parts = [self._read(self.samples[place], first, last) for place, first, last in items.tolist()]
        n_set, tokens = zip(*parts, strict=True)
        columns = [np.concatenate(column) for column in zip(*(token for one in tokens for token in one), strict=True)]
        return AblatedReadings(
            clusters=items[:, 0],
            n_tokens=np.array([sum(len(token.activations) for token in one) for one in tokens], np.int32),
            n_set=np.stack(n_set).astype(np.int32),
            **dict(zip(_Predictions._fields, columns, strict=True)),
        )

    def _read(self, sample: Sample, first: int, last: int) -> "tuple[Array, list[_Predictions]]":
        """Return tokens set (R,) in a run of contexts, and the predictions behind those asked for."""
        contexts, rows = sample.contexts[first:last], self._n_rows
        tokens = torch.zeros((len(contexts) * rows, max(len(context.ids) for context in contexts)), dtype=torch.int64)
        for i, context in enumerate(contexts):
            tokens[i * rows : (i + 1) * rows, : len(context.ids)] = torch.from_numpy(context.ids.astype(np.int64))
        found: list[_Set] = []

        def visit(layer: int, residual: Tensor, a: Tensor) -> None:
            if layer == self.neuron.layer:
                for i, context in enumerate(contexts):
                    n, own = len(context.ids), slice(i * rows, (i + 1) * rows)
                    found.append(self._set(sample, context, residual[i * rows, :n], a[own, :n]))

        last_vectors = self.nearest.model.last(tokens, visit)
        predictions = [
            self._predictions(context, one, last_vectors[i * rows : (i + 1) * rows])
            for i, (context, one) in enumerate(zip(contexts, found, strict=True))
        ]
        return np.sum([one.n_set for one in found], axis=0), predictions

    def _set(self, sample: Sample, context: Context, residual: Tensor, a: Tensor) -> _Set:
        """Set activations a (1 + R, T, N) of a context, each row but the first by one ablation. residual (T, D)."""
        clusters = self._clusters(residual, a[0, :, self.neuron.neuron])
        at = context.at
        if at is None:
            at = self._sampled(np.flatnonzero(clusters == sample.label))
        else:
            clusters[at] = sample.label  # an example is of its own cluster, whichever is nearest
        everywhere, mine = np.ones(len(clusters), bool), clusters == sample.label
        of: dict[Ablated, Array] = {"neuron": everywhere, "other": clusters == sample.other, "cluster": mine}
        units = [int(self.units[unit]) for _, unit in self.ablations]
        before = a[0, torch.from_numpy(at.astype(np.int64)).to(a.device)][:, units].double().cpu().numpy()
        n_set = np.zeros(len(units), np.int64)
        for row, (ablated, unit) in enumerate(self.ablations):
            where = np.flatnonzero(of.get(ablated, mine))
            a[row + 1, torch.from_numpy(where).to(a.device), units[row]] = float(self.values[unit])
            n_set[row] = len(where)
        return _Set(at, before, n_set)

    def _clusters(self, residual: Tensor, a: Tensor) -> Array:
        """(T,) the cluster that each token falls in, −1 where the neuron does not fire or none is near."""
        fired = np.flatnonzero(fires(self.nearest, self.neuron, a))
        clusters = np.full(len(a), -1)
        if len(fired):
            xhat = self.nearest.model.normalise(
                self.neuron.layer, residual[torch.from_numpy(fired).to(residual.device)]
            )
            clusters[fired], _ = self.nearest(np.array([self.neuron], np.int32), self.labels, xhat)
        return clusters

    def _sampled(self, places: Array) -> Array:
        """Draw at most n_tokens of the places of a text, ascending."""
        return np.sort(places[np.argsort(draws(places, self.seed), kind="stable")[: self.n_tokens]])

    def _predictions(self, context: Context, one: _Set, last: Tensor) -> "_Predictions":
        """The predictions behind the tokens asked for, given the last vectors (1 + R, T, D) of the context's rows."""
        step = max(LOGIT_ROWS // self._n_rows, 1)
        following = np.append(context.ids[1:], context.next_id)[one.at]
        parts = []
        for first in range(0, len(one.at), step):
            at = torch.from_numpy(one.at[first : first + step].astype(np.int64)).to(last.device)
            logits = self.nearest.model.logits(last[:, at].transpose(0, 1).flatten(0, 1))  # (P' · (1 + R), V)
            if not logits.isfinite().all():
                raise FailedPrecondition(f"the logits are not finite with neuron {self.neuron} ablated")
            parts.append(_compared(logits.view(-1, self._n_rows, logits.shape[1]), following[first : first + step]))
        n, k = self._n_rows - 1, min(KEPT, self.nearest.model.tokenizer.n_tokens)
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else _nothing(n, k)
        return _Predictions(one.activations, *columns)


class _Predictions(NamedTuple):
    """Columns of AblatedReadings, of the tokens of one context."""

    activations: Array
    divergences: Array
    loss_changes: Array
    moved_ids: Array
    moves: Array
    likely_ids: Array
    probabilities: Array


def _nothing(n: int, k: int) -> list[Array]:
    shapes = (0, n), (0, n), (0, n, k), (0, n, k), (0, k), (0, k)
    dtypes = np.float64, np.float64, np.int32, np.float32, np.int32, np.float32
    return [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


def _compared(logits: Tensor, following: Array) -> list[Array]:
    """Compare the predictions of logits (P, 1 + R, V) with the first of each.

    following  (P,) the tokens that come next, −1 where not known
    """
    logs = logits.double().log_softmax(-1)
    before, after = logs[:, :1], logs[:, 1:]
    probabilities = before.exp()
    divergences = (probabilities * (before - after)).sum(-1)
    ids = torch.from_numpy(following.astype(np.int64)).to(logs.device).clamp(min=0)
    surprise = -logs.gather(2, ids[:, None, None].expand(-1, logs.shape[1], 1))[:, :, 0]  # (P, 1 + R)
    loss_changes = (surprise[:, 1:] - surprise[:, :1]).cpu().numpy()
    loss_changes[following < 0] = np.nan
    k = min(KEPT, logs.shape[2])
    changes = after.exp() - probabilities
    moved = changes.abs().topk(k, dim=-1).indices
    likely = probabilities[:, 0].topk(k, dim=-1)
    moves, likeliest = changes.gather(2, moved), likely.values
    return [
        divergences.cpu().numpy(),
        loss_changes,
        *(of.cpu().numpy() for of in (moved.int(), moves.float(), likely.indices.int(), likeliest.float())),
    ]


class AblatePlan(NamedTuple):
    """A question made ready to be sampled. clustering: of the neuron; ids: of the text, with BOS, or None."""

    clustering: ClusterWork
    neurons: IntArray
    query: AblateQuery
    ids: IntArray | None
    provenance: Provenance

    def sampled(self, labels: Array) -> "Sampled":
        """Draw the samples, given the labels (n,) of the neuron's examples.

        Raises NotFound for a cluster that it lacks.
        """
        query, index = self.query, self.clustering.index
        sizes = np.bincount(labels, minlength=0)
        chosen = _clusters_of(query, sizes, self.clustering.clustering.distance_threshold)
        order = np.argsort(-sizes, kind="stable").tolist()
        samples = []
        for label in chosen:
            named = [] if query.other is None else [query.other]
            other = next((one for one in [*named, *order] if one != label), -1)
            if self.ids is not None:
                contexts = [Context(self.ids, None)]
            else:
                members = np.flatnonzero(labels == label)
                drawn = np.argsort(draws(members, query.seed), kind="stable")[: query.n_tokens]
                contexts = [_example(index, query.neuron, place) for place in np.sort(members[drawn]).tolist()]
            samples.append(Sample(label, other, contexts))
        clustering = self.clustering
        nearest = NearestClusters(
            clustering.model, index, clustering.choice, clustering.clustering, query.min_activation_fraction
        )
        return Sampled(nearest, labels, samples, query, self.provenance)


def _clusters_of(query: AblateQuery, sizes: Array, threshold: float) -> list[int]:
    """The labels of the clusters to measure."""
    n = len(sizes)
    named = [*query.clusters, *([] if query.other is None else [query.other])]
    if not n:
        raise NotFound(f"neuron {query.neuron} has no dataset examples, so no clusters")
    for label in named:
        if label >= n:
            has = "one cluster, 0" if n == 1 else f"clusters 0 to {n - 1}"
            raise NotFound(f"neuron {query.neuron} has no cluster {label}: cut at {threshold:g} it has {has}")
    largest = [label for label in np.argsort(-sizes, kind="stable").tolist() if sizes[label] > 1][:MAX_CLUSTERS]
    chosen = list(dict.fromkeys(query.clusters)) or largest
    if not chosen:
        raise NotFound(
            f"neuron {query.neuron} has no cluster of two examples or more: cut at {threshold:g} it has {n} of one; "
            "choose a larger distance_threshold, or name clusters"
        )
    return chosen


def _example(index: Index, neuron: NeuronId, place: int) -> Context:
    """A dataset example up to its key token."""
    stored = index.layer(neuron.layer)
    row = stored.rows[int(stored.offsets[neuron.neuron]) + place]
    key = int(stored.row_positions[row])
    ids = index.contexts.tokens(int(stored.row_contexts[row]))
    return Context(ids[: key + 1], np.array([key]), int(ids[key + 1]) if key + 1 < len(ids) else -1)


class Sampled(NamedTuple):
    """A question whose samples are drawn."""

    nearest: NearestClusters
    labels: Array
    samples: Sequence[Sample]
    query: AblateQuery
    provenance: Provenance

    @property
    def _of_samples(self) -> list[Context]:
        """Contexts of the samples, each once."""
        if self.query.text is not None:
            return list(self.samples[0].contexts)
        return [context for sample in self.samples for context in sample.contexts]

    def activities(self) -> Plan:
        """The plan of what has to be known of other neurons."""
        contexts = self._of_samples
        if self.query.ablation == "mean":
            contexts += _of_corpus(self.nearest.index)
        work = ActivityWork(self.nearest, self.query.neuron, contexts)
        return Plan(work, np.arange(len(contexts), dtype=np.int32)[:, None], self.provenance)

    def work(self, activities: Sequence[Activities]) -> AblationWork:
        """The work, given the activities. Raises FailedPrecondition where the neuron does not fire in the text."""
        query, n = self.query, len(self._of_samples)
        n_tokens, totals, distances = (
            np.concatenate([getattr(one, name) for one in activities]) for name in ("n_tokens", "totals", "distances")
        )
        if not n_tokens[:n].any():
            raise FailedPrecondition(
                f"neuron {query.neuron} fires nowhere in this text: no activation is "
                f"{query.min_activation_fraction:g} of its maximum over the corpus; give another text, or a "
                "lower min_activation_fraction"
            )
        order = np.argsort(distances[:n].sum(axis=0), kind="stable")
        controls = order[order != query.neuron.neuron][: query.n_controls]
        units = np.array([query.neuron.neuron, *controls])
        values = totals[n:, units].sum(axis=0) / n_tokens[n:].sum() if len(n_tokens) > n else np.zeros(len(units))
        return AblationWork(
            self.nearest, query.neuron, self.labels, self.samples, units, values, query.n_tokens, query.seed
        )


def _of_corpus(index: Index) -> list[Context]:
    """Contexts of the corpus, N_MEAN draws of them, with all tokens that could be key tokens."""
    numbers = np.unique(draws(np.arange(N_MEAN), 0) % np.uint64(len(index.contexts)))
    every = (index.contexts.tokens(int(number)) for number in numbers)
    return [Context(ids, np.arange(index.n_skipped, len(ids))) for ids in every]


def plan(engine: Engine, query: AblateQuery) -> AblatePlan:
    """Also raises InvalidArgument for a text that the model cannot read at once, and FailedPrecondition for a model
    without unembedding. Cost: the text is tokenised."""
    index, model = engine.index(query.index, query.side), engine.model
    refuse_latents(index, "effects of ablations")
    work = work_of(engine, index, query.choice, query.clustering)
    layer, j = query.neuron
    neurons = engine.neurons(index, [NeuronRange(layer, j, j)])
    ids = None
    if query.text is not None:
        before = [model.tokenizer.bos_id] if index.info.bos else []
        ids = np.array([*before, *read_text(engine, index, query.text).ids], np.int32)
    found = engine.provenance(index, query.choice, query.clustering)
    return AblatePlan(work, neurons, query, ids, replace(found, unembedding_sha256=model.head.sha256))
