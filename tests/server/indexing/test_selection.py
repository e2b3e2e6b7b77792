"""Selection: the rules' definitions, word by word, against the candidates that a scan keeps."""

import itertools
import math
import random
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.facts import Selection
from polysem.server.index.draws import draws
from polysem.server.indexing.selection import Candidates, candidates, join, prefix_hashes, select


class Example(NamedTuple):
    context: int
    position: int
    activation: float


def split_mix_64(state):
    """The generator's next number and state, in Python's own integers."""
    mask = (1 << 64) - 1
    state = z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31), state


def draws_reference(n, seed):
    drawn, state = [], seed
    for _ in range(n):
        number, state = split_mix_64(state)
        drawn.append(number)
    return drawn


def drawn_reference(positive, maximum, rule, n_contexts):
    """Band by band, in exact arithmetic."""
    drawn = draws_reference(n_contexts, rule.seed)
    chosen, step = [], Fraction(maximum) / 10
    for band in range(10):
        share = rule.max_examples // 10 + (rule.max_examples % 10 if band == 0 else 0)
        inside = [
            e for e in positive if e.activation > band * step and (e.activation <= (band + 1) * step or band == 9)
        ]
        chosen += sorted(inside, key=lambda example: drawn[example.context])[:share]
    return sorted(chosen)


def select_reference(key_activations, positions, rule, maximum=None):
    """One neuron's dataset examples by definition, from key activations and positions in corpus order."""
    contexts = [Example(c, p, a) for c, (a, p) in enumerate(zip(key_activations, positions, strict=True))]
    maximum = max(key_activations) if maximum is None else maximum
    positive = [example for example in contexts if example.activation > 0 and maximum > 0]
    if rule.rule == "quantile":
        return drawn_reference(positive, maximum, rule, len(contexts))
    if rule.rule == "first":
        strong = [example for example in positive if example.activation >= rule.min_activation_fraction * maximum]
        return strong[: rule.max_examples]
    strongest = sorted(positive, key=lambda example: (-example.activation, example.context))
    return sorted(strongest[: rule.max_examples])


