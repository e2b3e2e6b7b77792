"""Gemma Scope: JumpReLU encoders without a normalisation, which subtract no b_dec.

Gemma Scope 1: …/layer_L/…/params.npz {W_enc (D, F), b_enc, threshold, W_dec, b_dec}. No file says what it reads. The
name of its repository does, where it is in the path: google/gemma-scope-2b-pt-res (the residual stream behind the
layer), -mlp (MLP out), -transcoders (ln2.hook_normalized); else the hook has to be given. Refused are -att, which reads
attention heads before they are mixed, and SAEs of the embeddings.

Gemma Scope 2: …/params.safetensors {w_enc (D, F), b_enc, threshold, w_dec, b_dec, affine_skip_connection} and
config.json {architecture: jump_relu, hf_hook_point_in, model_name}. Without a config.json, the hook has to be given.

Its cross-layer transcoders: clt/…/params_layer_L.safetensors, the same tensors for each layer L, w_dec (F, layers, D).
What they read stands in the config.json of all layers: hf_hook_point_in with one place for each layer; where it says
anything else, the hook has to be given. Decoders are not read. Crosscoders have files of the same names, whose numbers
count places and not layers: they are refused, by the folder's name (layer_7_13_17_22_…) or the config's `type`.
"""

import re
from pathlib import Path

from polysem.server.latents import firing
from polysem.server.latents.fields import Fields, read_json, refused
from polysem.server.latents.found import Encoder, Found, Given
from polysem.server.latents.hooks import Hook, gemma_3_hook, hook_of
from polysem.server.latents.tensors import Tensors

WEIGHTS_1 = "params.npz"
WEIGHTS_2 = "params.safetensors"
CROSS_LAYER_WEIGHTS = "params_layer_*.safetensors"
FORMAT_1 = "Gemma Scope"
FORMAT_2 = "Gemma Scope 2"
CROSS_LAYER = "Gemma Scope 2, cross-layer"
_REPOSITORY = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(\w+)")
_READS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "transcoders": "ln2.hook_normalized"}
_LAYER = re.compile(r"layer_(\d{1,5})(?!\d)")
_CROSSCODER = re.compile(r"layer_\d+_\d+_[\d_]*width")
_FILE = re.compile(r"params_layer_(\d{1,5})\.safetensors")
_TENSORS_1 = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec", "scaling_factor")  # the last: of decoding
_TENSORS_2 = ("w_enc", "b_enc", "threshold", "w_dec", "b_dec", "affine_skip_connection")


def found_1(weights: Path, given: Given | None) -> list[Found]:
    """Return the encoder in a params.npz. given: where it reads. Raises FailedPrecondition."""
    named = _REPOSITORY.search(str(weights.absolute()))
    reads = given.name if given else _READS.get(named[3]) if named else None
    if reads is None:
        said = f"{named[0]} is no repository that" if named else "no repository's name on its path"
        raise refused(
            weights,
            f"{said} says what it reads ({', '.join(f'-{name}' for name in _READS)}); give the place behind the "
            "folder, such as @hook_resid_post",
        )
    hook = _hook(weights, reads, given.layer if given else None)
    model = f"google/gemma-2-{named[1]}" + ("-it" if named[2] == "it" else "") if named else None
    return [Found(FORMAT_1, weights.parent, hook, (weights,), model, lambda: _encoder(weights, "W_enc", _TENSORS_1))]


def found_2(weights: Path, given: Given | None) -> list[Found]:
    """Return the encoder in a params.safetensors. given: where it reads. Raises FailedPrecondition."""
    path = weights.with_name("config.json")
    model = None
    files: tuple[Path, ...] = (weights,)
    if path.is_file():
        config = read_json(path)
        if config.get("architecture") != "jump_relu":
            raise config.refuse("architecture", "Polysem reads jump_relu")
        hook = gemma_3_hook(path, "hf_hook_point_in", config.get("hf_hook_point_in"))
        model = config.text("model_name")
        files = (path, weights)
    elif given is None:
        raise refused(
            weights,
            "no config.json beside it says what it reads; give the place behind the folder, such as @hook_resid_post",
        )
    else:
        hook = _hook(weights, given.name, given.layer)
    return [Found(FORMAT_2, weights.parent, hook, files, model, lambda: _encoder(weights, "w_enc", _TENSORS_2))]


def found_cross_layer(weights: Path, given: Given | None) -> list[Found]:
    """Return the encoder that a cross-layer transcoder has at one layer. Raises FailedPrecondition."""
    match = _FILE.fullmatch(weights.name)
    if match is None:
        return []
    layer, path = int(match[1]), weights.with_name("config.json")
    config = read_json(path) if path.is_file() else Fields(path, {})
    if _CROSSCODER.search(weights.parent.name) or "crosscoder" in str(config.get("type")):
        raise refused(weights, "it is part of a crosscoder of several layers; Polysem reads SAEs and transcoders")
    if config.get("architecture") not in (None, "jump_relu"):
        raise config.refuse("architecture", "Polysem reads jump_relu")
    hook = _cross_layer_hook(weights, config, layer, given)
    files = (path, weights) if path.is_file() else (weights,)
    model = config.text("model_name")
    return [Found(CROSS_LAYER, weights, hook, files, model, lambda: _encoder(weights, "w_enc", _TENSORS_2))]


def _cross_layer_hook(weights: Path, config: Fields, layer: int, given: Given | None) -> Hook:
    field = "hf_hook_point_in"
    places = config.get(field)
    if isinstance(places, list) and layer < len(places):
        hook = gemma_3_hook(config.path, field, places[layer])
        if hook.layer != layer:
            raise config.refuse(field, f"{weights.name} holds layer {layer}, and place {layer} of it is {hook.name}")
        return hook
    if given is not None:
        return _hook(weights, given.name, layer)
    why = f"{field!r} of {config.path.name} is {str(places)[:60]!r}" if places else f"no {config.path.name} beside it"
    raise refused(
        weights, f"{why}, so what it reads is not known; give the place behind the folder, such as @mlp.hook_in"
    )


def _hook(weights: Path, name: str, layer: int | None) -> Hook:
    layers = _LAYER.findall(str(weights.absolute()))
    if layer is None and not layers:
        raise refused(weights, "no folder on its path is called layer_L, which would say its layer")
    return hook_of(weights, "the hook", f"blocks.{int(layers[-1]) if layer is None else layer}.{name}")


def _encoder(path: Path, name: str, known: tuple[str, ...]) -> Encoder:
    with Tensors(path) as tensors:
        tensors.know(known, "Gemma Scope")
        weights = tensors.matrix(name, transposed=True)
        biases, thresholds = (tensors.vector(part, len(weights)) for part in ("b_enc", "threshold"))
        return Encoder(weights, firing.JumpReLU(biases, thresholds))
