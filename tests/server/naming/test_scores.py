"""Scores of names, by hand and beside scikit-learn, and what a random partition makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from polysem.server.naming.names import Negatives, _groups, _named, halves, names_of
from polysem.server.naming.parts import Part, parts_of
from polysem.server.naming.places import Place
from polysem.server.naming.rules import Corpus, Rule, Table, table
from polysem.server.naming.scores import score

KEY, AFTER = Part("key", "def"), Part("after", "@")
RULE = Rule((KEY,), (AFTER,), 1.0)


def rows(*holds):
    return Table([KEY, AFTER], np.array(holds, bool), np.zeros(2, np.int64), 1)


def test_by_hand():
    known = rows([1, 1], [1, 1], [1, 0], [1, 0], [1, 0], [0, 0])
    members, one, other = (np.isin(range(6), of) for of in ([0, 1, 2], [3, 4], [5]))
    # grades 2 2 1 of members; 1 1 and 0 of contrasts. AUC against the one kind: (1 + 1 + ½) / 3; against the other: 1.
    found = score(known, RULE, members, [one, other])
    assert found.auc == pytest.approx((2.5 / 3 + 1) / 2)
    assert found.recall == pytest.approx(2 / 3)
    assert found.precision == 1  # no contrast fits the whole name


def test_precision_is_as_if_there_were_as_many_contrasts_as_members():
    known = rows([1, 1], [1, 1], [1, 1], [1, 0], [1, 0], [1, 0])
    found = score(known, RULE, np.isin(range(6), [0, 1]), [np.isin(range(6), [2, 3, 4, 5])])
    assert (found.precision, found.recall) == (pytest.approx(1 / 1.25), 1)


def test_a_name_that_fits_nothing_has_no_precision():
    found = score(rows([1, 0], [1, 0]), RULE, np.array([True, False]), [np.array([False, True])])
    assert found.auc == 0.5
    assert found.recall == 0
    assert np.isnan(found.precision)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_auc_is_scikit_learns(drawn):
    known, members = rows(*(row[:2] for row in drawn)), np.array([row[2] for row in drawn])
    if members.all() or not members.any():
        return
    want = roc_auc_score(members, known.holds.sum(axis=1))
    assert score(known, RULE, members, [~members]).auc == pytest.approx(want)


def decorated(n):
    return [Place(f"  return {i}\n@p{i}\n", "def", f" f{i}(self)") for i in range(n)]


def nested(n):
    return [Place(f"class C{i}\n  ", "def", f" g{i}(self)") for i in range(n)]


def plain(n, token="def"):
    return [Place(f"x = {i}\n\n", token, f" h{i}(x)") for i in range(n)]


CORPUS = Corpus(100, {Part("key", "def"): np.array([3])})


def negatives(places, kinds):
    return Negatives(places, np.array(kinds), np.arange(len(places)) % 2 == 1)


def test_two_behaviours_of_one_token_score_above_random_groups_and_above_the_neurons_own_name():
    examples, labels = [*decorated(20), *nested(20)], np.repeat([0, 1], 20).astype(np.int32)
    others = negatives([*plain(12), *plain(12, "if")], [1] * 12 + [0] * 12)
    found = names_of(examples, labels, CORPUS, others)
    assert [rule.text for rule in found.rules] == ["`def` after `@`", "`def` after `class`"]
    for auc, null, neuron, precision, recall in found.scores:
        assert (auc, precision, recall) == (1, 1, 1)
        assert neuron < 0.95
        assert null < 0.95


def test_names_are_chosen_without_what_scores_them():
    """Whatever held-out negatives and held-out members are, the names are the same; their scores are not."""
    examples, labels = [*decorated(20), *nested(20)], np.repeat([0, 1], 20).astype(np.int32)
    others = negatives(plain(12), [1] * 12)
    changed = [decorated(1)[0] if out else place for place, out in zip(others.places, others.held_out, strict=True)]
    want = names_of(examples, labels, CORPUS, others)
    got = names_of(examples, labels, CORPUS, others._replace(places=changed))
    assert got.rules == want.rules
    assert got.scores[0, 0] < want.scores[0, 0]
    known = table([parts_of(place) for place in examples], [parts_of(place) for place in others.places], CORPUS, False)
    groups, scored = _groups(examples, labels, others, len(known.holds)), np.ones(2, bool)
    flipped = known._replace(holds=known.holds ^ groups.held_out[:, None])
    assert _named(flipped, groups, scored) == _named(known, groups, scored) == want.rules


def test_texts_that_are_the_same_are_on_one_side():
    places = [place for place in decorated(10) for _ in range(3)]
    held_out = halves(places, np.zeros(30, np.int32)).reshape(10, 3)
    assert (held_out == held_out[:, :1]).all()
    assert held_out[:, 0].sum() == 5


def test_eight_examples_have_a_score_and_seven_have_none():
    examples, labels = [*decorated(8), *nested(7)], np.repeat([0, 1], [8, 7]).astype(np.int32)
    scores = names_of(examples, labels, CORPUS, negatives(plain(8), [1] * 8)).scores
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1]).all()


def test_without_negatives_there_are_names_and_no_scores():
    found = names_of(decorated(20), np.zeros(20, np.int32), CORPUS)
    assert found.rules[0].text == "`def`"
    assert np.isnan(found.scores).all()


def test_of_one_cluster_chance_and_the_neurons_own_name_score_the_same():
    found = names_of(decorated(20), np.zeros(20, np.int32), CORPUS, negatives(plain(8), [1] * 8))
    auc, null, neuron, _, _ = found.scores[0]
    assert auc == neuron
    assert abs(null - auc) < 0.1


def test_negatives_with_the_same_key_token_add_what_tells_them():
    bare = names_of(decorated(12), np.zeros(12, np.int32), CORPUS)
    told = names_of(decorated(12), np.zeros(12, np.int32), CORPUS, negatives(plain(12), [1] * 12))
    assert bare.rules[0].text == "`def`"
    assert told.rules[0].text == "`def` after `@`"
    assert parts_of(decorated(1)[0]) >= {KEY, AFTER}


@given(st.lists(st.sampled_from([*decorated(3), *nested(3), *plain(3)]), min_size=8, max_size=30), st.integers(1, 3))
def test_any_texts_have_scores_within_bounds_and_the_same_again(examples, n_clusters):
    labels = (np.arange(len(examples)) % n_clusters).astype(np.int32)
    found, again = (names_of(examples, labels, CORPUS, negatives(plain(6), [0, 0, 1, 1, 2, 2])) for _ in range(2))
    np.testing.assert_array_equal(found.scores, again.scores)
    known = found.scores[~np.isnan(found.scores)]
    assert ((known >= 0) & (known <= 1)).all()