def of_neuron(chosen: Candidates, j: int) -> list[Example]:
    part = slice(chosen.offsets[j], chosen.offsets[j + 1])
    columns = chosen.contexts[part], chosen.positions[part], chosen.activations[part]
    return [Example(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def equal(a: Candidates, b: Candidates) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def places_of(maxima):
    """(C, J) int32: some position for each key activation, no two alike."""
    return np.arange(maxima.size, dtype=np.int32).reshape(maxima.shape)


def no_two_alike(maxima):
    """(C, T) uint64 prefixes for `places_of`: no context begins like another."""
    return np.broadcast_to(np.arange(10**6, dtype=np.uint64), (len(maxima), 10**6))


# ---- By hand

#                  context   0    1    2    3    4    5
KEY_ACTIVATIONS = np.array([[1.0, 3.0, 2.0, 4.0, 3.0, 4.0]], np.float32).T


def chosen_by_hand(rule, key_activations=KEY_ACTIVATIONS):
    remaining = candidates(key_activations, places_of(key_activations), no_two_alike(key_activations), 0, rule)
    chosen = select(remaining, key_activations.max(axis=0), rule)
    return [example.context for example in of_neuron(chosen, 0)]


@pytest.mark.parametrize(
    ("rule", "contexts"),
    [
        (Selection("first", 0.75, 100), [1, 3, 4, 5]),  # at three quarters of 4, which counts
        (Selection("first", 0.75, 2), [1, 3]),  # the first, not the strongest
        (Selection("first", 0.76, 2), [3, 5]),
        (Selection("first", 1.0, 100), [3, 5]),
        (Selection("first", 0.01, 3), [0, 1, 2]),
        (Selection("top", 0.75, 1), [3]),  # of equals the earlier
        (Selection("top", 0.75, 3), [1, 3, 5]),
        (Selection("top", 0.75, 4), [1, 3, 4, 5]),
        (Selection("top", 0.75, 100), [0, 1, 2, 3, 4, 5]),  # whatever the fraction
        (Selection("quantile", 0.75, 100), [0, 1, 2, 3, 4, 5]),
        (Selection("quantile", 0.75, 9), []),  # nine of the lowest band, in which none is, and none of the others
    ],
)
def test_the_rules_by_hand(rule, contexts):
    assert chosen_by_hand(rule) == contexts


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_quantile_draws_one_of_each_band_by_hash(seed):
    drawn = draws(np.arange(6), seed)
    assert drawn.tolist() == draws_reference(6, seed)
    chosen = chosen_by_hand(Selection("quantile", 0.75, 10, seed))
    # 1 of 4 lies in band 2, 2 in band 4, 3 in band 7, 4 in band 9
    assert chosen == sorted([0, min(1, 4, key=drawn.__getitem__), 2, min(3, 5, key=drawn.__getitem__)])


def test_a_value_on_an_edge_belongs_to_the_band_below_it():
    values = np.arange(1, 11, dtype=np.float32)[:, None]  # each is the upper edge of a band
    assert chosen_by_hand(Selection("quantile", 0.75, 10), values) == list(range(10))
    assert chosen_by_hand(Selection("quantile", 0.75, 11), np.concatenate([values, values])[:11]) == list(range(11))


def test_the_lowest_band_gives_the_remainder():
    values = np.linspace(1, 100, 1000, dtype=np.float32)[:, None]
    chosen = chosen_by_hand(Selection("quantile", 0.75, 47), values)
    bands = np.bincount(np.ceil(values[chosen, 0] / 10).astype(int) - 1)
    assert bands.tolist() == [11, *[4] * 9]


@pytest.mark.parametrize("rule", [Selection("first", 0.5, 3), Selection("top", 0.5, 3)])
@pytest.mark.parametrize("values", [[-1.0, -2.0], [0.0, 0.0], [-0.0, -3.0], [-1e-30]])
def test_a_neuron_that_is_never_positive_has_no_examples(rule, values):
    assert chosen_by_hand(rule, np.array([values], np.float32).T) == []


@pytest.mark.parametrize("rule", [Selection("first", 0.5, 3), Selection("top", 0.5, 3)])
def test_the_smallest_positive_activation_counts(rule):
    assert chosen_by_hand(rule, np.array([[0.0, 1e-45, -1.0]], np.float32).T) == [1]


def test_an_example_keeps_its_context_position_and_activation():
    rule = Selection("top", 0.5, 2)
    maxima = np.array([[1.0, 9.0], [2.0, 8.0], [3.0, -7.0]], np.float32)
    positions = np.array([[4, 5], [6, 7], [8, 9]], np.int32)
    chosen = select(candidates(maxima, positions, no_two_alike(maxima), 1000, rule), maxima.max(axis=0), rule)
    assert of_neuron(chosen, 0) == [(1001, 6, 2.0), (1002, 8, 3.0)]
    assert of_neuron(chosen, 1) == [(1000, 5, 9.0), (1001, 7, 8.0)]


# ---- By property


@st.composite
def scans(draw):
    """(C, J) key activations with many ties, negatives and zeros, or none."""
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    values = draw(
        st.sampled_from(
            [
                st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0, 3.0, 4.0]),
                st.integers(-3, 12).map(float),
                st.floats(-2, 10, width=32),
                st.floats(-1, 0, width=32),
            ]
        )
    )
    flat = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(flat, np.float32).reshape(shape)


rules = st.builds(
    Selection,
    st.sampled_from(["first", "top", "quantile"]),
    st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 0.75, 1.0]),
    st.sampled_from([1, 2, 3, 5, 10, 13, 20, 100]),
    st.sampled_from([0, 7]),
)
given_maxima = st.none() | st.lists(st.sampled_from([-1.0, 0.0, 0.5, 3.0, 4.0, 20.0]), min_size=4, max_size=4)


def as_given(maxima, values):
    """(J,) float32 of the drawn values, or None."""
    return None if values is None else np.array(values, np.float32)[: maxima.shape[1]]


