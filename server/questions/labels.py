"""The work of labels: neurons are clustered, and each cluster is named by what its texts have in common."""

import itertools
from dataclasses import dataclass

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.questions.labels import LABEL_METHODS, SCORES, LabelBatch, LabelQuery
from polysem.proto.wire import columns
from polysem.server.index.negatives import is_held_out
from polysem.server.naming.corpus import corpus_of
from polysem.server.naming.names import Names, Negatives, names_of
from polysem.server.naming.places import places
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.engine import Engine, Plan

COST_OF_EXAMPLE = 4e6  # some 0.4 ms, as clustering costs
MAX_READ = 256  # examples of a cluster that its name is made of


@dataclass(frozen=True, eq=True)
class LabelWork:
    """Items are neurons: (layer, neuron)."""

    clustering: ClusterWork

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
        for (layer, neuron), begin, end in zip(items.tolist(), ends[:-1], ends[1:], strict=True):
            labels = clustered.labels[begin:end]
            found.append(self._names(layer, neuron, labels))
            sizes.append(np.bincount(labels, minlength=0))
        of_each = [len(counts) for counts in sizes]
        scores = np.concatenate([names.scores for names in found])
        return LabelBatch(
            neurons=items,
            n_clusters=np.array(of_each, np.int32),
            labels=np.concatenate([np.arange(count, dtype=np.int32) for count in of_each]),
            sizes=np.concatenate(sizes).astype(np.int32),
            texts=[rule.text for names in found for rule in names.rules],
            methods=np.full(len(scores), 1 + LABEL_METHODS.index("rule"), np.int32),
            **dict(zip(SCORES, scores.T.copy(), strict=True)),
        )

    def _names(self, layer: int, neuron: int, labels: IntArray) -> Names:
        """The names of a neuron's clusters, given the labels (n,) of its examples."""
        index, tokenizer = self.clustering.index, self.clustering.model.tokenizer
        read = _some_of_each(labels)
        stored = index.layer(layer)
        rows = np.asarray(stored.rows)[int(stored.offsets[neuron]) + read]
        contexts, positions = (np.asarray(of)[rows] for of in (stored.row_contexts, stored.row_positions))
        found = places(index, tokenizer, contexts, positions)
        return names_of(found, labels[read], corpus_of(index, tokenizer), self._negatives(layer, neuron))

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
    return Plan(LabelWork(work), neurons, engine.provenance(index, query.choice, query.clustering))
