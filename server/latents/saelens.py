"""SAELens: a folder with cfg.json and sae_weights.safetensors.

Fields of cfg.json. SAELens 6 keeps those of the model and the hook in `metadata`; before 6 all are at the top, among
those of the training run, which change nothing here. What is not in the table is refused in a config of SAELens 6.

    architecture           standard, jumprelu, topk, gated, [skip_, jumprelu_, jumprelu_skip_]transcoder; batchtopk and
                           matryoshka_batchtopk of a training checkpoint, as JumpReLU by its tensor topk_threshold
    d_in, d_sae            shape of W_enc
    hook_name              where it reads; before 6 also hook_point
    apply_b_dec_to_input   whether b_dec is subtracted; true where it is missing
    normalize_activations  none, layer_norm, constant_norm_rescale; expected_average_only_in by the factor in
                           activation_scaler.json (a finished SAE has it in its weights, and says none)
    k                      of topk; before 6 activation_fn_kwargs.k with activation_fn[_str] topk
    rescale_acts_by_decoder_norm  of topk and batchtopk: pre-activations times the norms of W_dec's rows
    reshape_activations    none
    hook_head_index        null
    model_from_pretrained_kwargs  how TransformerLens changed the model: what changes no vector that is read, or
                           center_writing_weights of a model with LayerNorm, whose vectors are then centred

Tensors: W_enc (D, F), b_enc, W_dec (F, D), b_dec; threshold of jumprelu; b_gate, r_mag, b_mag of gated; W_skip.
"""

from pathlib import Path

from torch import Tensor

from polysem.server.latents import firing, normalising
from polysem.server.latents.fields import Fields, read_json, refused
from polysem.server.latents.firing import Firing
from polysem.server.latents.found import Encoder, Found
from polysem.server.latents.hooks import Hook, hook_of
from polysem.server.latents.normalising import Normalise
from polysem.server.latents.tensors import Tensors

WEIGHTS = "sae_weights.safetensors"
FORMAT = "SAELens"
SCALER = "activation_scaler.json"
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_ARCHITECTURES = ("standard", "jumprelu", "topk", "gated", *_TRANSCODERS, *_BATCH_TOPK)
_READ = (
    *("architecture", "d_in", "d_sae", "apply_b_dec_to_input", "normalize_activations", "reshape_activations"),
    *("metadata", "k", "rescale_acts_by_decoder_norm"),
)
# Of no effect on activations: where and in what numbers the library computes, the decoder's width, how it was trained.
_NO_EFFECT = (
    *("dtype", "device", "d_out", "decoder_init_norm", "l1_coefficient", "l1_warm_up_steps", "lp_norm"),
    *("l0_coefficient", "l0_warm_up_steps", "target_l0", "jumprelu_init_threshold", "jumprelu_bandwidth"),
    *("jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale", "jumprelu_ste_to_input", "pre_act_loss_coefficient"),
    *("aux_loss_coefficient", "use_sparse_activations", "topk_threshold_lr", "matryoshka_widths"),
    "use_matryoshka_aux_loss",
)
_KNOWN = (*_READ, *_NO_EFFECT)
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "scaling_factor", "finetuning_scaling_factor")  # the last two: decoding
_NO_VECTOR = (
    *("center_unembed", "fold_value_biases", "refactor_factored_attn_matrices"),
    *("dtype", "device", "n_devices"),
)
_LAYER_NORMED = ("gpt2", "pythia", "EleutherAI/pythia", "openai-community/gpt2")


def found(weights: Path) -> list[Found]:
    """Return the SAE whose weights' file this is. Raises FailedPrecondition."""
    config = read_json(weights.with_name("cfg.json"))
    facts = config if config.get("hook_name", "hook_point") else config.below("metadata")
    hook = hook_of(config.path, "hook_name", facts.get("hook_name", "hook_point"))
    architecture = _architecture(config)
    _check(config, facts, hook, architecture)
    normalise, scaler = _normalise(config, weights.with_name(SCALER), _is_centred(facts, hook))
    files = (config.path, weights, *scaler)
    return [
        Found(
            FORMAT,
            weights.parent,
            hook,
            files,
            facts.text("model_name"),
            lambda: _encoder(config, weights, architecture, normalise),
        )
    ]


def _is_of_6(config: Fields) -> bool:
    version = config.get("sae_lens_version") or config.below("metadata").get("sae_lens_version")
    return str(version).split(".")[0].isdigit() and int(str(version).split(".")[0]) >= 6


def _architecture(config: Fields) -> str:
    architecture = config.get("architecture") or "standard"
    if not _is_of_6(config):
        activation = config.get("activation_fn", "activation_fn_str") or "relu"
        if activation == "topk":
            architecture = "topk"
        elif activation != "relu":
            name = next(name for name in ("activation_fn", "activation_fn_str") if config.get(name) is not None)
            raise config.refuse(name, "Polysem reads relu and topk")
    if architecture not in _ARCHITECTURES:
        raise config.refuse("architecture", f"Polysem reads {', '.join(_ARCHITECTURES)}")
    return str(architecture)


