"""From queries to work, and the work of embeddings and examples; that of clustering is in clustering.py.

A `Work` says what to do with its items; works that compare equal may be joined into one run, whoever asked. An item's
answer does not depend on the other items. One thread at a time may run work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import IntArray
from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownIndex
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import Clustering, ClusterQuery, EmbeddingChoice
from polysem.proto.questions.embedding import EmbeddingBatch, EmbedQuery
from polysem.proto.questions.examples import ExampleBatch, ExampleQuery
from polysem.proto.questions.explain import MAX_EXPLAINED, ExplainQuery
from polysem.proto.questions.importance import ImportanceQuery
from polysem.proto.questions.listing import ListQuery
from polysem.proto.questions.similar import SimilarQuery
from polysem.proto.questions.statistics import StatisticsQuery
from polysem.proto.wire import columns
from polysem.proto.wire.columns import AnyBatch
from polysem.server import listing
from polysem.server.arrays import Array
from polysem.server.clustering import ClusterWork
from polysem.server.gather import chunks
from polysem.server.importance import ImportanceWork
from polysem.server.index import TOKENS_AFTER, TOKENS_BEFORE, Index
from polysem.server.model import Model
from polysem.server.statistics import StatisticsWork

MAX_NEURONS_PER_REQUEST = 1 << 20
MAX_EXAMPLES_PER_REQUEST = 1 << 24
CONTEXT_TOKENS = 4096  # read at once where whole contexts are asked for


class Work(Protocol):
    """What to do with items (M, k) int32 of an index."""

    def costs(self, items: IntArray) -> Array:
        """(M,) float64: n_examples² · d_model, or its like."""

    def run(self, items: IntArray) -> AnyBatch:
        """The items' answers, in their order."""


class Plan(NamedTuple):
    """A query made ready: the work, its items (M, k) int32, and what the answer depends on."""

    work: Work
    items: IntArray
    provenance: Provenance


class ListPlan(NamedTuple):
    """work: clusters the whole index. neurons (B, 2): to choose from; None: all."""

    work: ClusterWork
    neurons: IntArray | None
    provenance: Provenance


class ExplainPlan(NamedTuple):
    """clustering: of the neurons (K, 2) that were named. ids: the text's tokens, without BOS."""

    clustering: ClusterWork
    neurons: IntArray
    ids: tuple[int, ...]
    provenance: Provenance


