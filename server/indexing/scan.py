"""The two passes of the model over a shard of contexts, each a pure function of model, contexts and parameters.

scan     each neuron's key activation and key token in each context, reduced to selection candidates and sums
collect  x̂ at the chosen key tokens, activations around them, the histogram of key activations, and where neurons fire
         among the contexts that negatives may be taken from

A run is a layer's N neurons on one side, N its own in each layer. Of R runs (first the layers that are read, on the
positive side, then on the negative one) all that follows has columns, one run after the other. The strength of an
activation is itself, on the negative side minus it; what is chosen is chosen by strength.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.key_tokens import key_tokens
from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Selection
from polysem.proto.sides import Side
from polysem.server.index.contexts import LoadedContexts
from polysem.server.index.format import N_BINS, SIGNS, TOKENS_AFTER, TOKENS_BEFORE
from polysem.server.indexing.columns import add_to_histogram, column_sums
from polysem.server.indexing.negatives import FIRES, Proposed
from polysem.server.indexing.selection import Candidates, candidates, prefix_hashes
from polysem.server.model.model import Model

Advance = Callable[[int], None]  # told of tokens read


class ReadOptions(NamedTuple):
    """Settings of how contexts are fed to the model, and what is looked at.

    n_skipped  tokens at each context's start that are never key tokens
    layers     ascending
    sides      positive, or both
    widths     units of each of the layers
    unit       what they are called: neuron, or latent
    """

    n_skipped: int
    batch_tokens: int
    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    widths: tuple[int, ...]
    unit: str = "neuron"

    @property
    def runs(self) -> list[tuple[Side, int]]:
        """(R,) side and layer."""
        return [(side, layer) for side in self.sides for layer in self.layers]

    @property
    def bounds(self) -> Array:
        """(R + 1,) int64: run r has columns bounds[r] … bounds[r + 1] of the J."""
        return np.cumsum([0, *self.widths * len(self.sides)])


class Batch(NamedTuple):
    """Contexts that the model reads together: numbers (b,), lengths (b,), tokens (b, T) right-padded."""

    numbers: Array
    lengths: Array
    tokens: Tensor


class Sums(NamedTuple):
    """Sums of J neurons' strengths: maximum (J,) float32, total (J,) float64, n_positive (J,) int64."""

    maximum: Array
    total: Array
    n_positive: Array


def added(parts: Iterable[Sums]) -> Sums:
    """Join the parts of all contexts; floats are added in their order."""
    every = iter(parts)
    whole = next(every)
    for part in every:
        maximum = np.maximum(whole.maximum, part.maximum)
        whole = Sums(maximum, whole.total + part.total, whole.n_positive + part.n_positive)
    return whole


class Totals(NamedTuple):
    """Sums of x̂ over tokens, BOS left out: the tokens' number (), sums and sums of squares (L, D) float64."""

    n_tokens: Array
    total: Array
    squares: Array


def added_totals(parts: Iterable[Totals]) -> Totals:
    """Join all parts, adding in their order."""
    n_tokens, total, squares = zip(*parts, strict=True)
    return Totals(np.sum(n_tokens), np.sum(total, axis=0), np.sum(squares, axis=0))


class Scan(NamedTuple):
    """Results of the scan of J neurons over a shard."""

    candidates: Candidates
    sums: Sums
    totals: Totals


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
    """Strongest tokens of C contexts from `first` on and J neurons of all runs: strength (C, J) float32 and where (C,
    J) int32, of each neuron's key activation and key token; prefixes (C, T) uint64, as `prefix_hashes` gives them."""

    first: int
    strength: Array
    where: Array
    prefixes: Array
    totals: Totals


