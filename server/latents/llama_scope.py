"""Llama Scope, by OpenMOSS: a folder with hyperparams.json and checkpoints/final.safetensors.

    d_model, d_sae         shape of encoder.weight
    hook_point_in          where it reads
    hook_point_out         the same place of an SAE, another of a transcoder
    norm_activation        dataset-wise: by the factors √D / dataset_average_activation_norm, which are folded into the
                           weights as its library does; token-wise: each vector to the norm √D; none, inference: nothing
    act_fn                 relu; jumprelu, or topk with a jump_relu_threshold, which stands for it; topk by top_k
    jump_relu_threshold    one for all latents, in the scale of the folded weights
    sparsity_include_decoder_norm  true: latents are scaled so that each row of the decoder has norm 1
    use_decoder_bias, apply_decoder_bias_to_pre_encoder  both true: the decoder's bias is subtracted
    use_glu_encoder        false

Other fields are of its training. Tensors: encoder.weight (F, D), encoder.bias, decoder.weight (D, F), decoder.bias.

With s = √D / norm_in and t = √D / norm_out, the library encodes x as W_enc x + b_enc / s; its decoder is W_dec s / t.
"""

from pathlib import Path

from torch import Tensor

from polysem.server.latents import firing, normalising
from polysem.server.latents.fields import Fields, read_json
from polysem.server.latents.firing import Firing
from polysem.server.latents.found import Encoder, Found
from polysem.server.latents.hooks import hook_of
from polysem.server.latents.tensors import Tensors

CONFIG = "hyperparams.json"
WEIGHTS = "checkpoints/final.safetensors"
FORMAT = "Llama Scope"
_TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_NORMS = ("dataset-wise", "token-wise", "none", "inference")


def found(path: Path) -> list[Found]:
    """Return the encoder that a hyperparams.json describes. Raises FailedPrecondition."""
    config = read_json(path)
    hook = hook_of(path, "hook_point_in", config.get("hook_point_in"))
    if config.flag("use_glu_encoder", False):
        raise config.refuse("use_glu_encoder", "Polysem reads encoders without a gate of their own (false)")
    if config.get("norm_activation") not in _NORMS:
        raise config.refuse("norm_activation", f"Polysem reads {', '.join(_NORMS)}")
    if config.get("act_fn") not in ("relu", "jumprelu", "topk"):
        raise config.refuse("act_fn", "Polysem reads relu, jumprelu and topk")
    weights = path.parent / WEIGHTS
    return [Found(FORMAT, path.parent, hook, (path, weights), None, lambda: _encoder(config, weights))]


def _encoder(config: Fields, path: Path) -> Encoder:
    into, out = _factors(config)
    with Tensors(path) as tensors:
        tensors.know(_TENSORS, FORMAT)
        weights = tensors.matrix("encoder.weight")
        n_latents, width = weights.shape
        for name, size in (("d_sae", n_latents), ("d_model", width)):
            if config.whole(name) != size:
                raise config.refuse(name, f"encoder.weight has {size:,}")
        biases = tensors.vector("encoder.bias", n_latents) / into
        if config.flag("sparsity_include_decoder_norm", True):
            norms = tensors.matrix("decoder.weight").norm(dim=0) * (into / out)
            weights, biases = weights * norms[:, None], biases * norms
        subtracts = config.flag("use_decoder_bias", True) and config.flag("apply_decoder_bias_to_pre_encoder", True)
        shift = tensors.vector("decoder.bias", width) / out if subtracts else None
    normalise = normalising.constant_norm if config.get("norm_activation") == "token-wise" else None
    return Encoder(weights, _firing(config, biases), normalise, shift)


def _factors(config: Fields) -> tuple[float, float]:
    """Return s and t, each 1 without a normalisation by data set."""
    if config.get("norm_activation") != "dataset-wise":
        return 1.0, 1.0
    norms = config.below("dataset_average_activation_norm")
    root = config.whole("d_model") ** 0.5
    return root / norms.number("in"), root / norms.number("out")


def _firing(config: Fields, biases: Tensor) -> Firing:
    threshold = 0.0 if not config.get("jump_relu_threshold") else config.number("jump_relu_threshold")
    if config.get("act_fn") == "jumprelu" or (config.get("act_fn") == "topk" and threshold):
        return firing.JumpReLU(biases, biases.new_full(biases.shape, threshold))
    if config.get("act_fn") == "relu":
        return firing.ReLU(biases)
    if (k := config.whole("top_k")) > len(biases):
        raise config.refuse("top_k", f"it has {len(biases):,} latents")
    return firing.TopK(biases, k)
