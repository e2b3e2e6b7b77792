"""Ranges of a corpus: read one by one, in any order and anywhere, they are the corpus."""

import gzip
import json
import os
import pickle
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from polysem.proto.errors import BadCorpus, InvalidArgument
from polysem.server.corpus import documents as corpora
from polysem.server.corpus import ranges, tables
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import Corpus, Document
from polysem.server.corpus.ranges import Range

MARK = b"\xef\xbb\xbf"


@pytest.fixture
def ranges_of(monkeypatch):
    """A function: the ranges of about so many bytes."""

    def ranges(corpus, n_bytes):
        monkeypatch.setattr(corpora, "RANGE_BYTES", n_bytes)
        return list(corpus.ranges())

    return ranges


def in_ranges(corpus, ranges):
    """What a reader of the whole finds, or the problem that ends it; and how many it left out."""
    documents, n_skipped = [], 0
    for range_ in ranges:
        texts = corpus.read(pickle.loads(pickle.dumps(range_)))
        documents += texts.documents
        n_skipped += texts.n_skipped
        if texts.problem:
            return documents, n_skipped, texts.problem
    return documents, n_skipped, ""


def as_a_whole(corpus):
    documents, problem = [], ""
    try:
        for document in corpus.documents():
            documents.append(document)  # noqa: PERF402 (those before the problem are kept)
    except BadCorpus as error:
        problem = "" if "has no document with text" in error.message else error.message
    return documents, corpus.n_skipped, problem


# ---- Lines


def test_a_range_ends_at_the_first_line_end_that_makes_it_long_enough(tmp_path, ranges_of):
    (tmp_path / "c.txt").write_bytes(MARK + b"one\r\n\ntwo\nthree\n\nfour")
    corpus = Corpus(str(tmp_path / "c.txt"))
    ranges = ranges_of(corpus, 9)
    assert ranges == [Range(0, 9, 0), Range(9, 19, 2), Range(19, 24, 4)]
    assert [corpus.read(range_).documents for range_ in ranges] == [
        [Document("1", "one")],
        [Document("3", "two"), Document("4", "three")],
        [Document("6", "four")],
    ]


def test_a_bad_line_has_its_number_in_the_file(tmp_path, ranges_of):
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\nno\n{"text": "c"}\n')
    corpus = Corpus(str(tmp_path / "c.jsonl"))
    read = [corpus.read(range_) for range_ in ranges_of(corpus, 1)]
    assert [texts.documents for texts in read] == [[("1", "a")], [], [("3", "b")], [], [("5", "c")]]
    assert [bool(texts.problem) for texts in read] == [False, False, False, True, False]
    assert read[3].problem.startswith(f"line 4 of {corpus.id!r} is not JSON")


def test_a_limit_ends_a_range_before_what_it_does_not_want(tmp_path, ranges_of):
    (tmp_path / "c.jsonl").write_text('{"text": ""}\nno\n{"text": "a"}\nno\n{"text": "b"}\n')
    corpus = Corpus(str(tmp_path / "c.jsonl"), skip_bad=True)
    (whole,) = ranges_of(corpus, 1000)
    assert corpus.read(whole, 1) == ([("3", "a")], 1, "")
    assert corpus.read(whole) == ([("3", "a"), ("5", "b")], 2, "")
    assert corpus.n_skipped == 0  # of readings of the whole only


def test_only_as_much_is_read_as_ranges_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 4)
    (tmp_path / "c.txt").write_text("one\ntwo\nsix\n")
    ranges = Corpus(str(tmp_path / "c.txt")).ranges()
    assert next(ranges) == Range(0, 4, 0)
    (tmp_path / "c.txt").write_text("one\n")
    assert list(ranges) in ([], [Range(4, 8, 1), Range(8, 12, 2)])  # as a buffer holds


LINES = st.one_of(
    st.sampled_from([b"", b" ", b"no JSON", b"\xff", b"a\0b", b'{"text": 3}', b"x" * 60, b'{"text": ""}', MARK, b"\r"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12).map(str.encode),
    st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: json.dumps({"text": text}).encode()),
    st.text("é日😀", min_size=1, max_size=4).map(lambda text: json.dumps({"id": text, "text": text * 3}).encode()),
)