def key_activations(model: Model, loaded: LoadedContexts, reading: ReadOptions, advance: Advance) -> KeyActivations:
    """Run the scan's one forward over the loaded contexts. Holds C · J · 8 bytes on its device, read at
    the end only, so that a GPU need not wait for each layer's answer to be fetched."""
    info, device = model.info, model.device
    of_layer = dict(zip(reading.layers, map(slice, reading.bounds, reading.bounds[1:]), strict=False))
    shape = len(loaded), len(reading.sides), sum(reading.widths)
    strength = torch.empty(shape, device=device)
    where = torch.empty(shape, dtype=torch.int32, device=device)
    prefixes = np.zeros((len(loaded), int(loaded.lengths.max())), np.uint64)
    total, squares = torch.zeros((2, info.n_layers, info.d_model), dtype=torch.float64, device=device)
    for batch in batches(loaded, reading.batch_tokens):
        rows = torch.from_numpy(batch.numbers - loaded.first).to(device)
        texts = _texts(batch, reading.n_skipped).to(device)

        def visit(
            layer: int,
            residual: Tensor,
            activations: Tensor,
            batch: Batch = batch,
            rows: Tensor = rows,
            texts: Tensor = texts,
        ) -> None:
            if layer in of_layer:
                xhat = model.normalise(layer, residual[texts.to(residual.device)])
                total[layer] += xhat.sum(0, dtype=torch.float64).to(device)
                squares[layer] += xhat.square().sum(0, dtype=torch.float64).to(device)
                columns, found = of_layer[layer], _key_tokens(activations, batch, reading)
                for side, (highest, at) in enumerate(zip(*found, strict=True)):
                    strength[rows, side, columns], where[rows, side, columns] = highest.to(device), at.to(device)

        model.read(batch.tokens, visit, reading.layers[-1])
        prefixes[batch.numbers - loaded.first, : batch.tokens.shape[1]] = prefix_hashes(batch.tokens.numpy())
        advance(int(batch.lengths.sum()))
    n_tokens = np.array(np.maximum(loaded.lengths - reading.n_skipped, 0).sum())
    totals = Totals(n_tokens, _fetched(total), _fetched(squares))
    return KeyActivations(loaded.first, _fetched(strength.flatten(1)), _fetched(where.flatten(1)), prefixes, totals)


def _texts(batch: Batch, n_skipped: int) -> Tensor:
    """(b, T) bool: tokens of texts that could be key tokens, neither BOS nor padding."""
    place = torch.arange(batch.tokens.shape[1])
    return (place >= n_skipped) & (place < torch.from_numpy(batch.lengths)[:, None])


def _fetched(tensor: Tensor) -> Array:
    """The tensor on the CPU; from a GPU by way of pinned memory, several times as fast."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor).numpy()


def reduced(found: KeyActivations, reading: ReadOptions, rule: Selection, given: Array | None = None) -> Scan:
    """Return what is kept of them, on the CPU; nothing of the model is run any more.

    given  (J,) float32: the neurons' maxima, where they are not to be the corpus's own

    Raises FailedPrecondition where an activation is not finite.
    """
    first, strength, where, prefixes, totals = found
    sums = Sums(*column_sums(strength))
    if not np.isfinite(sums.total).all():
        _raise_not_finite(strength, first, reading)
    return Scan(candidates(strength, where, prefixes, first, rule, given), sums, totals)


def _key_tokens(activations: Tensor, batch: Batch, reading: ReadOptions) -> tuple[Tensor, Tensor]:
    """Strength (S, b, N) of each context's key activation on each side, and its position (S, b, N); tie: the first."""
    lengths = torch.from_numpy(batch.lengths.astype(np.int64))
    return key_tokens(activations, lengths, reading.n_skipped, len(reading.sides))


def _raise_not_finite(strength: Array, first: int, reading: ReadOptions) -> None:
    context, column = np.argwhere(~np.isfinite(strength))[0]
    run = int(np.searchsorted(reading.bounds, column, side="right")) - 1
    (side, layer), number = reading.runs[run], column - reading.bounds[run]
    raise FailedPrecondition(
        f"{reading.unit} {layer}.{number} has the activation {strength[context, column] * SIGNS[side]} in context "
        f"{first + context}: the weights are damaged, or the dtype is too narrow for this model"
    )


class Chosen(NamedTuple):
    """The chosen examples of one run, by neuron and then in corpus order, and their distinct key tokens.

    offsets (N + 1,), contexts, positions, rows (E,); row_contexts, row_positions (P,) by context and position.
    """

    offsets: Array
    contexts: Array
    positions: Array
    neurons: Array
    rows: Array
    row_contexts: Array
    row_positions: Array


