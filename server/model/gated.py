"""Families whose neurons are act(g) · u, with g = w_g · h + b_g and u = w_u · h + b_u."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from polysem.server.model.architecture import (
    Family,
    Final,
    LinearNorm,
    Mlp,
    Normalise,
    Sizes,
    layer_norm,
    no_norm,
    rms_norm,
)

Norm = tuple[Any, Normalise, Tensor | None]  # the module that reads x, the norm, and its γ


def _sizes(config: Any) -> Sizes:
    return Sizes(
        config.num_hidden_layers,
        config.intermediate_size,
        config.hidden_size,
        config.max_position_embeddings,
        config.vocab_size,
    )


def _mlps(
    norm_of: Callable[[Any], Norm], passes: Callable[[Any], tuple[LinearNorm, ...]] = lambda layer: ()
) -> Callable[[Any], Sequence[Mlp]]:
    """The MLPs of layers with gate_proj, up_proj and down_proj. passes: the norm behind one, of a layer."""

    def mlps(model: Any) -> Sequence[Mlp]:
        return [
            _mlp(norm_of(layer), layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)._replace(
                passes=passes(layer)
            )
            for layer in model.layers
        ]

    return mlps


def _mlp(norm: Norm, gate: Any, up: Any, writes: Any) -> Mlp:
    reads, normalise, gamma = norm
    of_up = {"up": up.weight, "up_biases": up.bias}
    return Mlp(reads, normalise, gamma, None, gate.weight, gate.bias, writes, writes.weight.T, **of_up)


def _llama_norm(layer: Any) -> Norm:
    norm = layer.post_attention_layernorm
    return norm, rms_norm(norm.variance_epsilon), norm.weight


def _gemma_norm(layer: Any) -> Norm:
    norm = layer.post_attention_layernorm
    return norm, rms_norm(norm.eps), 1 + norm.weight.float()


def _gemma2_norm(layer: Any) -> Norm:
    norm = layer.pre_feedforward_layernorm
    return norm, rms_norm(norm.eps), 1 + norm.weight.float()


def _olmo_norm(layer: Any) -> Norm:
    return layer.post_attention_layernorm, layer_norm(1e-5), None


def _olmo2_norm(layer: Any) -> Norm:
    """None: the norms stand behind attention and MLP, which read the residual stream itself."""
    return layer.mlp, no_norm, None


def _phi3_mlps(phi3: Any) -> Sequence[Mlp]:
    """Gate and up are the halves of one matrix."""
    return [
        Mlp(*norm, None, gate, None, writes, writes.weight.T, up=up)
        for layer in phi3.layers
        for norm, writes in [(_llama_norm(layer), layer.mlp.down_proj)]
        for gate, up in [layer.mlp.gate_up_proj.weight.chunk(2)]
    ]


def _gemma2_passes(layer: Any) -> tuple[LinearNorm, ...]:
    return (LinearNorm(1 + layer.post_feedforward_layernorm.weight.float(), False),)


def _olmo2_passes(layer: Any) -> tuple[LinearNorm, ...]:
    return (LinearNorm(layer.post_feedforward_layernorm.weight, False),)


def _rms_final(model: Any) -> Final:
    return Final(LinearNorm(model.norm.weight, False))


def _granite_final(granite: Any) -> Final:
    return _rms_final(granite)._replace(divisor=granite.config.logits_scaling)


def _gemma_final(gemma: Any) -> Final:
    softcap = getattr(gemma.config, "final_logit_softcapping", None)  # the first Gemma has none
    return Final(LinearNorm(1 + gemma.norm.weight.float(), False), softcap=softcap)


def _gemma_refuses(config: Any) -> str | None:
    """Return the switch of bidirectional attention, which embedding models use, if it is set."""
    return "use_bidirectional_attention" if config.use_bidirectional_attention else None


_LLAMA = _mlps(_llama_norm)
_GEMMA2 = _mlps(_gemma2_norm, _gemma2_passes)
_OLMO2 = _mlps(_olmo2_norm, _olmo2_passes)

GATED = (
    *(Family(name, _sizes, _LLAMA, _rms_final, True) for name in ("llama", "mistral", "qwen2", "qwen3", "smollm3")),
    Family("granite", _sizes, _LLAMA, _granite_final, True),
    Family("gemma", _sizes, _mlps(_gemma_norm), _gemma_final, True, refuses=_gemma_refuses),
    Family("gemma2", _sizes, _GEMMA2, _gemma_final, True, refuses=_gemma_refuses),
    Family("gemma3_text", _sizes, _GEMMA2, _gemma_final, True, refuses=_gemma_refuses),
    Family("olmo", _sizes, _mlps(_olmo_norm), lambda olmo: Final(LinearNorm(None, True)), True),
    Family("olmo2", _sizes, _OLMO2, _rms_final, True, bounded=False),
    Family("olmo3", _sizes, _OLMO2, _rms_final, True, bounded=False),
    Family("phi3", _sizes, _phi3_mlps, _rms_final, True),
)