@given(
    lines=st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n"])), max_size=12),
    mark=st.sampled_from([b"", MARK]),
    last=st.booleans(),
    n_bytes=st.integers(1, 90),
    suffix=st.sampled_from([".jsonl", ".txt"]),
    skip_bad=st.booleans(),
)
def test_ranges_of_any_file_are_the_file(tmp_path_factory, lines, mark, last, n_bytes, suffix, skip_bad):
    data = mark + b"".join(line + end for line, end in lines)
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data if last else data.removesuffix(b"\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "RANGE_BYTES", n_bytes)
        patch.setattr(corpora, "MAX_DOCUMENT_BYTES", 50)
        corpus = Corpus(str(path), skip_bad=skip_bad)
        ranges = list(corpus.ranges())
        assert [range_.begin for range_ in ranges] == [0, *(range_.end for range_ in ranges)][: len(ranges)]
        assert in_ranges(corpus, ranges) == as_a_whole(corpus)


# ---- Tables


@pytest.mark.parametrize("skip_bad", [True, False])
@pytest.mark.parametrize("n_bytes", [1, 700, 10**6])
def test_ranges_of_row_groups_are_the_table(tmp_path, ranges_of, n_bytes, skip_bad):
    texts = [f"text {i} é 日本" for i in range(50)]
    texts[33] = None
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "c.parquet", row_group_size=7)
    corpus = Corpus(str(tmp_path / "c.parquet"), skip_bad=skip_bad)
    ranges = ranges_of(corpus, n_bytes)
    assert len(ranges) == {1: 8, 700: 3, 10**6: 1}[n_bytes]
    assert in_ranges(corpus, ranges) == as_a_whole(corpus)
    assert ("row 34 of" in in_ranges(corpus, ranges)[2]) != skip_bad


def test_a_table_that_cannot_be_read_is_told_when_ranges_are_asked_for(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(BadCorpus, match="has no column 'text'; it has body"):
        Corpus(str(tmp_path / "c.parquet")).ranges()
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadCorpus, match="cannot read"):
        Corpus(str(tmp_path / "d.parquet")).ranges()


@pytest.mark.parametrize("n_bytes", [1, 60, 10**6])
def test_ranges_of_a_saved_data_set_are_its_split(tmp_path, ranges_of, n_bytes):
    import datasets

    of = datasets.Dataset.from_dict
    splits = {"train": of({"text": [f"text {i}" for i in range(9)]}), "test": of({"text": ["a", None, "b"]})}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for split in ("", "::test"):
        corpus = Corpus(f"hf:{tmp_path / 'saved'}{split}", skip_bad=True)
        ranges = ranges_of(corpus, n_bytes)
        assert len(ranges) >= {1: 3, 60: 1, 10**6: 1}[n_bytes]
        assert in_ranges(corpus, ranges) == as_a_whole(corpus)
    with pytest.raises(BadCorpus, match="cannot read the data set 'hf:"):
        Corpus(f"hf:{tmp_path / 'saved'}::absent").ranges()


@pytest.fixture
def write_repository(tmp_path):
    """A function that writes rows to a repository's files of one format, so many a file; its id."""

    def write(suffix, files):
        folder = tmp_path / f"repository{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for number, rows in enumerate(files):
            path = folder / f"train-{number:05d}-of-{len(files):05d}.{suffix}"
            lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
            if suffix == "parquet":
                parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
            else:
                path.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
        return f"hf:{folder}"

    return write


@pytest.mark.parametrize(("suffix", "n_ranges"), [("parquet", 6), ("jsonl", 3), ("json.gz", 3)])
def test_ranges_of_a_repository_are_its_files_or_their_row_groups(write_repository, ranges_of, suffix, n_ranges):
    texts = [["a", "b", "c"], ["d", "", "f"], ["g", "é 日本", "i"]]
    corpus = Corpus(write_repository(suffix, [[{"text": text} for text in file] for file in texts]))
    ranges = ranges_of(corpus, 1)
    assert len(ranges) == n_ranges
    assert in_ranges(corpus, ranges) == as_a_whole(corpus)
    names = [name for name, _ in as_a_whole(corpus)[0]]
    assert names == ["1:1", "1:2", "1:3", "2:1", "2:3", "3:1", "3:2", "3:3"]
    assert corpus.read(ranges[-1], 1).documents == [("3:3", "i") if suffix == "parquet" else ("3:1", "g")]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_names_of_their_own_stay_and_a_bad_row_has_its_place(write_repository, ranges_of, suffix):
    files = [
        [{"id": "x", "text": "a"}],
        [{"id": None, "text": "b"}, {"id": "y", "text": None}, {"id": "z", "text": "d"}],
    ]
    id_ = write_repository(suffix, files)
    corpus = Corpus(id_)
    ranges = ranges_of(corpus, 1)
    assert in_ranges(corpus, ranges) == as_a_whole(corpus)
    documents, _, problem = as_a_whole(corpus)
    assert documents == [("x", "a"), ("2:1", "b")]
    assert problem.startswith(f"row 2 of file 2 of {id_!r} has no text in its field 'text'; fields with text: 'id'")
    skipping = Corpus(id_, skip_bad=True)
    assert in_ranges(skipping, ranges) == as_a_whole(skipping)
    assert as_a_whole(skipping) == ([("x", "a"), ("2:1", "b"), ("z", "d")], 1, "")