def split(maxima, rule, cuts, given_=None):
    """The candidates of consecutive parts, cut before the contexts named."""
    positions = places_of(maxima)
    ends = [0, *sorted({cut for cut in cuts if 0 < cut < len(maxima)}), len(maxima)]
    return [
        candidates(maxima[first:last], positions[first:last], no_two_alike(maxima[first:last]), first, rule, given_)
        for first, last in itertools.pairwise(ends)
    ]


@given(scans(), rules, st.lists(st.integers(1, 39)), st.randoms(use_true_random=False), given_maxima)
def test_any_split_joined_in_any_order_selects_what_the_definition_says(maxima, rule, cuts, dice, values):
    of_file = as_given(maxima, values)
    parts = split(maxima, rule, cuts, of_file)
    while len(parts) > 1:
        dice.shuffle(parts)
        together = dice.randint(2, len(parts))
        parts = [join(parts[:together], rule, of_file), *parts[together:]]
    highest = maxima.max(axis=0) if of_file is None else of_file
    chosen = select(parts[0], highest, rule)
    for j, (activations, positions) in enumerate(zip(maxima.T, places_of(maxima).T, strict=True)):
        want = select_reference(activations.tolist(), positions.tolist(), rule, float(highest[j]))
        assert of_neuron(chosen, j) == want


@given(scans(), rules, st.lists(st.integers(1, 39), min_size=2), given_maxima)
def test_join_is_associative_and_commutative(maxima, rule, cuts, values):
    if rule.rule == "quantile" and values is None:  # its bins depend on the maximum so far; what is chosen does not
        rule = replace(rule, rule="top")
    of_file = as_given(maxima, values)
    parts = split(maxima, rule, cuts, of_file)
    whole = join(parts, rule, of_file)
    assert equal(whole, candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule, of_file))
    assert equal(whole, join(parts[::-1], rule, of_file))
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = join([left, part], rule, of_file)
    for part in parts[-2::-1]:
        right = join([part, right], rule, of_file)
    assert equal(whole, left)
    assert equal(whole, right)


@given(scans(), rules)
def test_joining_one_part_changes_nothing(maxima, rule):
    part = candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule)
    assert equal(join([part], rule), part)


@given(scans(), rules)
def test_candidates_lie_in_corpus_order_and_are_positive(maxima, rule):
    remaining = candidates(maxima, places_of(maxima), no_two_alike(maxima), 7, rule)
    for j in range(maxima.shape[1]):
        of_one = of_neuron(remaining, j)
        assert of_one == sorted(of_one)
        assert all(example.activation > 0 for example in of_one)
        assert all(example.activation == maxima[example.context - 7, j] for example in of_one)


def test_few_candidates_are_kept_of_many_contexts_in_random_order():
    rule, n_contexts, k = Selection("first", 0.001, 10), 20_000, 10
    rng = np.random.default_rng(0)
    maxima = rng.random((n_contexts, 20), np.float32)
    kept = np.diff(candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule).offsets)
    expected = k * (1 + math.log(n_contexts / k))  # 86 of 20,000
    assert 0.8 * expected < kept.mean() < 1.2 * expected


@pytest.mark.parametrize("n_contexts", [256, 2_000, 20_000])
def test_top_keeps_little_more_than_k_however_many_were_read(n_contexts):
    rule = Selection("top", 0.75, 100)
    maxima = np.random.default_rng(0).standard_normal((n_contexts, 20), np.float32) ** 2
    kept = np.diff(candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule).offsets)
    assert 100 <= kept.min() <= kept.max() < 120


@pytest.mark.parametrize("n_contexts", [2_000, 20_000])
def test_quantile_keeps_some_times_k_however_many_were_read(n_contexts):
    rule = Selection("quantile", 0.75, 100)
    maxima = np.random.default_rng(0).random((n_contexts, 10), np.float32)
    kept = np.diff(candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule).offsets)
    assert kept.min() >= 100
    assert kept.max() < 300
    alike = np.diff(candidates(np.ones_like(maxima), places_of(maxima), no_two_alike(maxima), 0, rule).offsets)
    assert set(alike.tolist()) == {30}


