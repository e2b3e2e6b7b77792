"""The two passes of the model over a shard of contexts, each a pure function of model, contexts and parameters.

scan     each neuron's key activation and key token in each context, reduced to selection candidates and sums
collect  x̂ at the chosen key tokens, activations around them, and the histogram of key activations
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.key_tokens import key_tokens
from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import ModelInfo, Selection
from polysem.server.index.contexts import LoadedContexts
from polysem.server.index.format import N_BINS, TOKENS_AFTER, TOKENS_BEFORE
from polysem.server.indexing.selection import Candidates, candidates, prefix_hashes
from polysem.server.model.model import Model

Advance = Callable[[int], None]  # told of tokens read


class ReadOptions(NamedTuple):
    """How contexts are fed to the model. n_skipped: tokens at each context's start that are no text (BOS)."""

    n_skipped: int
    batch_tokens: int


class Batch(NamedTuple):
    """Contexts that the model reads together: numbers (b,), lengths (b,), tokens (b, T) right-padded."""

    numbers: Array
    lengths: Array
    tokens: Tensor


class Sums(NamedTuple):
    """Of J neurons' key activations: maximum (J,) float32, total (J,) float64, n_positive (J,) int64."""

    maximum: Array
    total: Array
    n_positive: Array


def added(parts: Iterable[Sums]) -> Sums:
    """Those of all parts' contexts; floats are added in their order."""
    every = iter(parts)
    whole = next(every)
    for part in every:
        maximum = np.maximum(whole.maximum, part.maximum)
        whole = Sums(maximum, whole.total + part.total, whole.n_positive + part.n_positive)
    return whole


class Scan(NamedTuple):
    """Of J neurons over a shard."""

    candidates: Candidates
    sums: Sums


