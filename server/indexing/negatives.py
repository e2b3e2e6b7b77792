"""Negatives of each neuron (server/index/negatives.py), collected in the passes that an index takes anyway.

A place with one of a neuron's key tokens is proposed before `collect` reads the contexts, more often than it is needed;
`collect` says where the neuron fires. Weak activations are looked for in a sample of contexts that all neurons share.
What is drawn depends on numbers of runs, neurons and contexts alone, so that shards may be made anywhere.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.server.index import arrays
from polysem.server.index.arrays import HEADER_BYTES
from polysem.server.index.contexts import Contexts
from polysem.server.index.draws import draws
from polysem.server.index.negatives import KINDS, NAMES, Kind, Negatives

MOST = 32  # of each kind, of a neuron
SHARE = 0.2  # of the index's bytes that negatives may take
FIRES = 0.25  # share of its maximum from which a neuron fires
N_SAMPLE = 512  # contexts that all neurons share
N_TOKENS = 1 << 21  # of the corpus, among which key tokens are looked for
PROPOSED = 4  # places of a key token for each that is wanted
AT_ONCE = 4096  # neurons
_SEEDS = range(0x6E6567, 0x6E6567 + 6)


class Sample(NamedTuple):
    """Part of the corpus that negatives come from.

    contexts      (R,) int32, ascending: that all neurons share
    of_token, at  (T,) int32 contexts and positions of tokens, by token id, then in corpus order
    starts        (n_tokens + 1,) int64: where each token id begins among them
    """

    contexts: Array
    of_token: Array
    at: Array
    starts: Array


class Proposed(NamedTuple):
    """Places of a run with one of a neuron's key tokens, neuron by neuron, the first ones preferred: contexts,
    positions and neurons (Q,) int32."""

    contexts: Array
    positions: Array
    neurons: Array


class Wanted:
    """The negatives that an index of some contexts is to hold: what is asked about each run, and what comes of it.

    n_skipped  tokens at a context's start that are never key tokens
    n_tokens   ids that the tokenizer has
    most       of each kind, of a neuron
    """

    def __init__(self, contexts: Contexts, n_skipped: int, n_tokens: int, most: int) -> None:
        self._contexts, self._n_skipped, self._most = contexts, n_skipped, most
        self.sample = sample_of(contexts, n_skipped, n_tokens, most)
        self._places: list[Proposed] = []

    def propose(self, offsets: Array, contexts: Array, positions: Array) -> Proposed:
        """Return the places to ask about of the next run, given its examples: offsets (N + 1,), places (E,)."""
        key_tokens, run = self._contexts.tokens_at(contexts, positions), len(self._places)
        parts = [
            proposed(run, first, offsets[first : first + AT_ONCE + 1], contexts, key_tokens, self.sample, self._most)
            for first in range(0, len(offsets) - 1, AT_ONCE)
        ]
        self._places.append(Proposed(*(np.concatenate(column) for column in zip(*parts, strict=True))))
        return self._places[-1]

    def chosen(self, run: int, offsets: Array, contexts: Array, fires: Array, weak_at: Array) -> Negatives:
        """Return a run's negatives, given its examples, and whether neurons fire where it was asked."""
        places, N, k = self._places[run], len(offsets) - 1, len(KINDS)
        out = Negatives(np.full((N, k, self._most), -1, np.int32), np.zeros((N, k, self._most), np.int32))
        if self._most:
            _fill(out, "same_token", *(column[~fires] for column in (places.neurons, *places[:2])))
            lengths = self._contexts.lengths(self.sample.contexts)
            for first in range(0, N, AT_ONCE):
                part = slice(first, first + AT_ONCE)
                own = _own(offsets[first : first + AT_ONCE + 1], contexts, self.sample.contexts)
                some = Negatives(out.contexts[part], out.positions[part])  # views
                number = run * N + first
                choose_in_sample(some, number, own, weak_at[:, part], self.sample.contexts, lengths, self._n_skipped)
        return out