class Engine:
    """The resident model and the open indexes; the first index is the default.

    Raises ForeignIndex where an index was made with other weights.
    """

    def __init__(self, model: Model, indexes: Sequence[Index], version: str) -> None:
        for index in indexes:
            index.check_model(model.info)
        self.model = model
        self.indexes: Mapping[str, Index] = {index.info.name: index for index in indexes}
        self.default_index = indexes[0].info.name
        self._version = version

    def add(self, index: Index) -> None:
        """Let requests name it, in the place of one that has its name. Raises ForeignIndex."""
        index.check_model(self.model.info)
        self.indexes = {**self.indexes, index.info.name: index}  # anew, for another thread may be reading them

    def remove(self, name: str) -> None:
        """Requests under way keep it."""
        self.indexes = {other: index for other, index in self.indexes.items() if other != name}

    def plan_cluster(self, query: ClusterQuery) -> Plan:
        """Raises UnknownIndex, UnknownNeuron, InvalidArgument; so do the others."""
        index = self._index(query.index)
        work = ClusterWork(self.model, index, query.choice, query.clustering)
        return Plan(work, self._neurons(index, query.neurons), self._provenance(index, query.choice, query.clustering))

    def plan_embed(self, query: EmbedQuery) -> Plan:
        index = self._index(query.index)
        work = EmbedWork(self.model, index, query.choice)
        return Plan(work, self._neurons(index, query.neurons), self._provenance(index, query.choice))

    def plan_examples(self, query: ExampleQuery) -> Plan:
        index = self._index(query.index)
        work = ExampleWork(self.model, index, query.whole_context)
        neurons = self._neurons(index, query.neurons)
        return Plan(work, work.items(neurons, query.examples), self._provenance(index))

    def plan_statistics(self, query: StatisticsQuery) -> Plan:
        index = self._index(query.index)
        return Plan(StatisticsWork(index), self._neurons(index, query.neurons), self._provenance(index))

    def plan_list(self, query: ListQuery) -> ListPlan:
        """Also raises InvalidArgument for a page token that does not belong to the question."""
        index = self._index(query.index)
        listing.first_place(index, query)
        work = ClusterWork(self.model, index, query.choice, query.clustering)
        neurons = self._neurons(index, query.neurons) if query.neurons else None
        return ListPlan(work, neurons, self._provenance(index, query.choice, query.clustering))

    def plan_importance(self, query: ImportanceQuery) -> Plan:
        """Also raises FailedPrecondition where the model has no token to mask with. `importance.whole` ends it."""
        index = self._index(query.index)
        neurons = self._neurons(index, query.neurons)
        work = ImportanceWork(self.model, index, query.tokens_before, self._mask_token(query.mask_token))
        examples = ExampleWork(self.model, index, False).items(neurons, query.examples)
        return Plan(work, work.items(examples, MAX_NEURONS_PER_REQUEST), self._provenance(index))

    def _mask_token(self, asked: int | None) -> int:
        tokenizer = self.model.tokenizer
        if asked is None:
            if tokenizer.bos_id is None:
                raise FailedPrecondition(f"{self.model.info.id!r} has no BOS token to mask with; name a mask_token")
            return tokenizer.bos_id
        if asked >= tokenizer.n_tokens:
            raise InvalidArgument(
                f"mask_token is {asked}; the model's tokens have the ids 0 to {tokenizer.n_tokens - 1}", "mask_token"
            )
        return asked

    def plan_explain(self, query: ExplainQuery) -> ExplainPlan:
        """Also raises InvalidArgument for a text that the model cannot read at once. Cost: the text is tokenised."""
        index = self._index(query.index)
        neurons = self._neurons(index, query.neurons) if query.neurons else np.zeros((0, 2), np.int32)
        if len(neurons) > MAX_EXPLAINED:
            raise InvalidArgument(
                f"{len(neurons)} neurons were named; explain a text by at most {MAX_EXPLAINED} at once, or name none "
                "for those that fire hardest",
                "neurons",
            )
        (ids,) = self.model.tokenizer.encode([query.text])
        room = self.model.info.context_length - index.info.bos
        if len(ids) > room:
            beside = " beside BOS" if index.info.bos else ""
            raise InvalidArgument(
                f"the text has {len(ids)} tokens, the model reads {room} at once{beside}; shorten it, or explain it in "
                "parts",
                "text",
            )
        if not ids:
            raise InvalidArgument("the text has no tokens: give one with letters", "text")
        work = ClusterWork(self.model, index, query.choice, query.clustering)
        return ExplainPlan(work, neurons, tuple(ids), self._provenance(index, query.choice, query.clustering))

    def plan_similar(self, query: SimilarQuery) -> ListPlan:
        index = self._index(query.index)
        neuron = query.neuron
        neurons = self._neurons(index, [NeuronRange(neuron.layer, neuron.neuron, neuron.neuron)])
        work = ClusterWork(self.model, index, query.choice, query.clustering)
        return ListPlan(work, neurons, self._provenance(index, query.choice, query.clustering))

    def _index(self, name: str) -> Index:
        try:
            return self.indexes[name or self.default_index]
        except KeyError:
            raise UnknownIndex(f"there is no index {name!r} here; the server has {', '.join(self.indexes)}") from None

    def _neurons(self, index: Index, ranges: Sequence[NeuronRange]) -> IntArray:
        n = index.info.n_neurons_per_layer
        named = sum(
            1 + r.last - r.first if r.first is not None and r.last is not None
            else n if r.layer is not None
            else n * index.info.n_layers
            for r in ranges
        )  # fmt: skip
        if named > MAX_NEURONS_PER_REQUEST:
            raise InvalidArgument(
                f"{named} neurons were named in one request; ask for at most {MAX_NEURONS_PER_REQUEST} at once",
                "neurons",
            )
        return index.neurons(ranges)

    def _provenance(
        self, index: Index, choice: EmbeddingChoice = EmbeddingChoice(), clustering: Clustering | None = None
    ) -> Provenance:
        info = index.info
        return Provenance(info.name, index.sha256, info.model_id, info.model_sha256, self._version, choice, clustering)


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
        for chunk in chunks(self.model, self.index, items, self.choice):
            e = chunk.rows[chunk.example_rows].float() * chunk.weights[:, None]  # (B, N, D)
            if chunk.offsets is not None:
                e += chunk.offsets[:, None]
            places = offsets[chunk.places][:, None] + np.arange(chunk.used.shape[1])
            embeddings[places[chunk.used]] = e.cpu().numpy()[chunk.used]
        return EmbeddingBatch(items, n_examples, embeddings)


@dataclass(frozen=True, eq=True)
class ExampleWork:
    """Items are examples: (layer, neuron, place in the neuron's labels)."""

    model: Model
    index: Index
    whole_context: bool

    def items(self, neurons: IntArray, chosen: Sequence[int]) -> IntArray:
        """(E, 3) of the chosen places of each neuron, or of all. Raises InvalidArgument."""
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
        activations: list[Array] = []
        spans = [self._span(example) for example in found]
        for i, (example, (start, end)) in enumerate(zip(found, spans, strict=True)):
            texts += self._texts(example.context, start, end)
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

    def _texts(self, context: int, start: int, end: int) -> list[str]:
        """Texts of tokens start..end − 1; decoded with 3 neighbours, over which a character may be split."""
        begin = max(start - 3, 0)
        ids = self.index.contexts.tokens(context)[begin : end + 3]
        return self.model.tokenizer.texts(ids.tolist())[start - begin : end - begin]

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


def device_memory(device: torch.device) -> dict[str, float]:
    """Bytes of a GPU's memory: held by this process, free, and in all; none of a CPU's."""
    if device.type == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"held": torch.cuda.memory_reserved(device), "free": free, "total": total}


def device_name(device: torch.device) -> str:
    """The device as people know it: cpu, or the GPU's number and name."""
    return "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"
