"""GPT-2: the input weights are a Conv1D's (D, N), so a neuron is a column."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from polysem.server.model.architecture import Family, Mlp, Sizes, layer_norm


def _sizes(config: Any) -> Sizes:
    n_neurons = config.n_inner or 4 * config.n_embd
    return Sizes(config.n_layer, n_neurons, config.n_embd, config.n_positions, config.vocab_size)


def _mlps(gpt2: Any) -> Sequence[Mlp]:
    normalise = layer_norm(gpt2.config.layer_norm_epsilon)
    for block in gpt2.h:
        if gpt2.config.activation_function == "gelu_new":
            block.mlp.act = nn.GELU("tanh")  # the same function in one pass over memory instead of eight
    return [
        Mlp(
            reads=block.ln_2,
            normalise=normalise,
            gamma=block.ln_2.weight,
            beta=block.ln_2.bias,
            weights=block.mlp.c_fc.weight.T,
            biases=block.mlp.c_fc.bias,
            writes=block.mlp.c_proj,
        )
        for block in gpt2.h
    ]


GPT2 = Family("gpt2", _sizes, _mlps)
