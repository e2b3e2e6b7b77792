"""What a token is where it is less than a character, and what would not be seen; with transformers as oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.client import characters
from polysem.client.characters import Part
from polysem.server.model.loading import DEMO_FOLDER
from polysem.server.model.tokenizer import Tokenizer
from polysem.server.questions import characters as characters_of_tokens

CJK = ["東", "", "", "本", " x", "", "é"]
PARTS = [(1, 1), (1, 3), (2, 3), (3, 3), (1, 1), (1, 2), (2, 2)]  # as the server says


@pytest.mark.parametrize(
    ("place", "found", "name"),
    [
        (0, Part("東"), "東"),
        (1, Part("本", 1, 3), "本 1/3"),
        (2, Part("本", 2, 3), "本 2/3"),
        (3, Part("本", 3, 3), "本 3/3"),
        (4, Part(" x"), "x"),
        (5, Part("é", 1, 2), "é 1/2"),
        (6, Part("é", 2, 2), "é 2/2"),
    ],
)
def test_a_token_within_a_character_is_named_by_it(place, found, name):
    assert characters.part(CJK, place, *PARTS[place]) == found
    assert characters.named(found) == name


@pytest.mark.parametrize(
    ("text", "name", "by_itself"),
    [("", "''", "''"), (" ", "' '", "' '"), ("  ", "'  '", "'  '"), (" if", "if", " if"), ("本", "本", "本"),
     ("\u200d", "U+200D ZERO WIDTH JOINER", "U+200D ZERO WIDTH JOINER")],
)  # fmt: skip
def test_of_an_older_server_a_token_is_its_text_and_no_more(text, name, by_itself):
    """It does not say whether "" and " " are parts of the character that follows."""
    tokens = ["a", text, "本"]
    found = characters.part(tokens, 1)
    assert found == Part(text, 0, 0)
    assert found.fraction == ""
    assert (characters.named(found), characters.displayed(found)) == (name, by_itself)
    assert characters.moved(tokens, 1, found) == tokens


def test_the_character_moves_to_the_key_token():
    part = characters.part(CJK, 1, 1, 3)
    assert characters.moved(CJK, 1, part) == ["東", "本", "", "", " x", "", "é"]
    assert characters.shown(CJK, 1, part) == ["東", "本 1/3", "", "", " x", "", "é"]
    assert characters.moved(CJK, 4, characters.part(CJK, 4, 1, 1)) == CJK


def test_a_token_that_ends_one_character_and_holds_more_is_itself():
    assert characters.part(["", "本x"], 1, 1, 1) == Part("本x")
    assert characters.moved(["", "本x"], 0, Part("本", 1, 2)) == ["本", "x"]


def test_a_blank_that_ends_within_a_character_is_no_space():
    """Only the server sees the bytes: it says so."""
    tokens = ["a", " ", "", "日", "!"]
    assert characters.part(tokens, 1, 1, 1) == Part(" ")
    part = characters.part(tokens, 1, 1, 3)
    assert part == Part(" 日", 1, 3)
    assert characters.named(part) == "日 1/3"
    assert characters.shown(tokens, 1, part) == ["a", "日 1/3", "", "", "!"]


def test_a_text_that_ends_within_a_character_is_damaged_there():
    assert characters.part(["a", "", ""], 1, 1, 2) == Part("\ufffd", 1, 2)
    assert characters.part([""], 0, 1, 1) == Part("\ufffd")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" ", "␠"),
        ("   ", "␠␠␠"),
        (" def", "def"),
        ("\n", "⏎"),
        ("\t", "→"),
        ("\u00a0", "U+00A0 NO-BREAK SPACE"),
        ("\u3000", "U+3000 IDEOGRAPHIC SPACE"),
        ("\u200d", "U+200D ZERO WIDTH JOINER"),
        ("\u200c", "U+200C ZERO WIDTH NON-JOINER"),
        ("\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u0301", "◌\u0301"),
        ("\u0301\u0302", "◌\u0301\u0302"),
        ("\u200d\u200d", "U+200DU+200D"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("e\u0301", "e\u0301"),
        ("\x1b[31m", "␛[31m"),
        ("\ufffd", "\ufffd"),
    ],
)
def test_nothing_is_called_a_space_that_is_none_and_all_is_seen(text, name):
    assert characters.named(Part(text)) == name


def test_joiners_are_no_damage_and_directions_are_not_turned():
    family = "👩\u200d👩\u200d👧"
    assert characters.visible(family) == family
    assert characters.visible("می\u200cخواهم") == "می\u200cخواهم"
    assert characters.visible("a\u202eb\ufeff") == "aU+202EbU+FEFF"
    assert "\ufffd" not in characters.visible("".join(map(chr, range(0x3000))))


def test_an_unseen_key_token_is_seen():
    for text, shown in (
        ("\u200d", "U+200D ZERO WIDTH JOINER"),
        (" ", " "),
        (" if", " if"),
        ("\u00a0", "U+00A0 NO-BREAK SPACE"),
    ):
        assert characters.shown(["a", text, "b"], 1, Part(text)) == ["a", shown, "b"]


@pytest.fixture(scope="module")
def tokenizers():
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    return Tokenizer(AutoTokenizer.from_pretrained(DEMO_FOLDER)), theirs


@given(text=st.text(st.sampled_from("ab \n日本語é😀\u200d👩ñ한ع0\u0301\u00a0"), min_size=1, max_size=12))
def test_parts_are_those_of_transformers_offsets(tokenizers, text):
    """Tokens that share a character have offsets that overlap on it."""
    ours, theirs = tokenizers
    encoded = theirs(text, return_offsets_mapping=True, add_special_tokens=False)
    ids = encoded["input_ids"]
    texts = ours.texts(ids)
    assert "".join(texts) == text
    sharing = [
        [i for i, (begin, end) in enumerate(encoded["offset_mapping"]) if begin <= at < end] for at in range(len(text))
    ]
    found = characters_of_tokens.parts(ours, ids, texts, range(len(ids)))
    for i, (begin, end) in enumerate(encoded["offset_mapping"]):
        covered = text[begin:end]
        part = characters.part(texts, i, *found[i])
        if len(covered.strip(" ")) == 1:  # and blanks before it
            of = sharing[end - 1]
            assert part == (covered, of.index(i) + 1, len(of))
        elif not covered.strip(" "):
            assert part == (covered, 1, 1)
