"""Which contexts become a neuron's dataset examples: exact, in bounded memory, in any order of work.

A neuron sees each context by its key activation: the highest post-GELU value in it. The rules, one example a context,
listed in corpus order (document, window):

first  of the contexts with key activation >= fraction · maximum, the first k in corpus order (Foote 2024)
top    the k strongest positive ones; tie: the earlier context

Candidates. While the corpus is still being read, the maximum is unknown, so neither rule can be decided. But a context
can be dropped for good once k *earlier* ones are at least as strong: if it passes the final threshold so do they, and
they come first (`first`); they are stronger, or as strong and earlier (`top`). It can also be dropped if it is below
fraction · (maximum so far), since the maximum only grows. What is left are the contexts that were among the k strongest
when they were read: about k·(1 + ln(C / k)) of C in random order. The same argument holds for the union of two parts,
so parts can be joined in any grouping (tests/server/test_selection.py proves it by property).

Ties. Attention is causal, so contexts that are alike up to the key token have the same key activation. A float matrix
product rounds differently with the number of its rows, though, and with what is read together such activations come to
differ in the last bit. So candidates carry a hash of their text up to the key token, and `select` gives those alike the
activation of the earliest: a tie is a tie, whatever the batches were. No candidate is lost by that before: the k
earlier ones for which a context is dropped are at least as strong also after it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from polysem.proto.types import Selection

Array = npt.NDArray[Any]


class Candidates(NamedTuple):
    """Contexts that may yet be chosen, neuron by neuron (J neurons), in corpus order within each.

    offsets      (J + 1,) int64
    contexts     (offsets[J],) int32
    positions    (offsets[J],) int32: the key token's place in its context
    prefixes     (offsets[J],) uint64: equal where the contexts are alike up to the key token (`prefix_hashes`)
    activations  (offsets[J],) float32: the key activation
    """

    offsets: Array
    contexts: Array
    positions: Array
    prefixes: Array
    activations: Array


def prefix_hashes(tokens: Array) -> Array:
    """(C, T) uint64 of tokens (C, T): entry t stands for tokens 0..t. Two texts share one with odds of 2⁻⁶⁴."""
    places = np.arange(tokens.shape[1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (tokens.astype(np.uint64) + places) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return np.cumsum(mixed ^ (mixed >> np.uint64(32)), axis=1, dtype=np.uint64)


def candidates(maxima: Array, positions: Array, prefixes: Array, first_context: int, rule: Selection) -> Candidates:
    """The candidates among consecutive contexts.

    maxima     (C, J) float32: key activation of each context
    positions  (C, J) int32
    prefixes   (C, T) uint64, as `prefix_hashes` gives them
    """
    n_contexts, n_neurons = maxima.shape
    every = np.arange(n_neurons + 1, dtype=np.int64) * n_contexts
    activations = maxima.T.ravel()
    keep = _is_candidate(every, activations, rule.max_examples, _fraction(rule))
    neurons, rows = np.divmod(np.flatnonzero(keep), max(n_contexts, 1))
    places = positions[rows, neurons]
    return Candidates(
        offsets=_offsets(every, keep),
        contexts=(first_context + rows).astype(np.int32),
        positions=places,
        prefixes=prefixes[rows, places],
        activations=activations[keep],
    )


def join(parts: Sequence[Candidates], rule: Selection) -> Candidates:
    """The candidates of all parts' contexts; associative, and commutative for parts of different contexts."""
    n_neurons = len(parts[0].offsets) - 1
    neurons = np.concatenate([np.repeat(np.arange(n_neurons), np.diff(part.offsets)) for part in parts])
    contexts = np.concatenate([part.contexts for part in parts])
    order = np.lexsort((contexts, neurons))
    all_ = Candidates(
        offsets=np.sum([part.offsets for part in parts], axis=0),
        contexts=contexts[order],
        positions=np.concatenate([part.positions for part in parts])[order],
        prefixes=np.concatenate([part.prefixes for part in parts])[order],
        activations=np.concatenate([part.activations for part in parts])[order],
    )
    return _kept(all_, _is_candidate(all_.offsets, all_.activations, rule.max_examples, _fraction(rule)))


