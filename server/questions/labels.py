"""The work of labels: neurons are clustered, and each cluster is named by what its texts have in common.

A name that was kept of a cluster's set of examples stands in the place of the one that rules make.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName
from polysem.proto.questions.labels import LABEL_METHODS, SCORES, LabelBatch, LabelQuery
from polysem.proto.wire import columns
from polysem.server.index.negatives import is_held_out
from polysem.server.naming.corpus import corpus_of
from polysem.server.naming.kept import KeptNames, Place, digest
from polysem.server.naming.names import Names, Negatives, names_of
from polysem.server.naming.places import places
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.kept_names import place_of

COST_OF_EXAMPLE = 7e6  # some 0.7 ms, as clustering costs
Kept: TypeAlias = Mapping[int, KeptName]
MAX_READ = 256  # examples of a cluster that its name is made of


@dataclass(frozen=True, eq=True)
class LabelWork:
    """Items are neurons: (layer, neuron)."""

    clustering: ClusterWork
    kept: KeptNames | None = None
    place: Place = Place("")

    def costs(self, items: IntArray) -> Array:
        """Return the cost of clustering, and of reading every example."""
        n = self.clustering.index.n_examples[items[:, 0], items[:, 1]]
        return self.clustering.costs(items) + COST_OF_EXAMPLE * n

    def run(self, items: IntArray) -> LabelBatch:
        """Raises FailedPrecondition as ClusterWork does."""
        clustered = self.clustering.run(items)
        ends = columns.from_counts(clustered.n_examples)
        found: list[Names] = []
        sizes: list[Array] = []
        kept: list[Kept] = []
        for (layer, neuron), begin, end in zip(items.tolist(), ends[:-1], ends[1:], strict=True):
            labels = clustered.labels[begin:end]
            found.append(self.names(layer, neuron, labels))
            kept.append(self._kept(NeuronId(layer, neuron), labels))
            sizes.append(np.bincount(labels, minlength=0))
        of_each = [len(counts) for counts in sizes]
        scores = np.concatenate([names.scores for names in found])
        texts = [rule.text for names in found for rule in names.rules]
        methods = np.full(len(scores), 1 + LABEL_METHODS.index("rule"), np.int32)
        for first, names in zip(columns.from_counts(np.array(of_each, np.int64)).tolist(), kept, strict=False):
            for label, name in names.items():
                texts[first + label] = name.text
                methods[first + label] = 1 + LABEL_METHODS.index(name.method or "person")
                scores[first + label] = _scores_of(name)
        return LabelBatch(
            neurons=items,
            n_clusters=np.array(of_each, np.int32),
            labels=np.concatenate([np.arange(count, dtype=np.int32) for count in of_each]),
            sizes=np.concatenate(sizes).astype(np.int32),
            texts=texts,
            methods=methods,
            **dict(zip(SCORES, scores.T.copy(), strict=True)),
        )

    def _kept(self, neuron: NeuronId, labels: IntArray) -> "Kept":
        """The names that are kept of the neuron's clusters, by label."""
        names = self.kept.of(self.place, neuron) if self.kept else {}
        if not names:
            return {}
        digests = {label: digest(np.flatnonzero(labels == label)) for label in range(int(labels.max(initial=-1)) + 1)}
        return {label: names[known] for label, known in digests.items() if known in names}

    def names(self, layer: int, neuron: int, labels: IntArray, scored: bool = True) -> Names:
        """Return the names that rules make of a neuron's clusters, given the labels (n,) of its examples.

        scored  False: the same names without scores, at a quarter of the cost
        """
        index, tokenizer = self.clustering.index, self.clustering.model.tokenizer
        read = _some_of_each(labels)
        stored = index.layer(layer)
        rows = np.asarray(stored.rows)[int(stored.offsets[neuron]) + read]
        contexts, positions = (np.asarray(of)[rows] for of in (stored.row_contexts, stored.row_positions))
        found = places(index, tokenizer, contexts, positions)
        return names_of(found, labels[read], corpus_of(index, tokenizer), self._negatives(layer, neuron), scored)

    def _negatives(self, layer: int, neuron: int) -> Negatives | None:
        index = self.clustering.index
        if not index.n_negatives:
            return None
        of_layer = index.negatives(layer)
        contexts, positions = (np.asarray(of[neuron]).astype(np.int64) for of in of_layer)  # (3, K)
        kinds, slots = np.nonzero(contexts >= 0)
        contexts, positions = contexts[kinds, slots], positions[kinds, slots]
        found = places(index, self.clustering.model.tokenizer, contexts, positions)
        return Negatives(found, kinds, is_held_out(contexts))


def _scores_of(name: KeptName) -> list[float]:
    """The name's SCORES: of detection, and its null; NaN of what was not measured."""
    detection, null, *_ = name.scores or (None, None)
    return [np.nan if score is None else score for score in (detection, null, None, None, None)]


def _some_of_each(labels: IntArray) -> Array:
    """Return examples, ascending: at most MAX_READ of each cluster, evenly spread over it."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=0)
    ends = columns.from_counts(sizes)
    chosen = [order[begin:end][_spread(end - begin)] for begin, end in itertools.pairwise(ends)]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))


def _spread(size: int) -> Array:
    n = min(size, MAX_READ)
    return np.arange(n) * size // n


def plan(engine: Engine, query: LabelQuery) -> Plan:
    index = engine.index(query.index, query.side)
    engine.model_of(index).check_choice(query.choice)
    work = work_of(engine, index, query.choice, query.clustering)
    neurons = engine.neurons(index, query.neurons)
    kept = None if isinstance(engine.names, str) else engine.names
    return Plan(
        LabelWork(work, kept, place_of(engine, index)),
        neurons,
        engine.provenance(index, query.choice, query.clustering),
    )