def test_the_rows_of_a_repository_of_one_file_have_plain_numbers(write_repository, ranges_of):
    rows = [{"text": text} for text in "abc"]
    table, lines = (Corpus(write_repository(suffix, [rows])) for suffix in ("parquet", "jsonl"))
    assert in_ranges(table, ranges_of(table, 1)) == ([("1", "a"), ("2", "b"), ("3", "c")], 0, "")
    assert lines.ranges() is None  # one reader has it all: those who tokenise get its texts
    assert as_a_whole(lines) == as_a_whole(table)


def test_a_file_too_large_for_one_range_is_read_from_its_start(write_repository, ranges_of, monkeypatch):
    files = [[{"text": "a"}], [{"text": "b" * 50}]]
    monkeypatch.setattr(tables, "MAX_FILE_BYTES", 40)
    lines, table = (Corpus(write_repository(suffix, files)) for suffix in ("jsonl", "parquet"))
    assert lines.ranges() is None
    assert len(ranges_of(table, 1)) == 2
    assert as_a_whole(lines) == as_a_whole(table) == ([("1:1", "a"), ("2:1", "b" * 50)], 0, "")


def test_small_files_are_read_together_and_looked_for_once(write_repository, ranges_of, monkeypatch):
    import datasets

    looked_for, find = [], datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **k: looked_for.append(a) or find(*a, **k))
    corpus = Corpus(write_repository("jsonl", [[{"text": f"text {i}"}, {"id": "x", "text": "b"}] for i in range(12)]))
    ranges = ranges_of(corpus, 200)
    assert [(range_.file, len(range_.files)) for range_ in ranges] == [(1, 4), (5, 4), (9, 4)]
    looked_for.clear()
    whole = as_a_whole(corpus)
    assert len(looked_for) == 1
    assert in_ranges(corpus, ranges) == whole
    assert len(looked_for) == 2
    assert whole[0][-2:] == [("12:1", "text 11"), ("x", "b")]


