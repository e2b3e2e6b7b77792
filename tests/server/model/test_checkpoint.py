"""A model's folder is read as what it is: what cannot be, or would be ignored or made up, is said in one sentence."""

import json
import math
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polysem.proto.errors import FailedPrecondition, UnknownModel
from polysem.server.model.families import FAMILIES
from polysem.server.model.loading import load

from . import tiny_families
from .spoil import TOKENS, as_gpt2_model, change_config, change_weights, read, refusal
from .tiny_families import TINY

# ---- Kinds of models that are not read


@pytest.mark.parametrize("kind", ["bert", "t5", "vit", "gemma3", "mixtral", "qwen3_moe", "mamba", "stablelm", "ours"])
def test_another_family_is_refused_by_name_with_those_that_are_read(folder, kind):
    change_config(folder, model_type=kind)
    message = refusal(folder, FailedPrecondition)
    assert f"is a {kind} model" in message
    assert all(family in message for family in FAMILIES)


def test_a_mixture_and_code_of_its_own_are_named(folder):
    change_config(folder, model_type="ours", num_local_experts=8, auto_map={"AutoModel": "modeling.Ours"})
    assert "with experts with code of its own (AutoModel)" in refusal(folder, FailedPrecondition)


def test_weights_of_another_family_than_the_config_says_are_refused(folder):
    change_config(folder, model_type="gpt_neo", architectures=["GPTNeoForCausalLM"])
    assert "missing" in refusal(folder, FailedPrecondition)


@pytest.mark.parametrize("method", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "fp8"}, {}, "awq"])
def test_a_quantised_checkpoint_is_refused(folder, method):
    change_config(folder, quantization_config=method)
    message = refusal(folder, FailedPrecondition)
    assert "quantised" in message
    assert (method.get("quant_method", "unknown") if isinstance(method, dict) else method) in message


def test_weights_in_whole_numbers_are_refused(folder):
    name = "transformer.h.0.mlp.c_fc.weight"
    change_weights(folder, lambda weights: weights | {name: weights[name].to(torch.int8)})
    assert "quantised: h.0.mlp.c_fc.weight" in refusal(folder, FailedPrecondition)


def test_a_gguf_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "convert the GGUF file" in refusal(tmp_path / "model.gguf", UnknownModel)
    assert "only model.gguf, a GGUF file" in refusal(tmp_path, UnknownModel)


# ---- A folder is read as what it is


def test_an_adapter_beside_the_weights_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" in refusal(folder, FailedPrecondition)


def test_a_tensor_of_the_layers_that_the_architecture_does_not_know_is_refused(folder):
    change_weights(folder, lambda weights: weights | {"transformer.h.0.mlp.gate.weight": torch.ones(24, 96)})
    assert "knows no h.0.mlp.gate.weight" in refusal(folder, FailedPrecondition)


def test_a_tensor_outside_the_layers_is_warned_of_by_name(folder, caplog):
    change_weights(folder, lambda weights: weights | {"score.weight": torch.ones(2, 24)})
    load(str(folder), "cpu")
    assert "tensors that are not read: score.weight" in caplog.text


def test_what_old_checkpoints_carry_is_not_warned_of(folder, caplog, small_model):
    old = {"h.0.attn.bias": torch.ones(1, 1, 32, 32), "lm_head.weight": torch.ones(257, 24)}
    change_weights(folder, lambda weights: as_gpt2_model(weights) | old)
    assert load(str(folder), "cpu").info.sha256 == small_model.info.sha256
    assert caplog.text == ""


def test_the_head_of_pythia_is_not_warned_of(tmp_path, caplog):
    load(str(tiny_families.write(tmp_path, TINY["gpt_neox"])), "cpu")
    assert caplog.text == ""


