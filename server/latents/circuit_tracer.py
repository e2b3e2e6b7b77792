"""Transcoders for circuit-tracer, one a layer or cross-layer: files of all layers in one folder, with a config.yaml.

One a layer: layer_L.safetensors {W_enc (F, D), b_enc, W_dec, b_dec, activation_function.threshold of JumpReLU, W_skip}.
Cross-layer: W_enc_L.safetensors {W_enc_L (F, D), b_enc_L, b_dec_L, threshold_L of JumpReLU}; decoders are not read.
Without a threshold latents are ReLU. Nothing is normalised, no b_dec subtracted.

    feature_input_hook  what each layer's encoder reads, after blocks.L., such as mlp.hook_in or hook_resid_mid
    model_name          the model

Without a config.yaml, the hook has to be given.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from polysem.server.latents import firing
from polysem.server.latents.fields import read_yaml, refused
from polysem.server.latents.found import Encoder, Found, Given
from polysem.server.latents.hooks import hook_of
from polysem.server.latents.tensors import Tensors

WEIGHTS = "layer_*.safetensors"
CROSS_LAYER_WEIGHTS = "W_enc_*.safetensors"
CONFIG = "config.yaml"
_LAYER = re.compile(r"(?:layer|W_enc)_(\d{1,5})\.safetensors")
THRESHOLD = "activation_function.threshold"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip", THRESHOLD)


def found(weights: Path, given: Given | None) -> list[Found]:
    """Return the transcoder of one layer. given: where it reads. Raises FailedPrecondition."""
    return _found(weights, given, "circuit-tracer", lambda _layer: partial(_encoder, weights))


def found_cross_layer(weights: Path, given: Given | None) -> list[Found]:
    """Return the encoder that a cross-layer transcoder has at one layer. Raises FailedPrecondition."""
    return _found(weights, given, "circuit-tracer, cross-layer", lambda layer: partial(_cross_layer, weights, layer))


def _found(
    weights: Path, given: Given | None, called: str, reader: Callable[[int], Callable[[], Encoder]]
) -> list[Found]:
    match = _LAYER.fullmatch(weights.name)
    if match is None:
        return []
    layer = int(match[1])
    path = weights.with_name(CONFIG)
    model = None
    if path.is_file():
        config = read_yaml(path)
        hook = hook_of(path, "feature_input_hook", f"blocks.{layer}.{config.get('feature_input_hook')}")
        model = config.text("model_name")
        files: tuple[Path, ...] = (path, weights)
    elif given is None:
        raise refused(
            weights, f"no {CONFIG} beside it says what it reads; give the place behind the folder, such as @mlp.hook_in"
        )
    else:
        hook = hook_of(weights, "the hook", f"blocks.{layer}.{given.name}")
        files = (weights,)
    return [Found(called, weights, hook, files, model, reader(layer))]


def _encoder(path: Path) -> Encoder:
    with Tensors(path) as tensors:
        tensors.know(_TENSORS, "circuit-tracer")
        return _read(tensors, "W_enc", "b_enc", THRESHOLD)


def _cross_layer(path: Path, layer: int) -> Encoder:
    with Tensors(path) as tensors:
        names = [f"{part}_{layer}" for part in ("W_enc", "b_enc", "threshold", "b_dec")]
        tensors.know(names, "circuit-tracer")
        return _read(tensors, *names[:3])


def _read(tensors: Tensors, matrix: str, bias: str, threshold: str) -> Encoder:
    weights = tensors.matrix(matrix)
    biases = tensors.vector(bias, len(weights))
    if threshold not in tensors:
        return Encoder(weights, firing.ReLU(biases))
    thresholds = tensors.vector(threshold, len(weights))
    if (lowest := thresholds.min().item()) < 0:
        raise refused(tensors.path, f"{threshold!r} holds {lowest}; latents fire above 0")
    return Encoder(weights, firing.JumpReLU(biases, thresholds))