@pytest.mark.parametrize("name", ["text", "json", "parquet"])
def test_what_names_a_format_is_no_data_set(tmp_path, monkeypatch, name):
    (tmp_path / "a.txt").write_text("what lies here")
    (tmp_path / "a.json").write_text('{"text": "what lies here"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCorpus, match=f"cannot read the data set 'hf:{name}'"):
        list(Corpus(f"hf:{name}").documents())


@pytest.mark.parametrize("id_", ["hf:", "hf::config", "hf:::test"])
def test_what_has_no_name_is_told(id_):
    for ask in (Corpus.ranges, Corpus.fingerprint, lambda corpus: list(corpus.documents())):
        with pytest.raises(BadCorpus, match=f"'{id_}' names no data set; give hf:NAME"):
            ask(Corpus(id_))


def test_splits_added_up_are_one_stream(tmp_path):
    for split in ("train", "test"):
        parquet.write_table(pyarrow.table({"text": [f"{split} {i}" for i in range(3)]}), tmp_path / f"{split}.parquet")
    corpus = Corpus(f"hf:{tmp_path}::train+test")
    assert corpus.ranges() is None
    assert corpus.fingerprint() == ""
    texts = [f"{split} {i}" for split in ("train", "test") for i in range(3)]
    assert as_a_whole(corpus)[0] == [(str(i), text) for i, text in enumerate(texts, 1)]


def test_files_that_a_card_names_elsewhere_count_for_the_fingerprint(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/away/*.parquet\n---\n"
    )
    corpus, found = Corpus(f"hf:{tmp_path / 'repository'}"), set()
    for texts in (["a"], ["b", "c"]):
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "away" / "x.parquet")
        assert [text for _, text in as_a_whole(corpus)[0]] == texts
        found.add(corpus.fingerprint())
    assert len(found) == 2


def test_bytes_of_a_column_are_text_where_they_can_be(tmp_path):
    table = pyarrow.table({"text": pyarrow.array(["é".encode(), b"\xff", b"c"], pyarrow.binary())})
    parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(BadCorpus, match=r"row 2 of .* is not UTF-8 in its field 'text' \(byte 0\)"):
        list(Corpus(str(tmp_path / "c.parquet")).documents())
    assert as_a_whole(Corpus(str(tmp_path / "c.parquet"), skip_bad=True)) == ([("1", "é"), ("3", "c")], 1, "")


def test_a_name_of_the_hub_is_no_file_that_happens_to_be_called_so(write_repository, tmp_path, monkeypatch):
    (tmp_path / "imdb").write_text("a file")
    monkeypatch.chdir(tmp_path)
    for anchored in (False, True):
        corpus = Corpus("hf:imdb")
        if anchored:
            corpus.anchor()
        with pytest.raises(BadCorpus, match="cannot read the data set 'hf:imdb'"):
            corpus.fingerprint()
    (tmp_path / "hf:folder").mkdir()
    (tmp_path / "hf:folder" / "a.md").write_text("text")
    assert as_a_whole(Corpus("hf:folder", path=tmp_path / "hf:folder"))[0] == [("a.md", "text")]


def test_a_file_of_a_repository_that_cannot_be_read_is_told(write_repository, ranges_of):
    corpus = Corpus(write_repository("parquet", [[{"text": "a"}], [{"text": "b"}]]))
    ranges = ranges_of(corpus, 1)
    second = Path(ranges[1].files[0])
    second.write_bytes(b"PAR1")
    assert "train-00001-of-00002.parquet" in in_ranges(corpus, ranges)[2]
    second.unlink()
    assert "train-00001-of-00002.parquet" in in_ranges(corpus, ranges)[2]
    with pytest.raises(BadCorpus, match="has no column 'body'; it has text"):
        list(Corpus(corpus.id, text_field="body").ranges())


def test_a_repository_of_a_relative_folder_is_found_from_elsewhere(write_repository, ranges_of, tmp_path, monkeypatch):
    whole = Corpus(write_repository("parquet", [[{"text": "a"}], [{"text": "b"}]]))
    monkeypatch.chdir(tmp_path)
    corpus = Corpus(f"hf:{Path(whole.id).name}")
    corpus.anchor()
    monkeypatch.chdir("/")
    assert as_a_whole(corpus) == as_a_whole(whole)
    assert corpus.fingerprint() == whole.fingerprint() != ""


# ---- Folders


@pytest.mark.parametrize(("n_bytes", "files"), [(1, [1, 1, 1, 1, 1]), (8, [2, 1, 2]), (10**6, [5])])
def test_ranges_of_a_folder_are_runs_of_its_files(tmp_path, ranges_of, n_bytes, files):
    for name, text in {"a": "four", "b/c": "", "b/d": "longer than 8", ".e": "no", "é\udcff": "x", "z": MARK}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    corpus = Corpus(str(tmp_path))
    ranges = ranges_of(corpus, n_bytes)
    assert [len(range_.files) for range_ in ranges] == files
    assert in_ranges(corpus, ranges) == as_a_whole(corpus)


# ---- What has none


def test_archives_pydocs_and_what_a_child_reads_have_no_ranges(tmp_path):
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    (tmp_path / "c.txt").write_text("a")
    for corpus in (
        Corpus(str(tmp_path / "c.jsonl.gz")),
        Corpus("pydocs"),
        CorpusElsewhere(str(tmp_path / "c.txt")),
    ):
        assert corpus.ranges() is None
    assert Corpus("pydocs").fingerprint() == ""


def test_what_cannot_be_is_told_when_ranges_are_asked_for(tmp_path):
    with pytest.raises(BadCorpus, match="there is no corpus"):
        Corpus(str(tmp_path / "none.txt")).ranges()
    with pytest.raises(InvalidArgument, match="max_documents is 0"):
        Corpus("pydocs", max_documents=0).ranges()
    with pytest.raises(BadCorpus, match="cannot read the data set 'hf:nobody/nothing'"):
        Corpus("hf:nobody/nothing").ranges()


# ---- Whether two machines reach the same


def test_a_fingerprint_is_of_what_is_there_not_of_where(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "_END_BYTES", 4)
    data = b"begin, middle, end"
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.txt").write_bytes(data)
    here, there = (Corpus(str(tmp_path / folder / "c.txt")) for folder in ("here", "there"))
    folders = Corpus(str(tmp_path / "here")), Corpus(str(tmp_path / "there"))
    assert here.fingerprint() == there.fingerprint()
    assert folders[0].fingerprint() == folders[1].fingerprint()
    for other in (b"Begin, middle, end", b"begin, middle, End", b"begin, middle , end"):
        (tmp_path / "there" / "c.txt").write_bytes(other)
        assert here.fingerprint() != there.fingerprint()
    assert folders[0].fingerprint() != folders[1].fingerprint()
    with pytest.raises(BadCorpus, match="there is no corpus"):
        Corpus(str(tmp_path / "c.txt")).fingerprint()


def test_a_fingerprint_with_times_tells_a_change_that_keeps_the_size(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"text")
    corpus = Corpus(str(tmp_path / "c.txt"))
    before = corpus.fingerprint(), corpus.fingerprint(times=True)
    os.utime(tmp_path / "c.txt", ns=(1, 1))
    assert corpus.fingerprint() == before[0]
    assert corpus.fingerprint(times=True) != before[1]
