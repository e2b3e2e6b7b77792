"""Write what TransformerLens sees in a checkpoint of any family: python see_family.py DIR OUT.npz

Runs where transformer-lens 4 is installed; imports nothing of ours. Arrays of L layers and T tokens: h (L, T, D),
what the MLP reads; pre (L, T, N), and of gated neurons up (L, T, N); post (L, T, N), the input of the last matrix.
"""

import sys
from pathlib import Path

import numpy as np

TOKENS = [256, *range(40, 63)]
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
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
