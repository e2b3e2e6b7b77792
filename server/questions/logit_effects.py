"""The work of direct logit effects: what neurons write, by their output weights and the unembedding alone."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from polysem.kernels.logit_effects import logit_effects
from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import FailedPrecondition
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.logit_effects import LogitEffectsBatch, LogitEffectsQuery
from polysem.proto.sides import Side
from polysem.server.model.model import Model
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.units import refuse_latents

AT_ONCE = 1024  # neurons whose directions are made together


@dataclass(frozen=True, eq=True)
class LogitEffectsWork:
    """Items are neurons: (layer, neuron)."""

    model: Model
    n_tokens: int
    side: Side

    def costs(self, items: IntArray) -> Array:
        """A product with the unembedding, about three times as fast as clustering's, and passes over the logits."""
        return np.full(len(items), self.model.tokenizer.n_tokens * (self.model.info.d_model / 3 + 100.0))

    def run(self, items: IntArray) -> LogitEffectsBatch:
        sign = 1.0 if self.side == "positive" else -1.0
        unembedding = self.model.unembedding
        parts = [
            logit_effects(sign * self._directions(items[i : i + AT_ONCE]), unembedding, self.n_tokens)
            for i in range(0, len(items), AT_ONCE)
        ]
        tokens, effects, skewness, kurtosis, histogram = (
            torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)
        )
        moves = ~np.isnan(kurtosis)
        ids = tokens[moves].reshape(-1)
        known, place = np.unique(ids, return_inverse=True)
        texts = self.model.tokenizer.alone(known.tolist())
        return LogitEffectsBatch(
            neurons=items,
            n_tokens=(moves * tokens.shape[2]).astype(np.int32),
            skewness=skewness,
            kurtosis=kurtosis,
            histogram=histogram,
            effects=effects[moves].reshape(-1),
            token_ids=ids,
            tokens=[texts[i] for i in place.tolist()],
        )

    def _directions(self, items: IntArray) -> torch.Tensor:
        """(B, D) float32. Raises FailedPrecondition for output weights that are not finite."""
        found = torch.empty((len(items), self.model.unembedding.shape[1]), device=self.model.device)
        for layer in np.unique(items[:, 0]).tolist():
            mine = np.flatnonzero(items[:, 0] == layer)
            found[mine] = self.model.directions(layer, torch.from_numpy(items[mine, 1].astype(np.int64)))
        for i in np.flatnonzero(~found.isfinite().all(1).cpu().numpy())[:1]:
            raise FailedPrecondition(f"the output weights of neuron {NeuronId(*items[i].tolist())} are not finite")
        return found


def plan(engine: Engine, query: LogitEffectsQuery) -> Plan:
    """Also hash an unembedding of the checkpoint's own, the first time: call it in a thread."""
    index, model = engine.index(query.index, query.side), engine.model
    refuse_latents(index, "logit effects")
    provenance = replace(engine.provenance(index), unembedding_sha256=model.head.sha256)
    return Plan(LogitEffectsWork(model, query.n_tokens, query.side), engine.neurons(index, query.neurons), provenance)
