"""Tokenizers of every kind give transformers' own ids and show the text, whatever was saved beside them, or say why."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model import tokenizer as ours
from polysem.server.model.loading import load

from . import tiny_families
from .tiny_families import TINY

TEXTS = ["the cat sat, café 😀", "  two  spaces ", "日本\n\tthe", "THE ﬁne\u0301 cat.", "", "\u200d", "a<x> b <x>"]


def bytes_of_gpt2() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: i for i, character in enumerate([*alphabet, "th"])}, [("t", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


def byte_fallback() -> Tokenizer:
    """As Llama's: SentencePiece's BPE, with bytes for what it does not know."""
    words = ["▁", "t", "h", "e", "c", "a", "▁t", "▁th", "▁the", "▁c", "▁ca", "▁cat"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return made


def unigram() -> Tokenizer:
    """As T5's: spaces are joined and characters composed, which no decoder undoes."""
    pieces = [("<unk>", -10.0), ("▁", -2.0), ("▁the", -3.0), ("cat", -3.0), ("▁cat", -2.5), ("s", -4.0), ("fi", -4.0)]
    made = Tokenizer(models.Unigram(pieces, 0, False))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def word_piece() -> Tokenizer:
    """As BERT's: lower case, without accents."""
    words = ["[UNK]", "the", "cat", "##s", "sat", ",", ".", "cafe", "fine", "a", "b", "<", ">", "x"]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    return made


def with_added_tokens() -> Tokenizer:
    made = bytes_of_gpt2()
    made.add_tokens([AddedToken("<x>", lstrip=True, rstrip=True), AddedToken("é!", normalized=False)])
    made.add_special_tokens(["<|end|>"])
    return made


KINDS = {made.__name__: made for made in (bytes_of_gpt2, byte_fallback, unigram, word_piece, with_added_tokens)}


@pytest.fixture(scope="module")
def gated(tmp_path_factory) -> Path:
    """A model with rows for 600 tokens."""
    tiny = TINY["llama"]
    tiny = tiny._replace(config=tiny.config | {"vocab_size": 600})
    return tiny_families.write(tmp_path_factory.mktemp("rows"), tiny)


