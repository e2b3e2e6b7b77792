"""Parquet with what Python cannot hold or read: told with row and column, skipped where asked; also by a child."""

import pyarrow
import pytest
from pyarrow import parquet

from polysem.proto.errors import BadCorpus
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import Corpus

TEXT = ["one", "two", "three"]
BAD = pyarrow.Array.from_buffers(  # "ok", then bytes that are no UTF-8, then "z"
    pyarrow.string(),
    3,
    [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0\5\0\0\0"), pyarrow.py_buffer(b"ok\xff\xfez")],
)

KINDS = {  # as a writer may store it
    "string": BAD,
    "large_string": BAD.view(pyarrow.binary()).cast(pyarrow.large_binary()).view(pyarrow.large_string()),
    "string_view": BAD.view(pyarrow.binary()).cast(pyarrow.binary_view()).view(pyarrow.string_view()),
    "binary": BAD.view(pyarrow.binary()),
    "dictionary": pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 2], pyarrow.int8()), BAD),
    "dictionary of large_string": pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0, 1, 2]), BAD.view(pyarrow.binary()).cast(pyarrow.large_binary()).view(pyarrow.large_string())
    ),
}


@pytest.fixture(params=[Corpus, CorpusElsewhere])
def read(request, tmp_path):
    """A function that writes columns and reads them as a corpus: names, texts, how many were left out."""

    def read(skip_bad=False, **columns):
        path = tmp_path / "c.parquet"
        parquet.write_table(pyarrow.table(columns), path)
        corpus = request.param(str(path), skip_bad=skip_bad)
        documents = list(corpus.documents())
        return [one.name for one in documents], [one.text for one in documents], corpus.n_skipped

    return read


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_is_no_utf8_is_told_with_row_and_column(read, kind):
    with pytest.raises(BadCorpus, match=r"row 2 of '.*' is not UTF-8 in its field 'text' \(byte 0\)"):
        read(text=KINDS[kind])
    assert read(skip_bad=True, text=KINDS[kind]) == (["1", "3"], ["ok", "z"], 1)


def test_of_two_columns_of_one_name_neither_is_read(tmp_path):
    path = tmp_path / "twice.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["text", "text"]), path)
    for skip_bad in (False, True):
        with pytest.raises(BadCorpus, match="has several columns 'text'; give each a name of its own"):
            list(Corpus(str(path), skip_bad=skip_bad).documents())


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_that_is_no_utf8_is_told_with_row_and_column(read, kind):
    with pytest.raises(BadCorpus, match=r"row 2 of '.*' is not UTF-8 in its field 'id' \(byte 0\)"):
        read(text=TEXT, id=KINDS[kind])
    assert read(skip_bad=True, text=TEXT, id=KINDS[kind])[0] == ["ok", "z"]


def test_every_row_that_shares_a_bad_value_of_a_dictionary_is_told_and_left_out(read):
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, None, 2, 1, 0, 1]), BAD)
    with pytest.raises(BadCorpus, match=r"row 2 of '.*' has no text in its field 'text'"):
        read(text=text)
    assert read(skip_bad=True, text=text) == (["1", "3", "5"], ["ok", "z", "ok"], 3)


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (pyarrow.array([b"k0", b"k1", "é".encode()]), ["k0", "k1", "é"]),
        (pyarrow.array(["a", "b", None]), ["a", "b", "3"]),
        (pyarrow.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pyarrow.array(["a", "b", "c"], pyarrow.large_string()), ["a", "b", "c"]),
        (pyarrow.array([1, 2, None]), ["1", "2", "3"]),
        (pyarrow.array([2**63 - 1, 0, -1]), ["9223372036854775807", "0", "-1"]),
        (
            pyarrow.array([10**18, 0, None], pyarrow.timestamp("ms")),
            ["1000000000000000000", "1970-01-01 00:00:00", "3"],
        ),
        (pyarrow.array([2**62, 1, 2], pyarrow.duration("s")), ["4611686018427387904", "0:00:01", "0:00:02"]),
        (pyarrow.array([[1], [2], []]), ["[1]", "[2]", "[]"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_ids_of_every_kind_name_their_documents(read, ids, names):
    assert read(text=TEXT, id=ids) == (names, TEXT, 0)


def test_an_id_that_nothing_can_print_is_told(read):
    ids = pyarrow.array([[10**18], [0], None], pyarrow.list_(pyarrow.timestamp("ms")))
    with pytest.raises(BadCorpus, match=r"row 1 of '.*' has an id of type list<.*> that cannot be read"):
        read(text=TEXT, id=ids)
    assert read(skip_bad=True, text=TEXT, id=ids)[2] == 1


def test_a_document_of_white_space_is_none(read):
    assert read(text=["a", " \n\t", "\u3000", "b"]) == (["1", "4"], ["a", "b"], 0)
    with pytest.raises(BadCorpus, match="has no document with text in it"):
        read(text=[" ", "\n"])
