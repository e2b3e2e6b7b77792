"""Memory of the scan: what it keeps so that collecting need not run the model over the same contexts again.

No rule can choose before the whole corpus is read: its maximum is unknown. So of each context the scan keeps every
neuron's key activation and, of what may yet be chosen, x̂ at the key token and the activations around it. By `first`
only what reaches the threshold of the maximum so far may be; by the other rules, whatever is positive.

All is kept as collecting would make it, to the byte. Where memory ends, or something is missing, collecting runs the
model over that shard: so nothing depends on what was kept but time.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array
from polysem.proto.facts import Selection
from polysem.server.index.contexts import LoadedContexts
from polysem.server.index.format import TOKENS_AFTER, TOKENS_BEFORE
from polysem.server.indexing import columns
from polysem.server.indexing.scan import Batch, KeyActivations, ReadOptions
from polysem.server.model.devices import free_bytes
from polysem.server.model.model import Model, rows_of

SHARE = 4  # a fourth of the memory that is free
SLACK = 63 / 64  # of a threshold: texts that are alike are given the same activation later, which may be higher


def halved(xhat: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Return rows x̂ (n, D) as an index has them: float16, and scales (n,) to multiply them by, powers of two.

    bounded  a norm bounds them, so all scales are 1; else the largest entry of each row is left within 2¹⁴ to 2¹⁵
    """
    if bounded:
        return xhat.half(), torch.ones(len(xhat), device=xhat.device)
    largest = xhat.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    scales = torch.exp2(torch.floor(torch.log2(largest)) - 14)
    return (xhat / scales[:, None]).half(), scales


def around(model: Model, activations: Tensor, places: tuple[Tensor, Tensor, Tensor], lengths: Tensor) -> Tensor:
    """Return activations around key tokens as an index has them: (n, 31) float16, or float32 of a wide model.

    activations  (b, T, N)
    places       each (n,): row, position and neuron
    lengths      (n,) tokens of their contexts
    """
    found = columns.around(activations, *places, lengths, TOKENS_BEFORE, TOKENS_AFTER)
    return found.to(torch.float32 if model.is_wide else torch.float16)


class Missing(Exception):
    """Something was not kept."""


class Keyed(NamedTuple):
    """Values by keys: keys (n,) int64 ascending, and at (n,) where each one's values stand in the arrays (n, …)."""

    keys: Array
    at: Array
    values: tuple[Array, ...]

    def of(self, contexts: Array, others: Array) -> tuple[Tensor, ...]:
        """Return the values of these keys out of every array. Raises Missing."""
        wanted = _keys(contexts, others)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        if len(wanted) and (not len(self.keys) or (self.keys[places] != wanted).any()):
            raise Missing
        return tuple(torch.from_numpy(values[self.at[places]]) for values in self.values)


class Kept(NamedTuple):
    """Contents of C contexts from `first` on that are kept.

    strength  (C, J) float32, as in KeyActivations
    where     (C, J) as there, of the smallest unsigned numbers
    rows      of each layer: x̂ and scales, by context and position
    examples  of each run: activations around key tokens, by context and neuron
    """

    first: int
    strength: Array
    where: Array
    rows: list[Keyed]
    examples: list[Keyed]


def joined(parts: Sequence[Kept]) -> Kept:
    """Return what is kept of consecutive contexts as one of all."""
    if len(parts) == 1:
        return parts[0]
    first, strength, where, rows, examples = zip(*parts, strict=True)
    of_layers, of_runs = ([_chained(some) for some in zip(*of, strict=True)] for of in (rows, examples))
    return Kept(first[0], np.concatenate(strength), np.concatenate(where), of_layers, of_runs)


def _chained(parts: Sequence[Keyed]) -> Keyed:
    keys, at, values = zip(*parts, strict=True)
    before = np.cumsum([0, *map(len, keys[:-1])])
    places = np.concatenate([some + n for some, n in zip(at, before, strict=True)])
    return Keyed(np.concatenate(keys), places, tuple(map(np.concatenate, zip(*values, strict=True))))


def _keys(contexts: Array, others: Array) -> Array:
    """(n,) int64: a number for each pair, in their order."""
    return (contexts.astype(np.int64) << 32) + others


