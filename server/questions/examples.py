"""The work of examples: their texts and activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.examples import ExampleBatch, ExampleQuery
from polysem.proto.wire import columns
from polysem.server.index.format import TOKENS_AFTER, TOKENS_BEFORE, Index
from polysem.server.model.model import Model
from polysem.server.questions import characters
from polysem.server.questions.engine import Engine, Plan

MAX_EXAMPLES_PER_REQUEST = 1 << 24
CONTEXT_TOKENS = 4096  # read at once where whole contexts are asked for


@dataclass(frozen=True, eq=True)
class ExampleWork:
    """Items are examples: (layer, neuron, example)."""

    model: Model
    index: Index
    whole_context: bool

    def items(self, neurons: IntArray, chosen: Sequence[int]) -> IntArray:
        """(E, 3) of the chosen examples of each neuron, or of all. Raises InvalidArgument."""
        counts = self.index.n_examples[neurons[:, 0], neurons[:, 1]]
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

    def costs(self, items: IntArray) -> Array:
        """Of a whole context that of reading it; else what clustering a hundred examples takes."""
        if not self.whole_context:
            return np.full(len(items), 1e4 * self.model.info.d_model)
        return self.model.reading_cost(np.full(len(items), self.index.info.context_length))

    def run(self, items: IntArray) -> ExampleBatch:
        found = [self._find(*item) for item in items.tolist()]
        whole = self._activations(items, found) if self.whole_context else None
        texts: list[str] = []
        parts: list[tuple[int, int]] = []
        activations: list[Array] = []
        spans = [self._span(example) for example in found]
        for i, (example, (start, end)) in enumerate(zip(found, spans, strict=True)):
            shown, part = self._texts(example.context, start, end, example.position)
            texts += shown
            parts.append(part)
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
        )

    def _find(self, layer: int, neuron: int, place: int) -> "_Example":
        stored = self.index.layer(layer)
        e = int(stored.offsets[neuron]) + place
        row = stored.rows[e]
        return _Example(
            int(stored.row_contexts[row]),
            int(stored.row_positions[row]),
            float(stored.activations[e]),
            stored.around[e].astype(np.float32),
        )

    def _span(self, example: "_Example") -> tuple[int, int]:
        """First and last + 1 of the tokens to show, in the context."""
        length = int(self.index.contexts.lengths(example.context))
        if self.whole_context:
            return 0, length
        first_text = int(self.index.info.bos)
        return max(example.position - TOKENS_BEFORE, first_text), min(example.position + TOKENS_AFTER + 1, length)

    def _texts(self, context: int, start: int, end: int, key: int) -> tuple[list[str], tuple[int, int]]:
        """Texts of tokens start..end − 1, and which part of a character the key token is.

        Decoded with 3 neighbours, over which a character may be split.
        """
        begin = max(start - 3, 0)
        ids = self.index.contexts.tokens(context)[begin : end + 3].tolist()
        texts = self.model.tokenizer.texts(ids)
        (part,) = characters.parts(self.model.tokenizer, ids, texts, [key - begin])
        return texts[start - begin : end - begin], part

    def _activations(self, items: IntArray, found: Sequence["_Example"]) -> list[Array]:
        """(T,) float32 of each example's neuron over its whole context: the model reads it again."""
        result: list[Array] = [np.zeros(0, np.float32)] * len(found)
        by_context: dict[int, list[int]] = {}
        for i, example in enumerate(found):
            by_context.setdefault(example.context, []).append(i)
        at_once = max(CONTEXT_TOKENS // self.index.info.context_length, 1)
        contexts = list(by_context)
        for first in range(0, len(contexts), at_once):
            read = contexts[first : first + at_once]
            tokens = [torch.from_numpy(self.index.contexts.tokens(c)) for c in read]
            padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (b, T)

            def visit(
                layer: int, _residual: Tensor, a: Tensor, read: list[int] = read, tokens: list[Tensor] = tokens
            ) -> None:
                for row, context in enumerate(read):
                    for i in by_context[context]:
                        if items[i, 0] == layer:
                            result[i] = a[row, : len(tokens[row]), items[i, 1]].float().cpu().numpy()

            self.model.read(padded, visit)
        return result


class _Example(NamedTuple):
    """A dataset example as the index holds it; around: (31,) float32."""

    context: int
    position: int
    activation: float
    around: Array


def plan(engine: Engine, query: ExampleQuery) -> Plan:
    index = engine.index(query.index, query.side)
    work = ExampleWork(engine.model, index, query.whole_context)
    return Plan(work, work.items(engine.neurons(index, query.neurons), query.examples), engine.provenance(index))
