"""What is not read is refused in one sentence that names the file, the field and its value."""

import json
import pickle
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.latents.folder import read_latents

from .tiny import (
    CASES,
    RESID,
    B,
    D,
    F,
    W,
    circuit_tracer,
    config,
    gemma_2_cross_layer,
    llama_scope,
    npz,
    saelens,
    sparsify,
    tensors,
)


def message(kind, where, layers=None):
    with pytest.raises(kind) as caught:
        read_latents(str(where), layers)
    text = caught.value.message
    assert "\n" not in text
    assert len(text) < 500
    return text


def refused(where):
    return message(FailedPrecondition, where)


# ---- Fields


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"architecture": "temporal"},
            "the field 'architecture' is 'temporal'; Polysem reads standard, jumprelu, topk",
        ),
        ({"architecture": "crosscoder"}, "'architecture' is 'crosscoder'"),
        ({"normalize_activations": "covariance_whitening"}, "'normalize_activations' is 'covariance_whitening'"),
        ({"normalize_activations": "expected_average_only_in"}, "in activation_scaler.json, which is not there"),
        ({"reshape_activations": "hook_z"}, "'reshape_activations' is 'hook_z'"),
        ({"apply_b_dec_to_input": "yes"}, "'apply_b_dec_to_input' is 'yes'; it is true or false"),
        ({"architecture": "transcoder", "apply_b_dec_to_input": True}, "'apply_b_dec_to_input' is True"),
        ({"d_in": D + 1}, f"the field 'd_in' is {D + 1}; W_enc has {D}"),
        ({"d_sae": "many"}, "the field 'd_sae' is 'many'; it is a whole number above 0"),
        ({"rotation": 3}, "the field 'rotation' is 3; Polysem knows no such field of SAELens"),
        ({"architecture": "topk"}, "the field 'k' is missing; it is a whole number above 0"),
        ({"architecture": "topk", "k": F + 1}, f"the field 'k' is {F + 1}; it has {F} latents"),
        ({"architecture": "topk", "k": 2.5}, "'k' is 2.5"),
        ({"architecture": "batchtopk", "k": 2}, "no topk_threshold"),
        ({"facts": {"hook_head_index": 3}}, "'hook_head_index' is 3"),
        ({"facts": {"model_from_pretrained_kwargs": {"fold_rope": True}}}, "what fold_rope makes of the model"),
        (
            {"facts": {"model_name": "llama", "model_from_pretrained_kwargs": {"center_writing_weights": True}}},
            "which have LayerNorm",
        ),
    ],
)
def test_a_field_of_saelens_that_would_change_numbers_is_refused_by_name(fields, words, tmp_path):
    saelens(RESID, **{"architecture": "standard", **fields})(tmp_path)
    text = refused(tmp_path)
    assert words in text
    assert "cfg.json" in text or "sae_weights.safetensors" in text


@pytest.mark.parametrize(
    "hook", ["blocks.2.attn.hook_z", "blocks.2.hook_mlp_in", "hook_embed", "blocks.x.hook_resid_post"]
)
def test_a_place_that_is_not_read_is_refused_by_name(hook, tmp_path):
    saelens(hook, architecture="standard")(tmp_path)
    assert f"hook_name is {hook!r}; Polysem reads latents at blocks.L.hook_resid_pre" in refused(tmp_path)


def test_an_activation_of_saelens_before_6_is_refused_by_name(tmp_path):
    CASES["saelens-3-relu"].write(tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "activation_fn_str": "tanh-relu"}))
    assert "the field 'activation_fn_str' is 'tanh-relu'; Polysem reads relu and topk" in refused(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"activation": "groupmax"}, "'activation' is 'groupmax'; Polysem reads topk"),
        ({"signed": True}, "'signed' is True"),
        ({"k": F + 1}, f"'k' is {F + 1}"),
        ({"num_latents": 5}, f"'num_latents' is 5; encoder.weight has {F} latents"),
        ({"num_latents": 0, "expansion_factor": 32}, "'expansion_factor' is 32"),
        ({"d_in": 7}, "'d_in' is 7"),
    ],
)
def test_a_field_of_sparsify_is_refused_by_name(fields, words, tmp_path):
    sparsify("layers.3", num_latents=F)(tmp_path)
    path = tmp_path / "layers.3" / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    assert words in refused(tmp_path)