def select(remaining: Candidates, maxima: Array, rule: Selection) -> Candidates:
    """The chosen contexts of each neuron, given the maximum (J,) of each over the whole corpus."""
    offsets, activations = remaining.offsets, _tied(remaining.offsets, remaining.prefixes, remaining.activations)
    remaining = remaining._replace(activations=activations)
    if rule.rule == "top":
        return _kept(remaining, _is_strongest(offsets, activations, rule.max_examples))
    least = np.maximum(rule.min_activation_fraction * maxima.astype(np.float64), 0)
    return _kept(remaining, _is_first(offsets, activations, least, rule.max_examples))


def _fraction(rule: Selection) -> float:
    return rule.min_activation_fraction if rule.rule == "first" else 0.0


def _kept(all_: Candidates, keep: Array) -> Candidates:
    return Candidates(_offsets(all_.offsets, keep), *(column[keep] for column in all_[1:]))


def _offsets(offsets: Array, keep: Array) -> Array:
    kept: Array = np.concatenate([[0], np.cumsum(keep)])[offsets].astype(np.int64)
    return kept


@numba.njit(nogil=True, cache=True)
def _tied(offsets: Array, prefixes: Array, activations: Array) -> Array:
    """Of those of a neuron that share a prefix, the activation of the earliest."""
    tied = activations.copy()
    for j in range(len(offsets) - 1):
        begin, end = offsets[j], offsets[j + 1]
        order = np.argsort(prefixes[begin:end], kind="mergesort")
        for rank in range(1, end - begin):
            i, before = begin + order[rank], begin + order[rank - 1]
            if prefixes[i] == prefixes[before]:
                tied[i] = tied[before]
    return tied


@numba.njit(nogil=True, cache=True)
def _is_candidate(offsets: Array, activations: Array, k: int, fraction: float) -> Array:
    keep = np.zeros(len(activations), np.bool_)
    for j in range(len(offsets) - 1):
        strongest = np.zeros(k, np.float32)  # the k strongest so far, as a heap with the weakest on top
        maximum = 0.0
        for i in range(offsets[j], offsets[j + 1]):
            a = activations[i]
            maximum = max(maximum, np.float64(a))
            if a > strongest[0]:  # 0 where fewer than k were positive
                strongest[0] = a
                _sink(strongest)
                keep[i] = np.float64(a) >= fraction * maximum
        for i in range(offsets[j], offsets[j + 1]):
            if np.float64(activations[i]) < fraction * maximum:
                keep[i] = False
    return keep


@numba.njit(nogil=True, cache=True)
def _sink(heap: Array) -> None:
    i = 0
    while 2 * i + 1 < len(heap):
        child = 2 * i + 1
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[i] <= heap[child]:
            return
        heap[i], heap[child] = heap[child], heap[i]
        i = child


@numba.njit(nogil=True, cache=True)
def _is_first(offsets: Array, activations: Array, least: Array, k: int) -> Array:
    """The first k positive ones at or above `least` (J,)."""
    chosen = np.zeros(len(activations), np.bool_)
    for j in range(len(offsets) - 1):
        n = 0
        for i in range(offsets[j], offsets[j + 1]):
            if n < k and activations[i] > 0 and np.float64(activations[i]) >= least[j]:
                chosen[i] = True
                n += 1
    return chosen


@numba.njit(nogil=True, cache=True)
def _is_strongest(offsets: Array, activations: Array, k: int) -> Array:
    """The k strongest positive ones; tie: the earlier."""
    chosen = np.zeros(len(activations), np.bool_)
    for j in range(len(offsets) - 1):
        order = np.argsort(-activations[offsets[j] : offsets[j + 1]], kind="mergesort")
        for rank in range(min(k, len(order))):
            i = offsets[j] + order[rank]
            chosen[i] = activations[i] > 0
    return chosen
