"""Arrays of the chosen examples of a shard of contexts, and their negatives.

collect  reads the contexts with the model, a second time
kept     takes what the scan kept of them (keeping.py): the same, to the byte

Where each place of a shard lies in its batch is worked out before the first batch is read, and goes to the device as
one array; then nothing waits for the device until the shard is written. Its results are copied beside the next shard.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array
from polysem.server.index.contexts import LoadedContexts
from polysem.server.index.format import N_BINS, TOKENS_AFTER, TOKENS_BEFORE
from polysem.server.indexing import keeping
from polysem.server.indexing.columns import add_to_histogram
from polysem.server.indexing.keeping import Kept
from polysem.server.indexing.negatives import FIRES
from polysem.server.indexing.scan import Advance, Batch, ReadOptions, RunChoice, batches, strongest_tokens
from polysem.server.model import transfers
from polysem.server.model.model import Model


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
    at_once: int,
) -> Callable[[], list[Collected]]:
    """Collect the loaded contexts, run by run; what is returned waits for the results, which are on their way.

    maximum  (J,) strengths over the whole corpus
    at_once  contexts of which the batches are made, as in the scan

    Cost: one forward.
    """
    every = [batch for some in loaded.split(at_once) for batch in batches(some, reading.batch_tokens)]
    places = Places(loaded, every, parts, model.device)
    runs = _collectors(model, parts, maximum, reading)
    n_layers = len(reading.layers)
    for number, batch in enumerate(every):

        def visit(
            layer: int, residual: Tensor, activations: Tensor, number: int = number, batch: Batch = batch
        ) -> None:
            if layer in reading.layers:
                first = reading.layers.index(layer)  # positive, then negative
                found = strongest_tokens(activations, batch, reading)
                for run, strength, at in zip(range(first, len(runs), n_layers), *found, strict=True):
                    runs[run].see(places.of(run, number), residual, activations, strength, at)

        model.read(transfers.send(batch.tokens, model.device), visit, reading.layers[-1])
        advance(int(batch.lengths.sum()))
    return _arriving(runs, model.device, len(loaded))


def kept(
    model: Model, loaded: LoadedContexts, parts: Sequence[RunChoice], maximum: Array, reading: ReadOptions, held: Kept
) -> Callable[[], list[Collected]]:
    """Collect the same of what was kept of the loaded contexts. Raises keeping.Missing; runs no model."""
    whole = Batch(np.arange(loaded.first, loaded.last), loaded.lengths, torch.empty(0))
    places = Places(loaded, [whole], parts, model.device)
    runs, bounds = _collectors(model, parts, maximum, reading), reading.bounds
    for run, (collector, part) in enumerate(zip(runs, parts, strict=True)):
        xhat, scales = held.rows[run % len(reading.layers)].of(part.row_contexts, part.row_positions)
        (around,) = held.examples[run].of(part.contexts, part.neurons)
        collector.found = collector.found._replace(xhat=xhat, scales=scales, around=around)
        columns = slice(bounds[run], bounds[run + 1])
        strength, at = held.strength[:, columns], held.where[:, columns].astype(np.int32)
        collector.count(
            places.of(run, 0), *(transfers.send(torch.from_numpy(of), model.device) for of in (strength, at))
        )
    return _arriving(runs, model.device, len(loaded))


def _collectors(
    model: Model, parts: Sequence[RunChoice], maximum: Array, reading: ReadOptions
) -> list["_RunCollector"]:
    bounds, maxima = reading.bounds, transfers.send(torch.from_numpy(maximum), model.device)
    return [
        _RunCollector(model, layer, part, maxima[bounds[run] : bounds[run + 1]])
        for run, ((_, layer), part) in enumerate(zip(reading.runs, parts, strict=True))
    ]


def _arriving(runs: list["_RunCollector"], device: torch.device, n_contexts: int) -> Callable[[], list[Collected]]:
    """Begin to fetch what was found; what is returned waits for it."""
    with transfers.beside(device):
        arriving = [transfers.fetch(run.found, device) for run in runs]

    def arrived() -> list[Collected]:
        made = [_small(found.wait(), n_contexts) for found in arriving]
        runs.clear()  # whose memory was read until now
        return made

    return arrived


class Found(NamedTuple):
    """`Collected` on the device, its histogram int64."""

    xhat: Tensor
    scales: Tensor
    around: Tensor
    histogram: Tensor
    fires: Tensor
    weak_at: Tensor


def _small(found: Found, n_contexts: int) -> Collected:
    values = Collected(*(tensor.numpy() for tensor in found))
    return values._replace(histogram=values.histogram.astype(np.min_scalar_type(n_contexts)))


class Share(NamedTuple):
    """One run's places in one batch, in rows of n int64: which of the run's in the shard, their context's row in the
    batch, and what else there is to know.

    rows      (3, n): position
    examples  (5, n): position, neuron, length of the context
    asked     (3, n): neuron
    sample    (2, n)
    """

    rows: Tensor
    examples: Tensor
    asked: Tensor
    sample: Tensor

    def on(self, device: torch.device) -> "Share":
        """Return the share on a device; where a model is split, its layers lie on several."""
        return self if device == self.rows.device else Share(*(of.to(device) for of in self))


class Places:
    """All places of a shard, batch by batch."""

    def __init__(
        self, loaded: LoadedContexts, every: Sequence[Batch], parts: Sequence[RunChoice], device: torch.device
    ) -> None:
        batch_of, row_of = np.empty((2, len(loaded)), np.int64)
        for number, batch in enumerate(every):
            batch_of[batch.numbers - loaded.first] = number
            row_of[batch.numbers - loaded.first] = np.arange(len(batch.numbers))
        blocks: list[Array] = []
        self._begins: list[Array] = []
        for part in parts:
            for contexts, *columns in _asked_of(part, loaded):
                at = contexts - loaded.first
                order = np.argsort(batch_of[at], kind="stable")
                blocks.append(np.stack([order, *(column[order] for column in (row_of[at], *columns))]))
                self._begins.append(np.searchsorted(batch_of[at][order], np.arange(len(every) + 1)))
        flat = np.concatenate([block.ravel() for block in blocks] or [np.empty(0, np.int64)])
        sent = transfers.send(torch.from_numpy(flat), device)
        ends = np.cumsum([block.size for block in blocks])
        self._blocks = [
            sent[end - block.size : end].view(block.shape) for block, end in zip(blocks, ends.tolist(), strict=True)
        ]

    def of(self, run: int, batch: int) -> Share:
        """One run's places in a batch, as views."""
        n = len(Share._fields)
        mine = zip(self._blocks[n * run : n * (run + 1)], self._begins[n * run : n * (run + 1)], strict=True)
        return Share(*(block[:, begins[batch] : begins[batch + 1]] for block, begins in mine))


