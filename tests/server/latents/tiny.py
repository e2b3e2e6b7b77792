"""Tiny encoders in the files of each format, and what their libraries' formulas make of vectors, in float64.

Widths differ (D = 6, F = 9), so that a matrix that lies the other way is noticed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

D, F, P = 6, 9, 40
Array = NDArray[np.float64]
RNG = np.random.default_rng(21)
X = RNG.normal(0.5, 2, (P, D))
W = RNG.normal(size=(F, D))  # row f reads
B = RNG.normal(size=F)
DEC = RNG.normal(size=(F, D))
B_DEC = RNG.normal(size=D)
THRESHOLDS = RNG.uniform(0.2, 2, F)
GATE, R_MAG, B_MAG = RNG.normal(size=(3, F))
K = 3


@dataclass
class Case:
    """An encoder: how to write it below a folder, and what is to come of it. given: what stands behind the folder."""

    write: Callable[[Path], None]
    layer: int
    point: str
    kind: str
    activations: Callable[[Array], Array]
    read: Callable[[Array], Array] = lambda x: x
    given: str = ""
    model: str | None = None
    before_norm: bool = False


def tensors(path: Path, dtype: torch.dtype = torch.float32, **arrays: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.from_numpy(np.ascontiguousarray(array)).to(dtype) for name, array in arrays.items()}, path)


def config(path: Path, **fields: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


# ---- The kinds, in float64


def relu(z: Array) -> Array:
    return np.maximum(z, 0)


def jump(z: Array, thresholds: Array | float = THRESHOLDS) -> Array:
    return np.where(z > thresholds, np.maximum(z, 0), 0)


def top_k(z: Array) -> Array:
    lowest = np.sort(z, axis=1)[:, -K][:, None]
    return np.where(z >= lowest, np.maximum(z, 0), 0)


def gated(read: Array) -> Array:
    return np.where(read @ W.T + GATE > 0, np.maximum(read @ (W.T * np.exp(R_MAG)) + B_MAG, 0), 0)


def constant_norm(x: Array) -> Array:
    return x * np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)


def layer_norm(x: Array) -> Array:
    x = x - x.mean(1, keepdims=True)
    return x / (x.std(1, ddof=1, keepdims=True) + 1e-5)


# ---- SAELens

SAELENS = {"W_enc": W.T, "b_enc": B, "W_dec": DEC, "b_dec": B_DEC}
NORMS = np.linalg.norm(DEC, axis=1)
CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True, "center_unembed": True}}


def saelens(hook: str, add: dict[str, Array] | None = None, drop: str = "", **fields: Any) -> Callable[[Path], None]:
    """A folder as SAELens 6 writes it."""
    whole = {
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "gpt2", "hook_name": hook, **fields.pop("facts", {})},
        **fields,
    }

    def write(folder: Path) -> None:
        config(folder / "cfg.json", **whole)
        held = {name: array for name, array in {**SAELENS, **(add or {})}.items() if name != drop}
        tensors(folder / "sae_weights.safetensors", **held)

    return write


def before_6(hook: dict[str, Any], **fields: Any) -> Callable[[Path], None]:
    """A folder as SAELens 3 wrote it: one level, with the fields of the training run."""

    def write(folder: Path) -> None:
        config(
            folder / "cfg.json", d_in=D, d_sae=F, model_name="gpt2-small", lr=1e-4, l1_coefficient=2, **hook, **fields
        )
        tensors(folder / "sae_weights.safetensors", **SAELENS, scaling_factor=np.ones(F))

    return write


def scaled_by_file(folder: Path) -> None:
    saelens("blocks.1.hook_mlp_out", architecture="standard", normalize_activations="expected_average_only_in")(folder)
    config(folder / "activation_scaler.json", scaling_factor=0.25, has_whitening=False)


# ---- Gemma Scope, sparsify, circuit-tracer


def npz(below: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / below / "params.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, W_enc=W.T.astype("f4"), b_enc=B, W_dec=DEC, b_dec=B_DEC, threshold=THRESHOLDS)

    return write


def gemma_2(folder: Path) -> None:
    below = folder / "transcoder" / "layer_7_width_16k_l0_small_affine"
    name = "model.layers.7.pre_feedforward_layernorm.output"
    config(below / "config.json", architecture="jump_relu", hf_hook_point_in=name, model_name="google/gemma-3-1b-pt")
    arrays = {"w_enc": W.T, "b_enc": B, "threshold": THRESHOLDS, "w_dec": DEC, "b_dec": B_DEC}
    tensors(below / "params.safetensors", torch.float64, **arrays, affine_skip_connection=np.eye(D))


def gemma_2_cross_layer(below: str, **fields: Any) -> Callable[[Path], None]:
    """Layer 5 of a cross-layer transcoder of 8 layers; fields: of its config.json, none: without one."""

    def write(folder: Path) -> None:
        if fields:
            config(folder / below / "config.json", **fields)
        cross = np.repeat(DEC[:, None], 8, axis=1)  # (F, layers, D)
        arrays = {"w_enc": W.T, "b_enc": B, "threshold": THRESHOLDS, "w_dec": cross, "b_dec": B_DEC}
        tensors(folder / below / "params_layer_5.safetensors", **arrays, affine_skip_connection=np.eye(D))

    return write


def sparsify(name: str, **fields: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        config(folder / name / "cfg.json", activation="topk", k=K, d_in=D, normalize_decoder=True, **fields)
        arrays = {"encoder.weight": W, "encoder.bias": B, "W_dec": DEC, "b_dec": B_DEC}
        tensors(folder / name / "sae.safetensors", **arrays)
        config(folder / "config.json", model="EleutherAI/pythia-70m")

    return write


def circuit_tracer(threshold: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        arrays = {"W_enc": W, "b_enc": B, "W_dec": DEC, "b_dec": B_DEC}
        added = {"activation_function.threshold": THRESHOLDS} if threshold else {"W_skip": np.eye(D)}
        tensors(folder / "layer_3.safetensors", **arrays, **added)
        (folder / "config.yaml").write_text(
            "model_name: meta-llama/Llama-3.2-1B\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        )

    return write


def cross_layer(folder: Path) -> None:
    tensors(folder / "W_enc_5.safetensors", W_enc_5=W, b_enc_5=B, b_dec_5=B_DEC, threshold_5=THRESHOLDS)
    tensors(folder / "W_dec_5.safetensors", W_dec_5=DEC)


# ---- Llama Scope

NORM_IN, NORM_OUT = 3.5, 1.25


def llama_scope(hook_in: str, hook_out: str, **fields: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        whole = {
            "d_model": D,
            "d_sae": F,
            "hook_point_in": hook_in,
            "hook_point_out": hook_out,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": NORM_IN, "out": NORM_OUT},
            "act_fn": "jumprelu",
            "jump_relu_threshold": 0.4,
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "sparsity_include_decoder_norm": True,
            "top_k": K,
            **fields,
        }
        config(folder / "hyperparams.json", **whole)
        arrays = {"encoder.weight": W, "encoder.bias": B, "decoder.weight": DEC.T, "decoder.bias": B_DEC}
        tensors(folder / "checkpoints" / "final.safetensors", **arrays)

    return write


def llama_z(x: Array, into: float, out: float) -> Array:
    """The pre-activations of the library: decoders of norm 1, in the model's own scale."""
    decoders = DEC * into / out
    return (x @ W.T + B / into) * np.linalg.norm(decoders, axis=1)


