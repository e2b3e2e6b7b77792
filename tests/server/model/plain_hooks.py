"""What plain hooks on transformers' own modules see; nothing of ours."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .tiny_families import Tiny


class Seen(NamedTuple):
    """Of one layer, by plain hooks: x (b, T, D), h (b, T, D), pre: outputs of the input matrices, a (b, T, N)."""

    x: Tensor
    h: Tensor
    pre: list[Tensor]
    a: Tensor


def hooked(model: torch.nn.Module, tiny: Tiny, tokens: Tensor) -> list[Seen]:
    """Of each layer, from one forward over tokens (b, T)."""
    seen: list[dict[str, Tensor]] = []
    hooks: list[RemovableHandle] = []

    def keep(layer: int, name: str, of_input: bool):
        def hook(_module, inputs, output):
            value = inputs[0] if of_input else output
            seen[layer][name] = value.detach().reshape(*tokens.shape, -1)

        return hook

    for number, module in enumerate(model.get_submodule(tiny.layers)):
        seen.append({})
        first = module.get_submodule(tiny.reads[0])
        norm = first if tiny.norm is None else module.get_submodule(tiny.norm)
        hooks += [
            norm.register_forward_hook(keep(number, "x", True)),
            first.register_forward_hook(keep(number, "h", True)),
            module.get_submodule(tiny.writes).register_forward_hook(keep(number, "a", True)),
        ]
        for i, name in enumerate(tiny.reads):
            hooks.append(module.get_submodule(name).register_forward_hook(keep(number, f"pre{i}", False)))
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    found = []
    for layer in seen:
        pre = list(layer["pre0"].chunk(2, dim=-1)) if "gate_up" in tiny.reads[0] else [layer["pre0"]]
        found.append(Seen(layer["x"], layer["h"], [*pre, *([layer["pre1"]] if "pre1" in layer else [])], layer["a"]))
    return found
