"""Corpora as they are found: marks, odd names, broken lines, broken archives, too much, too little."""

import gzip
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import BadCorpus, InvalidArgument
from polysem.server.corpus import documents as corpora
from polysem.server.corpus.documents import Corpus, CorpusDigest, Document

MARK = b"\xef\xbb\xbf"


@pytest.fixture
def written(tmp_path):
    """A function that writes bytes to a file of that name and returns the path as text."""

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return write


def read(id_, **options):
    return [tuple(document) for document in Corpus(str(id_), **options).documents()]


def jsonl(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


# ---- Names, line ends, marks


def test_an_id_of_null_is_no_id(written):
    assert read(written("a.jsonl", jsonl({"text": "a", "id": None}))) == [("1", "a")]


def test_a_folder_may_itself_be_hidden(written, tmp_path):
    written(".texts/a", b"text")
    assert read(tmp_path / ".texts") == [("a", "text")]


def test_a_file_name_that_is_not_utf8_is_shown_as_far_as_it_is(written, tmp_path):
    written("texts/" + os.fsdecode(b"caf\xe9.txt"), b"text")
    assert read(tmp_path / "texts") == [("caf�.txt", "text")]


def test_links_that_lead_nowhere_are_no_documents(written, tmp_path):
    written("texts/a", b"text")
    (tmp_path / "texts" / "broken").symlink_to(tmp_path / "nowhere")
    assert read(tmp_path / "texts") == [("a", "text")]


@pytest.mark.parametrize("data", [b"one\r\ntwo\r\n", b"one\ntwo", MARK + b"one\ntwo\n", MARK + b"one\r\ntwo\n"])
def test_windows_files_are_read_as_others(written, data):
    assert read(written("a.txt", data)) == [("1", "one"), ("2", "two")]


def test_a_byte_order_mark_is_no_text(written, tmp_path):
    assert read(written("a.jsonl", MARK + jsonl({"text": "a"}))) == [("1", "a")]
    assert read(written("a.jsonl.gz", gzip.compress(MARK + jsonl({"text": "a"})))) == [("1", "a")]
    written("texts/a", MARK + b"a")
    assert read(tmp_path / "texts") == [("a", "a")]


def test_empty_lines_are_no_documents_but_are_counted(written):
    assert read(written("a.jsonl", b"\n \n\t\n" + jsonl({"text": "a"}) + b"\n\n")) == [("4", "a")]


SOME_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(lambda text: not text.isspace())


@given(st.lists(SOME_TEXT, min_size=1, max_size=10))
def test_any_text_comes_back_from_json(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    for ascii_ in (True, False):
        lines = [json.dumps({"text": text}, ensure_ascii=ascii_) + "\n" for text in texts]
        path.write_bytes("".join(lines).encode())
        assert [text for _, text in read(path)] == texts


# ---- What is no text

BAD_LINES = {
    "not UTF-8": (b'{"text": "caf\xe9"}', r"is not UTF-8 \(byte 13\)"),
    "a NUL": (b'{"text": "a\0b"}', "holds a NUL byte"),
    "not JSON but text": (b"plain text", "is not JSON"),
    "nested without end": (b"[" * 100_000, "is not JSON"),
    "a number": (b"12", "is not a JSON object"),
    "a number for a text": (b'{"text": 12}', r"has no text in its field 'text'; fields with text: none"),
    "null for a text": (b'{"text": null, "body": "b"}', "has no text in its field 'text'; fields with text: 'body'"),
    "half a pair": (b'{"text": "\\ud800"}', "unpaired surrogate"),
    "half a pair in the id": (b'{"text": "a", "id": "\\udc00"}', "unpaired surrogate"),
}


@pytest.mark.parametrize(("line", "problem"), BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_bad_line_is_refused_with_its_number(written, line, problem, suffix):
    data = jsonl({"text": "a"}) + line + b"\n" + jsonl({"text": "b"})
    path = written("a" + suffix, gzip.compress(data) if suffix.endswith("gz") else data)
    with pytest.raises(BadCorpus, match=problem) as raised:
        read(path)
    assert f"line 2 of {path!r}" in str(raised.value)
    assert "--skip-bad-documents" in str(raised.value)


@pytest.mark.parametrize("line", [line for line, _ in BAD_LINES.values()], ids=BAD_LINES)
def test_bad_lines_may_be_left_out_and_are_counted_anew_each_time(written, line):
    data = jsonl({"text": "a"}) + line + b"\n" + jsonl({"text": ""}, {"text": "b"}) + line
    corpus = Corpus(written("a.jsonl", data), skip_bad=True)
    for _ in range(2):
        assert [document.text for document in corpus.documents()] == ["a", "b"]
        assert corpus.n_skipped == 2


def test_a_binary_file_in_a_folder_may_be_left_out(written, tmp_path):
    written("texts/good.txt", b"text")
    written("texts/bad.txt", b"caf\xe9")
    with pytest.raises(BadCorpus, match=r"the file 'bad\.txt' of .* is not UTF-8 \(byte 3\)"):
        read(tmp_path / "texts")
    corpus = Corpus(str(tmp_path / "texts"), skip_bad=True)
    assert list(corpus.documents()) == [("good.txt", "text")]
    assert corpus.n_skipped == 1


@pytest.mark.parametrize("mark", [MARK, b""])
@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(("length", "good"), [(99, True), (100, True), (101, False), (103, False), (5_000, False)])
def test_a_document_is_as_large_as_the_limit_and_no_larger(written, tmp_path, monkeypatch, mark, tail, length, good):
    monkeypatch.setattr(corpora, "MAX_DOCUMENT_BYTES", 100)
    path = written("a.txt", mark + b"a" * length + tail)
    written("texts/a", mark + b"a" * length)
    if good:
        assert read(path) == [("1", "a" * length)]
        assert read(tmp_path / "texts") == [("a", "a" * length)]
    else:
        for corpus in (path, tmp_path / "texts"):
            with pytest.raises(BadCorpus, match="is larger than"):
                read(corpus)


def test_what_follows_a_document_too_large_is_read(written, monkeypatch):
    monkeypatch.setattr(corpora, "MAX_DOCUMENT_BYTES", 100)
    path = written("a.txt", b"a" * 5_000 + b"\nnext\n" + b"b" * 101 + b"\nlast")
    corpus = Corpus(path, skip_bad=True)
    assert list(corpus.documents()) == [("2", "next"), ("4", "last")]
    assert corpus.n_skipped == 2


# ---- How much of it


def test_max_documents_does_not_count_what_is_left_out(written):
    data = jsonl({"text": ""}, {"text": "a"}, {"text": ""}) + b"no JSON\n" + jsonl({"text": "b"}, {"text": "c"})
    path = written("a.jsonl", data)
    assert [text for _, text in read(path, skip_bad=True, max_documents=2)] == ["a", "b"]
    assert len(read(path, skip_bad=True, max_documents=3)) == 3
    assert len(read(path, skip_bad=True, max_documents=9)) == 3  # a bound, no more


def test_what_comes_after_the_last_document_wanted_is_not_looked_at(written):
    path = written("a.jsonl", jsonl({"text": "a"}, {"text": "b"}) + b"no JSON\n")
    assert [text for _, text in read(path, max_documents=2)] == ["a", "b"]


@pytest.mark.parametrize("n", [0, -1])
def test_no_documents_at_all_cannot_be_asked_for(written, n):
    with pytest.raises(InvalidArgument, match=f"max_documents is {n}; give at least 1"):
        read(written("a.txt", b"a"), max_documents=n)


@pytest.mark.parametrize("data", [b"", b"\n\n\r\n", MARK])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_an_empty_corpus_is_refused(written, name, data):
    path = written(name, gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(BadCorpus, match="has no document with text in it"):
        read(path)


def test_a_corpus_of_nothing_but_bad_documents_is_refused(written):
    with pytest.raises(BadCorpus, match="has no document with text in it"):
        read(written("a.jsonl", b"no JSON\n"), skip_bad=True)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BadCorpus, match="has no document with text in it"):
        read(tmp_path)


# ---- No corpus


@pytest.mark.parametrize("name", ["nowhere", "Pydocs", "~no such user/here.txt", "a\0b.txt"])
def test_a_corpus_that_is_not_there_is_told(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BadCorpus, match=r"there is no corpus .*; give 'pydocs', a \.jsonl, \.jsonl\.gz, \.txt or \.parquet file"
    ):
        read(name)


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch, name):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCorpus, match="no corpus was named: give 'pydocs', a"):
        read(name)


def test_a_pipe_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(BadCorpus, match=r"pipe\.jsonl' is neither a file nor a folder, and cannot be read twice; give"):
        read(tmp_path / "pipe.jsonl")


@pytest.mark.parametrize("name", ["a.csv", "a", "a.json", "a.txt.gz", ".txt"])
def test_a_file_of_unknown_kind_is_told(written, name):
    with pytest.raises(BadCorpus, match=rf"cannot tell what '{name}' is; a corpus is a \.jsonl"):
        read(written(name, b"text"))


SPOIL = {
    "cut short": lambda data: data[: len(data) // 2],
    "changed": lambda data: data[:30] + b"\xff" * 20 + data[50:],
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_broken_archive_is_refused_even_where_bad_documents_may_be_skipped(written, spoil, skip_bad):
    data = gzip.compress(jsonl(*({"text": f"text {i * i}"} for i in range(100))))
    with pytest.raises(BadCorpus, match="cannot read"):
        read(written("a.jsonl.gz", spoil(data)), skip_bad=skip_bad)


# ---- Its hash


def digest(*documents):
    found = CorpusDigest()
    for document in documents:
        found.add(Document(*document))
    return found.hexdigest()


def test_the_hash_depends_on_names_texts_and_order():
    base = digest(("a", "b"), ("c", "d"))
    others = [
        digest(("a", "b")),
        digest(("c", "d"), ("a", "b")),
        digest(("ab", ""), ("c", "d")),
        digest(("a", "bc"), ("", "d")),
    ]
    assert base == digest(("a", "b"), ("c", "d"))
    assert len({base, *others}) == 5
