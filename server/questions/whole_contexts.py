"""Examples in their whole contexts: each context is read by the model once for all examples of a request."""

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array, IntArray
from polysem.server.index.format import Index
from polysem.server.model.model import Model

AT_ONCE_TOKENS = 4096  # that the model reads at once
KEPT_ACTIVATIONS = 1 << 25  # 128 MiB: examples that wait for their turn with what was read for them
KEPT_TEXTS = 256  # contexts
SMALL_COST = 1e4  # · d_model: of an example whose context is read already; what clustering a hundred examples takes


class WholeContexts:
    """The activations over whole contexts that one request's examples (E, 3) ask for, and the contexts' texts.

    The request's examples are taken in runs of KEPT_ACTIVATIONS: within a run each context is read when its first
    example is due, for all that follow. What was handed out is forgotten, so a second question for it reads again.
    Several threads may ask, one after the other.
    """

    def __init__(self, model: Model, index: Index, items: IntArray) -> None:
        self._model, self._index = model, index
        self._items = items
        run = np.arange(len(items)) // max(KEPT_ACTIVATIONS // index.info.context_length, 1)
        groups = np.stack([run, _contexts(index, items)], axis=1)  # what is read together: a run's context
        self._groups, self._first, group = np.unique(groups, axis=0, return_index=True, return_inverse=True)
        self._group = group.reshape(-1)
        self._members = np.argsort(self._group, kind="stable")
        self._offsets = np.searchsorted(self._group[self._members], np.arange(len(self._groups) + 1))
        keys = self._keys(items)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        self._kept: dict[int, Array] = {}
        self._asking = threading.Lock()
        self.texts = lru_cache(maxsize=KEPT_TEXTS)(self._texts)

    def costs(self, items: IntArray) -> Array:
        """Reading the context of an example that is its run's first, and little for the others."""
        costs = np.full(len(self._items), SMALL_COST * self._model.info.d_model)
        length = np.full(len(self._first), self._index.info.context_length)
        costs[self._first] = self._model.reading_cost(length)
        return np.asarray(costs[self._places(items)])

    def activations(self, items: IntArray) -> list[Array]:
        """(T,) float32 of each example's neuron over its context."""
        with self._asking:
            return self._activations(items)

    def _activations(self, items: IntArray) -> list[Array]:
        places = self._places(items).tolist()
        missing = dict.fromkeys(int(self._group[place]) for place in places if place not in self._kept)
        at_once = max(AT_ONCE_TOKENS // self._index.info.context_length, 1)
        for first in range(0, len(missing), at_once):
            self._read(list(missing)[first : first + at_once])
        found = [self._kept[place] for place in places]
        for place in places:
            self._kept.pop(place, None)
        return found

    def _read(self, groups: Sequence[int]) -> None:
        tokens = [torch.from_numpy(self._index.contexts.tokens(int(self._groups[group, 1]))) for group in groups]
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (b, T)
        members = [self._members[self._offsets[group] : self._offsets[group + 1]] for group in groups]

        def visit(layer: int, _residual: Tensor, a: Tensor) -> None:
            for row, (ids, places) in enumerate(zip(tokens, members, strict=True)):
                mine = places[self._items[places, 0] == layer]
                if len(mine):
                    neurons = torch.from_numpy(self._items[mine, 1].astype(np.int64)).to(a.device)
                    read = a[row, : len(ids)].index_select(1, neurons).T.float().cpu().numpy()  # (mine, T)
                    self._kept |= zip(mine.tolist(), read, strict=True)

        self._model.read(padded, visit)

    def _texts(self, context: int) -> tuple[list[int], list[str]]:
        """Token ids of a context, and the text of each."""
        ids = self._index.contexts.tokens(context).tolist()
        return ids, self._model.tokenizer.texts(ids)

    def _places(self, items: IntArray) -> Array:
        """Return where the examples stand in the request."""
        return np.asarray(self._order[np.searchsorted(self._sorted, self._keys(items))])

    def _keys(self, items: IntArray) -> Array:
        """(E,) int64: one number an example."""
        layer, neuron, example = items.astype(np.int64).T
        most = int(self._items[:, 2].max(initial=0)) + 1
        return np.asarray((layer * self._index.info.n_neurons_per_layer + neuron) * most + example)


def _contexts(index: Index, items: IntArray) -> IntArray:
    """(E,) of each example."""
    contexts = np.empty(len(items), np.int32)
    for layer in np.unique(items[:, 0]).tolist():
        mine = items[:, 0] == layer
        stored = index.layer(layer)
        rows = stored.rows[stored.offsets[items[mine, 1]] + items[mine, 2]]
        contexts[mine] = stored.row_contexts[rows]
    return contexts
