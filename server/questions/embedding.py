"""The work of embeddings."""

from dataclasses import dataclass

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.proto.questions.embedding import EmbeddingBatch, EmbedQuery
from polysem.proto.wire import columns
from polysem.server.index.format import Index
from polysem.server.model.model import Model
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.resident import device_batches, embedded


@dataclass(frozen=True, eq=True)
class EmbedWork:
    """Items are neurons: (layer, neuron)."""

    model: Model
    index: Index
    choice: EmbeddingChoice

    def costs(self, items: IntArray) -> Array:
        """Memory counts here, not arithmetic: as many examples as 100 neurons' clustering would have."""
        n = self.index.n_examples[items[:, 0], items[:, 1]].astype(np.float64)
        return (n * 100 + 1) * self.model.info.d_model

    def run(self, items: IntArray) -> EmbeddingBatch:
        n_examples = self.index.n_examples[items[:, 0], items[:, 1]]
        embeddings = np.empty((int(n_examples.sum()), self.model.info.d_model), np.float32)
        offsets = columns.from_counts(n_examples)
        for batch in device_batches(self.model, self.index, items, self.choice):
            e = embedded(batch.rows[batch.example_rows], batch.how, batch.factors)  # (B, N, D)
            if batch.scales is not None:
                e *= batch.scales[batch.example_rows][..., None]
            places = offsets[batch.places][:, None] + np.arange(batch.used.shape[1])
            embeddings[places[batch.used]] = e.cpu().numpy()[batch.used]
        return EmbeddingBatch(items, n_examples, embeddings)


def plan(engine: Engine, query: EmbedQuery) -> Plan:
    index = engine.index(query.index, query.side)
    model = engine.model_of(index)
    model.check_choice(query.choice)
    work = EmbedWork(model, index, query.choice)
    return Plan(work, engine.neurons(index, query.neurons), engine.provenance(index, query.choice))