def test_code_of_its_own_is_warned_of_and_not_run(folder, caplog):
    change_config(folder, auto_map={"AutoModel": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text("raise SystemExit('run')")
    load(str(folder), "cpu")
    assert "code of its own (AutoModel), which is not run" in caplog.text


def test_code_that_is_named_in_another_form_is_warned_of_too(folder, caplog):
    change_config(folder, auto_map="modeling_own.Own")
    load(str(folder), "cpu")
    assert "code of its own ('modeling_own.Own'), which is not run" in caplog.text


def test_a_float_that_is_no_size_may_be_0(folder, small_model):
    change_config(folder, resid_pdrop=0.0, warmup_steps=0.0)
    assert load(str(folder), "cpu").info.sha256 == small_model.info.sha256


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_head", 0),
        ("n_head", 7),
        ("n_layer", "4"),
        ("n_layer", 10**9),
        ("n_layer", 2.0),
        ("n_layer", True),
        ("n_layer", None),
        ("n_layer", -1),
        ("n_layer", 9999),
        ("n_embd", 10**12),
        ("n_embd", [24]),
        ("n_positions", 0),
        ("vocab_size", 2**40),
        ("layer_norm_epsilon", "small"),
        ("layer_norm_epsilon", 0),
        ("layer_norm_epsilon", -1e-5),
        ("layer_norm_epsilon", float("inf")),
        ("layer_norm_epsilon", float("nan")),
        ("embd_pdrop", float("nan")),
        ("activation_function", "no_such"),
        ("activation_function", 3),
        ("unheard_of", [[["global"], 10**9]]),
    ],
)
def test_a_config_that_cannot_be_is_refused_at_once(folder, key, value):
    load("demo", "cpu")
    change_config(folder, **{key: value})
    begun = time.monotonic()
    refusal(folder, FailedPrecondition)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"model_type": ["gpt2"]}', "\udc80", "NaN", ""])
def test_a_config_that_is_none_is_refused(folder, text):
    (folder / "config.json").write_text(text, errors="surrogateescape")
    assert str(folder) in refusal(folder, UnknownModel)


def test_a_config_of_deep_nesting_is_refused(folder):
    deep: object = 0
    for _ in range(500):
        deep = [deep]
    change_config(folder, extra=deep)
    assert "config.json" in refusal(folder, FailedPrecondition)


def split(folder: Path, n: int) -> dict[str, str]:
    """The weights in n files, and which tensor is in which."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-{i % n + 1:05d}-of-{n:05d}.safetensors" for i, name in enumerate(weights)}
    for file in set(where.values()):
        save_file({name: weights[name] for name in where if where[name] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return where


def test_weights_in_several_files_are_the_same_model(folder, small_model):
    split(folder, 3)
    loaded = load(str(folder), "cpu")
    assert loaded.info.sha256 == small_model.info.sha256
    for (_, a), (_, other) in zip(read(small_model, TOKENS), read(loaded, TOKENS), strict=True):
        assert torch.equal(a, other)


@pytest.mark.parametrize("wrong", ["missing", "outside", "[]", "{", '{"weight_map": {"a": 3}}'])
def test_a_wrong_list_of_files_is_refused(folder, wrong):
    where = split(folder, 2)
    index = folder / "model.safetensors.index.json"
    if wrong == "missing":
        (folder / next(iter(where.values()))).unlink()
    elif wrong == "outside":
        index.write_text(json.dumps({"weight_map": dict.fromkeys(where, "../other.safetensors")}))
    else:
        index.write_text(wrong)
    assert "weights" in refusal(folder, FailedPrecondition)


@pytest.mark.parametrize(
    "header", ["[]", "{}x", '{"a": {}}', '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}']
)
def test_a_wrong_header_is_refused(folder, header):
    data = header.encode()
    (folder / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + b"0000")
    assert "model.safetensors is no safetensors file" in refusal(folder, FailedPrecondition)


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(folder):
    """A hole in a file takes no room: 2²⁴ tokens of 2,400 numbers are 161 GB."""
    sparse = {"transformer.wte.weight": [2**24, 2400], "transformer.wpe.weight": [32, 2400]}
    change_config(folder, n_layer=1, n_embd=2400, vocab_size=2**24)
    d = 2400
    for name, shape in {
        "ln_1.weight": [d], "ln_1.bias": [d], "ln_2.weight": [d], "ln_2.bias": [d], "attn.c_attn.weight": [d, 3 * d],
        "attn.c_attn.bias": [3 * d], "attn.c_proj.weight": [d, d], "attn.c_proj.bias": [d],
        "mlp.c_fc.weight": [d, 4 * d], "mlp.c_fc.bias": [4 * d], "mlp.c_proj.weight": [4 * d, d],
        "mlp.c_proj.bias": [d],
    }.items():  # fmt: skip
        sparse[f"transformer.h.0.{name}"] = shape
    sparse |= {"transformer.ln_f.weight": [d], "transformer.ln_f.bias": [d]}
    header, end = {}, 0
    for name, shape in sparse.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
    assert re.search(r"takes 161\.\d GB in float32, and cpu has \d+\.\d GB free", refusal(folder, FailedPrecondition))
