"""Which contexts become a neuron's dataset examples: exact, in bounded memory, in any order of work.

A neuron sees each context by its key activation: the highest post-GELU value in it. The rules, one example a context,
listed in corpus order (document, window):

first     of the contexts with key activation >= fraction · maximum, the first k in corpus order (Foote 2024)
top       the k strongest positive ones; tie: the earlier context
quantile  from each of 10 equal bands from 0 to the maximum, the ⌊k/10⌋ contexts drawn first, from the lowest band
          k mod 10 more. Band b is (b · maximum/10, (b + 1) · maximum/10]: the maximum lies in the last and 0 in none.
          The order of drawing is a seeded hash of the context's number, which names its document and window (`draws`).
          A band with fewer contexts gives what it has, and no other makes up for it

The maximum is the corpus's own, or given for each neuron; then what is stronger lies in the last band too. A neuron
whose maximum is not positive has no examples.

Candidates. While the corpus is still being read, its maximum is unknown, so no rule can be decided. Yet a context can
be dropped for good from any part of the corpus,
- first, top: once k *earlier* ones are at least as strong: if it passes the final threshold so do they, and they come
  first (`first`); they are stronger, or as strong and earlier (`top`). `first` also drops what is below
  fraction · (maximum so far), since the maximum only grows. What is left are the contexts that were among the k
  strongest when they were read: about k·(1 + ln(C / k)) of C in random order.
- top: also once k others, wherever they stand, are plainly stronger, by 1/64 or more: more than rounding makes of texts
  that are alike. Of C contexts little more than k are left.
- quantile: when in every interval that holds it and is (maximum so far) / 10 long, q contexts are drawn before it, q
  being what the lowest band gives. The band that it will lie in is as long or longer, whatever the final maximum, so it
  holds such an interval around it, and q contexts to be drawn first. Contexts are counted in bins of a FINE-th of that
  length, of which any such interval holds FINE - 1 neighbours whole. As draws are random, some 2k to 3k are left in
  all, however many were read.
What is dropped is never chosen, and the rules choose alike from any parts that hold all that is chosen; so parts can be
joined in any grouping (its tests check that by property). Keeping what any final maximum may ask for spares a second
forward, or C · J stored activations. Where the maximum is given, each part of `first` and `quantile` keeps what it
would choose.

Ties. Attention is causal, so contexts that are alike up to the key token have the same key activation. A float matrix
product rounds differently with the number of its rows, though, and with what is read together such activations come to
differ in the last bit. So candidates carry a hash of their text up to the key token, and `select` gives those alike the
activation of the earliest: a tie is a tie, whatever the batches were. No candidate is lost by that before: the k
earlier ones for which a context is dropped are at least as strong also after it, and plainly stronger ones are, too.
`quantile` draws by number, not by
activation, so ties only keep texts alike in one band. An activation that is within rounding of a threshold or of a
band's edge may fall on either side of it.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import numpy as np

from polysem.kernels.parallel import compiled, for_each_neuron
from polysem.proto.arrays import Array
from polysem.proto.facts import Selection
from polysem.server.index.draws import draws
from polysem.server.indexing.columns import column_sums, transposed

N_BANDS = 10
FINE = 8
SHIFT = 18  # of a float32's bits, so that 5 of its fraction are left: bins of 1/32 to 1/64 of what is in them
TAKEN_AT_ONCE = 1 << 16


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


def candidates(
    maxima: Array,
    positions: Array,
    prefixes: Array,
    first_context: int,
    rule: Selection,
    given: Array | None = None,
) -> Candidates:
    """The candidates among consecutive contexts.

    maxima     (C, J) float32: key activation of each context
    positions  (C, J) int32
    prefixes   (C, T) uint64, as `prefix_hashes` gives them
    given      (J,) float: what `select` will be given for maxima, where it is known
    """
    n_contexts, n_neurons = maxima.shape
    every = np.arange(n_neurons + 1, dtype=np.int64) * n_contexts
    activations = transposed(maxima).ravel()
    order = np.tile(_order(first_context + np.arange(n_contexts), every[:2], rule), n_neurons)
    keep = _may_be_chosen(every, activations, order, rule, given)
    offsets = np.zeros(n_neurons + 1, np.int64)
    np.cumsum(np.count_nonzero(keep.reshape(n_neurons, n_contexts), axis=1), out=offsets[1:])
    types = np.int32, positions.dtype, prefixes.dtype, activations.dtype
    found = Candidates(offsets, *(np.empty(offsets[-1], dtype) for dtype in types))
    for_each_neuron(_fill, n_neurons, keep, activations, positions, prefixes, first_context, *found)
    return found


def join(parts: Sequence[Candidates], rule: Selection, given: Array | None = None) -> Candidates:
    """The candidates of all parts' contexts; associative, and commutative for parts of different contexts."""
    before = np.cumsum([0, *(len(part.contexts) for part in parts[:-1])])
    places = np.stack([part.offsets + n for part, n in zip(parts, before, strict=True)])  # of all parts' entries
    columns = [np.concatenate(column) for column in zip(*(part[1:] for part in parts), strict=True)]
    offsets = np.sum([part.offsets for part in parts], axis=0)
    order = np.empty(len(columns[0]), np.int64)
    for_each_neuron(_in_order, len(offsets) - 1, places, columns[0], offsets, order)
    all_ = Candidates(offsets, *(_take(column, order) for column in columns))
    keep = _may_be_chosen(all_.offsets, all_.activations, _order(all_.contexts, offsets, rule), rule, given)
    return _kept(all_, keep)


