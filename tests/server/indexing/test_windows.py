"""Windows of documents at their edges: lengths of one and two, names of any letters, any text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.server.corpus.documents import Document
from polysem.server.index.contexts import Contexts
from polysem.server.indexing.windows import Windowing, write

BOS = 256


@pytest.fixture(scope="module")
def made(small_model, tmp_path_factory):
    """A function that writes documents as contexts (a token a byte) and opens them."""

    def make(documents, length, windows="first", bos_id=BOS):
        folder = tmp_path_factory.mktemp("contexts")
        named = [Document(f"d{i}", text) if isinstance(text, str) else text for i, text in enumerate(documents)]
        write(folder, named, small_model.tokenizer, Windowing(length, windows, bos_id))
        return Contexts(folder)

    return make


@pytest.fixture(scope="module")
def shown(small_model):
    """A function that writes contexts out: BOS as ^, each other token as its text."""

    def show(found):
        windows = (small_model.tokenizer.texts(found.tokens(c).tolist()) for c in range(len(found)))
        return ["".join(window).replace("<|endoftext|>", "^") for window in windows]

    return show


@pytest.mark.parametrize(
    ("length", "bos_id", "windows"),
    [(1, None, ["a", "b", "c", "x"]), (2, BOS, ["^a", "^b", "^c", "^x"]), (2, None, ["ab", "c", "x"])],
)
def test_the_shortest_windows_hold_one_token(made, shown, length, bos_id, windows):
    assert shown(made(["abc", "x"], length, "all", bos_id)) == windows


def test_a_document_that_just_fits_is_one_window(made, shown):
    assert shown(made(["abcd"], 5, "all")) == ["^abcd"]
    assert shown(made(["abcde"], 5, "all")) == ["^abcd", "^e"]


def test_documents_without_tokens_are_left_out(made, shown):
    found = made(["", "a", "", "b"], 5)
    assert shown(found) == ["^a", "^b"]
    assert [found.document(c) for c in range(2)] == ["d1", "d3"]
    assert found.n_documents == 2


def test_names_keep_their_letters(made):
    names = ["", "日本 😀", "a/b\0c", "x" * 512]
    found = made([Document(name, "ab") for name in names], 2, "all")
    assert [found.document(c) for c in range(8)] == [name for name in names for _ in "ab"]


def test_lengths_can_be_asked_of_some(made):
    found = made(["abc", "a", "ab"], 9)
    assert int(found.lengths(1)) == 2
    assert found.lengths(slice(1, 3)).tolist() == [2, 3]
    assert found.lengths(np.array([2, 0])).tolist() == [3, 4]
    assert found.lengths().dtype == np.int64


def test_many_documents_are_tokenised_in_batches(made, shown):
    texts = [f"{i}" for i in range(600)]
    assert shown(made(texts, 9)) == [f"^{text}" for text in texts]


@given(
    texts=st.lists(st.text("abé😀", max_size=20), min_size=1, max_size=8).filter(any),
    length=st.integers(2, 12),
    windows=st.sampled_from(["first", "all"]),
    bos_id=st.sampled_from([BOS, None]),
)
def test_the_windows_of_a_document_are_its_tokens(made, small_model, texts, length, windows, bos_id):
    found = made(texts, length, windows, bos_id)
    room = length - (bos_id is not None)
    got = {}
    for c in range(len(found)):
        tokens = found.tokens(c).tolist()
        assert len(tokens) == found.lengths(c) <= length
        if bos_id is not None:
            assert tokens.pop(0) == BOS
        assert found.starts[c] == len(got.setdefault(found.document(c), []))
        got[found.document(c)] += tokens
    for i, (text, ids) in enumerate(zip(texts, small_model.tokenizer.encode(texts), strict=True)):
        want = ids if windows == "all" else ids[:room]
        assert got.get(f"d{i}", []) == want, text
    assert found.n_tokens == sum(map(len, got.values())) + len(found) * (bos_id is not None)
