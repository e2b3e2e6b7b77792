"""The work of examples: their texts and activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.examples import ExampleBatch, ExampleQuery
from polysem.proto.wire import columns
from polysem.server.index.format import TOKENS_AFTER, TOKENS_BEFORE, Index
from polysem.server.index.soundness import check_around
from polysem.server.model.model import Model
from polysem.server.questions import characters
from polysem.server.questions.engine import Engine, Plan
from polysem.server.questions.whole_contexts import SMALL_COST, WholeContexts

MAX_EXAMPLES_PER_REQUEST = 1 << 24


@dataclass(frozen=True, eq=True)
class ExampleWork:
    """Items are examples: (layer, neuron, example). whole: of a request for whole contexts, which shares no batch."""

    model: Model
    index: Index
    whole: WholeContexts | None

    def costs(self, items: IntArray) -> Array:
        """Return the cost of reading contexts, where they are whole; else what clustering a hundred examples takes."""
        if self.whole is None:
            return np.full(len(items), SMALL_COST * self.model.info.d_model)
        return self.whole.costs(items)

    def run(self, items: IntArray) -> ExampleBatch:
        found = [self._find(*item) for item in items.tolist()]
        whole = None if self.whole is None else self.whole.activations(items)
        texts: list[str] = []
        parts: list[tuple[int, int]] = []
        activations: list[Array] = []
        ids: list[Array] = []
        spans = [self._span(example) for example in found]
        for i, (example, (start, end)) in enumerate(zip(found, spans, strict=True)):
            shown, part = self._texts(example.context, start, end, example.position)
            texts += shown
            parts.append(part)
            ids.append(self.index.contexts.tokens(example.context)[start:end])
            activations.append(
                whole[i] if whole else example.around[start - example.position + TOKENS_BEFORE :][: end - start]
            )
        return ExampleBatch(
            neurons=items[:, :2],
            places=items[:, 2],
            documents=[self.index.contexts.document(example.context) for example in found],
            contexts=np.array([example.context for example in found], np.int32),
            positions=np.array([example.position for example in found], np.int32),
            activations=np.array([example.activation for example in found], np.float32),
            n_tokens=np.array([end - start for start, end in spans], np.int32),
            keys=np.array([e.position - start for e, (start, _) in zip(found, spans, strict=True)], np.int32),
            tokens=texts,
            token_activations=np.concatenate([*activations, np.zeros(0)]).astype(np.float32),
            part_numbers=np.array([number for number, _ in parts], np.int32),
            part_counts=np.array([of for _, of in parts], np.int32),
            token_ids=np.concatenate([*ids, np.zeros(0)]).astype(np.int32),
        )

    def _find(self, layer: int, neuron: int, place: int) -> "_Example":
        stored = self.index.layer(layer)
        e = int(stored.offsets[neuron]) + place
        row, around = stored.rows[e], stored.around[e].astype(np.float32)
        check_around(self.index, layer, e, around)
        return _Example(
            int(stored.row_contexts[row]),
            int(stored.row_positions[row]),
            float(stored.activations[e]),
            around,
        )

    def _span(self, example: "_Example") -> tuple[int, int]:
        """First and last + 1 of the tokens to show, in the context."""
        length = int(self.index.contexts.lengths(example.context))
        if self.whole is not None:
            return 0, length
        first_text = int(self.index.info.bos)
        return max(example.position - TOKENS_BEFORE, first_text), min(example.position + TOKENS_AFTER + 1, length)

    def _texts(self, context: int, start: int, end: int, key: int) -> tuple[list[str], tuple[int, int]]:
        """Texts of tokens start..end − 1, and which part of a character the key token is.

        Decoded with 3 neighbours, over which a character may be split.
        """
        if self.whole is not None:
            ids, texts = self.whole.texts(context)
            return texts, characters.parts(self.model.tokenizer, ids, texts, [key])[0]
        begin = max(start - 3, 0)
        ids = self.index.contexts.tokens(context)[begin : end + 3].tolist()
        texts = self.model.tokenizer.texts(ids)
        (part,) = characters.parts(self.model.tokenizer, ids, texts, [key - begin])
        return texts[start - begin : end - begin], part


class _Example(NamedTuple):
    """A dataset example as the index holds it; around: (31,) float32."""

    context: int
    position: int
    activation: float
    around: Array


def items_of(index: Index, neurons: IntArray, chosen: Sequence[int]) -> IntArray:
    """(E, 3) of the chosen examples of each neuron, or of all. Raises InvalidArgument."""
    counts = index.n_examples[neurons[:, 0], neurons[:, 1]]
    if chosen:
        asked = np.array([place for place in chosen if place < counts.max(initial=0)], np.int64)
        if len(asked) * len(neurons) > MAX_EXAMPLES_PER_REQUEST:
            raise InvalidArgument(
                f"{len(asked)} examples of each of {len(neurons)} neurons were named in one request; ask for at "
                f"most {MAX_EXAMPLES_PER_REQUEST} at once, or for all of each",
                "examples",
            )
        which, at = np.nonzero(asked < counts[:, None])
        places = asked[at]
    else:
        which = np.repeat(np.arange(len(neurons)), counts)
        places = np.arange(len(which)) - columns.from_counts(counts)[which]
    return np.column_stack([neurons[which], places]).astype(np.int32)


def plan(engine: Engine, query: ExampleQuery) -> Plan:
    index = engine.index(query.index, query.side)
    items = items_of(index, engine.neurons(index, query.neurons), query.examples)
    model = engine.model_of(index)
    whole = WholeContexts(model, index, items) if query.whole_context else None
    return Plan(ExampleWork(model, index, whole), items, engine.provenance(index))
