"""Texts to tokens and back, over tokens that are single bytes and tokens that are words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.server.model.loading import DEMO_FOLDER, load

texts = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def demo_tokenizer():
    """A byte-level BPE with merges, as GPT-2's."""
    from transformers import AutoTokenizer

    from polysem.server.model.tokenizer import Tokenizer

    return Tokenizer(AutoTokenizer.from_pretrained(DEMO_FOLDER))


@pytest.fixture(scope="module", params=["bytes", "merges"])
def tokenizer(request, small_model, demo_tokenizer):
    return small_model.tokenizer if request.param == "bytes" else demo_tokenizer


@given(text=texts)
def test_the_texts_of_tokens_joined_are_the_text(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    got = tokenizer.texts(ids)
    assert len(got) == len(ids)
    assert "".join(got) == text


def test_a_character_over_several_tokens_stands_at_its_last(small_model):
    tokenizer = small_model.tokenizer  # a token a byte
    (ids,) = tokenizer.encode(["aé😀b"])
    assert tokenizer.texts(ids) == ["a", "", "é", "", "", "", "😀", "b"]


def test_bytes_that_are_no_text_become_the_replacement_character(small_model):
    tokenizer = small_model.tokenizer
    (ids,) = tokenizer.encode(["😀b"])
    assert tokenizer.texts(ids[:2]) == ["", "�"]  # cut within a character
    assert "".join(tokenizer.texts(ids[1:])) == "���b"
    assert len(tokenizer.texts(ids[1:])) == 4


def test_no_tokens_are_no_texts(tokenizer):
    assert tokenizer.encode([""]) == [[]]
    assert tokenizer.encode([]) == []
    assert tokenizer.texts([]) == []


def test_a_literal_endoftext_is_ordinary_text(tokenizer):
    (ids,) = tokenizer.encode(["a<|endoftext|>b"])
    assert tokenizer.bos_id not in ids
    assert len(ids) > 3
    assert "".join(tokenizer.texts(ids)) == "a<|endoftext|>b"


def test_bos_shows_its_name(tokenizer):
    (ids,) = tokenizer.encode(["é"])
    assert "".join(tokenizer.texts([tokenizer.bos_id, *ids])) == "<|endoftext|>é"


def test_no_bos_is_added(tokenizer):
    (ids,) = tokenizer.encode(["word"])
    assert tokenizer.bos_id not in ids


@given(st.lists(texts, max_size=5))
def test_texts_encode_the_same_together_and_alone(tokenizer, many):
    assert tokenizer.encode(many) == [tokenizer.encode([text])[0] for text in many]


def test_the_hash_tells_tokenizers_apart(small_model, demo_tokenizer):
    assert small_model.tokenizer.sha256 != demo_tokenizer.sha256
    assert small_model.tokenizer.sha256 == small_model.tokenizer.sha256


def test_a_tokenizer_without_bos_says_so(make_checkpoint):
    assert load(str(make_checkpoint("nobos", bos=False)), "cpu").tokenizer.bos_id is None