def chosen_of_run(chosen: Candidates, first: int, last: int, context_length: int) -> Chosen:
    """The part of the chosen examples of a run, whose neurons are first..last − 1 of all J."""
    begin, end = chosen.offsets[first], chosen.offsets[last]
    offsets = chosen.offsets[first : last + 1] - begin
    contexts, positions = chosen.contexts[begin:end], chosen.positions[begin:end]
    keys, rows = np.unique(contexts.astype(np.int64) * context_length + positions, return_inverse=True)
    return Chosen(
        offsets,
        contexts,
        positions,
        np.repeat(np.arange(last - first), np.diff(offsets)),
        rows.astype(np.int32),
        (keys // context_length).astype(np.int32),
        (keys % context_length).astype(np.int32),
    )


class RunChoice(NamedTuple):
    """A run's Chosen whose contexts lie in a shard: fields as there.

    asked_contexts, asked_neurons  (Q',) where it is asked whether a neuron fires in a context
    sample                         (R',) contexts of which every neuron's weak activations are asked
    """

    contexts: Array
    positions: Array
    neurons: Array
    row_contexts: Array
    row_positions: Array
    asked_contexts: Array
    asked_neurons: Array
    sample: Array


class ChosenByShard:
    """One run's Chosen by shards, and what is asked for its negatives. Cost: a sort once, and then what is taken."""

    def __init__(self, chosen: Chosen, places: Proposed, sample: Array) -> None:
        self._chosen, self._places, self._sample = chosen, places, sample
        self._order = np.argsort(chosen.contexts, kind="stable")
        self._sorted = chosen.contexts[self._order]

    def of(self, first: int, last: int) -> tuple[RunChoice, Array]:
        """The examples in contexts first..last − 1, by neuron, and their places (E',) among all."""
        chosen = self._chosen
        mine = np.sort(self._order[slice(*np.searchsorted(self._sorted, (first, last)))])
        rows = slice(*np.searchsorted(chosen.row_contexts, (first, last)))
        asked = self.asked(first, last)
        part = RunChoice(
            chosen.contexts[mine],
            chosen.positions[mine],
            chosen.neurons[mine],
            chosen.row_contexts[rows],
            chosen.row_positions[rows],
            self._places.contexts[asked],
            self._places.neurons[asked],
            self._sample[slice(*np.searchsorted(self._sample, (first, last)))],
        )
        return part, mine

    @property
    def n_asked(self) -> int:
        """Places that were proposed."""
        return len(self._places.contexts)

    def asked(self, first: int, last: int) -> Array:
        """Places (Q',) among all that were proposed, of those in contexts first..last − 1."""
        return np.flatnonzero((self._places.contexts >= first) & (self._places.contexts < last))


class Collected(NamedTuple):
    """Results of one run over a shard.

    xhat       (P', D) float16
    scales     (P',) float32 that its rows are to be multiplied by: powers of two, 1 where a norm bounds them
    around     (E', 31) float16, of gated neurons and latents float32
    histogram  (N, 64) uint8 to uint32, as small as the shard's contexts allow
    fires      (Q',) bool: whether each neuron that is asked about fires
    weak_at    (R', N) int32: the key token of each context of the sample in which a neuron fires weakly; else −1
    """

    xhat: Array
    scales: Array
    around: Array
    histogram: Array
    fires: Array
    weak_at: Array


def collect(
    model: Model,
    loaded: LoadedContexts,
    parts: Sequence[RunChoice],
    maximum: Array,
    reading: ReadOptions,
    advance: Advance,
) -> list[Collected]:
    """Collect the loaded contexts, run by run. maximum (J,): strengths over the whole corpus. Cost: one forward."""
    bounds = reading.bounds
    runs = [
        _RunCollector(model, layer, loaded, part, maximum[bounds[run] : bounds[run + 1]])
        for run, ((_, layer), part) in enumerate(zip(reading.runs, parts, strict=True))
    ]
    of_layer = {
        layer: runs[i :: len(reading.layers)] for i, layer in enumerate(reading.layers)
    }  # positive, then negative
    for batch in batches(loaded, reading.batch_tokens):

        def visit(layer: int, residual: Tensor, activations: Tensor, batch: Batch = batch) -> None:
            if layer in of_layer:
                found = _key_tokens(activations, batch, reading)
                for run, strength, at in zip(of_layer[layer], *found, strict=True):
                    run.see(batch, residual, activations, strength, at)

        model.read(batch.tokens, visit, reading.layers[-1])
        advance(int(batch.lengths.sum()))
    return [run.collected for run in runs]


class _RunCollector:
    """One run's share of a shard: the rows and examples whose contexts lie in it."""

    def __init__(self, model: Model, layer: int, loaded: LoadedContexts, part: RunChoice, maximum: Array) -> None:
        info, device = model.info, model.device
        self._model, self._layer = model, layer
        self._loaded, self._choice = loaded, part
        self._maximum = torch.from_numpy(maximum).to(device)
        self._histogram = torch.zeros((len(maximum), N_BINS), dtype=torch.int64, device=device)
        n_around = TOKENS_BEFORE + 1 + TOKENS_AFTER
        self._xhat = torch.empty((len(part.row_contexts), info.d_model), dtype=torch.float16, device=device)
        self._scales = torch.ones(len(part.row_contexts), device=device)
        dtype = torch.float32 if model.is_wide else torch.float16
        self._around = torch.empty((len(part.contexts), n_around), dtype=dtype, device=device)
        self._fires = torch.zeros(len(part.asked_contexts), dtype=torch.bool, device=device)
        weak_at = (len(part.sample), len(maximum))
        self._weak_at = torch.empty(weak_at, dtype=torch.int32, device=device)

    @property
    def collected(self) -> Collected:
        return Collected(
            _fetched(self._xhat),
            _fetched(self._scales),
            _fetched(self._around),
            self._histogram.cpu().numpy().astype(np.min_scalar_type(len(self._loaded))),
            _fetched(self._fires),
            _fetched(self._weak_at),
        )

    def see(self, batch: Batch, residual: Tensor, activations: Tensor, strength: Tensor, at: Tensor) -> None:
        """strength (b, N): of the contexts' key activations; at (b, N): their key tokens."""
        slot = np.full(len(self._loaded), -1)
        slot[batch.numbers - self._loaded.first] = np.arange(len(batch.numbers))
        self._keep_rows(slot, residual)
        self._keep_around(slot, batch, activations)
        strength, at = strength.to(self._maximum.device), at.to(self._maximum.device)
        self._keep_negatives(slot, strength, at)
        add_to_histogram(self._histogram, strength, self._maximum)  # none of those up to 0

    def _keep_rows(self, slot: Array, residual: Tensor) -> None:
        slots = slot[self._choice.row_contexts - self._loaded.first]
        mine = np.flatnonzero(slots >= 0)
        rows = residual[_index(slots[mine], residual), _index(self._choice.row_positions[mine], residual)]  # (P', D)
        xhat, at = self._model.normalise(self._layer, rows).to(self._xhat.device), _index(mine, self._xhat)
        if not self._model.bounded:
            scales = _scales(xhat)
            self._scales[at] = scales
            xhat = xhat / scales[:, None]
        self._xhat[at] = xhat.half()

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
        around = activations[rows, places.masked_fill(outside, 0), neurons].to(self._around)
        outside = outside.to(around.device)
        self._around[_index(mine, around)] = around.masked_fill(outside, 0)  # never read, but hashed

    def _keep_negatives(self, slot: Array, strength: Tensor, at: Tensor) -> None:
        fires = (strength > 0) & (strength >= FIRES * self._maximum)  # (b, N)
        slots = slot[self._choice.asked_contexts - self._loaded.first]
        mine = np.flatnonzero(slots >= 0)
        rows, neurons = _index(slots[mine], fires), _index(self._choice.asked_neurons[mine], fires)
        self._fires[_index(mine, fires)] = fires[rows, neurons]
        slots = slot[self._choice.sample - self._loaded.first]
        mine = np.flatnonzero(slots >= 0)
        rows = _index(slots[mine], fires)
        weak = (strength[rows] > 0) & ~fires[rows]
        self._weak_at[_index(mine, fires)] = at[rows].to(torch.int32).masked_fill(~weak, -1)


def _scales(rows: Tensor) -> Tensor:
    """(P,) powers of two that leave the largest entry of each row (P, D) within 2¹⁴ to 2¹⁵, in float16's range."""
    largest = rows.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.exp2(torch.floor(torch.log2(largest)) - 14)


def _index(values: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int64)).to(like.device)
