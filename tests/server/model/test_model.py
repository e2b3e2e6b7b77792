"""Loading and reading a GPT-2: what is accepted, what is refused in one sentence, and what the weights' hash covers."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file

from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownModel
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.model.loading import load

from .spoil import TOKENS, as_gpt2_model, change_config, change_weights, read, refusal

GPT2_TOKENIZER = Path(__file__).parents[4] / "shared" / "gpt2-tokenizer"
NAMES = ("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight")


# ---- What is read


def test_info_describes_the_checkpoint(small_model, checkpoint):
    info = small_model.info
    assert info.id == str(checkpoint)
    assert (info.n_layers, info.n_neurons_per_layer, info.d_model, info.context_length) == (2, 96, 24, 32)


def test_layers_are_shown_in_order_with_their_shapes(small_model):
    for residual, activations in read(small_model, TOKENS):
        assert residual.shape == (2, 7, 24)
        assert activations.shape == (2, 7, 96)


def test_what_is_shown_follows_from_itself(small_model):
    neurons = torch.arange(96)
    for mode in ("folded", "raw"):
        for layer, (residual, activations) in enumerate(read(small_model, TOKENS)):
            weights, offsets, *_ = small_model.embedding_weights(layer, neurons, EmbeddingChoice("neuron", mode))
            e = small_model.normalise(layer, residual)[:, :, None] * weights + (0 if offsets is None else offsets)
            mlp = small_model.mlps[layer]
            left_out = mlp.weights @ mlp.beta if mode == "folded" else 0  # by folding
            pre = e.sum(dim=-1) + mlp.biases + left_out
            assert_allclose(activations, torch.nn.functional.gelu(pre, approximate="tanh"), atol=1e-5)


def test_reading_ends_at_the_last_layer_that_is_wanted(small_model):
    seen = []
    small_model.read(TOKENS, lambda layer, _residual, a: seen.append((layer, a)), last_layer=0)
    ((layer, a),) = seen
    assert layer == 0
    assert torch.equal(a, read(small_model, TOKENS)[0][1])


@pytest.mark.parametrize("n_before", [0, 1, 4, 6])
def test_tokens_that_all_rows_begin_with_can_be_read_once(small_model, n_before):
    tokens = torch.cat([TOKENS[:1, :n_before].expand(2, -1), TOKENS[:, n_before:]], dim=1)
    for last_layer in (0, 1):
        past = small_model.past(tokens[0, :n_before], last_layer)
        seen = []
        small_model.read(tokens[:, n_before:], lambda *shown, seen=seen: seen.append(shown), last_layer, past)
        whole = read(small_model, tokens)
        assert [layer for layer, _, _ in seen] == list(range(last_layer + 1))
        for layer, residual, a in seen:
            assert_allclose(residual, whole[layer][0][:, n_before:], atol=1e-5)
            assert_allclose(a, whole[layer][1][:, n_before:], atol=1e-5)


def test_nothing_is_shown_after_the_visitor_left(small_model):
    seen = read(small_model, TOKENS)
    small_model.read(TOKENS, None)
    assert len(seen) == 2


def test_padding_on_the_right_changes_nothing_before_it(small_model):
    for filler in (0, 256):
        padded = torch.cat([TOKENS, torch.full((2, 9), filler)], dim=1)
        for (r, a), (padded_r, padded_a) in zip(read(small_model, TOKENS), read(small_model, padded), strict=True):
            assert_allclose(padded_r[:, :7], r, atol=1e-5)
            assert_allclose(padded_a[:, :7], a, atol=1e-5)


def test_a_later_token_changes_nothing_before_it(small_model):
    changed = TOKENS.clone()
    changed[:, 5] = 99
    for (r, a), (other_r, other_a) in zip(read(small_model, TOKENS), read(small_model, changed), strict=True):
        assert_allclose(other_a[:, :5], a[:, :5], atol=1e-5)
        assert not torch.allclose(other_r[:, 5:], r[:, 5:], atol=1e-2)


def test_bfloat16_is_float32_but_for_its_precision(small_model, checkpoint):
    narrow = load(str(checkpoint), "cpu", "bfloat16")
    assert narrow.dtype == "bfloat16"
    for (_, a), (_, narrow_a) in zip(read(small_model, TOKENS), read(narrow, TOKENS), strict=True):
        assert 1e-4 < (a - narrow_a).abs().max() < 0.05 * a.abs().max()


@pytest.mark.parametrize(
    "config",
    [
        {"n_inner": 37},
        {"n_layer": 1, "n_embd": 15, "n_head": 5, "n_positions": 7, "n_inner": 5},
        {"n_layer": 3, "n_embd": 14, "n_head": 1, "n_positions": 9, "layer_norm_epsilon": 1e-2},
        {"activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    ],
    ids=lambda config: " ".join(map(str, config)),
)
def test_sizes_and_settings_are_the_checkpoints_own(make_checkpoint, config):
    """Held against Hugging Face: its last hidden state is the last layer's residual and MLP output, normalised."""
    from transformers import GPT2Model

    folder = make_checkpoint("sizes", **config)
    loaded, theirs = load(str(folder), "cpu"), GPT2Model.from_pretrained(folder)
    residual, activations = read(loaded, TOKENS)[-1]
    assert loaded.info.n_neurons_per_layer == config.get("n_inner", 4 * theirs.config.n_embd) == activations.shape[-1]
    assert loaded.info.context_length == theirs.config.n_positions
    with torch.no_grad():
        hidden = theirs.ln_f(residual + theirs.h[-1].mlp.c_proj(activations))
        assert_allclose(hidden, theirs(TOKENS).last_hidden_state, atol=1e-5)


