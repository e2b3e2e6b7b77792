"""Families whose neurons are act(w · h + b)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from polysem.server.model.architecture import Family, Final, LinearNorm, Mlp, Sizes, layer_norm, rms_norm


def _mlp(norm: Any, into: Any, writes: Any, passes: Sequence[Any] = ()) -> Mlp:
    """An MLP that reads a torch LayerNorm through a Linear. passes: LayerNorms that its output passes."""
    linear = tuple(LinearNorm(other.weight, True) for other in passes)
    weights = norm.weight, norm.bias, into.weight, into.bias
    return Mlp(norm, layer_norm(norm.eps), *weights, writes, writes.weight.T, linear)


def _final(name: str) -> Callable[[Any], Final]:
    """A torch LayerNorm of that name."""
    return lambda model: Final(LinearNorm(getattr(model, name).weight, True))


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
    """The weights are those of Conv1Ds: (D, N) and (N, D)."""
    return [
        _mlp(block.ln_2, mlp.c_fc, mlp.c_proj)._replace(weights=mlp.c_fc.weight.T, out=mlp.c_proj.weight)
        for block in gpt2.h
        for mlp in [block.mlp]
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
    """With apply_residual_connection_post_layernorm the residual stream passes both norms of each layer."""
    after: list[Any] = []
    found = []
    for block in reversed(bloom.h):
        found.append(_mlp(block.post_attention_layernorm, block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h, after))
        if bloom.config.apply_residual_connection_post_layernorm:
            after = [block.input_layernorm, block.post_attention_layernorm, *after]
    return found[::-1]


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
    """Without do_layer_norm_before the norms stand behind attention and MLP, in the residual stream itself."""
    if opt.config.do_layer_norm_before:
        return [_mlp(layer.final_layer_norm, layer.fc1, layer.fc2) for layer in opt.decoder.layers]
    after: list[Any] = []
    found = []
    for layer in reversed(opt.decoder.layers):
        after = [layer.final_layer_norm, *after]
        found.append(_mlp(layer.self_attn_layer_norm, layer.fc1, layer.fc2, after))
        after = [layer.self_attn_layer_norm, *after]
    return found[::-1]


def _opt_final(opt: Any) -> Final:
    norm, project = opt.decoder.final_layer_norm, opt.decoder.project_out
    return Final(None if norm is None else LinearNorm(norm.weight, True), None if project is None else project.weight)


def _arcee_mlps(arcee: Any) -> Iterator[Mlp]:
    for layer in arcee.layers:
        norm, mlp = layer.post_attention_layernorm, layer.mlp
        normalise = rms_norm(norm.variance_epsilon)
        into, writes = mlp.up_proj, mlp.down_proj
        yield Mlp(norm, normalise, norm.weight, None, into.weight, into.bias, writes, writes.weight.T)


def _arcee_final(arcee: Any) -> Final:
    return Final(LinearNorm(arcee.norm.weight, False))


UNGATED = (
    Family("gpt2", _gpt2_sizes, _gpt2_mlps, _final("ln_f")),
    Family("gpt_neo", _sizes, _gpt_neo_mlps, _final("ln_f")),
    Family("gpt_neox", _sizes, _gpt_neox_mlps, _final("final_layer_norm")),
    Family("gptj", _gpt2_sizes, _gptj_mlps, _final("ln_f")),
    Family("phi", _sizes, _phi_mlps, _final("final_layernorm")),
    Family("falcon", _falcon_sizes, _falcon_mlps, _final("ln_f"), refuses=_falcon_refuses),
    Family("bloom", _bloom_sizes, _bloom_mlps, _final("ln_f"), refuses=_bloom_refuses),
    Family("opt", _opt_sizes, _opt_mlps, _opt_final),
    Family("arcee", _sizes, lambda arcee: list(_arcee_mlps(arcee)), _arcee_final),
)