def _asked_of(part: RunChoice, loaded: LoadedContexts) -> Iterator[tuple[Array, ...]]:
    """The contexts of each sort of places, and what else `Share` knows of them."""
    yield part.row_contexts, part.row_positions
    yield part.contexts, part.positions, part.neurons, loaded.lengths[part.contexts - loaded.first]
    yield part.asked_contexts, part.asked_neurons
    yield (part.sample,)


class _RunCollector:
    """One run's share of a shard: the rows and examples whose contexts lie in it."""

    def __init__(self, model: Model, layer: int, part: RunChoice, maximum: Tensor) -> None:
        info, device = model.info, maximum.device
        self._model, self._layer, self._maximum = model, layer, maximum
        n_rows, n_around = len(part.row_contexts), TOKENS_BEFORE + 1 + TOKENS_AFTER
        dtype = torch.float32 if model.is_wide else torch.float16
        self.found = Found(
            torch.empty((n_rows, info.d_model), dtype=torch.float16, device=device),
            torch.ones(n_rows, device=device),
            torch.empty((len(part.contexts), n_around), dtype=dtype, device=device),
            torch.zeros((len(maximum), N_BINS), dtype=torch.int64, device=device),
            torch.zeros(len(part.asked_contexts), dtype=torch.bool, device=device),
            torch.empty((len(part.sample), len(maximum)), dtype=torch.int32, device=device),
        )

    def see(self, share: Share, residual: Tensor, activations: Tensor, strength: Tensor, at: Tensor) -> None:
        """strength (b, N): of the contexts' key activations; at (b, N): their key tokens."""
        device = self._maximum.device
        self._keep_rows(share, residual)
        self._keep_around(share, activations)
        self.count(share, strength.to(device), at.to(device))

    def count(self, share: Share, strength: Tensor, at: Tensor) -> None:
        """Count key activations, and find negatives among them."""
        self._keep_negatives(share, strength, at)
        add_to_histogram(self.found.histogram, strength, self._maximum)  # none of those up to 0

    def _keep_rows(self, share: Share, residual: Tensor) -> None:
        _, slots, positions = share.on(residual.device).rows
        places = share.rows[0]
        xhat = self._model.normalise(self._layer, residual[slots, positions]).to(places.device)  # (n, D)
        self.found.xhat[places], self.found.scales[places] = keeping.halved(xhat, self._model.bounded)

    def _keep_around(self, share: Share, activations: Tensor) -> None:
        _, slots, positions, neurons, lengths = share.on(activations.device).examples
        found = keeping.around(self._model, activations, (slots, positions, neurons), lengths)
        self.found.around[share.examples[0]] = found.to(self.found.around.device)

    def _keep_negatives(self, share: Share, strength: Tensor, at: Tensor) -> None:
        fires = (strength > 0) & (strength >= FIRES * self._maximum)  # (b, N)
        places, slots, neurons = share.asked
        self.found.fires[places] = fires[slots, neurons]
        places, slots = share.sample
        weak = (strength[slots] > 0) & ~fires[slots]
        self.found.weak_at[places] = at[slots].to(torch.int32).masked_fill(~weak, -1)