def batches(loaded: LoadedContexts, batch_tokens: int) -> Iterator[Batch]:
    """the loaded contexts by length, longest first, at most batch_tokens at once with padding."""
    lengths = loaded.lengths
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        chosen = order[start : start + max(batch_tokens // width, 1)]
        tokens = np.zeros((len(chosen), width), np.int64)
        for row, context in zip(tokens, chosen, strict=True):
            row[: lengths[context]] = loaded.tokens(loaded.first + int(context))
        yield Batch(loaded.first + chosen, lengths[chosen], torch.from_numpy(tokens))
        start += len(chosen)


class KeyActivations(NamedTuple):
    """Of C contexts from `first` on and J neurons: highest (C, J) float32 and where (C, J) int32, each neuron's key
    activation and key token; prefixes (C, T) uint64, as `prefix_hashes` gives them."""

    first: int
    highest: Array
    where: Array
    prefixes: Array


def key_activations(model: Model, loaded: LoadedContexts, reading: ReadOptions, advance: Advance) -> KeyActivations:
    """What the model says of the loaded contexts: the scan's one forward. Holds C · J · 8 bytes on its device, read at
    the end only, so that a GPU need not wait for each layer's answer to be fetched."""
    info, device = model.info, model.device
    n = info.n_neurons_per_layer
    highest = torch.empty((len(loaded), info.n_layers * n), device=device)
    where = torch.empty(highest.shape, dtype=torch.int32, device=device)
    prefixes = np.zeros((len(loaded), int(loaded.lengths.max())), np.uint64)
    for batch in batches(loaded, reading.batch_tokens):
        rows = torch.from_numpy(batch.numbers - loaded.first).to(device)

        def visit(
            layer: int, _residual: Tensor, activations: Tensor, batch: Batch = batch, rows: Tensor = rows
        ) -> None:
            columns = slice(layer * n, (layer + 1) * n)
            highest[rows, columns], where[rows, columns] = _key_tokens(activations, batch, reading.n_skipped)

        model.read(batch.tokens, visit)
        prefixes[batch.numbers - loaded.first, : batch.tokens.shape[1]] = prefix_hashes(batch.tokens.numpy())
        advance(int(batch.lengths.sum()))
    return KeyActivations(loaded.first, _fetched(highest), _fetched(where), prefixes)


def _fetched(tensor: Tensor) -> Array:
    """The tensor on the CPU; from a GPU by way of pinned memory, several times as fast."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor).numpy()


def reduced(found: KeyActivations, info: ModelInfo, rule: Selection, given: Array | None = None) -> Scan:
    """What is kept of them; on the CPU, and nothing of the model is run any more.

    given  (J,) float32: the neurons' maxima, where they are not to be the corpus's own

    Raises FailedPrecondition where an activation is not finite.
    """
    first, highest, where, prefixes = found
    _check_finite(highest, first, info.n_neurons_per_layer)
    sums = Sums(highest.max(axis=0), highest.sum(axis=0, dtype=np.float64), (highest > 0).sum(axis=0))
    return Scan(candidates(highest, where, prefixes, first, rule, given), sums)


def _key_tokens(activations: Tensor, batch: Batch, n_skipped: int) -> tuple[Tensor, Tensor]:
    """Highest activation (b, N) of each context and its position (b, N); tie: the first."""
    return key_tokens(activations, torch.from_numpy(batch.lengths.astype(np.int64)), n_skipped)


def _check_finite(maxima: Array, first: int, n: int) -> None:
    bad = np.argwhere(~np.isfinite(maxima))
    if len(bad):
        context, neuron = bad[0]
        raise FailedPrecondition(
            f"neuron {neuron // n}.{neuron % n} has the activation {maxima[context, neuron]} in context "
            f"{first + context}: the weights are damaged, or the dtype is too narrow for this model"
        )


class Chosen(NamedTuple):
    """The chosen examples of one layer, by neuron and then in corpus order, and their distinct key tokens.

    offsets (N + 1,), contexts, positions, rows (E,); row_contexts, row_positions (P,) by context and position.
    """

    offsets: Array
    contexts: Array
    positions: Array
    neurons: Array
    rows: Array
    row_contexts: Array
    row_positions: Array


def chosen_of_layer(chosen: Candidates, layer: int, n: int, context_length: int) -> Chosen:
    """Layer `layer`'s part of the chosen examples of all J = L · n neurons."""
    begin, end = chosen.offsets[layer * n], chosen.offsets[(layer + 1) * n]
    offsets = chosen.offsets[layer * n : (layer + 1) * n + 1] - begin
    contexts, positions = chosen.contexts[begin:end], chosen.positions[begin:end]
    keys, rows = np.unique(contexts.astype(np.int64) * context_length + positions, return_inverse=True)
    return Chosen(
        offsets,
        contexts,
        positions,
        np.repeat(np.arange(n), np.diff(offsets)),
        rows.astype(np.int32),
        (keys // context_length).astype(np.int32),
        (keys % context_length).astype(np.int32),
    )


class LayerChoice(NamedTuple):
    """A layer's Chosen whose contexts lie in a shard: fields as there."""

    contexts: Array
    positions: Array
    neurons: Array
    row_contexts: Array
    row_positions: Array


class ChosenByShard:
    """One layer's Chosen by shards. Cost: a sort once, and then what is taken."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        self._order = np.argsort(chosen.contexts, kind="stable")
        self._sorted = chosen.contexts[self._order]

    def of(self, first: int, last: int) -> tuple[LayerChoice, Array]:
        """The examples in contexts first..last − 1, by neuron, and their places (E',) among all."""
        chosen = self._chosen
        mine = np.sort(self._order[slice(*np.searchsorted(self._sorted, (first, last)))])
        rows = slice(*np.searchsorted(chosen.row_contexts, (first, last)))
        part = LayerChoice(
            chosen.contexts[mine],
            chosen.positions[mine],
            chosen.neurons[mine],
            chosen.row_contexts[rows],
            chosen.row_positions[rows],
        )
        return part, mine


class Collected(NamedTuple):
    """Of one layer over a shard: xhat (P', D) float16, around (E', 31) float16, histogram (N, 64) uint8 to uint32, as
    small as the shard's contexts allow."""

    xhat: Array
    around: Array
    histogram: Array


def collect(
    model: Model,
    loaded: LoadedContexts,
    parts: Sequence[LayerChoice],
    maximum: Array,
    reading: ReadOptions,
    advance: Advance,
) -> list[Collected]:
    """Collect the loaded contexts, layer by layer. maximum (J,): over the whole corpus. Cost: one forward."""
    n = model.info.n_neurons_per_layer
    layers = [
        _LayerCollector(model, layer, loaded, part, maximum[layer * n : (layer + 1) * n], reading)
        for layer, part in enumerate(parts)
    ]
    for batch in batches(loaded, reading.batch_tokens):

        def visit(layer: int, residual: Tensor, activations: Tensor, batch: Batch = batch) -> None:
            layers[layer].see(batch, residual, activations)

        model.read(batch.tokens, visit)
        advance(int(batch.lengths.sum()))
    return [layer.collected for layer in layers]


class _LayerCollector:
    """One layer's share of a shard: the rows and examples whose contexts lie in it."""

    def __init__(
        self, model: Model, layer: int, loaded: LoadedContexts, part: LayerChoice, maximum: Array, reading: ReadOptions
    ) -> None:
        info, device = model.info, model.device
        self._model, self._layer = model, layer
        self._loaded, self._choice, self._n_skipped = loaded, part, reading.n_skipped
        self._maximum = torch.from_numpy(maximum).to(device)
        self._histogram = torch.zeros(info.n_neurons_per_layer * N_BINS, dtype=torch.int64, device=device)
        n_around = TOKENS_BEFORE + 1 + TOKENS_AFTER
        self._xhat = torch.empty((len(part.row_contexts), info.d_model), dtype=torch.float16, device=device)
        self._around = torch.empty((len(part.contexts), n_around), dtype=torch.float16, device=device)

    @property
    def collected(self) -> Collected:
        histogram = self._histogram.reshape(-1, N_BINS).cpu().numpy()
        return Collected(
            _fetched(self._xhat), _fetched(self._around), histogram.astype(np.min_scalar_type(len(self._loaded)))
        )

    def see(self, batch: Batch, residual: Tensor, activations: Tensor) -> None:
        slot = np.full(len(self._loaded), -1)
        slot[batch.numbers - self._loaded.first] = np.arange(len(batch.numbers))
        self._keep_rows(slot, residual)
        self._keep_around(slot, batch, activations)
        highest, _ = _key_tokens(activations, batch, self._n_skipped)
        self._count(highest)

    def _keep_rows(self, slot: Array, residual: Tensor) -> None:
        slots = slot[self._choice.row_contexts - self._loaded.first]
        mine = np.flatnonzero(slots >= 0)
        rows = residual[_index(slots[mine], residual), _index(self._choice.row_positions[mine], residual)]  # (P', D)
        self._xhat[_index(mine, residual)] = self._model.normalise(self._layer, rows).half()

    def _keep_around(self, slot: Array, batch: Batch, activations: Tensor) -> None:
        slots = slot[self._choice.contexts - self._loaded.first]
        mine = np.flatnonzero(slots >= 0)
        slots, n_tokens = slots[mine], batch.lengths[slots[mine]]
        rows, positions, neurons, lengths = (
            _index(values, activations)[:, None]
            for values in (slots, self._choice.positions[mine], self._choice.neurons[mine], n_tokens)
        )
        places = positions + torch.arange(-TOKENS_BEFORE, TOKENS_AFTER + 1, device=activations.device)  # (E', 31)
        outside = (places < 0) | (places >= lengths)
        around = activations[rows, places.masked_fill(outside, 0), neurons].half()
        self._around[_index(mine, activations)] = around.masked_fill(outside, 0)  # never read, but hashed

    def _count(self, highest: Tensor) -> None:
        """Add the key activations (b, N) to 64 bins from 0 to the maximum; those at or below 0 are in none."""
        bins = (highest / self._maximum * N_BINS).long().clamp(0, N_BINS - 1)
        flat = bins + torch.arange(highest.shape[1], device=highest.device) * N_BINS
        self._histogram += torch.bincount(flat[highest > 0], minlength=len(self._histogram))


def _index(values: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int64)).to(like.device)
