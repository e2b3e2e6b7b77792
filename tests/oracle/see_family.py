"""Write what TransformerLens sees in a checkpoint of any family: python see_family.py DIR OUT.npz

Runs where transformer-lens 4 is installed; imports nothing of ours. Arrays of L layers and T tokens: h (L, T, D),
what the MLP reads; pre (L, T, N), and of gated neurons up (L, T, N); post (L, T, N), the input of the last matrix;
and written (N, V): how the last token's logits, before any softcap, change when a neuron of the last layer fires by
STRENGTH more and norms keep their scales.
"""

import sys
from pathlib import Path

import numpy as np

TOKENS = [256, *range(40, 63)]
STRENGTH = 100.0
HOOKS = {"h": "mlp.hook_in", "pre": "mlp.hook_pre", "up": "mlp.hook_pre_linear", "post": "mlp.out.hook_in"}


def main(checkpoint: Path, out: Path) -> None:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(checkpoint), device="cpu")
    _, cache = bridge.run_with_cache(torch.tensor([TOKENS]))
    found = {}
    for name, hook in HOOKS.items():
        keys = [f"blocks.{layer}.{hook}" for layer in range(bridge.cfg.n_layers)]
        if keys[0] in cache:
            found[name] = np.stack([cache[key][0].detach().float().numpy() for key in keys])
    np.savez(out, written=written(bridge, cache), **found)


def written(bridge, cache):
    """Norms compute from their hooks, so that a scale that a hook gives them is the one they divide by."""
    import torch

    for module in bridge.modules():
        if hasattr(module, "use_native_layernorm_autograd"):
            module.use_native_layernorm_autograd = False
    last = bridge.cfg.n_layers - 1
    scales = [name for name in (f"blocks.{last}.ln2_post.hook_scale", "ln_final.hook_scale") if name in cache]
    n_neurons = cache[f"blocks.{last}.{HOOKS['post']}"].shape[-1]
    seen = []

    def fire(activations, hook):  # row i + 1: neuron i
        changed = activations.clone()
        changed[torch.arange(1, n_neurons + 1), -1, torch.arange(n_neurons)] += STRENGTH
        return changed

    hooks = [(name, lambda _, hook: cache[hook.name].expand(n_neurons + 1, -1, -1)) for name in scales]
    hooks += [
        (f"blocks.{last}.{HOOKS['post']}", fire),
        ("unembed.hook_in", lambda x, hook: seen.append(x[:, -1].detach())),
    ]
    with torch.no_grad():
        bridge.run_with_hooks(torch.tensor([TOKENS] * (n_neurons + 1)), fwd_hooks=hooks)
    (read,) = seen
    return ((read[1:] - read[:1]) @ bridge.unembed.original_component.weight.T).detach().float().numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