@pytest.mark.parametrize(("name", "fields"), [("layers.3.norm", {}), ("layers.3.self_attn", {"transcode": True})])
def test_a_module_that_is_not_read_is_refused_by_name(name, fields, tmp_path):
    sparsify(name, num_latents=F, **fields)(tmp_path)
    assert f"its folder's name is {name!r}; Polysem reads latents at layers.L" in refused(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_glu_encoder": True}, "'use_glu_encoder' is True"),
        ({"norm_activation": "batch-wise"}, "'norm_activation' is 'batch-wise'"),
        ({"act_fn": "batchtopk"}, "'act_fn' is 'batchtopk'"),
        ({"jump_relu_threshold": -0.1}, "'jump_relu_threshold' is -0.1; it is a number above 0"),
        ({"dataset_average_activation_norm": {"in": 0.0, "out": 1.0}}, "'in' is 0.0; it is a number above 0"),
        ({"dataset_average_activation_norm": None}, "'in' is missing"),
        ({"dataset_average_activation_norm": 3.0}, "'dataset_average_activation_norm' is 3.0; it holds fields"),
    ],
)
def test_a_field_of_llama_scope_is_refused_by_name(fields, words, tmp_path):
    llama_scope(RESID, RESID, **fields)(tmp_path)
    assert words in refused(tmp_path)


def test_gemma_scope_names_what_it_reads_or_is_told(tmp_path):
    npz("gemma-scope-2b-pt-att/layer_3")(tmp_path / "a")
    assert "gemma-scope-2b-pt-att is no repository that says what it reads" in refused(tmp_path / "a")
    npz("mine/layer_3")(tmp_path / "b")
    assert "give the place behind the folder, such as @hook_resid_post" in refused(tmp_path / "b")
    npz("mine")(tmp_path / "c")
    assert "no folder on its path is called layer_L" in refused(f"{tmp_path / 'c'}@hook_resid_post")


@pytest.mark.parametrize(
    ("below", "fields", "words"),
    [
        ("clt", {}, "no config.json beside it, so what it reads is not known; give the place behind the folder"),
        ("clt", {"architecture": "topk"}, "'architecture' is 'topk'; Polysem reads jump_relu"),
        (
            "clt",
            {"hf_hook_point_in": "model.layers.{layer}.output"},
            "'hf_hook_point_in' of config.json is 'model.layers",
        ),
        (
            "clt",
            {"hf_hook_point_in": ["model.layers.1.output"] * 8},
            "holds layer 5, and place 5 of it is model.layers.1.output",
        ),
        (
            "clt",
            {"hf_hook_point_in": ["model.layers.5.self_attn.o_proj.input"] * 8},
            "self_attn.o_proj.input'; Polysem",
        ),
        ("crosscoder/layer_7_13_17_22_width_262k_l0_medium", {}, "part of a crosscoder of several layers"),
        ("mine", {"type": "crosscoder"}, "part of a crosscoder of several layers"),
    ],
)
def test_cross_layer_files_of_gemma_scope_2_are_read_as_what_they_are(below, fields, words, tmp_path):
    gemma_2_cross_layer(below, **fields)(tmp_path)
    assert words in refused(tmp_path)


def test_circuit_tracer_without_a_config_is_told_what_it_reads(tmp_path):
    CASES["cross-layer"].write(tmp_path)
    assert "no config.yaml beside it says what it reads" in refused(tmp_path)


