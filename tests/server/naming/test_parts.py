"""What holds at a place of a text, by hand."""

import pytest

from polysem.server.naming.parts import Part, parts_of
from polysem.server.naming.places import Place


def words(place, *relations):
    return sorted(part.words for part in parts_of(place) if not relations or part.relation in relations)


def test_a_method_after_a_decorator():
    place = Place("    @property\n    ", "def", " size(self)")
    assert words(place, "key", "kind", "in") == ["`def`"]
    assert words(place, "right after", "after") == [
        "after `@`", "after `property`", "right after `@property`", "right after `property`",
    ]  # fmt: skip
    assert words(place, "right before", "before") == [
        "before `(`", "before `)`", "before `self`", "before `size`", "right before `size (`".replace(" (", "("),
        "right before `size`",
    ]  # fmt: skip
    assert words(place, "where") == ["at the start of a line", "in code"]


def test_code_is_what_has_many_signs_of_code():
    assert "in code" in words(Place("if (x[0] == 1) {", " return", " y; }"))
    assert "in code" not in words(Place("He said (as before) that", " she", " would come."))


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (Place("in ", "1984", ", they"), "a number"),
        (Place("at ", " 3.5", " km"), "a number"),
        (Place("so", ",", " they"), "a punctuation mark"),
        (Place("in", " Paris", " they"), "a capitalised word"),
        (Place("func", "tion", " of"), "the rest of a word"),
        (Place("a", "\n\n", "b"), "a line break"),
        (Place("a", "   ", "b"), "spaces"),
        (Place("in", " paris", " they"), None),
    ],
)
def test_kinds_of_key_tokens(place, kind):
    assert words(place, "kind") == ([kind] if kind else [])


@pytest.mark.parametrize(("token", "name"), [("\n\n", "a line break"), ("  ", "spaces"), (" spaces", "`spaces`")])
def test_blanks_are_named_in_words(token, name):
    assert words(Place("a", token, "b"), "key") == [name]


def test_a_piece_of_a_word_knows_its_word_and_not_the_rest_as_a_neighbour():
    place = Place("the func", "tion", "al form")
    assert words(place, "key", "in") == ["`tion`", "in `functional`"]
    assert words(place, "right after", "right before") == ["right after `the`", "right before `form`"]


@pytest.mark.parametrize(
    ("place", "where"),
    [
        (Place("", "def", " f", True), "at the start of a text"),
        (Place("", "def", " f", False), None),  # the window begins here, the text does not
        (Place("x\n", "def", " f"), "at the start of a line"),
        (Place("x\n\t", " def", " f"), "at the start of a line"),
        (Place("x ", "def", " f"), None),
        (Place("page 12", " of", " them"), "right after a number"),
    ],
)
def test_where_it_stands(place, where):
    assert words(place, "where") == ([where] if where else [])


def test_a_part_of_a_character_is_no_piece_of_a_word():
    assert words(Place("ab", "日 1/3", "本"), "key", "in", "kind") == ["`日 1/3`"]


def test_at_most_twelve_words_before_and_six_after_count():
    place = Place(" ".join(f"b{i}" for i in range(20)) + " ", "x", " " + " ".join(f"a{i}" for i in range(20)))
    assert {Part("after", "b8"), Part("before", "a5")} <= parts_of(place)
    assert parts_of(place).isdisjoint({Part("after", "b7"), Part("before", "a6")})