def _check(config: Fields, facts: Fields, hook: Hook, architecture: str) -> None:
    if _is_of_6(config):
        config.know(_KNOWN, FORMAT)
    if config.get("reshape_activations") not in (None, "none"):
        raise config.refuse("reshape_activations", "Polysem reads vectors of the model's width (none)")
    if facts.get("hook_head_index", "hook_point_head_index") is not None:
        raise facts.refuse("hook_head_index", "Polysem reads all heads together (null)")
    if architecture in _TRANSCODERS and config.flag("apply_b_dec_to_input", False):
        raise config.refuse("apply_b_dec_to_input", "a transcoder's b_dec belongs to its output (false)")


def _is_centred(facts: Fields, hook: Hook) -> bool:
    """Whether the SAE was trained on vectors without their mean."""
    changes = facts.below("model_from_pretrained_kwargs")
    for name, value in changes.values.items():
        fine = not value or name in _NO_VECTOR or (name == "fold_ln" and hook.point != "mlp_in")
        if not fine and name != "center_writing_weights":
            raise facts.refuse("model_from_pretrained_kwargs", f"Polysem does not read what {name} makes of the model")
    if not changes.get("center_writing_weights") or hook.point in ("mlp_in", "mlp_normalised"):
        return False
    if not str(facts.get("model_name")).startswith(_LAYER_NORMED):
        raise facts.refuse(
            "model_from_pretrained_kwargs",
            "center_writing_weights is read of GPT-2 and Pythia, which have LayerNorm",
        )
    return True


def _normalise(config: Fields, scaler: Path, is_centred: bool) -> tuple[Normalise | None, tuple[Path, ...]]:
    """Return what happens to a vector first, and the file that says so, if there is one."""
    centring = normalising.centred if is_centred else None
    named = config.get("normalize_activations")
    if named in (None, "none", False):
        return centring, ()
    if named == "layer_norm":
        return normalising.in_turn(centring, normalising.layer_norm), ()
    if named == "constant_norm_rescale":
        return normalising.in_turn(centring, normalising.constant_norm), ()
    if named not in ("expected_average_only_in", True):
        raise config.refuse(
            "normalize_activations",
            "Polysem reads none, expected_average_only_in, constant_norm_rescale and layer_norm",
        )
    if not scaler.is_file():
        raise config.refuse("normalize_activations", f"its factor would be in {SCALER}, which is not there")
    factor = read_json(scaler)
    if factor.get("has_whitening"):
        raise factor.refuse("has_whitening", "Polysem does not read whitened vectors (false)")
    return normalising.in_turn(centring, normalising.scaled(factor.number("scaling_factor"))), (scaler,)


def _encoder(config: Fields, path: Path, architecture: str, normalise: Normalise | None) -> Encoder:
    with Tensors(path) as tensors:
        weights = tensors.matrix("W_enc", transposed=True)
        for name, size in zip(("d_sae", "d_in"), weights.shape, strict=True):
            if config.whole(name) != size:
                raise config.refuse(name, f"W_enc has {size:,}")
        norms = None
        if architecture in ("topk", *_BATCH_TOPK) and config.flag(
            "rescale_acts_by_decoder_norm", architecture in _BATCH_TOPK
        ):
            norms = tensors.matrix("W_dec").norm(dim=-1)
            weights = weights * norms[:, None]
        fire = _firing(config, tensors, architecture, len(weights), norms)
        subtracts = architecture not in _TRANSCODERS and config.flag("apply_b_dec_to_input", True)
        shift = tensors.vector("b_dec", weights.shape[1]) if subtracts else None
    return Encoder(weights, fire, normalise, shift)


def _firing(config: Fields, tensors: Tensors, architecture: str, n_latents: int, norms: Tensor | None) -> Firing:
    if architecture == "gated":
        tensors.know((*_TENSORS, "b_gate", "r_mag", "b_mag"), FORMAT)
        vectors = [tensors.vector(name, n_latents) for name in ("b_gate", "r_mag", "b_mag")]
        return firing.Gated(vectors[0], vectors[1].exp(), vectors[2])
    biases = tensors.vector("b_enc", n_latents)
    if norms is not None:
        biases = biases * norms
    if architecture == "topk":
        tensors.know(_TENSORS, FORMAT)
        return firing.TopK(biases, _k(config, n_latents))
    if architecture in _BATCH_TOPK:
        tensors.know((*_TENSORS, "topk_threshold"), FORMAT)
        if "topk_threshold" not in tensors:
            raise refused(
                tensors.path, f"it has no topk_threshold, and the top k of {architecture} are of a whole batch"
            )
        return firing.JumpReLU(biases, biases.new_full((n_latents,), tensors.scalar("topk_threshold")))
    if architecture.startswith("jumprelu"):
        tensors.know((*_TENSORS, "threshold", "W_skip"), FORMAT)
        return firing.JumpReLU(biases, tensors.vector("threshold", n_latents))
    tensors.know((*_TENSORS, "W_skip"), FORMAT)
    return firing.ReLU(biases)


def _k(config: Fields, n_latents: int) -> int:
    fields = config if config.get("k") is not None else config.below("activation_fn_kwargs")
    if (k := fields.whole("k")) > n_latents:
        raise fields.refuse("k", f"it has {n_latents:,} latents")
    return k