def test_a_place_that_is_not_the_files_own_is_refused(tmp_path):
    circuit_tracer(threshold=True)(tmp_path)
    assert "and not hook_resid_post" in message(InvalidArgument, f"{tmp_path}@hook_resid_post")
    assert "is no place that Polysem reads" in message(InvalidArgument, f"{tmp_path}@hook_z")


# ---- Tensors


@pytest.fixture
def spoilt(tmp_path):
    """A good SAE of SAELens, with tensors that the test changes."""
    saelens(RESID, architecture="standard", apply_b_dec_to_input=True)(tmp_path)
    path = tmp_path / "sae_weights.safetensors"

    def spoil(drop=(), **changed):
        held = {**load_file(path), **changed}
        save_file({name: tensor for name, tensor in held.items() if name not in drop}, path)
        return refused(tmp_path)

    return spoil


def test_a_tensor_that_is_not_finite_is_refused_with_its_place(spoilt):
    weights = torch.from_numpy(W.T.copy()).float()
    weights[2, 4] = torch.nan
    assert "'W_enc' holds nan at (2, 4)" in spoilt(W_enc=weights)


def test_a_threshold_that_is_infinite_is_refused(tmp_path):
    thresholds = np.full(F, 0.5)
    thresholds[3] = np.inf
    saelens(RESID, {"threshold": thresholds}, architecture="jumprelu")(tmp_path)
    assert "'threshold' holds inf at (3,)" in refused(tmp_path)


def test_a_tensor_of_another_shape_is_refused(spoilt):
    assert f"'b_enc' has the shape (4,), and the encoder's weights fit ({F},)" in spoilt(b_enc=torch.zeros(4))


def test_a_matrix_that_lies_the_other_way_is_refused(spoilt):
    assert f"the field 'd_sae' is {F}; W_enc has {D}" in spoilt(W_enc=torch.from_numpy(W.copy()).float())


def test_whole_numbers_are_refused(spoilt):
    assert "'W_enc' is int8; it is floating-point" in spoilt(W_enc=torch.ones((D, F), dtype=torch.int8))


def test_an_encoder_without_latents_is_refused(spoilt):
    assert f"'W_enc' has the shape ({D}, 0)" in spoilt(W_enc=torch.zeros((D, 0)), b_enc=torch.zeros(0))


def test_a_tensor_that_is_missing_is_refused(spoilt):
    assert "it has no tensor 'b_dec'" in spoilt(drop=("b_dec",))


def test_a_tensor_that_is_not_known_is_refused(spoilt):
    assert "Polysem knows no tensor 'W_rot' of SAELens" in spoilt(W_rot=torch.eye(D))


def test_a_negative_threshold_of_circuit_tracer_is_refused(tmp_path):
    below = np.full(F, -0.5)
    tensors(tmp_path / "layer_0.safetensors", W_enc=W, b_enc=B, **{"activation_function.threshold": below})
    assert "holds -0.5; latents fire above 0" in refused(f"{tmp_path}@mlp.hook_in")


# ---- Files


@pytest.mark.parametrize("share", [0, 4, 0.5, 0.99])
@pytest.mark.parametrize("name", ["saelens-relu", "gemma-scope-res"])
def test_a_truncated_file_is_refused(name, share, tmp_path):
    CASES[name].write(tmp_path)
    (path,) = (path for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".npz"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole)) if share < 1 else share])
    text = refused(tmp_path)
    assert path.name in text