class Keeper:
    """Memory of one build, shard by shard; for one thread that reads, and others that end what it has read.

    given    (J,) maxima for the selection, or None for the corpus's own
    n_bytes  that it may hold; None: a share of what is free now, or nothing where that is unknown
    """

    def __init__(self, reading: ReadOptions, rule: Selection, given: Array | None, n_bytes: int | None) -> None:
        free = free_bytes(torch.device("cpu")) or 0
        self.reading, self._room = reading, free // SHARE if n_bytes is None else n_bytes
        self._share = SLACK * rule.min_activation_fraction if rule.rule == "first" else 0.0
        maxima = np.zeros(reading.bounds[-1]) if given is None else given.astype(np.float64)
        least = np.where(maxima > 0, self._share * maxima, 0.0 if given is None else np.inf).astype(np.float32)
        self._least = list(map(torch.from_numpy, np.split(least, reading.bounds[1:-1])))  # of each run (N,)
        self._grows = given is None
        self._shards: dict[int, Kept] = {}

    def begin(self, model: Model, loaded: LoadedContexts) -> "Keeping | None":
        """Return what sees the model read these contexts; None where there is no room for it."""
        small = np.min_scalar_type(int(loaded.lengths.max()))
        n_pairs = len(loaded) * int(self.reading.bounds[-1])
        return Keeping(self, model, small) if self.take(n_pairs * (4 + small.itemsize)) else None

    def take(self, n_bytes: int) -> bool:
        """Take so much of the room; False, and no room from then on, where it is not there."""
        self._room = self._room - n_bytes if n_bytes <= self._room else -1
        return self._room >= 0

    def least(self, run: int, strength: Tensor) -> Tensor:
        """Return the strength (N,) below which nothing can be chosen, once strength (b, N) is seen."""
        least: Tensor = self._least[run].to(strength.device)
        if self._grows:
            least = torch.maximum(least, self._share * columns.maxima(strength))
        self._least[run] = least
        return least

    def put(self, parts: Sequence[Kept | None]) -> None:
        """Keep a shard, if every part of it was kept."""
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts):
            self._shards[whole[0].first] = joined(whole)

    def pop(self, first: int) -> Kept | None:
        """Return what is kept of the shard from that context on, and keep it no more."""
        return self._shards.pop(first, None)


class Keeping:
    """Keeps of the contexts that the model reads now; on its device until they are all read."""

    def __init__(self, keeper: Keeper, model: Model, small: np.dtype[Any]) -> None:
        self._keeper, self._model, self._small = keeper, model, small
        reading = keeper.reading
        self._rows: list[list[_Part]] = [[] for _ in reading.layers]
        self._examples: list[list[_Part]] = [[] for _ in reading.runs]
        self._fits = True

    def see(
        self, layer: int, batch: Batch, texts: Tensor, xhat: Tensor, activations: Tensor, strength: Tensor, at: Tensor
    ) -> None:
        """Keep what may be chosen of a batch in one layer.

        texts         (2, n) row and position of xhat (n, D): every token that could be a key token
        activations   (b, T, N)
        strength, at  (S, b, N) key activations and key tokens on each side
        """
        if not self._fits:
            return
        model, reading, device = self._model, self._keeper.reading, activations.device
        number = reading.layers.index(layer)
        used = torch.zeros(activations.shape[:2], dtype=torch.bool, device=device)
        for side in range(len(strength)):
            run = side * len(reading.layers) + number
            slots, neurons = columns.at_least(strength[side], self._keeper.least(run, strength[side]))
            positions = at[side, slots, neurons].long()
            used[slots, positions] = True
            lengths = torch.from_numpy(batch.lengths).to(device)[slots]
            values = around(model, activations, (slots, positions, neurons), lengths)
            self._add(self._examples[run], batch, slots, neurons, values)
        rows = used[*texts.to(device)].nonzero()[:, 0]
        found = halved(rows_of(xhat, rows.to(xhat.device)), model.bounded)
        self._add(self._rows[number], batch, *texts.to(device)[:, rows], *found)

    def _add(self, to: list["_Part"], batch: Batch, slots: Tensor, others: Tensor, *values: Tensor) -> None:
        n_bytes = len(slots) * 16 + sum(of.nbytes for of in values)  # of their keys, too
        if not self._fits or not self._keeper.take(n_bytes):
            self._fits = False
            self._rows, self._examples = [[] for _ in self._rows], [[] for _ in self._examples]
        else:
            to.append(_Part(batch.numbers, slots, others, values))

    def whole(self, found: KeyActivations) -> Kept | None:
        """Return all that was kept, on the CPU, with the key activations themselves; None where memory ended."""
        if not self._fits:
            return None
        rows, examples = ([_fetched(parts) for parts in of] for of in (self._rows, self._examples))
        return Kept(found.first, found.strength, found.where.astype(self._small), rows, examples)


class _Part(NamedTuple):
    """Values of a batch: rows and what else is their key, (n,) each; numbers (b,) of its contexts."""

    numbers: Array
    slots: Tensor
    others: Tensor
    values: tuple[Tensor, ...]


def _fetched(parts: list[_Part]) -> Keyed:
    keys = np.concatenate(
        [_keys(part.numbers[part.slots.numpy(force=True)], part.others.numpy(force=True)) for part in parts]
    )
    values = tuple(torch.cat(some).numpy(force=True) for some in zip(*(part.values for part in parts), strict=True))
    parts.clear()
    at = np.argsort(keys)
    return Keyed(keys[at], at, values)