def test_gpt2s_own_tokenizer_is_read(tmp_path):
    if not GPT2_TOKENIZER.is_dir():
        pytest.skip("GPT-2's tokenizer is not beside the project")
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(n_embd=4, n_head=1, n_layer=1, n_positions=16)).save_pretrained(tmp_path)
    for file in GPT2_TOKENIZER.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    tokenizer = load(str(tmp_path), "cpu").tokenizer
    assert (tokenizer.bos_id, tokenizer.n_tokens) == (50256, 50257)
    assert tokenizer.encode(["Hello world", "", " a"]) == [[15496, 995], [], [257]]
    (ids,) = tokenizer.encode(["<|endoftext|> café 日本 😀"])
    assert 50256 not in ids
    assert tokenizer.texts([50256]) == ["<|endoftext|>"]
    assert "".join(tokenizer.texts(ids)) == "<|endoftext|> café 日本 😀"


# ---- What the hash covers


def test_the_hash_does_not_depend_on_the_dtype_asked(small_model, checkpoint):
    assert load(str(checkpoint), "cpu", "bfloat16").info.sha256 == small_model.info.sha256


def test_the_hash_and_the_activations_do_not_depend_on_the_layout(small_model, folder):
    assert any(name.startswith("transformer.") for name in load_file(folder / "model.safetensors"))
    change_weights(folder, as_gpt2_model)
    change_config(folder, architectures=["GPT2Model"])
    loaded = load(str(folder), "cpu")
    assert loaded.info.sha256 == small_model.info.sha256
    for (_, a), (_, other) in zip(read(small_model, TOKENS), read(loaded, TOKENS), strict=True):
        assert torch.equal(a, other)


def test_one_changed_weight_changes_the_hash(small_model, folder):
    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["transformer.h.1.mlp.c_fc.weight"][3, 5] += 1e-6
        return weights

    change_weights(folder, change)
    assert load(str(folder), "cpu").info.sha256 != small_model.info.sha256


