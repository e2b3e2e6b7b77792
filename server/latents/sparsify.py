"""EleutherAI's sparsify: a folder a hook point, such as layers.3.mlp, with cfg.json and sae.safetensors.

    d_in, num_latents  shape of encoder.weight; num_latents 0 or missing: d_in · expansion_factor
    k                  the k latents with the largest pre-activations fire
    activation         topk, also where it is missing
    signed             false, also where it is missing
    transcode          true: it reads what goes into the module, without b_dec; else what comes out of it, minus b_dec

What else a config has is of its training or of its decoder. config.json in the folder above may name the `model`.
Tensors: encoder.weight (F, D), encoder.bias, W_dec, b_dec, W_skip.
"""

from pathlib import Path

from polysem.server.latents import firing
from polysem.server.latents.fields import Fields, read_json
from polysem.server.latents.found import Encoder, Found
from polysem.server.latents.hooks import module_hook
from polysem.server.latents.tensors import Tensors

WEIGHTS = "sae.safetensors"
FORMAT = "sparsify"
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip")


def found(weights: Path) -> list[Found]:
    """Return the SAE or transcoder whose weights' file this is. Raises FailedPrecondition."""
    config = read_json(weights.with_name("cfg.json"))
    if config.get("activation") not in (None, "topk"):
        raise config.refuse("activation", "Polysem reads topk")
    if config.flag("signed", False):
        raise config.refuse("signed", "Polysem reads latents that fire above 0 (false)")
    hook = module_hook(weights.parent, weights.parent.name, config.flag("transcode", False))
    run = weights.parent.with_name("config.json")
    model = read_json(run).text("model") if run.is_file() else None
    files = (config.path, weights)
    return [
        Found(
            FORMAT,
            weights.parent,
            hook,
            files,
            model,
            lambda: _encoder(config, weights),
        )
    ]


def _encoder(config: Fields, path: Path) -> Encoder:
    with Tensors(path) as tensors:
        tensors.know(_TENSORS, FORMAT)
        weights = tensors.matrix("encoder.weight")
        n_latents, width = weights.shape
        if config.whole("d_in") != width:
            raise config.refuse("d_in", f"encoder.weight has {width:,}")
        name = "num_latents" if config.get("num_latents") else "expansion_factor"
        if config.whole(name) * (1 if name == "num_latents" else width) != n_latents:
            raise config.refuse(name, f"encoder.weight has {n_latents:,} latents of {width:,}")
        if (k := config.whole("k")) > n_latents:
            raise config.refuse("k", f"it has {n_latents:,} latents")
        shift = None if config.flag("transcode", False) else tensors.vector("b_dec", width)
        return Encoder(weights, firing.TopK(tensors.vector("encoder.bias", n_latents), k), shift=shift)
