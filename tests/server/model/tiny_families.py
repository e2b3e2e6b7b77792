"""A tiny model of each family, with the switches that move its norm or its weights; and where its parts are.

Nothing here is ours: the modules are named as transformers' own code has them.
"""

from pathlib import Path
from typing import Any, NamedTuple

SIZES = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
USUAL = SIZES | {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA = USUAL | {"num_key_value_heads": 1}
GPT = SIZES | {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64, "n_inner": 40}
OPT = {**USUAL, "ffn_dim": 40, "word_embed_proj_dim": 24}
BLOOM = SIZES | {"hidden_size": 24, "n_layer": 2, "n_head": 2}
FALCON = {**USUAL, "ffn_hidden_size": 40}


class Tiny(NamedTuple):
    """layers, norm, reads, writes: names of modules, of a layer below the first; reads: those of the input matrices.

    norm    whose output the MLP reads; None: the MLP reads the residual stream
    offset  1 where the norm multiplies by 1 + its weight
    """

    model_type: str
    config: dict[str, Any]
    layers: str
    norm: str | None
    reads: tuple[str, ...]
    writes: str
    offset: int = 0

    @property
    def gated(self) -> bool:
        return len(self.reads) == 2 or "gate_up" in self.reads[0]


GATED = ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"
POST = "post_attention_layernorm"
TINY: dict[str, Tiny] = {
    "gpt2": Tiny("gpt2", GPT, "h", "ln_2", ("mlp.c_fc",), "mlp.c_proj"),
    "gpt_neo": Tiny(
        "gpt_neo",
        SIZES | {"hidden_size": 24, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 64, "window_size": 8}
        | {"attention_types": [[["global", "local"], 1]]},
        "h", "ln_2", ("mlp.c_fc",), "mlp.c_proj",
    ),
    "gptj": Tiny("gptj", GPT | {"rotary_dim": 4}, "h", "ln_1", ("mlp.fc_in",), "mlp.fc_out"),
    "gpt_neox": Tiny("gpt_neox", USUAL, "layers", POST, ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    "gpt_neox, in series": Tiny(
        "gpt_neox", USUAL | {"use_parallel_residual": False},
        "layers", POST, ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h",
    ),
    "phi": Tiny("phi", LLAMA, "layers", "input_layernorm", ("mlp.fc1",), "mlp.fc2"),
    "falcon": Tiny("falcon", FALCON, "h", "input_layernorm", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    "falcon, in series, ALiBi, biases": Tiny(
        "falcon", FALCON | {"parallel_attn": False, "alibi": True, "bias": True, "multi_query": False},
        "h", POST, ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h",
    ),
    "falcon, new": Tiny(
        "falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1},
        "h", "ln_mlp", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h",
    ),
    "falcon, new, one norm": Tiny(
        "falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1},
        "h", "input_layernorm", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h",
    ),
    "bloom": Tiny(
        "bloom", BLOOM,
        "h", POST, ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h",
    ),
    "bloom, residual behind the norm": Tiny(
        "bloom", BLOOM | {"apply_residual_connection_post_layernorm": True},
        "h", POST, ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h",
    ),
    "opt": Tiny("opt", OPT, "decoder.layers", "final_layer_norm", ("fc1",), "fc2"),
    "opt, norm behind": Tiny(
        "opt", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 12},
        "decoder.layers", "self_attn_layer_norm", ("fc1",), "fc2",
    ),
    "opt, without biases": Tiny(
        "opt", OPT | {"enable_bias": False, "layer_norm_elementwise_affine": False},
        "decoder.layers", "final_layer_norm", ("fc1",), "fc2",
    ),
    "arcee": Tiny("arcee", LLAMA, "layers", POST, ("mlp.up_proj",), "mlp.down_proj"),
    "llama": Tiny("llama", LLAMA, "layers", POST, *GATED),
    "llama, biases": Tiny("llama", LLAMA | {"mlp_bias": True, "attention_bias": True}, "layers", POST, *GATED),
    "mistral": Tiny("mistral", LLAMA | {"sliding_window": 8}, "layers", POST, *GATED),
    "qwen2": Tiny(
        "qwen2", LLAMA | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "layers", POST, *GATED,
    ),
    "qwen3": Tiny("qwen3", LLAMA | {"head_dim": 16}, "layers", POST, *GATED),
    "smollm3": Tiny("smollm3", LLAMA | {"pad_token_id": 0, "no_rope_layer_interval": 2}, "layers", POST, *GATED),
    "granite": Tiny(
        "granite", LLAMA | {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "attention_multiplier": 0.3},
        "layers", POST, *GATED,
    ),
    "gemma": Tiny("gemma", LLAMA | {"head_dim": 12}, "layers", POST, *GATED, 1),
    "gemma2": Tiny(
        "gemma2", LLAMA | {"head_dim": 12, "sliding_window": 8}, "layers", "pre_feedforward_layernorm", *GATED, 1
    ),
    "gemma3_text": Tiny(
        "gemma3_text", LLAMA | {"head_dim": 12, "sliding_window": 8}, "layers", "pre_feedforward_layernorm", *GATED, 1
    ),
    "olmo": Tiny("olmo", LLAMA, "layers", POST, *GATED),
    "olmo2": Tiny("olmo2", LLAMA, "layers", None, *GATED),
    "olmo3": Tiny("olmo3", LLAMA | {"sliding_window": 8}, "layers", None, *GATED),
    "phi3": Tiny("phi3", LLAMA | {"pad_token_id": 0}, "layers", POST, ("mlp.gate_up_proj",), "mlp.down_proj"),
}  # fmt: skip


def made(tiny: Tiny, seed: int = 0, scale: float = 1.0) -> Any:
    """It with its head, seeded, no parameter of which is 0 or 1. scale: of its token embeddings."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(tiny.model_type, **tiny.config))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            is_norm = "norm" in name or ".ln_" in name
            mean = float(is_norm and name.endswith("weight")) - tiny.offset * float(is_norm)
            torch.nn.init.normal_(weights, mean, 0.3)
        model.get_input_embeddings().weight.mul_(scale)
    return model


def write(folder: Path, tiny: Tiny, seed: int = 0, scale: float = 1.0) -> Path:
    """A checkpoint of it as `made` makes it, with a tokenizer of 256 bytes and BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    made(tiny, seed, scale).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>").save_pretrained(folder)
    return folder
