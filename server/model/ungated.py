"""Families whose neurons are act(w · h + b)."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from polysem.server.model.architecture import Family, Mlp, Sizes, layer_norm, rms_norm


def _mlp(norm: nn.Module, into: nn.Module, writes: nn.Module) -> Mlp:
    """An MLP that reads a torch LayerNorm through a Linear."""
    eps: Any = norm.eps
    weights: Any = into.weight
    return Mlp(norm, layer_norm(eps), norm.weight, norm.bias, weights, into.bias, writes)  # type: ignore[arg-type]


def _sizes(config: Any) -> Sizes:
    """By the names that most configs have."""
    return Sizes(
        config.num_hidden_layers,
        config.intermediate_size or 4 * config.hidden_size,
        config.hidden_size,
        config.max_position_embeddings,
        config.vocab_size,
    )


# ---- GPT-2 and what came of it


def _gpt2_sizes(config: Any) -> Sizes:
    n_neurons = config.n_inner or 4 * config.n_embd
    return Sizes(config.n_layer, n_neurons, config.n_embd, config.n_positions, config.vocab_size)


def _gpt2_mlps(gpt2: Any) -> Sequence[Mlp]:
    """The input weights are a Conv1D's (D, N), so a neuron is a column."""
    return [
        _mlp(block.ln_2, block.mlp.c_fc, block.mlp.c_proj)._replace(weights=block.mlp.c_fc.weight.T) for block in gpt2.h
    ]


def _gpt_neo_mlps(neo: Any) -> Sequence[Mlp]:
    return [_mlp(block.ln_2, block.mlp.c_fc, block.mlp.c_proj) for block in neo.h]


def _gptj_mlps(gptj: Any) -> Sequence[Mlp]:
    """Attention and MLP share a norm."""
    return [_mlp(block.ln_1, block.mlp.fc_in, block.mlp.fc_out) for block in gptj.h]


def _gpt_neox_mlps(neox: Any) -> Sequence[Mlp]:
    """With use_parallel_residual the norm reads what the layer reads, else what attention added to it."""
    return [
        _mlp(layer.post_attention_layernorm, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h) for layer in neox.layers
    ]


def _phi_mlps(phi: Any) -> Sequence[Mlp]:
    """Attention and MLP share a norm."""
    return [_mlp(layer.input_layernorm, layer.mlp.fc1, layer.mlp.fc2) for layer in phi.layers]


# ---- Falcon, BLOOM: MLPs of the same names


def _falcon_sizes(config: Any) -> Sizes:
    n_neurons = config.ffn_hidden_size
    return Sizes(
        config.num_hidden_layers, n_neurons, config.hidden_size, config.max_position_embeddings, config.vocab_size
    )


def _falcon_mlps(falcon: Any) -> Sequence[Mlp]:
    config = falcon.config
    if not config.parallel_attn:
        norm = "post_attention_layernorm"
    else:
        norm = "ln_mlp" if config.num_ln_in_parallel_attn == 2 else "input_layernorm"
    return [_mlp(getattr(block, norm), block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h) for block in falcon.h]


def _falcon_refuses(config: Any) -> str | None:
    """Switches that transformers builds and cannot run."""
    if config.new_decoder_architecture and not config.parallel_attn:
        return "new_decoder_architecture without parallel_attn"
    if config.parallel_attn and config.num_ln_in_parallel_attn == 2 and not config.new_decoder_architecture:
        return "num_ln_in_parallel_attn of 2 without new_decoder_architecture"
    if config.num_ln_in_parallel_attn not in (None, 1, 2):
        return f"num_ln_in_parallel_attn of {config.num_ln_in_parallel_attn}"
    return None


def _bloom_sizes(config: Any) -> Sizes:
    """ALiBi has no end; it was trained on `seq_length` tokens."""
    length = getattr(config, "seq_length", 2048)
    return Sizes(config.n_layer, 4 * config.hidden_size, config.hidden_size, length, config.vocab_size)


def _bloom_mlps(bloom: Any) -> Sequence[Mlp]:
    return [_mlp(block.post_attention_layernorm, block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h) for block in bloom.h]


def _bloom_refuses(config: Any) -> str | None:
    """Then the output matrix is read in slices, and its module sees no activations."""
    sliced = config.slow_but_exact and config.pretraining_tp > 1
    return f"slow_but_exact with pretraining_tp of {config.pretraining_tp}" if sliced else None


# ---- OPT, Arcee


def _opt_sizes(config: Any) -> Sizes:
    return Sizes(
        config.num_hidden_layers, config.ffn_dim, config.hidden_size, config.max_position_embeddings, config.vocab_size
    )


def _opt_mlps(opt: Any) -> Sequence[Mlp]:
    """Without do_layer_norm_before the MLP reads what the norm after attention gives."""
    norm = "final_layer_norm" if opt.config.do_layer_norm_before else "self_attn_layer_norm"
    return [_mlp(getattr(layer, norm), layer.fc1, layer.fc2) for layer in opt.decoder.layers]


def _arcee_mlps(arcee: Any) -> Iterator[Mlp]:
    for layer in arcee.layers:
        norm, mlp = layer.post_attention_layernorm, layer.mlp
        normalise = rms_norm(norm.variance_epsilon)
        yield Mlp(norm, normalise, norm.weight, None, mlp.up_proj.weight, mlp.up_proj.bias, mlp.down_proj)


UNGATED = (
    Family("gpt2", _gpt2_sizes, _gpt2_mlps),
    Family("gpt_neo", _sizes, _gpt_neo_mlps),
    Family("gpt_neox", _sizes, _gpt_neox_mlps),
    Family("gptj", _gpt2_sizes, _gptj_mlps),
    Family("phi", _sizes, _phi_mlps),
    Family("falcon", _falcon_sizes, _falcon_mlps, refuses=_falcon_refuses),
    Family("bloom", _bloom_sizes, _bloom_mlps, refuses=_bloom_refuses),
    Family("opt", _opt_sizes, _opt_mlps),
    Family("arcee", _sizes, lambda arcee: list(_arcee_mlps(arcee))),
)