def split(all_: Candidates, bounds: Array) -> list[Candidates]:
    """Split into runs of neurons, as views: run r has neurons bounds[r] … bounds[r + 1]."""
    runs = [all_.offsets[first : last + 1] for first, last in itertools.pairwise(bounds.tolist())]
    return [Candidates(run - run[0], *(column[run[0] : run[-1]] for column in all_[1:])) for run in runs]


def chained(parts: Sequence[Candidates]) -> Candidates:
    """The other way round: those of all neurons, one run after the other."""
    lengths = [np.diff(part.offsets) for part in parts]
    columns = (np.concatenate(column) for column in zip(*(part[1:] for part in parts), strict=True))
    return Candidates(np.cumsum([0, *np.concatenate(lengths)]), *columns)


def select(remaining: Candidates, maxima: Array, rule: Selection) -> Candidates:
    """The chosen contexts of each neuron, given the maximum (J,) of each: over the whole corpus, or another."""
    activations = remaining.activations.copy()
    for_each_neuron(_tie, len(remaining.offsets) - 1, remaining.offsets, remaining.prefixes, activations)
    order = _order(remaining.contexts, remaining.offsets, rule)
    keep = _is_chosen(remaining.offsets, activations, order, rule, maxima)
    return _kept(remaining._replace(activations=activations), keep)


def _order(contexts: Array, offsets: Array, rule: Selection) -> Array:
    """(E,) int32: each neuron's entries in the order in which `quantile` draws them, by their place among its own.

    The other rules go by corpus order and need none: (0,).
    """
    if rule.rule != "quantile":
        return np.empty(0, np.int32)
    drawn = np.empty(len(contexts), np.int32)
    for_each_neuron(_by_draw, len(offsets) - 1, offsets, draws(contexts, rule.seed), drawn)
    return drawn


