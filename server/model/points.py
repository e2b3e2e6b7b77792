"""Vectors of a layer that an encoder may read (server/latents/encoder.py, POINTS), and the modules that show them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polysem.proto.errors import FailedPrecondition
from polysem.server.model.architecture import Mlp, Normalise

See = Callable[[Tensor], None]

# The matrix that makes what attention adds to the residual stream, by its name in a block.
PROJECTIONS = (
    "attn.c_proj",
    "attn.attention.out_proj",
    "attn.out_proj",
    "attention.dense",
    "self_attention.dense",
    "self_attn.dense",
    "self_attn.out_proj",
    "self_attn.o_proj",
)
NORMED = ("gemma2", "gemma3_text", "olmo2", "olmo3")  # families with a norm behind attention, and one behind the MLP


def blocks(transformer: nn.Module, n_layers: int) -> nn.ModuleList:
    """Return the layers of a model of transformers."""
    lists = (module for module in transformer.modules() if isinstance(module, nn.ModuleList))
    return next(found for found in lists if len(found) == n_layers)


def watch(block: nn.Module, mlp: Mlp, config: Any, point: str, before_norm: bool, see: See) -> RemovableHandle:
    """Have `see` called in each forward with the vectors (…, D) at a point of a layer.

    before_norm  of mlp_out and attn_out: before the norm that some families have behind them

    Raises FailedPrecondition for a point that the family does not have as a vector of its own.
    """
    if point == "resid_pre":
        return block.register_forward_pre_hook(lambda _block, given, named: see(_first(given, named)), with_kwargs=True)
    if point == "resid_post":
        return block.register_forward_hook(
            lambda _block, _given, made: see(made[0] if isinstance(made, tuple) else made)
        )
    if point in ("mlp_out", "attn_out"):
        of_mlp = point == "mlp_out"
        return _writer(block, mlp, config, of_mlp, before_norm).register_forward_hook(
            lambda _m, _given, made: see(made)
        )
    if point == "resid_mid" and _is_parallel(config):
        raise FailedPrecondition(
            f"the SAE reads resid_mid, and a {config.model_type} model of this config has no such vector: its "
            "attention and MLP stand side by side; use an SAE of resid_pre or resid_post"
        )
    made_of: dict[str, Normalise] = {
        "resid_mid": lambda x: x,
        "mlp_normalised": mlp.normalise,
        "mlp_in": lambda x: read_by(mlp, x),
    }
    if point not in made_of:
        raise FailedPrecondition(f"no model shows the point {point!r}; use an SAE of the residual stream or the MLP")
    return mlp.reads.register_forward_pre_hook(lambda _norm, given: see(made_of[point](given[0])))


def read_by(mlp: Mlp, x: Tensor) -> Tensor:
    """Return the vectors (…, D) float32 that the MLP's matrices read, of what its norm reads."""
    h = mlp.normalise(x)
    if mlp.gamma is not None:
        h = h * mlp.gamma.float()
    return h if mlp.beta is None else h + mlp.beta.float()


def _first(given: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
    return given[0] if given else named["hidden_states"]


def _writer(block: nn.Module, mlp: Mlp, config: Any, of_mlp: bool, before_norm: bool) -> nn.Module:
    """The module whose output the MLP, or attention, adds to the residual stream."""
    if config.model_type in NORMED and not before_norm:
        return block.get_submodule("post_feedforward_layernorm" if of_mlp else "post_attention_layernorm")
    if of_mlp:
        return mlp.writes
    modules: dict[str, nn.Module] = dict(block.named_modules())
    return next(modules[name] for name in PROJECTIONS if name in modules)


def _is_parallel(config: Any) -> bool:
    """Whether MLP and attention read the same vector."""
    switches = {"gpt_neox": "use_parallel_residual", "falcon": "parallel_attn"}
    family = config.model_type
    return family in ("gptj", "phi") or (family in switches and bool(getattr(config, switches[family])))