def test_weights_stored_as_float16_are_read_in_float32(small_model, folder):
    change_weights(folder, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    loaded = load(str(folder), "cpu")
    assert loaded.info.sha256 != small_model.info.sha256  # other numbers
    for (_, a), (residual, half_a) in zip(read(small_model, TOKENS), read(loaded, TOKENS), strict=True):
        assert_allclose(half_a, a, atol=0.02)
        assert not torch.equal(residual, residual.half().float())


# ---- What is refused


def test_pickled_weights_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refusal(folder, FailedPrecondition)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "weights" in refusal(folder, FailedPrecondition)


def test_truncated_weights_are_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "weights" in refusal(folder, FailedPrecondition)


@pytest.mark.parametrize("missing", ["h.1.mlp.c_fc.weight", "wte.weight", "h.0.ln_2.bias"])
def test_a_missing_weight_is_refused(folder, missing):
    change_weights(folder, lambda weights: {n: t for n, t in weights.items() if not n.endswith(missing)})
    assert missing in refusal(folder, FailedPrecondition)


def test_weights_of_other_sizes_than_the_config_says_are_refused(folder):
    change_config(folder, n_inner=50)
    assert "weights" in refusal(folder, FailedPrecondition)


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden": 3}'])
def test_a_config_that_names_no_model_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder) in refusal(folder, UnknownModel)


def test_a_folder_without_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refusal(folder, FailedPrecondition)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder):
    def fewer(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return weights | {"transformer.wte.weight": weights["transformer.wte.weight"][:200]}

    change_weights(folder, fewer)
    change_config(folder, vocab_size=200, bos_token_id=199, eos_token_id=199)
    message = refusal(folder, FailedPrecondition)
    assert "257" in message
    assert "200" in message


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "./nowhere",
        "/nowhere/at/all",
        "~/nowhere",
        "a/b/c",
        "no-such-model",
        "nobody/no-such-model",
        "..",
        "a b",
    ],
)
def test_an_unknown_name_is_told_at_once_and_by_name(name):
    load("demo", "cpu")  # what is imported on first use is not what is timed
    begun = time.monotonic()
    assert repr(name) in refusal(name, UnknownModel)
    assert time.monotonic() - begun < 5


def test_a_file_and_an_empty_folder_are_no_models(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    refusal(tmp_path / "file", UnknownModel)
    assert "config.json" in refusal(tmp_path / "empty", UnknownModel)


def test_an_unknown_dtype_is_refused(checkpoint):
    assert "'float64'" in refusal(checkpoint, InvalidArgument, dtype="float64")


@pytest.mark.parametrize("device", ["gpu", "mps", "cpu:x", "cuda:99", ""])
def test_an_unknown_device_is_refused(checkpoint, device):
    assert repr(device) in refusal(checkpoint, InvalidArgument, device=device)


# ---- x̂


def test_xhat_has_mean_0_and_variance_1(small_model):
    for layer, (residual, _) in enumerate(read(small_model, TOKENS)):
        xhat = small_model.normalise(layer, residual).numpy()
        assert_allclose(xhat.mean(axis=-1), 0, atol=1e-6)
        assert_allclose(xhat.var(axis=-1), 1, atol=1e-3)  # epsilon


def test_folded_pre_mlp_embedding_is_xhat_itself(small_model):
    weights, offsets, *_ = small_model.embedding_weights(1, torch.arange(5), EmbeddingChoice("pre_mlp", "folded"))
    assert offsets is None
    assert torch.equal(weights, torch.ones(5, 24))


def test_a_neuron_is_a_column_of_the_input_matrix(small_model, checkpoint):
    stored = {name: load_file(checkpoint / "model.safetensors")[f"transformer.h.1.{name}"] for name in NAMES}
    gamma, beta, w_in = stored.values()  # (24,), (24,), (24, 96)
    columns = w_in[:, [95, 0]].T
    weights, offsets, *_ = small_model.embedding_weights(1, torch.tensor([95, 0]), EmbeddingChoice("neuron", "raw"))
    assert torch.equal(weights, gamma * columns)
    assert torch.equal(offsets, beta * columns)