def with_tokenizer(gated: Path, folder: Path, made: Tokenizer, **names: str) -> Path:
    """A copy of the model with that tokenizer."""
    shutil.copytree(gated, folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    return folder


def edit(folder: Path, change) -> None:
    """Of tokenizer.json."""
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    change(definition)
    path.write_text(json.dumps(definition))


def theirs(folder: Path, text: str) -> list[int]:
    """What transformers' own call gives, with BPE dropout off."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if getattr(tokenizer.backend_tokenizer.model, "dropout", None):
        tokenizer.backend_tokenizer.model.dropout = None
    arguments = {"add_special_tokens": False, "truncation": False, "padding": False, "split_special_tokens": True}
    return tokenizer(text, **arguments)["input_ids"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> ours.Tokenizer:
    return ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=KINDS[request.param]()))


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_ids_are_transformers_own(made, gated, tmp_path):
    folder = with_tokenizer(gated, tmp_path / "model", made())
    tokenizer = load(str(folder), "cpu").tokenizer
    assert tokenizer.encode(TEXTS) == [theirs(folder, text) for text in TEXTS]
    assert [pieces.ids for pieces in tokenizer.pieces(TEXTS)] == tokenizer.encode(TEXTS)


@pytest.mark.parametrize("text", [*TEXTS, "<|end|>é!<x>  <x>é!"])
def test_the_pieces_of_a_text_joined_are_the_text(kind, text):
    (pieces,) = kind.pieces([text])
    assert len(pieces.texts) == len(pieces.ids)
    assert "".join(pieces.texts) == (text if pieces.ids else "")


@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_the_pieces_of_any_text_joined_are_the_text(kind, text):
    (pieces,) = kind.pieces([text])
    assert "".join(pieces.texts) == (text if pieces.ids else "")


@pytest.mark.parametrize("text", TEXTS[:3])
def test_a_byte_fallback_decoder_gives_the_text_back(text):
    tokenizer = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=byte_fallback(), bos_token="<s>"))
    (pieces,) = tokenizer.pieces([text])
    assert tokenizer.texts(pieces.ids) == pieces.texts
    assert tokenizer.texts([1, *pieces.ids]) == ["<s>", *pieces.texts]


def test_what_goes_on_keeps_its_leading_space():
    tokenizer = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=byte_fallback()))
    (ids,) = tokenizer.encode(["the cat the"])
    assert tokenizer.texts(ids) == ["the", " cat", " the"]
    assert tokenizer.texts(ids[1:]) == ["cat", " the"]
    assert tokenizer.texts(ids[1:], continues=True) == [" cat", " the"]


def test_folded_case_and_swallowed_spaces_are_in_the_pieces():
    word, added = (
        ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=made())) for made in (word_piece, with_added_tokens)
    )
    assert word.pieces(["The CATS  sat"])[0].texts == ["The", " CAT", "S", "  sat"]
    assert added.pieces(["a  <x> b"])[0].texts == ["a", "  <x>", " b"]
    assert added.texts(added.encode(["a é! b"])[0]) == ["a", " ", "é!", " ", "b"]


# ---- Texts without tokens


def words_alone() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"text": 0, "the": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def letters_alone() -> Tokenizer:
    return Tokenizer(models.Unigram([(letter, -1.0) for letter in "text he"]))


@pytest.mark.parametrize("made", [words_alone, letters_alone])
def test_a_text_that_has_no_tokens_is_told(made):
    """Without a token for what they do not know, such tokenizers raise."""
    tokenizer = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=made()))
    known = tokenizer.encode(["the text"])[0]
    assert known
    for ask in (tokenizer.encode, tokenizer.pieces):
        with pytest.raises(InvalidArgument, match="tokenizer cannot read the text 'the café': ") as raised:
            ask(["the text", "the café", "the"])
        assert raised.value.field == "text"


def test_a_build_over_such_a_text_says_so_and_leaves_nothing_behind(gated, tmp_path):
    model = load(str(with_tokenizer(gated, tmp_path / "model", words_alone())), "cpu")
    (tmp_path / "c.txt").write_text("the text\nthe " + "café " * 20 + "\n")
    with pytest.raises(InvalidArgument, match=r"cannot read the text 'the café café .*…': WordLevel error"):
        builder.build(model, Corpus(str(tmp_path / "c.txt")), tmp_path / "index", builder.Recipe())
    assert not (tmp_path / "index.tmp").exists()


# ---- What was saved beside the definition


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("truncation", {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}),
        ("truncation", {"direction": "Left", "max_length": 1, "strategy": "LongestFirst", "stride": 0}),
        (
            "padding",
            {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3}
            | {"pad_type_id": 0, "pad_token": "$"},
        ),
        (
            "padding",
            {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 3}
            | {"pad_type_id": 0, "pad_token": "$"},
        ),
        ("dropout", 0.5),
        ("dropout", 1.0),
    ],
)
def test_a_saved_state_changes_nothing(gated, tmp_path, key, value):
    folder = with_tokenizer(gated, tmp_path / "model", bytes_of_gpt2())
    plain = load(str(folder), "cpu").tokenizer
    edit(folder, lambda d: (d["model"] if key == "dropout" else d).update({key: value}))
    tokenizer = load(str(folder), "cpu").tokenizer
    texts = ["the thing that the cat thought", "a", "the the"]
    assert tokenizer.encode(texts) == plain.encode(texts) == [theirs(folder, text) for text in texts]
    assert (tokenizer.sha256 == plain.sha256) == (key != "padding")  # transformers makes its token a special one


# ---- BOS


@pytest.mark.parametrize(
    ("made", "names", "bos_id", "adds_bos"),
    [
        (byte_fallback, {"bos_token": "<s>"}, 1, True),
        (byte_fallback, {}, 1, True),  # its own call adds it, whatever it is called
        (bytes_of_gpt2, {}, None, False),
        (bytes_of_gpt2, {"bos_token": "<|endoftext|>"}, 257, False),
    ],
)
def test_bos_is_as_the_tokenizers_own_call_has_it(made, names, bos_id, adds_bos, gated, tmp_path):
    tokenizer = load(str(with_tokenizer(gated, tmp_path / "model", made(), **names)), "cpu").tokenizer
    assert (tokenizer.bos_id, tokenizer.adds_bos) == (bos_id, adds_bos)


# ---- Ids


def test_ids_with_a_gap_are_read(gated, tmp_path):
    folder = with_tokenizer(gated, tmp_path / "model", bytes_of_gpt2())
    edit(folder, lambda d: d["model"]["vocab"].update({"th": 599}))
    tokenizer = load(str(folder), "cpu").tokenizer
    assert tokenizer.n_tokens == 600
    assert tokenizer.texts(tokenizer.encode(["the"])[0]) == ["th", "e"]


@pytest.mark.parametrize("id_", [600, 2**31, 2**32 - 1])
def test_an_id_that_the_model_has_no_row_for_is_refused_where_a_text_can_have_it(gated, tmp_path, id_):
    folder = with_tokenizer(gated, tmp_path / "model", bytes_of_gpt2())
    edit(folder, lambda d: d["model"]["vocab"].update({"th": id_}))
    with pytest.raises(FailedPrecondition, match=rf"'th' with the id {id_}, and the model rows for 600$"):
        load(str(folder), "cpu")


def test_a_token_that_no_text_can_have_needs_no_row(gated, tmp_path):
    """Special tokens are ordinary text in a text, and no merge makes the other."""
    folder = with_tokenizer(gated, tmp_path / "model", bytes_of_gpt2())

    def change(definition):
        definition["model"]["vocab"]["never"] = 700
        definition["added_tokens"].append(
            {"id": 800, "content": "<|pad|>", "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
        )

    edit(folder, change)
    tokenizer = load(str(folder), "cpu").tokenizer
    assert tokenizer.n_tokens == 259  # the library gives <|pad|> the next id that is free
    assert max(tokenizer.encode(["never <|pad|>"])[0]) < 257


def test_an_added_token_without_a_row_is_refused():
    with pytest.raises(FailedPrecondition, match="260 tokens, 'é!' with the id 258, and the model rows for 257"):
        ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=with_added_tokens()), 257)


def test_an_empty_tokenizer_is_refused(gated, tmp_path):
    folder = with_tokenizer(gated, tmp_path / "model", Tokenizer(models.BPE({}, [])))
    with pytest.raises(FailedPrecondition, match="no tokenizer that can be read"):
        load(str(folder), "cpu")


def test_a_damaged_tokenizer_is_refused(gated, tmp_path):
    folder = with_tokenizer(gated, tmp_path / "model", bytes_of_gpt2())
    for text in ("{", "[]", '{"model": 3}', "[" * 100_000):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(FailedPrecondition, match="no tokenizer that can be read") as caught:
            load(str(folder), "cpu")
        assert len(caught.value.message.splitlines()) == 1


def test_a_tokenizer_that_runs_in_python_only_is_refused(gated, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(gated, folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    (folder / "vocab.json").write_text(json.dumps({"a</w>": 0, "<unk>": 1, "text</w>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\nt e\n")
    with pytest.raises(FailedPrecondition, match="runs in Python only"):
        load(str(folder), "cpu")


def test_a_vocabulary_of_262144_tokens_is_read(tmp_path):
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"{i:x}" for i in range(0x10000, 0x10000 + 261_888))]
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="!"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=made), 262_144)
    assert tokenizer.n_tokens == 262_144
    assert tokenizer.encode(["10000 4feff"]) == [[256, 262_143]]


def test_tokens_alone_have_their_leading_space_and_parts_of_characters_are_bytes():
    """é is C3 A9; 日 E6 97 A5."""
    plain = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=with_added_tokens()))
    (ids,) = plain.encode([" thé<x>"])
    assert plain.alone(ids) == [" ", "th", "<0xC3>", "<0xA9>", "<x>"]
    fallback = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=byte_fallback()))
    (ids,) = fallback.encode(["the cat日"])
    assert fallback.alone(ids) == [" the", " cat", "<0xE6>", "<0x97>", "<0xA5>"]
    assert fallback.alone([3 + ord("A"), 4_000]) == ["A", "<4000>"]
    words = ours.Tokenizer(PreTrainedTokenizerFast(tokenizer_object=word_piece()))
    assert words.alone(words.encode(["the cats"])[0]) == [" the", " cat", "s"]
