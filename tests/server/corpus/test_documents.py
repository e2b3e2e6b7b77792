import gzip
import json

import pytest

from polysem.proto.errors import BadCorpus
from polysem.server.corpus import documents
from polysem.server.corpus.documents import Corpus


def read(path, **options):
    return [tuple(document) for document in Corpus(str(path), **options).documents()]


def test_json_lines_are_named_by_id_else_by_line_number(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n\n{"text": "two"}\n{"id": 7, "text": "three"}\n')
    assert read(path) == [("a", "one"), ("3", "two"), ("7", "three")]


def test_gzipped_json_lines_and_another_text_field(tmp_path):
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"body": "one"}\n'))
    assert read(path, text_field="body") == [("1", "one")]


def test_text_lines_without_their_ends_and_without_a_mark_at_the_start(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    assert read(path) == [("1", "one"), ("3", "two")]


def test_a_folder_is_a_document_a_file_by_path_without_hidden_ones(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.md").write_text("one")
    (tmp_path / "a.txt").write_text("two\nlines")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("no")
    assert read(tmp_path) == [("a.txt", "two\nlines"), ("b/x.md", "one")]


def test_max_documents_counts_those_with_text(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("\n\none\n\ntwo\nthree\n")
    assert [text for _, text in read(path, max_documents=2)] == ["one", "two"]


BAD = {
    "not JSON": (b'{"text": ', "line 2 .* is not JSON"),
    "no object": (b"[1, 2]", "line 2 .* is not a JSON object"),
    "no text": (b'{"txt": "x", "n": 1}', "no text in its field 'text'; fields with text: 'txt'"),
    "half a surrogate": (rb'{"text": "\ud800"}', "unpaired surrogate"),
    "not UTF-8": (b'{"text": "\xff"}', "not UTF-8"),
    "a NUL": (b'{"text": "\0"}', "NUL byte"),
    "too large": (b'{"text": "' + b"x" * 300 + b'"}', "larger than"),
    "too deep": (b"[" * 100_000, "larger than|not JSON"),
}


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=BAD)
def test_what_is_no_text_is_named_or_skipped_and_counted(tmp_path, monkeypatch, line, words):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 200)
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "fine"}\n')
    with pytest.raises(BadCorpus, match=words) as caught:
        read(path)
    assert "--skip-bad-documents" in str(caught.value)
    source = Corpus(str(path), skip_bad=True)
    assert [d.text for d in source.documents()] == ["good", "fine"]
    assert source.n_skipped == 1


def test_a_corpus_that_is_not_there_or_not_known_or_empty(tmp_path):
    with pytest.raises(BadCorpus, match="there is no corpus"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "c.pdf").write_text("x")
    with pytest.raises(BadCorpus, match=r"cannot tell what 'c\.pdf' is"):
        read(tmp_path / "c.pdf")
    (tmp_path / "c.txt").write_text("\n\n")
    with pytest.raises(BadCorpus, match="no document with text"):
        read(tmp_path / "c.txt")
    (tmp_path / "c.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(BadCorpus, match="cannot read"):
        read(tmp_path / "c.jsonl.gz")


def test_a_binary_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(BadCorpus, match=r"image\.png.* NUL"):
        read(tmp_path)


def test_ids_of_any_kind_become_names(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"id": "x" * 10_000, "text": "t"}) + "\n")
    assert len(read(path)[0][0]) == documents.MAX_NAME_CHARACTERS