@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_file_is_read_or_refused_in_one_sentence(name, tmp_path):
    dice = random.Random(name)
    CASES[name].write(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for path in dice.choices(files, k=25):
        whole = path.read_bytes()
        spoilt, at = bytearray(whole), dice.randrange(min(len(whole), dice.choice((400, 10_000))))
        spoilt[at : at + dice.randrange(3)] = dice.choice((b"", b"-", b"null", b"1e999", bytes([dice.randrange(256)])))
        path.write_bytes(spoilt)
        with suppress(FailedPrecondition, InvalidArgument):
            read_latents(f"{tmp_path}{CASES[name].given}")
        path.write_bytes(whole)


def test_objects_in_an_npz_are_never_unpickled(tmp_path):
    class Spy:
        def __reduce__(self):
            return (print, ("unpickled",))

    path = tmp_path / "layer_1" / "params.npz"
    path.parent.mkdir()
    np.savez(path, W_enc=np.array([Spy()], dtype=object), allow_pickle=True)
    assert "params.npz" in refused(f"{tmp_path}@hook_resid_post")


@pytest.mark.parametrize("name", ["ae.pt", "pytorch_model.bin", "sae.pkl"])
def test_a_pickle_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps({}))
    for where in (tmp_path, tmp_path / name):
        text = refused(where)
        assert name in text
        assert "is a pickle, which is never opened; save the SAE as safetensors" in text


def test_a_config_that_is_not_json_or_not_there_is_refused(tmp_path):
    saelens(RESID, architecture="standard")(tmp_path)
    for content in ("{", "[]", "[" * 100_000):
        (tmp_path / "cfg.json").write_text(content)
        assert "cfg.json" in refused(tmp_path)
    (tmp_path / "cfg.json").unlink()
    assert "cfg.json': it cannot be opened (No such file or directory)" in refused(tmp_path)


def test_weights_that_are_not_there_are_refused(tmp_path):
    config(tmp_path / "cfg.json", architecture="standard")
    assert "cfg.json' has no weights beside it" in refused(tmp_path)
    (tmp_path / "cfg.json").unlink()
    llama_scope(RESID, RESID)(tmp_path)
    (tmp_path / "checkpoints" / "final.safetensors").unlink()
    assert "final.safetensors" in refused(tmp_path)


def test_a_yaml_that_would_make_objects_is_refused(tmp_path):
    circuit_tracer(threshold=True)(tmp_path)
    (tmp_path / "config.yaml").write_text("model_name: !!python/object/apply:os.getcwd []\n")
    assert "it is not YAML" in refused(tmp_path)


# ---- Folders


def test_a_folder_with_several_of_one_layer_is_refused_with_both(tmp_path):
    for width in ("width_16k", "width_65k"):
        npz(f"gemma-scope-2b-pt-res/layer_3/{width}")(tmp_path)
    text = message(InvalidArgument, tmp_path)
    assert "has 2 SAEs of layer 3" in text
    assert "layer_3/width_16k" in text
    assert "layer_3/width_65k" in text
    npz("gemma-scope-2b-pt-res/layer_4/width_16k")(tmp_path)
    assert [one.layer for one in read_latents(tmp_path, [4])] == [4]


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    for layer in (1, 5):
        sparsify(f"layers.{layer}", num_latents=F)(tmp_path)
    assert "has no SAE of layer 2; it has 1, 5" in message(InvalidArgument, tmp_path, [2])


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    assert "there is no SAE in" in message(InvalidArgument, tmp_path)
    (tmp_path / "notes.txt").write_text("none")
    assert "is a file; give the folder that holds it" in message(InvalidArgument, tmp_path / "notes.txt")
    assert "there is no folder" in message(InvalidArgument, tmp_path / "missing")
    assert "there is no folder 'gpt2'" in message(InvalidArgument, "gpt2")


def test_a_repository_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--google--gemma-scope-2b-pt-res"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    npz("layer_12/width_16k/average_l0_82")(cached / "snapshots" / ("0" * 40))
    (latents,) = read_latents("google/gemma-scope-2b-pt-res/layer_12/width_16k")
    assert (latents.layer, latents.point, latents.origin.model) == (12, "resid_post", "google/gemma-2-2b")
    assert "has no folder 'layer_13'" in message(InvalidArgument, "google/gemma-scope-2b-pt-res/layer_13")
    assert "the hub does not give a repository of that name" in message(InvalidArgument, "google/nothing")