def test_joining_forgets_what_a_later_part_rules_out():
    rule = Selection("first", 0.75, 100)
    weak, strong = np.full((50, 1), 1, np.float32), np.full((1, 1), 9, np.float32)
    parts = [
        candidates(weak, places_of(weak), no_two_alike(weak), 0, rule),
        candidates(strong, places_of(strong), no_two_alike(strong), 50, rule),
    ]
    assert [len(part.contexts) for part in parts] == [50, 1]
    assert join(parts, rule).contexts.tolist() == [50]


def test_ties_without_end_keep_only_the_first_k():
    rule = Selection("top", 0.75, 10)
    maxima = np.ones((5_000, 1), np.float32)
    assert candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule).contexts.tolist() == list(range(10))


def test_the_order_of_neurons_does_not_matter():
    rule, rng = Selection("first", 0.5, 4), random.Random(1)
    maxima = np.array([[rng.choice([-1, 1, 2, 3]) for _ in range(6)] for _ in range(30)], np.float32)
    order = [3, 1, 5, 0, 2, 4]
    forwards = candidates(maxima, places_of(maxima), no_two_alike(maxima), 0, rule)
    shuffled = candidates(maxima[:, order], places_of(maxima)[:, order], no_two_alike(maxima[:, order]), 0, rule)
    for j, original in enumerate(order):
        assert of_neuron(shuffled, j) == of_neuron(forwards, original)


# ---- Contexts that begin alike


@st.composite
def scans_of_twins(draw):
    """Key activations (C, J), positions and prefixes by context and neuron; and what each is but for rounding.

    Texts are drawn from a few, so that many contexts are alike up to the key token: by rights equally strong.
    """
    shape = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    texts = rng.integers(0, draw(st.integers(1, 12)), shape)
    exact = (rng.permutation(64)[texts] - 8).astype(np.float32)
    return texts, exact


def rounded_somehow(rng, exact):
    """One unit in the last place up, down or not at all, as batches of other shapes do."""
    return np.where(
        rng.random(exact.shape) < 0.5, np.nextafter(exact, rng.choice([-99, 99], exact.shape)), exact
    ).astype(np.float32)


@given(scans_of_twins(), rules, st.lists(st.integers(1, 29), max_size=3), st.integers(0, 2**32 - 1))
def test_twins_are_a_tie_however_each_was_rounded(scan, rule, cuts, seed):
    texts, exact = scan
    rng = np.random.default_rng(seed)
    ends = [0, *sorted({cut for cut in cuts if cut < len(exact)}), len(exact)]
    # rounding at the threshold itself or at a band's edge is not what this is about
    rule = Selection("top" if rule.rule == "top" else "first", 0.7001, rule.max_examples)
    noisy = rounded_somehow(rng, exact)
    positions = texts.astype(np.int32)
    prefixes = np.broadcast_to(np.arange(64, dtype=np.uint64), (len(texts), 64))
    parts = [
        candidates(noisy[first:last], positions[first:last], prefixes[first:last], first, rule)
        for first, last in itertools.pairwise(ends)
    ]
    chosen = select(join(parts, rule), noisy.max(axis=0), rule)
    for j in range(exact.shape[1]):
        want = select_reference(exact[:, j].tolist(), texts[:, j].tolist(), rule)
        assert [(e.context, e.position) for e in of_neuron(chosen, j)] == [(e.context, e.position) for e in want]


def test_prefixes_are_equal_exactly_where_texts_are():
    tokens = np.array([[1, 2, 3, 4], [1, 2, 5, 4], [2, 1, 3, 4], [1, 2, 3, 0]])
    hashes = prefix_hashes(tokens)
    assert hashes.shape == (4, 4)
    for t in range(4):
        for a, b in itertools.combinations(range(4), 2):
            assert (hashes[a, t] == hashes[b, t]) == np.array_equal(tokens[a, : t + 1], tokens[b, : t + 1])


def test_many_random_texts_share_no_prefix():
    tokens = np.random.default_rng(0).integers(0, 3, (20_000, 24))
    texts = np.unique(tokens, axis=0)
    assert len(np.unique(prefix_hashes(texts)[:, -1])) == len(texts)