S_IN, S_OUT = np.sqrt(D) / NORM_IN, np.sqrt(D) / NORM_OUT
RESID = "blocks.2.hook_resid_post"


def minus(x: Array) -> Array:
    return x - B_DEC


CASES = {
    "saelens-relu": Case(
        saelens(RESID, architecture="standard", apply_b_dec_to_input=True),
        *(2, "resid_post", "relu", lambda x: relu(minus(x) @ W.T + B), minus),
        model="gpt2",
    ),
    "saelens-jumprelu-layer-norm": Case(
        saelens(
            "blocks.0.hook_resid_pre",
            {"threshold": THRESHOLDS},
            architecture="jumprelu",
            normalize_activations="layer_norm",
            apply_b_dec_to_input=True,
        ),
        *(0, "resid_pre", "jumprelu", lambda x: jump(minus(layer_norm(x)) @ W.T + B)),
        read=lambda x: minus(layer_norm(x)),
        model="gpt2",
    ),
    "saelens-topk-constant-norm": Case(
        saelens(
            "blocks.1.hook_attn_out",
            architecture="topk",
            k=K,
            rescale_acts_by_decoder_norm=True,
            normalize_activations="constant_norm_rescale",
        ),
        *(1, "attn_out", "topk", lambda x: top_k((constant_norm(x) @ W.T + B) * NORMS), constant_norm),
        model="gpt2",
    ),
    "saelens-gated": Case(
        saelens(RESID, {"b_gate": GATE, "r_mag": R_MAG, "b_mag": B_MAG}, drop="b_enc", architecture="gated"),
        *(2, "resid_post", "gated", gated),
        model="gpt2",
    ),
    "saelens-expected-average": Case(
        scaled_by_file,
        *(1, "mlp_out", "relu", lambda x: relu(x / 4 @ W.T + B), lambda x: x / 4),
        model="gpt2",
    ),
    "saelens-batchtopk": Case(
        saelens(RESID, {"topk_threshold": np.array(0.7)}, architecture="batchtopk", k=2.5),
        *(2, "resid_post", "jumprelu", lambda x: jump((x @ W.T + B) * NORMS, 0.7)),
        model="gpt2",
    ),
    "saelens-transcoder": Case(
        saelens(
            "blocks.4.mlp.hook_in",
            {"threshold": THRESHOLDS, "W_skip": np.eye(D)},
            architecture="jumprelu_skip_transcoder",
            d_out=D,
        ),
        *(4, "mlp_in", "jumprelu", lambda x: jump(x @ W.T + B)),
        model="gpt2",
    ),
    "saelens-centred": Case(
        saelens(RESID, architecture="standard", facts=CENTRED),
        *(2, "resid_post", "relu", lambda x: relu((x - x.mean(1, keepdims=True)) @ W.T + B)),
        read=lambda x: x - x.mean(1, keepdims=True),
        model="gpt2",
    ),
    "saelens-3-topk": Case(
        before_6({"hook_point": RESID}, activation_fn_str="topk", activation_fn_kwargs={"k": K}),
        *(2, "resid_post", "topk", lambda x: top_k(minus(x) @ W.T + B), minus),
        model="gpt2-small",
    ),
    "saelens-3-relu": Case(
        before_6({"hook_name": RESID}, normalize_activations=False, apply_b_dec_to_input=False),
        *(2, "resid_post", "relu", lambda x: relu(x @ W.T + B)),
        model="gpt2-small",
    ),
    "gemma-scope-res": Case(
        npz("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"),
        *(12, "resid_post", "jumprelu", lambda x: jump(x @ W.T + B)),
        model="google/gemma-2-2b",
    ),
    "gemma-scope-transcoders": Case(
        npz("gemma-scope-9b-it-transcoders/layer_3/width_16k"),
        *(3, "mlp_normalised", "jumprelu", lambda x: jump(x @ W.T + B)),
        model="google/gemma-2-9b-it",
    ),
    "gemma-scope-given": Case(
        npz("mine"),
        *(5, "mlp_out", "jumprelu", lambda x: jump(x @ W.T + B)),
        given="@blocks.5.hook_mlp_out",
    ),
    "gemma-scope-2": Case(
        gemma_2,
        *(7, "mlp_in", "jumprelu", lambda x: jump(x @ W.T + B)),
        model="google/gemma-3-1b-pt",
    ),
    "gemma-scope-2-cross-layer": Case(
        gemma_2_cross_layer(
            "clt/width_262k_l0_medium_affine",
            architecture="jump_relu",
            model_name="google/gemma-3-1b-pt",
            hf_hook_point_in=[f"model.layers.{i}.pre_feedforward_layernorm.output" for i in range(8)],
        ),
        *(5, "mlp_in", "jumprelu", lambda x: jump(x @ W.T + B)),
        model="google/gemma-3-1b-pt",
    ),
    "gemma-scope-2-cross-layer-given": Case(
        gemma_2_cross_layer("clt/width_262k_l0_medium", architecture="jump_relu", type="clt"),
        *(5, "mlp_in", "jumprelu", lambda x: jump(x @ W.T + B)),
        given="@mlp.hook_in",
    ),
    "llama-scope-sae": Case(
        llama_scope("blocks.8.hook_resid_post", "blocks.8.hook_resid_post"),
        *(8, "resid_post", "jumprelu", lambda x: jump(llama_z(x, S_IN, S_OUT), 0.4)),
    ),
    "llama-scope-bias": Case(
        llama_scope(
            "blocks.8.hook_attn_out",
            "blocks.8.hook_attn_out",
            apply_decoder_bias_to_pre_encoder=True,
            sparsity_include_decoder_norm=False,
        ),
        *(8, "attn_out", "jumprelu", lambda x: jump((x - B_DEC / S_OUT) @ W.T + B / S_IN, 0.4)),
        read=lambda x: x - B_DEC / S_OUT,
    ),
    "llama-scope-transcoder": Case(
        llama_scope("blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out", act_fn="relu", jump_relu_threshold=0.0),
        *(8, "mlp_normalised", "relu", lambda x: relu(llama_z(x, S_IN, S_OUT))),
    ),
    "llama-scope-token-wise": Case(
        llama_scope(RESID, RESID, norm_activation="token-wise", act_fn="topk", jump_relu_threshold=0.0),
        *(2, "resid_post", "topk", lambda x: top_k(llama_z(constant_norm(x), 1, 1)), constant_norm),
    ),
    "sparsify-sae": Case(
        sparsify("layers.3", num_latents=F, transcode=False, signed=False),
        *(3, "resid_post", "topk", lambda x: top_k(minus(x) @ W.T + B), minus),
        model="EleutherAI/pythia-70m",
    ),
    "sparsify-mlp-out": Case(
        sparsify("h.3.mlp", num_latents=F),
        *(3, "mlp_out", "topk", lambda x: top_k(minus(x) @ W.T + B), minus),
        model="EleutherAI/pythia-70m",
        before_norm=True,
    ),
    "sparsify-transcoder": Case(
        sparsify("layers.3.mlp", num_latents=F, transcode=True, skip_connection=False),
        *(3, "mlp_in", "topk", lambda x: top_k(x @ W.T + B)),
        model="EleutherAI/pythia-70m",
    ),
    "circuit-tracer-relu": Case(
        circuit_tracer(threshold=False),
        *(3, "mlp_in", "relu", lambda x: relu(x @ W.T + B)),
        model="meta-llama/Llama-3.2-1B",
    ),
    "circuit-tracer-jumprelu": Case(
        circuit_tracer(threshold=True),
        *(3, "mlp_in", "jumprelu", lambda x: jump(x @ W.T + B)),
        model="meta-llama/Llama-3.2-1B",
    ),
    "cross-layer": Case(
        cross_layer,
        *(5, "resid_mid", "jumprelu", lambda x: jump(x @ W.T + B)),
        given="@hook_resid_mid",
    ),
}
