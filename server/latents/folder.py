"""Latents by name: a folder, or a repository of the hub and a folder in it, with encoders of one format or several.

sae:FOLDER             every encoder below it, one a layer
sae:ORG/NAME[/FOLDER]  a repository of the hub, of which only that folder is fetched
…@HOOK                 where the files do not say what they read: @hook_resid_post, or @blocks.3.hook_resid_post
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.latents import circuit_tracer, gemma_scope, llama_scope, saelens, sparsify
from polysem.server.latents.encoder import Latents, Origin
from polysem.server.latents.found import Found, Given
from polysem.server.latents.hooks import POINT_OF

# What marks an encoder of each format, below the folder.
_MARKS: dict[str, Callable[[Path, Given | None], list[Found]]] = {
    saelens.WEIGHTS: lambda path, _given: saelens.found(path),
    sparsify.WEIGHTS: lambda path, _given: sparsify.found(path),
    gemma_scope.WEIGHTS_1: gemma_scope.found_1,
    gemma_scope.WEIGHTS_2: gemma_scope.found_2,
    gemma_scope.CROSS_LAYER_WEIGHTS: gemma_scope.found_cross_layer,
    llama_scope.CONFIG: lambda path, _given: llama_scope.found(path),
    circuit_tracer.WEIGHTS: circuit_tracer.found,
    circuit_tracer.CROSS_LAYER_WEIGHTS: circuit_tracer.found_cross_layer,
}
_FETCHED = ("*.json", "*.yaml", "*.safetensors", "*.npz")
_NOT_FETCHED = ("W_dec_*", "*/W_dec_*", "optimizer*", "*/optimizer*")
_PICKLES = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.ckpt")
_GIVEN = re.compile(r"(?:blocks\.(\d{1,5})\.)?(" + "|".join(map(re.escape, POINT_OF)) + ")")
_FIELD = "units"


def read_latents(where: str | Path, layers: Sequence[int] | None = None) -> list[Latents]:
    """Return the encoders in a folder, by layer, each in memory as float32.

    where   as above, without "sae:"
    layers  those wanted, each of which has to be there; None: all

    Raises InvalidArgument where there is no such folder, no encoder in it, no such layer, or several of one layer;
    FailedPrecondition for files that are damaged or that say what is not read, with the field.
    """
    name, given = _split(str(where))
    folder = _folder(name)
    by_layer = _chosen(name, folder, _all(name, folder, given), layers)
    return [_latents(folder, found) for found in by_layer]


def _split(where: str) -> tuple[str, Given | None]:
    """Return the name of the folder and the hook behind its @, if that is one."""
    name, at, hook = where.rpartition("@")
    match = _GIVEN.fullmatch(hook)
    if not at or Path(where).expanduser().exists():
        return where, None
    if match is None:
        raise InvalidArgument(
            f"{hook!r} in {where!r} is no place that Polysem reads: give {', '.join(POINT_OF)}, or one with blocks.L. "
            "before it",
            _FIELD,
        )
    return name, Given(match[2], int(match[1]) if match[1] else None)


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        if any(folder.match(pickle) for pickle in _PICKLES):
            raise FailedPrecondition(_pickled(folder))
        raise InvalidArgument(f"{name!r} is a file; give the folder that holds it", _FIELD)
    if name.startswith((".", "/", "~")) or "/" not in name.strip("/"):
        raise InvalidArgument(f"there is no folder {name!r}; give a folder with an SAE, or a name of the hub", _FIELD)
    return _fetched(name)


def _pickled(path: Path) -> str:
    return f"{str(path)!r} is a pickle, which is never opened; save the SAE as safetensors"


def _fetched(name: str) -> Path:
    """Return the folder in the hub's cache, filled."""
    from huggingface_hub import snapshot_download

    owner, repository, *below = name.split("/")
    inner = "/".join(below).rstrip("/")
    wanted = [f"{inner}/*", circuit_tracer.CONFIG, f"{Path(inner).parent}/config.json"] if inner else list(_FETCHED)
    try:
        root = snapshot_download(f"{owner}/{repository}", allow_patterns=wanted, ignore_patterns=list(_NOT_FETCHED))
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InvalidArgument(
            f"there is no folder {name!r}, and the hub does not give a repository of that name ({first})", _FIELD
        ) from error
    folder = Path(root) / inner
    if not folder.is_dir():
        raise InvalidArgument(f"the repository {owner}/{repository} has no folder {inner!r}", _FIELD)
    return folder


def _all(name: str, folder: Path, given: Given | None) -> list[Found]:
    found = [
        encoder for mark, read in _MARKS.items() for path in sorted(folder.rglob(mark)) for encoder in read(path, given)
    ]
    if found:
        _compare(name, found, given)
        return found
    if pickle := next((path for mark in _PICKLES for path in sorted(folder.rglob(mark))), None):
        raise FailedPrecondition(_pickled(pickle))
    if config := next(iter(sorted(folder.rglob("cfg.json"))), None):
        raise FailedPrecondition(
            f"{str(config)!r} has no weights beside it: neither {saelens.WEIGHTS} nor {sparsify.WEIGHTS}"
        )
    raise InvalidArgument(f"there is no SAE in {name!r}: no {', '.join(_MARKS)}", _FIELD)


def _compare(name: str, found: list[Found], given: Given | None) -> None:
    """Refuse a given place that is not the one of the files."""
    if given is None:
        return
    for hook in (encoder.hook for encoder in found):
        if given.layer not in (None, hook.layer) or POINT_OF[given.name] != hook.point:
            raise InvalidArgument(f"the SAE in {name!r} reads {hook.name}, and not {given.name}", _FIELD)


def _chosen(name: str, folder: Path, found: list[Found], layers: Sequence[int] | None) -> list[Found]:
    """Return the encoders of the layers that are wanted, one a layer, in order."""
    there = sorted({encoder.hook.layer for encoder in found})
    for layer in there if layers is None else layers:
        same = [_shown(folder, encoder) for encoder in found if encoder.hook.layer == layer]
        if not same:
            raise InvalidArgument(
                f"{name!r} has no SAE of layer {layer}; it has {', '.join(map(str, there))}", "layers"
            )
        if len(same) > 1:
            raise InvalidArgument(
                f"{name!r} has {len(same)} SAEs of layer {layer}, such as {same[0]!r} and {same[1]!r}: give the folder "
                "of one",
                _FIELD,
            )
    wanted = there if layers is None else layers
    return sorted((one for one in found if one.hook.layer in wanted), key=lambda one: one.hook.layer)


def _shown(folder: Path, found: Found) -> str:
    inner = found.path.relative_to(folder).as_posix()
    return inner if inner != "." else folder.resolve().name


def _latents(folder: Path, found: Found) -> Latents:
    encoder = found.read()
    hook = found.hook
    return Latents(
        layer=hook.layer,
        point=hook.point,
        weights=encoder.weights,
        fire=encoder.fire,
        name=_shown(folder, found),
        sha256=_sha256(found.files),
        origin=Origin(found.format, type(encoder.fire).__name__.lower(), hook.name, found.model, hook.before_norm),
        normalise=encoder.normalise,
        shift=encoder.shift,
    )


def _sha256(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the files' own."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
