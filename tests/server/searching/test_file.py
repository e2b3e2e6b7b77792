"""The search file: in which order clusters come, page by page; hostile queries; what does not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.search import FOUND_BY
from polysem.server.searching import file as files
from polysem.server.searching.file import Document, Filters, SearchFile, Writer, documents_of, documents_text
from polysem.server.searching.words import parse


def document(layer, neuron, label, keys, name, often, text, size=4):
    members = [label, label + 10]
    return Document(layer, neuron, label, label, size, label, members, name, keys, name.strip("`"), often, text)


DOCUMENTS = [
    document(0, 1, 0, {"def": 1.0}, "`def`", "def self", "def self return"),
    document(0, 1, 1, {"the": 0.25}, "`import`", "of", "the import of modules", size=9),
    document(1, 7, 0, {"the": 0.75, "import": 0.25}, "`the`", "the file", "read the file \ue000 the import"),
    document(1, 7, 1, {"日": 1.0}, "any token", "", "import of the \ue000 日 本 語", size=2),
    document(2, 3, 0, {",": 1.0}, "`,`", "import", "import os"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "search-positive.sqlite"
    writer = Writer(path, "a" * 64, "positive")
    writer.add(documents_of(documents_text(DOCUMENTS)))
    writer.finish()
    file = SearchFile(path)
    yield file
    file.close()


def search(file, query, by=FOUND_BY, n=20, after="", **filters):
    rows, stopped = file.find(parse(query), by, Filters(**filters), n, after)
    assert not stopped
    return [(row.layer, row.neuron, row.label, row.found_by) for row in rows]


def test_key_tokens_come_first_then_names_then_texts_that_have_it_often(found):
    assert search(found, "import") == [
        (1, 7, 0, "key"),
        (0, 1, 1, "name"),
        (2, 3, 0, "text"),  # half of its texts have it
        (1, 7, 1, "text"),
    ]


def test_the_largest_share_of_a_key_token_comes_first(found):
    rows, _ = found.find(parse("THE"), ["key"], Filters(), 5)
    assert [row.share for row in rows] == [0.75, 0.25]
    assert [row.members for row in rows] == [(0, 10), (1, 11)]


def test_all_words_must_be_there_and_a_phrase_in_its_order(found):
    assert search(found, "of import", ["text"]) == [(0, 1, 1, "text"), (1, 7, 1, "text")]
    assert search(found, '"import of"', ["text"]) == [(0, 1, 1, "text"), (1, 7, 1, "text")]
    assert search(found, '"of import"', ["text"]) == []
    assert search(found, '"file the"', ["text"]) == []  # one ends a text, the other begins the next


def test_signs_are_found_as_key_tokens_alone(found):
    assert search(found, ",") == [(2, 3, 0, "key")]
    assert search(found, "日本") == [(1, 7, 1, "text")]
    assert search(found, "@") == []


def test_filters_are_of_layer_and_size(found):
    assert search(found, "import", layer=2) == [(2, 3, 0, "text")]
    assert search(found, "import", size=9) == [(0, 1, 1, "name")]
    assert search(found, "import", by=["text"], size=9) == [(0, 1, 1, "text")]


@pytest.mark.parametrize("query", ["import", "the", "of import", '"import of"'])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_pages_are_the_whole_one_after_the_other(found, query, n):
    whole, _ = found.find(parse(query), FOUND_BY, Filters(), 100)
    pages, after = [], ""
    while True:
        rows, _ = found.find(parse(query), FOUND_BY, Filters(), n, after)
        if not rows:
            break
        pages += rows
        after = rows[-1].at
    assert pages == whole
    assert len({row.id for row in whole}) == len(whole)


def test_counts_are_of_each_way_to_be_found(found):
    assert found.counts(parse("import"), FOUND_BY, Filters()).by == {"key": 1, "name": 1, "text": 2}
    assert found.counts(parse("nothing"), FOUND_BY, Filters()) == ({"key": 0, "name": 0, "text": 0}, {})


def test_counts_of_layers_are_those_before_a_layer_is_chosen(found):
    asked, layers = parse("import"), {0: 1, 1: 2, 2: 1}
    assert found.counts(asked, FOUND_BY, Filters()).layers == layers
    assert found.counts(asked, FOUND_BY, Filters(layer=2)) == ({"key": 0, "name": 0, "text": 1}, layers)
    assert found.counts(asked, ["name"], Filters()) == ({"key": 1, "name": 1, "text": 2}, {0: 1})
    assert found.counts(asked, FOUND_BY, Filters(size=9)) == ({"key": 0, "name": 1, "text": 0}, {0: 1})


@pytest.mark.parametrize("after", ["x", "text:", "text:a", "key:1", "text:1; DROP TABLE docs", "often:" + "9" * 20])
def test_a_cursor_of_something_else_is_refused(found, after):
    with pytest.raises(InvalidArgument, match="is not the cursor"):
        found.find(parse("import"), FOUND_BY, Filters(), 3, after)


HOSTILE = ['"', '""""', "a OR b", "a NOT b", "NEAR(a b, 3)", "name : x", "{name text}: y", "x*", "^x", "a AND", "' --"]


@pytest.mark.parametrize("query", [*HOSTILE, "a\0b", "\u202e", "🙂 a", "a" * 200])
def test_no_query_reaches_sqlite_as_an_expression(found, query):
    try:
        asked = parse(query)
    except InvalidArgument:
        return
    found.find(asked, FOUND_BY, Filters(), 5)
    found.counts(asked, FOUND_BY, Filters())


@given(st.text(max_size=40))
def test_any_text_is_a_query_or_refused(found, text):
    try:
        asked = parse(text)
    except InvalidArgument:
        return
    found.find(asked, FOUND_BY, Filters(), 5)


def test_a_search_that_takes_too_long_is_stopped_with_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(files, "MAX_COUNTING_SECONDS", 0.0)
    monkeypatch.setattr(files, "LOOK_EVERY", 50)
    writer = Writer(tmp_path / "many.sqlite", "a" * 64, "positive")
    writer.add(document(0, i, 0, {}, "x", "", "of the") for i in range(500))
    writer.finish()
    file = SearchFile(tmp_path / "many.sqlite")
    rows, stopped = file.find(parse("of the"), FOUND_BY, Filters(), 500)
    assert stopped
    assert len(rows) < 500
    assert file.counts(parse("of the"), FOUND_BY, Filters()) == ({}, {})
    file.close()


def test_a_file_fits_its_side_of_its_index_alone(found):
    assert found.fits("a" * 64, "positive")
    assert not found.fits("b" * 64, "positive")
    assert not found.fits("a" * 64, "negative")


def test_a_file_that_is_given_up_leaves_nothing(tmp_path):
    writer = Writer(tmp_path / "search-positive.sqlite", "a" * 64, "positive")
    writer.add(DOCUMENTS)
    writer.give_up()
    assert list(tmp_path.iterdir()) == []