def sample_of(contexts: Contexts, n_skipped: int, n_tokens: int, most: int) -> Sample:
    """Draw the sample of a corpus; empty where `most` is 0."""
    if not most:
        nothing = np.zeros(0, np.int32)
        return Sample(nothing, nothing, nothing, np.zeros(n_tokens + 1, np.int64))
    chosen = _drawn(len(contexts), max(N_TOKENS * len(contexts) // contexts.n_tokens, 1), _SEEDS[0])
    ids, of, at = [], [], []
    for context in chosen.tolist():
        found = contexts.tokens(context)[n_skipped:]
        ids.append(found)
        of.append(np.full(len(found), context, np.int32))
        at.append(np.arange(n_skipped, n_skipped + len(found), dtype=np.int32))
    tokens = np.concatenate(ids)
    order = np.argsort(tokens, kind="stable")
    starts = np.searchsorted(tokens[order], np.arange(n_tokens + 1))
    shared = _drawn(len(contexts), N_SAMPLE, _SEEDS[1])
    return Sample(shared, np.concatenate(of)[order], np.concatenate(at)[order], starts)


def _drawn(n: int, wanted: int, seed: int) -> Array:
    """(…,) int32, ascending: `wanted` draws of n contexts, each once; all where so many are wanted."""
    if wanted >= n:
        return np.arange(n, dtype=np.int32)
    return np.unique(draws(np.arange(wanted), seed) % np.uint64(n)).astype(np.int32)


def proposed(
    run: int, first: int, offsets: Array, contexts: Array, key_tokens: Array, sample: Sample, most: int
) -> Proposed:
    """Places with key tokens of neurons `first` and following, in contexts that none of their examples comes from.

    offsets               (N' + 1,) of those neurons' examples
    contexts, key_tokens  (E,) of the run's examples
    """
    n_draws, counts = PROPOSED * most, np.diff(offsets)
    neurons = np.repeat(np.flatnonzero(counts), n_draws)
    numbers = (run << 40) + (first + neurons) * n_draws + np.tile(np.arange(n_draws), int((counts > 0).sum()))
    token = key_tokens[offsets[neurons] + _one_of(counts[neurons], numbers, _SEEDS[2])].astype(np.int64)
    n_places = sample.starts[token + 1] - sample.starts[token]
    known = n_places > 0
    neurons, token, numbers = neurons[known], token[known], numbers[known]
    place = sample.starts[token] + _one_of(n_places[known], numbers, _SEEDS[3])
    found, at = sample.of_token[place], sample.at[place]
    theirs = contexts[offsets[0] : offsets[-1]]
    n = int(max(theirs.max(initial=0), found.max(initial=0))) + 1
    pairs, own = neurons * n + found, np.repeat(np.arange(len(counts)), counts) * n + theirs
    _, once = np.unique(pairs, return_index=True)
    kept = np.sort(once[~np.isin(pairs[once], own)])
    return Proposed(found[kept], at[kept], (first + neurons[kept]).astype(np.int32))


def _one_of(counts: Array, numbers: Array, seed: int) -> Array:
    """(Q,) int64: one of so many, drawn."""
    return (draws(numbers, seed) % counts.astype(np.uint64)).astype(np.int64)


def _own(offsets: Array, contexts: Array, sample: Array) -> Array:
    """(N', R) bool: which contexts of the sample neurons' examples come from."""
    theirs = contexts[offsets[0] : offsets[-1]]
    own = np.zeros((len(offsets) - 1, len(sample)), bool)
    at = np.minimum(np.searchsorted(sample, theirs), len(sample) - 1)
    known = sample[at] == theirs
    own[np.repeat(np.arange(len(own)), np.diff(offsets))[known], at[known]] = True
    return own


def choose_in_sample(
    out: Negatives, number: int, own: Array, weak_at: Array, sample: Array, lengths: Array, n_skipped: int
) -> None:
    """Fill in weak activations and random places of N' neurons.

    number           of the first of them, among all of all runs
    own              (N', R) bool: contexts of the sample (R,) that their examples come from
    weak_at          (R, N') int32: the key token of each context in which a neuron fires weakly; else −1
    lengths          (R,) of the contexts
    """
    numbers = (number + np.arange(len(own)))[:, None] * N_SAMPLE + np.arange(len(sample))
    order, most = np.argsort(draws(numbers, _SEEDS[4]), axis=1), out.contexts.shape[2]
    free = ~own
    weak = _first(free & (weak_at.T >= 0), order, most)
    _fill(out, "weak", weak[0], sample[weak[1]], weak_at[weak[1], weak[0]])
    free[weak] = False
    some = _first(free, order, most)
    at = n_skipped + _one_of(lengths[some[1]] - n_skipped, numbers[some], _SEEDS[5])
    _fill(out, "random", some[0], sample[some[1]], at)


def _first(free: Array, order: Array, most: int) -> tuple[Array, Array]:
    """Neurons and columns of the first `most` of each row of `free` (N', R) that are true, in its order (N', R)."""
    ordered = np.take_along_axis(free, order, axis=1)
    rows, ranks = np.nonzero(ordered & (np.cumsum(ordered, axis=1) <= most))
    return rows, order[rows, ranks]


def _fill(out: Negatives, kind: Kind, neurons: Array, contexts: Array, positions: Array) -> None:
    """Put each neuron's first places into its slots; neurons ascend."""
    slots = np.arange(len(neurons)) - np.searchsorted(neurons, neurons)
    kept, k = slots < out.contexts.shape[2], KINDS.index(kind)
    out.contexts[neurons[kept], k, slots[kept]] = contexts[kept]
    out.positions[neurons[kept], k, slots[kept]] = positions[kept]


def write(folders: Sequence[Path], of_runs: Sequence[Negatives], n_bytes: int, context_length: int) -> int:
    """Write each run's negatives into its folder, of each kind as many as SHARE allows beside n_bytes of all else.

    Returns that number; none is written where it is 0.
    """
    dtype = np.uint16 if context_length <= 1 << 16 else np.int32
    n_rows, most = sum(len(one.contexts) for one in of_runs), of_runs[0].contexts.shape[2]
    room = n_bytes * SHARE / (1 - SHARE) - 2 * len(of_runs) * HEADER_BYTES
    held = int(min(most, room // (n_rows * len(KINDS) * (4 + np.dtype(dtype).itemsize))))
    if held < 1:
        return 0
    for folder, one in zip(folders, of_runs, strict=True):
        for name, array, as_ in zip(NAMES, one, (np.int32, dtype), strict=True):
            arrays.save(folder / f"{name}.npy", array[:, :, :held].astype(as_))
    return held
