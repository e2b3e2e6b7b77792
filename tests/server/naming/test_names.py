"""Names of clusters of a handful of texts, by hand, and what holds of any."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polysem.server.naming.names import names_of
from polysem.server.naming.parts import parts_of
from polysem.server.naming.places import Place
from polysem.server.naming.rules import Corpus

PROSE = [Place(f"it was the {word} and then", " they", " went on") for word in ("day", "night", "dog", "end", "house")]


def corpus_of(places):
    where = {}
    for number, place in enumerate(places):
        for part in parts_of(place):
            where.setdefault(part, []).append(number)
    return Corpus(len(places), {part: np.array(rows) for part, rows in where.items()})


CORPUS = corpus_of(PROSE * 20)


def named(*clusters, corpus=CORPUS):
    """The names of clusters of places."""
    labels = np.repeat(np.arange(len(clusters), dtype=np.int32), [len(cluster) for cluster in clusters])
    places = [place for cluster in clusters for place in cluster]
    return [rule.text for rule in names_of(places, labels, corpus).rules]


def decorated(n):
    return [Place(f"{i}\n@{name}\n", "def", f" f{i}(self)") for i, name in zip(range(n), "pqrstuvw", strict=False)]


def nested(n):
    return [Place(f"class {name}\n  ", "def", f" g{i}(self)") for i, name in zip(range(n), "ABCDEFGH", strict=False)]


def test_two_behaviours_of_one_token_are_told_apart_by_what_stands_before():
    assert named(decorated(4), nested(4)) == ["`def` after `@`", "`def` after `class`"]


def test_a_token_of_its_own_needs_no_more_words():
    assert named([Place(f"word{i} ", "try", ":") for i in range(3)], decorated(3)) == ["`try`", "`def`"]


def test_a_single_example_is_named_by_its_token():
    assert named([Place("so", ",", " they")], decorated(3)) == ["`,`", "`def`"]


def test_a_few_tokens_are_all_named():
    tokens = ["else", "finally", "try", "try", "else", "finally"]
    assert named([Place(f"w{i}\n", token, ":") for i, token in enumerate(tokens)]) == ["`try`, `else` or `finally`"]


def test_a_token_that_most_examples_have_is_said_to_be_most():
    assert named([Place(f"w{i} ", token, " x") for i, token in enumerate(["if", "if", "if", "or"])]) == ["mostly `if`"]


def test_numbers_are_named_by_their_kind():
    assert named([Place("in the year ", str(n), ", they") for n in range(1900, 1906)])[0].startswith("a number")


def test_a_few_tokens_of_a_kind_are_named_by_it():
    assert named([Place(f"w{i} ", str(i % 3), " x") for i in range(6)]) == ["a number"]


def half_decorated():
    """13 of 25 after `@`: too few for the first name, which must tell the places from those of the corpus, too."""
    return [Place(f"w{i} @\n" if i < 13 else f"w{i}\n", "def", f" a{i}") for i in range(25)]


def test_names_that_two_clusters_share_are_told_apart_by_what_half_of_one_has():
    plain = [Place(f"v{i}\n", "def", f" b{i}") for i in range(40)]
    assert named(half_decorated(), plain) == ["`def` right after `@`", "`def`"]


def test_names_that_differ_as_they_are_become_no_longer():
    in_classes = [Place(f"class v{i}\n", "def", f" b{i}") for i in range(40)]
    assert named(half_decorated(), in_classes) == ["`def`", "`def` after `class`"]


def test_whatever_comes_after_a_word_is_named_by_that_word():
    following = ["mayor", "church", "battle", "town", "river", "county"]
    assert named([Place(f"a{i} of", f" {word}", " b") for i, word in enumerate(following)], decorated(4)) == [
        "any token right after `of`",
        "`def`",
    ]


def test_what_has_nothing_in_common_is_named_by_its_commonest_tokens():
    tokens = ["a", "b", "c", "a", "d", "e", "f", "g"]
    assert named([Place(f"w{i} ", token, f" v{i}") for i, token in enumerate(tokens)]) == ["`a` and others"]


def test_a_neuron_without_examples_has_no_names():
    assert names_of([], np.zeros(0, np.int32), CORPUS).rules == []


def test_what_all_the_corpus_has_names_nothing():
    (name,) = named([Place(f"it was the {i} and then", " they", " went on") for i in "abcd"])
    assert name == "`they`"


@given(st.permutations(range(8)), st.booleans())
def test_the_order_of_examples_and_of_labels_changes_no_name(order, swapped):
    places = [*decorated(4), *nested(4)]
    labels = np.array([0] * 4 + [1] * 4, np.int32) ^ swapped
    rules = names_of([places[i] for i in order], labels[list(order)], CORPUS).rules
    want = ["`def` after `@`", "`def` after `class`"]
    assert [rule.text for rule in rules] == (want[::-1] if swapped else want)


@given(st.lists(st.tuples(st.text(max_size=12), st.text(min_size=1, max_size=4), st.text(max_size=12)), max_size=12))
def test_any_texts_have_a_name_each_and_the_same_again(texts):
    places = [Place(*text) for text in texts]
    labels = np.arange(len(places), dtype=np.int32) % 3 if len(places) > 2 else np.zeros(len(places), np.int32)
    names = names_of(places, labels, CORPUS).rules
    assert len(names) == int(labels.max(initial=-1)) + 1
    assert all(rule.text for rule in names)
    assert names_of(places, labels, CORPUS).rules == names
