import numpy as np

from polysem.server.corpus.documents import Document
from polysem.server.index.contexts import Contexts
from polysem.server.indexing.windows import Windowing, write
from polysem.server.model.loading import load

BOS = 256


def written(tmp_path, checkpoint, texts, windowing):
    tokenizer = load(str(checkpoint), "cpu").tokenizer
    write(tmp_path, [Document(f"d{i}", text) for i, text in enumerate(texts)], tokenizer, windowing)
    return Contexts(tmp_path), tokenizer


def test_bos_counts_in_the_length_and_documents_are_never_packed(tmp_path, checkpoint):
    found, tokenizer = written(tmp_path, checkpoint, ["abcdefg", "xy"], Windowing(4, "all", BOS))
    windows = [found.tokens(c).tolist() for c in range(len(found))]
    assert all(window[0] == BOS and len(window) <= 4 for window in windows)
    assert ["".join(tokenizer.texts(window[1:])) for window in windows] == ["abc", "def", "g", "xy"]
    assert [found.document(c) for c in range(4)] == ["d0", "d0", "d0", "d1"]
    assert found.starts.tolist() == [0, 3, 6, 0]
    assert found.lengths().tolist() == [4, 4, 2, 3]


def test_first_takes_each_documents_first_window_without_bos_if_told_so(tmp_path, checkpoint):
    found, tokenizer = written(tmp_path, checkpoint, ["abcdefg", "xy"], Windowing(4, "first", None))
    assert ["".join(tokenizer.texts(found.tokens(c).tolist())) for c in range(2)] == ["abcd", "xy"]


def test_a_special_tokens_name_in_a_text_is_ordinary_text(tmp_path, checkpoint):
    found, _ = written(tmp_path, checkpoint, ["a<|endoftext|>b"], Windowing(32, "first", BOS))
    assert np.count_nonzero(found.tokens(0) == BOS) == 1
    assert len(found.tokens(0)) == 1 + len("a<|endoftext|>b")


def test_token_texts_join_to_the_text_with_characters_at_their_last_token(checkpoint):
    tokenizer = load(str(checkpoint), "cpu").tokenizer
    ids = tokenizer.encode(["é日😀!"])[0]
    assert tokenizer.texts(ids) == ["", "é", "", "", "日", "", "", "", "😀", "!"]
    assert tokenizer.texts(ids[1:3]) == ["�", "�"]
    assert tokenizer.texts([BOS, *ids[:2]]) == ["<|endoftext|>", "", "é"]
    assert tokenizer.texts([]) == []
