"""The first pass of the model over a shard of contexts, a pure function of model, contexts and parameters.

Each neuron's key activation and key token in each context are reduced to selection candidates and sums. Here is also
what is asked of collecting (collecting.py): x̂ at the chosen key tokens, activations around them, the histogram of
key activations, and where neurons fire among the contexts that negatives may be taken from.

A run is a layer's N neurons on one side, N its own in each layer. Of R runs (first the layers that are read, on the
positive side, then on the negative one) all that follows has columns, one run after the other. The strength of an
activation is itself, on the negative side minus it; what is chosen is chosen by strength.
"""

from collections.abc import Callable, Iterable, Iterator
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
from polysem.server.index.format import SIGNS
from polysem.server.indexing.columns import column_sums
from polysem.server.indexing.negatives import Proposed
from polysem.server.indexing.selection import Candidates, candidates, prefix_hashes
from polysem.server.model import transfers
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


# keep(layer, batch, texts (2, n), xhat (n, D), activations (b, T, N), strength (S, b, N), at (S, b, N))
Keep = Callable[[int, Batch, Tensor, Tensor, Tensor, Tensor, Tensor], None]


def key_activations(
    model: Model, loaded: LoadedContexts, reading: ReadOptions, advance: Advance, keep: Keep | None = None
) -> KeyActivations:
    """Run the scan's one forward over the loaded contexts. Holds C · J · 8 bytes on its device, read at
    the end only, so that a GPU need not wait for each layer's answer to be fetched.

    keep  is shown each layer of each batch, with x̂ at the row and position of every token that could be a key token
    """
    info, device = model.info, model.device
    of_layer = dict(zip(reading.layers, map(slice, reading.bounds, reading.bounds[1:]), strict=False))
    shape = len(loaded), len(reading.sides), sum(reading.widths)
    strength = torch.empty(shape, device=device)
    where = torch.empty(shape, dtype=torch.int32, device=device)
    prefixes = np.zeros((len(loaded), int(loaded.lengths.max())), np.uint64)
    total, squares = torch.zeros((2, info.n_layers, info.d_model), dtype=torch.float64, device=device)
    for batch in batches(loaded, reading.batch_tokens):
        rows = transfers.send(torch.from_numpy(batch.numbers - loaded.first), device)
        texts = transfers.send(_texts(batch, reading.n_skipped), device)

        def visit(
            layer: int,
            residual: Tensor,
            activations: Tensor,
            batch: Batch = batch,
            rows: Tensor = rows,
            texts: Tensor = texts,
        ) -> None:
            if layer in of_layer:
                xhat = model.normalise(layer, residual[*texts.to(residual.device)])
                total[layer] += xhat.sum(0, dtype=torch.float64).to(device)
                squares[layer] += xhat.square().sum(0, dtype=torch.float64).to(device)
                columns, found = of_layer[layer], strongest_tokens(activations, batch, reading)
                for side, (highest, at) in enumerate(zip(*found, strict=True)):
                    strength[rows, side, columns], where[rows, side, columns] = highest.to(device), at.to(device)
                if keep is not None:
                    keep(layer, batch, texts, xhat, activations, *found)

        model.read(transfers.send(batch.tokens, device), visit, reading.layers[-1])
        prefixes[batch.numbers - loaded.first, : batch.tokens.shape[1]] = prefix_hashes(batch.tokens.numpy())
        advance(int(batch.lengths.sum()))
    n_tokens = np.array(np.maximum(loaded.lengths - reading.n_skipped, 0).sum())
    totals = Totals(n_tokens, _fetched(total), _fetched(squares))
    return KeyActivations(loaded.first, _fetched(strength.flatten(1)), _fetched(where.flatten(1)), prefixes, totals)


def _texts(batch: Batch, n_skipped: int) -> Tensor:
    """Row and position of the tokens that could be key tokens, neither BOS nor padding: (2, n) int64."""
    place = torch.arange(batch.tokens.shape[1])
    return ((place >= n_skipped) & (place < torch.from_numpy(batch.lengths)[:, None])).nonzero().T


def _fetched(tensor: Tensor) -> Array:
    """The tensor on the CPU; from a GPU by way of pinned memory, several times as fast."""
    return transfers.fetch(tensor, tensor.device).wait().numpy()


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


def strongest_tokens(activations: Tensor, batch: Batch, reading: ReadOptions) -> tuple[Tensor, Tensor]:
    """Return the strength (S, b, N) of each context's key activation on each side, and its position; tie: the first."""
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
