"""The embedded model as shipped: its size, that it loads, that it has learned, and its card."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

import polysem.server.demo
from polysem.server.corpus import pydocs
from polysem.server.demo import train

FOLDER = Path(polysem.server.demo.__file__).parent / "model"
N_DOCUMENTS = 60


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(FOLDER, use_safetensors=True)


@pytest.fixture(scope="module")
def held_out(tokenizer) -> train.Corpus:
    """Documents that training has not seen."""
    _, texts = train.split(pydocs.documents())
    return train.read(tokenizer, texts[:N_DOCUMENTS], context_length=128)


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


def test_it_is_a_small_gpt2_that_loads_as_float32(model, tokenizer):
    config = model.config
    assert config.model_type == "gpt2"
    assert config.activation_function == "gelu_new"
    assert (config.n_layer, config.n_embd, config.n_positions) == (4, 256, 128)
    assert config.vocab_size == len(tokenizer) == 4096
    assert model.num_parameters() < 6_000_000
    assert model.dtype == torch.float32
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_bos_is_the_same_in_model_and_tokenizer(model, tokenizer):
    assert tokenizer.bos_token == tokenizer.eos_token == train.END_OF_TEXT
    assert model.config.bos_token_id == model.config.eos_token_id == tokenizer.bos_token_id


def test_it_predicts_unseen_python_far_better_than_token_frequencies(model, held_out):
    frequencies = train.unigram_loss(held_out, held_out, vocab_size=4096)  # its own: the best case for the baseline
    measured = train.loss(model, held_out)
    assert measured.nats_per_token < 0.65 * frequencies.nats_per_token
    assert measured.bits_per_byte < 0.65 * frequencies.bits_per_byte


def test_it_continues_python(model, tokenizer):
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode("def __init__(self")]])
    with torch.inference_mode():
        likeliest = model(input_ids=ids).logits[0, -1].topk(3).indices
    assert any(tokenizer.decode([token]).startswith((",", "):", ")")) for token in likeliest.tolist())


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "def f(x):\n\treturn x  # ends in spaces   \n\n",
        "naïve 日本語 🦎👩‍🔬 \x00 \u200b ﬁ",
        " don't , it 's .",
        "<|endoftext|> and <|endoftext|><|endoftext|> are ordinary text",
    ],
)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_card_states_the_facts(model):
    card = (FOLDER / "README.md").read_text("utf-8")
    facts = ("pydocs", "seed", "polysem.server.demo.train", "minutes", "held-out", "unigram", "bits a byte", "epochs")
    assert [fact for fact in facts if fact not in card] == []
    assert f"{model.num_parameters():,}" in card


# The trainer's own parts


def test_windows_begin_with_bos_and_hold_one_document(tokenizer):
    texts = ["alpha " * 100, "beta"]
    corpus = train.read(tokenizer, texts, context_length=16)
    assert all(window[0] == tokenizer.bos_token_id and 2 <= len(window) <= 16 for window in corpus.windows)
    rejoined = [token for window in corpus.windows for token in window[1:]]
    assert rejoined == [token for text in texts for token in tokenizer.encode(text)]
    assert (corpus.n_documents, corpus.n_tokens, corpus.n_bytes) == (2, len(rejoined), 604)


def test_a_batch_stays_within_its_tokens_and_an_epoch_is_every_window_once():
    windows = [[0] + [i] * (1 + i % 50) for i in range(1, 700)]
    corpus = train.Corpus(windows, len(windows), 0, 0)
    epoch = list(train.batches(corpus, 256, torch.Generator().manual_seed(0)))
    assert all(len(batch) * max(map(len, batch)) <= 256 for batch in epoch)
    assert sorted(window for batch in epoch for window in batch) == sorted(windows)


def test_padding_adds_nothing_to_the_loss(model):
    short, long = [0, 50, 60], [0, 70, 80, 90, 100, 110]
    with torch.inference_mode():
        together, n_together = train.summed_loss(model, [short, long])
        alone = [train.summed_loss(model, [window]) for window in (short, long)]
    assert n_together == sum(n for _, n in alone) == 7
    torch.testing.assert_close(together, alone[0][0] + alone[1][0])


def test_pieces_of_one_text_are_held_out_together():
    assert train.is_held_out("json/dumps") == train.is_held_out("json/dumps#2")
    share = sum(train.is_held_out(f"module/function_{i}") for i in range(10_000)) / 10_000
    assert share == pytest.approx(train.N_HELD_OUT_IN_1000 / 1000, abs=0.01)


def test_a_short_training_run_writes_a_model_that_has_learned(tmp_path, monkeypatch):
    texts = [(f"m/f_{i}", f"def f_{i}(self):\n    return self.value + {i}\n") for i in range(200)]
    monkeypatch.setattr(pydocs, "documents", lambda: iter(texts))
    recipe = train.Recipe(
        epochs=3, vocab_size=300, context_length=32, d_model=16, n_layers=1, n_heads=2, warmup_steps=2
    )
    train.train(recipe, tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, use_safetensors=True)
    assert model.config.n_layer == 1
    assert AutoTokenizer.from_pretrained(tmp_path).bos_token_id == model.config.bos_token_id
    assert "as stored" in (tmp_path / "README.md").read_text("utf-8")