def _may_be_chosen(offsets: Array, activations: Array, order: Array, rule: Selection, given: Array | None) -> Array:
    k = rule.max_examples
    if given is not None and rule.rule != "top":  # which must see ties before it may choose
        keep: Array = _is_chosen(offsets, activations, order, rule, given)
    elif rule.rule == "quantile":
        keep = _marked(_may_be_drawn, offsets, activations, order, k // N_BANDS + k % N_BANDS)
    elif rule.rule == "top":
        keep = _marked(_may_be_strongest, offsets, activations, activations.view(np.int32), k)
    else:
        keep = _marked(_may_be_first, offsets, activations, k, rule.min_activation_fraction)
    return keep


def _is_chosen(offsets: Array, activations: Array, order: Array, rule: Selection, maxima: Array) -> Array:
    k, maxima = rule.max_examples, maxima.astype(np.float64)
    if rule.rule == "top":
        chosen: Array = _marked(_is_strongest, offsets, activations, k) & np.repeat(maxima > 0, np.diff(offsets))
    elif rule.rule == "quantile":
        chosen = _marked(_is_drawn, offsets, activations, order, maxima, k)
    else:
        least = np.where(maxima > 0, rule.min_activation_fraction * maxima, np.inf)
        chosen = _marked(_is_first, offsets, activations, least, k)
    return chosen


def _marked(kernel: Callable[..., None], offsets: Array, *arguments: object) -> Array:
    """(E,) bool: the entries that a kernel marks, neuron by neuron."""
    marked = np.zeros(offsets[-1], np.bool_)
    for_each_neuron(kernel, len(offsets) - 1, offsets, *arguments, marked)
    return marked


def _take(column: Array, order: Array) -> Array:
    """column[order], on every core."""
    taken = np.empty(len(order), column.dtype)
    for_each_neuron(_take_some, -(-len(order) // TAKEN_AT_ONCE), column, order, taken)
    return taken


def _kept(all_: Candidates, keep: Array) -> Candidates:
    kept = np.flatnonzero(keep)
    return Candidates(np.searchsorted(kept, all_.offsets), *(_take(column, kept) for column in all_[1:]))


@compiled
def _take_some(first: int, step: int, column: Array, order: Array, taken: Array) -> None:
    for block in range(first, -(-len(order) // TAKEN_AT_ONCE), step):
        for i in range(block * TAKEN_AT_ONCE, min((block + 1) * TAKEN_AT_ONCE, len(order))):
            taken[i] = column[order[i]]


def warm_up() -> None:
    """Compile what a scan runs, for each rule: the interpreter is held by that, and still for a moment by the cache."""
    maxima, zeros = np.ones((2, 1), np.float32), np.zeros((2, 1))
    column_sums(maxima)
    for name in get_args(Selection.__annotations__["rule"]):
        rule = Selection(name)
        found = candidates(maxima, zeros.astype(np.int32), zeros.astype(np.uint64), 0, rule)
        select(join([found, found], rule), maxima[0], rule)


@compiled
def _fill(
    first: int,
    step: int,
    keep: Array,
    activations: Array,
    positions: Array,
    prefixes: Array,
    first_context: int,
    offsets: Array,
    contexts: Array,
    places: Array,
    kept_prefixes: Array,
    kept_activations: Array,
) -> None:
    """The candidates' columns; keep and activations (J · C,), positions (C, J). A task's neurons are neighbours."""
    n_contexts, n_neurons = positions.shape
    for j in range(n_neurons * first // step, n_neurons * (first + 1) // step):
        at = offsets[j]
        for c in range(n_contexts):
            if keep[j * n_contexts + c]:
                contexts[at] = first_context + c
                places[at] = positions[c, j]
                kept_prefixes[at] = prefixes[c, positions[c, j]]
                kept_activations[at] = activations[j * n_contexts + c]
                at += 1


@compiled
def _in_order(first: int, step: int, places: Array, contexts: Array, offsets: Array, order: Array) -> None:
    """Return where each neuron's entries of all parts stand, in corpus order."""
    for j in range(first, len(offsets) - 1, step):
        mine = order[offsets[j] : offsets[j + 1]]
        n = 0
        for part in range(len(places)):
            for i in range(places[part, j], places[part, j + 1]):
                mine[n] = i
                n += 1
        if not _ascends(contexts, mine):  # as one part after the other does
            mine[:] = mine[np.argsort(contexts[mine], kind="mergesort")]


@compiled
def _ascends(values: Array, order: Array) -> bool:
    rises = True
    for i in range(1, len(order)):
        rises &= values[order[i - 1]] <= values[order[i]]
    return rises


@compiled
def _tie(first: int, step: int, offsets: Array, prefixes: Array, activations: Array) -> None:
    """Give a neuron's entries that share a prefix the activation of the earliest."""
    for j in range(first, len(offsets) - 1, step):
        begin, end = offsets[j], offsets[j + 1]
        order = np.argsort(prefixes[begin:end], kind="mergesort")
        for rank in range(1, end - begin):
            i, before = begin + order[rank], begin + order[rank - 1]
            if prefixes[i] == prefixes[before]:
                activations[i] = activations[before]


@compiled
def _may_be_first(
    first: int, step: int, offsets: Array, activations: Array, k: int, fraction: float, keep: Array
) -> None:
    for j in range(first, len(offsets) - 1, step):
        begin, end = offsets[j], offsets[j + 1]
        maximum = np.float32(0)
        for i in range(begin, end):
            maximum = activations[i] if activations[i] > maximum else maximum
        least, n = fraction * np.float64(maximum), 0
        for i in range(begin, end):
            keep[i] = activations[i] > 0 and np.float64(activations[i]) >= least
            n += keep[i]
        if n > k:
            _drop_beaten(activations[begin:end], k, keep[begin:end])


@compiled
def _may_be_strongest(
    first: int, step: int, offsets: Array, activations: Array, bits: Array, k: int, keep: Array
) -> None:
    """bits (E,) int32: the activations', which stand in the same order where they are positive."""
    counts = np.zeros(1 << (31 - SHIFT), np.int32)  # the first is of those that are not positive, too
    for j in range(first, len(offsets) - 1, step):
        begin, end = offsets[j], offsets[j + 1]
        highest = np.int32(0)
        for i in range(begin, end):
            counts[max(bits[i], 0) >> SHIFT] += 1
            highest = max(highest, bits[i])
        least = highest >> SHIFT
        n_above = counts[least]
        while least > 0 and n_above < k:
            least -= 1
            n_above += counts[least]
        n = 0
        for i in range(begin, end):
            counts[max(bits[i], 0) >> SHIFT] = 0
            keep[i] = (bits[i] > 0) & (bits[i] >> SHIFT >= least - 1)
            n += keep[i]
        if n > k:
            _drop_beaten(activations[begin:end], k, keep[begin:end])


@compiled
def _drop_beaten(activations: Array, k: int, keep: Array) -> None:
    """Drop those that k earlier ones are at least as strong as; what was dropped before is weaker than what is kept."""
    strongest, n = np.empty(k, np.float32), 0  # the k strongest so far, as a heap with the weakest on top
    for i in range(len(activations)):
        if keep[i] and n < k:
            strongest[n] = activations[i]
            n += 1
            if n == k:
                for root in range(k // 2 - 1, -1, -1):
                    _sink(strongest, root)
        elif keep[i]:
            keep[i] = not _is_beaten(activations[i], strongest)


@compiled
def _is_beaten(value: float, strongest: Array) -> bool:
    """Whether as many as the heap `strongest` holds were at least as strong before; if not, it takes the value in."""
    if value <= strongest[0]:
        return True
    strongest[0] = value
    _sink(strongest, 0)
    return False


@compiled
def _sink(heap: Array, i: int) -> None:
    while 2 * i + 1 < len(heap):
        child = 2 * i + 1
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[i] <= heap[child]:
            return
        heap[i], heap[child] = heap[child], heap[i]
        i = child


@compiled
def _is_first(first: int, step: int, offsets: Array, activations: Array, least: Array, k: int, chosen: Array) -> None:
    """The first k positive ones at or above `least` (J,)."""
    for j in range(first, len(offsets) - 1, step):
        n = 0
        for i in range(offsets[j], offsets[j + 1]):
            if n < k and activations[i] > 0 and np.float64(activations[i]) >= least[j]:
                chosen[i] = True
                n += 1


@compiled
def _is_strongest(first: int, step: int, offsets: Array, activations: Array, k: int, chosen: Array) -> None:
    """The k strongest positive ones; tie: the earlier."""
    for j in range(first, len(offsets) - 1, step):
        order = np.argsort(-activations[offsets[j] : offsets[j + 1]], kind="mergesort")
        for rank in range(min(k, len(order))):
            i = offsets[j] + order[rank]
            chosen[i] = activations[i] > 0


@compiled
def _is_drawn(
    first: int, step: int, offsets: Array, activations: Array, order: Array, maxima: Array, k: int, chosen: Array
) -> None:
    """From each band of (0, maxima[j]] its share of k, lowest `order` first."""
    for j in range(first, len(offsets) - 1, step):
        if maxima[j] <= 0:
            continue
        left = np.full(N_BANDS, k // N_BANDS)
        left[0] += k % N_BANDS
        for place in order[offsets[j] : offsets[j + 1]]:
            i = offsets[j] + place
            if activations[i] > 0:
                band = _band(np.float64(activations[i]), maxima[j])
                chosen[i] = left[band] > 0
                left[band] -= 1


@compiled
def _band(activation: float, maximum: float) -> int:
    """The b with b · maximum/10 < activation <= (b + 1) · maximum/10; products of float32s with 10 are exact here."""
    band = N_BANDS - 1
    while band > 0 and N_BANDS * activation <= band * maximum:
        band -= 1
    return band


@compiled
def _by_draw(first: int, step: int, offsets: Array, draws: Array, drawn: Array) -> None:
    for j in range(first, len(offsets) - 1, step):
        drawn[offsets[j] : offsets[j + 1]] = np.argsort(draws[offsets[j] : offsets[j + 1]])


@compiled
def _may_be_drawn(first: int, step: int, offsets: Array, activations: Array, order: Array, q: int, keep: Array) -> None:
    """Mark those that fewer than q precede, by `order`, in FINE - 1 neighbouring bins that a band may hold.

    Window w holds the bins w - FINE to w - 2. A band that holds a value of bin b holds one of the windows b + 1 to
    b + FINE + 1 whole; window FINE is the first, for no band begins below 0. The maximum is in the middle of the last
    bin. Where values crowd in few bins, their own bin decides: else all of it would be kept.
    """
    last = N_BANDS * FINE
    seen = np.empty(last + FINE + 2, np.int32)  # in each window
    n_kept = np.empty(last + 1, np.int32)  # of each bin
    ends = np.empty((last + 1, 2, q), np.float32)  # the strongest of a bin, and minus the weakest, once 2 q are kept
    for j in range(first, len(offsets) - 1, step):
        begin, end = offsets[j], offsets[j + 1]
        maximum = np.float32(0)
        for i in range(begin, end):
            maximum = activations[i] if activations[i] > maximum else maximum
        n_bins = (last + 0.5) / np.float64(maximum) if maximum > 0 else 0.0
        seen[:FINE], seen[FINE:], n_kept[:] = q, 0, 0
        for place in order[begin:end]:
            i = begin + place
            if activations[i] <= 0:
                continue
            b = int(np.float64(activations[i]) * n_bins)
            below, least, above = seen[b + 1], q, seen[b + FINE + 1]
            for w in range(b + 2, b + FINE + 1):
                least = min(least, seen[w])
                seen[w] += 1
            if n_kept[b] >= 2 * q:  # a band holds all of its bin that is as strong or all that is as weak
                above = q if _is_beaten(activations[i], ends[b, 0]) else above
                below = q if _is_beaten(-activations[i], ends[b, 1]) else below
            keep[i] = min(below, least, above) < q
            n_kept[b] += keep[i]
            if keep[i] and n_kept[b] == 2 * q:
                ends[b] = -np.inf
