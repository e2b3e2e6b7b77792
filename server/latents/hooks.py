"""Places in a model where encoders read, by the names that files give them."""

import re
from pathlib import Path
from typing import NamedTuple

from polysem.proto.errors import FailedPrecondition

# Names in TransformerLens, after blocks.L.
POINT_OF = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "mlp.hook_in": "mlp_in",
    "ln2.hook_normalized": "mlp_normalised",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out",
    "hook_attn_out": "attn_out",
}
BEFORE_NORM = ("mlp.hook_out",)
_BLOCK = re.compile(r"blocks\.(\d{1,5})\.(.+)")
# Modules of transformers whose output Gemma Scope 2 names, after model.layers.L.
_GEMMA_3 = {
    "output": "hook_resid_post",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "post_attention_layernorm.output": "hook_attn_out",
}
_GEMMA_3_LAYER = re.compile(r"model\.(?:language_model\.)?layers\.(\d{1,5})\.(.+)")
# Modules that sparsify names: the layer itself, its MLP, its attention.
_MODULE = re.compile(r"(?:model\.|transformer\.|gpt_neox\.)?(?:layers|h)[._](\d{1,5})(?:\.(\w+))?")
_ATTENTION = ("self_attn", "attn", "attention")


class Hook(NamedTuple):
    """A place where an encoder reads.

    point        one of encoder.POINTS
    name         as the files have it
    before_norm  see encoder.Origin
    """

    layer: int
    point: str
    name: str
    before_norm: bool = False


def hook_of(path: Path, field: str, name: object) -> Hook:
    """Return the place that TransformerLens calls `name`, such as blocks.3.hook_resid_post.

    path, field  the file that has the name, and where, for the message. Raises FailedPrecondition.
    """
    match = _BLOCK.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[2] not in POINT_OF:
        raise _unknown(path, field, name, "blocks.L." + ", ".join(POINT_OF))
    return Hook(int(match[1]), POINT_OF[match[2]], match[0], match[2] in BEFORE_NORM)


def gemma_3_hook(path: Path, field: str, name: object) -> Hook:
    """Return the place that Gemma Scope 2 calls `name`, such as model.layers.3.output. Raises FailedPrecondition."""
    match = _GEMMA_3_LAYER.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[2] not in _GEMMA_3:
        raise _unknown(path, field, name, "model.layers.L." + ", ".join(_GEMMA_3))
    return Hook(int(match[1]), POINT_OF[_GEMMA_3[match[2]]], match[0])


def module_hook(path: Path, name: str, reads_input: bool) -> Hook:
    """Return the place of a module of transformers that sparsify calls `name`, such as layers.3.mlp.

    reads_input  a transcoder reads what goes into the module. Raises FailedPrecondition.
    """
    match = _MODULE.fullmatch(name)
    part = match[2] if match else None
    if match and reads_input and part in (None, "mlp"):
        return Hook(int(match[1]), "resid_pre" if part is None else "mlp_in", name)
    if match and not reads_input and (part is None or part == "mlp" or part in _ATTENTION):
        point = "resid_post" if part is None else "mlp_out" if part == "mlp" else "attn_out"
        return Hook(int(match[1]), point, name, before_norm=part is not None)
    known = "layers.L, layers.L.mlp" + ("" if reads_input else ", layers.L.self_attn")
    raise _unknown(path, "its folder's name", name, known)


def _unknown(path: Path, field: str, name: object, known: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"cannot read latents from {str(path)!r}: {field} is {name!r}; Polysem reads latents at {known}"
    )
