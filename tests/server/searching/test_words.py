"""Words of texts and queries: what is found alike, and that a query is words and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.server.searching.words import holds, line, parse, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Read the file.", ["read", "the", "file"]),
        ("café CAFÉ cafe\u0301", ["cafe"] * 3),
        ("__init__(self)", ["__init__", "self"]),
        ("日本語 tea", ["日", "本", "語", "tea"]),
        ("Ｆｕｌｌ ﬁne", ["full", "fine"]),
        ("Straße", ["strasse"]),
        ("@ ⏎ ()", []),
    ],
)
def test_words_by_hand(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    ("query", "terms", "token"),
    [
        ("import", [("import",)], "import"),
        ("import module", [("import",), ("module",)], ""),
        ('"import module"', [("import", "module")], "import module"),
        ('read "the file', [("read",), ("the", "file")], ""),
        ("foo.bar", [("foo", "bar")], "foo.bar"),
        ("@", [], "@"),
        ("⏎", [], "⏎"),
        ("日本", [("日", "本")], "日本"),
        ('a" OR "b', [("a",), ("or",), ("b",)], ""),
        ("NEAR(a b)", [("near", "a"), ("b",)], ""),
        ("imp*", [("imp",)], "imp*"),
        ("name: x", [("name",), ("x",)], ""),
        ('""', [], ""),
    ],
)
def test_a_query_is_words_and_phrases(query, terms, token):
    if not (terms or token):
        with pytest.raises(InvalidArgument, match="the query is empty"):
            parse(query)
        return
    found = parse(query)
    assert ([*found.terms], found.token) == (terms, token)


@pytest.mark.parametrize(
    ("query", "words_"),
    [("", "is empty"), ("  \t", "is empty"), ("x" * 201, "has 201 characters"), ("a " * 17, "has 17 words")],
)
def test_a_query_that_cannot_be_is_told(query, words_):
    with pytest.raises(InvalidArgument, match=words_):
        parse(query)


def test_a_line_holds_words_and_phrases_whole():
    text = line("Import the module, now")
    assert holds(text, [("the",), ("import",)])
    assert holds(text, [("the", "module")])
    assert not holds(text, [("module", "the")])
    assert not holds(text, [("mod",)])


@given(st.text(max_size=60))
def test_no_word_has_anything_that_is_syntax(text):
    for word in words(text):
        assert not set(word) & set(" \"'*():^+-{}\0")
