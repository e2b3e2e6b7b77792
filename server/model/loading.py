"""Models by name: the demo's, a folder, a hub's."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polysem.proto.errors import FailedPrecondition, InvalidArgument, PolysemError, UnknownModel
from polysem.server.model import checkpoint, direct_path
from polysem.server.model.checkpoint import Find, StoredTensor, first_line
from polysem.server.model.devices import device_name, free_bytes, resolve_device
from polysem.server.model.families import FAMILIES
from polysem.server.model.model import DTYPES, Model
from polysem.server.model.tokenizer import Tokenizer

DEMO_MODEL = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "model"
log = logging.getLogger(__name__)


def load(name: str, device: str = "auto", dtype: str = "float32", split: Sequence[str] = ()) -> Model:
    """Return the model of that name, resident on `device`.

    name    "demo", a folder, or a hub name; safetensors only, no remote code
    device  cpu, cuda, cuda:1 …, or auto: cuda where there is one
    split   devices over which the model's layers are spread in order, equally many on each; none: all on `device`. What
            comes of them is gathered on the first
    dtype   of the forward pass: float32; bfloat16; or tf32, where a GPU rounds the operands of float32 products

    Weights go to the device in that dtype, a tensor at a time: beside the model, memory holds a few of them.

    Raises UnknownModel where there is none; FailedPrecondition where it is of no known family, where its config,
    weights or tokenizer are not what that family reads, or where it does not fit; InvalidArgument for a device or dtype
    that this machine does not have.
    """
    places = [_checked_device(one, dtype) for one in split or (device,)]
    source = _source(name)
    find = _finder(name, source)
    path = find("config.json")
    if path is None:
        raise UnknownModel(
            f"cannot read a model {name!r}: there is no such folder, and no config.json of that name on the hub or in "
            "its cache; give 'demo', a folder or a hub name such as gpt2"
        )
    family = checkpoint.check_kind(name, checkpoint.read_config(name, path), FAMILIES, find)
    _quiet_transformers()
    config = _config(name, source)
    if switch := family.refuses(config):
        raise FailedPrecondition(f"{name!r} is a {config.model_type} model with {switch}, which Polysem does not read")
    stored = checkpoint.stored_tensors(name, find)
    if (n_layers := family.sizes(config).n_layers) > len(stored):
        raise FailedPrecondition(f"the config.json of {name!r} says {n_layers:,} layers, for {len(stored)} weights")
    causal = _empty(name, config)
    weights = checkpoint.matched(name, causal, stored)
    tokenizer = _tokenizer(name, source, family.sizes(config).n_tokens)
    where = device_map(causal.base_model, family.sizes(config).n_layers, places)
    _check_room(name, weights, where, dtype)
    transformer = _filled(name, type(causal.base_model), config, weights, where, DTYPES[dtype])
    id_ = name if name == DEMO_MODEL else source
    sha256 = checkpoint.sha256(weights, _own_dtype(config))
    return Model(
        id_, family, transformer, tokenizer, places[0], dtype, sha256, direct_path.unembedding(name, causal, stored)
    )


def _checked_device(device: str, dtype: str) -> torch.device:
    if dtype not in DTYPES:
        raise InvalidArgument(f"unknown dtype {dtype!r}: choose {', '.join(DTYPES)}", "dtype")
    place = resolve_device(device)
    if dtype == "tf32" and place.type == "cpu":
        raise InvalidArgument("tf32 is arithmetic of GPUs; on the CPU choose float32 or bfloat16", "dtype")
    if dtype == "bfloat16" and place.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning("this CPU has no bfloat16 arithmetic: reading will take many times as long as in float32")
    return place


def _source(name: str) -> str:
    """Return what from_pretrained is given for the name."""
    if name == DEMO_MODEL:
        return str(DEMO_FOLDER)
    folder = Path(os.path.expanduser(name))  # "~nobody" stays as it is
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            gguf = next((f" (only {path.name}, a GGUF file)" for path in sorted(folder.glob("*.gguf"))), "")
            raise UnknownModel(f"the folder {name!r} holds no model: it has no config.json{gguf}")
        return str(folder.resolve())
    if folder.is_file() and folder.suffix in (".gguf", ".safetensors"):
        raise UnknownModel(
            f"{name!r} is a single file; Polysem reads a folder with config.json, tokenizer and safetensors"
            + (", so convert the GGUF file to one" if folder.suffix == ".gguf" else "")
        )
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise UnknownModel(f"there is no model folder {name!r}; give 'demo', a folder or a hub name such as gpt2")
    return name


def _finder(name: str, source: str) -> Find:
    """Files of the model by name: of the folder, or of the hub, which is asked for what is not in its cache."""
    folder = Path(source)
    if folder.is_dir():
        return lambda file: folder / file if (folder / file).is_file() else None

    def find(file: str) -> Path | None:
        from transformers.utils.hub import cached_file

        try:
            path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError) as error:
            raise UnknownModel(f"cannot read a model {name!r}: {first_line(error)}") from error
        return None if path is None else Path(path)

    return find


def _quiet_transformers() -> None:
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    theirs.set_verbosity_error()  # type: ignore[no-untyped-call]


@contextmanager
def _in_words(beginning: str) -> Iterator[None]:
    """Whatever transformers raises, as FailedPrecondition: of a wrong config it may be anything."""
    try:
        yield
    except PolysemError as error:
        raise FailedPrecondition(f"{beginning}: {error.message}") from error
    except Exception as error:
        raise FailedPrecondition(f"{beginning}: {type(error).__name__}, {first_line(error)}") from error


def _config(name: str, source: str) -> Any:
    from transformers import AutoConfig  # seconds to import, so not before needed

    with _in_words(f"the config.json of {name!r} cannot be"):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _empty(name: str, config: Any) -> Any:
    """The model with its head, without memory for weights."""
    from transformers import AutoModelForCausalLM

    with _in_words(f"the config.json of {name!r} cannot be"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def _tokenizer(name: str, source: str, n_rows: int) -> Tokenizer:
    from transformers import AutoTokenizer

    with _in_words(f"{name!r} has no tokenizer that can be read"):
        return Tokenizer(AutoTokenizer.from_pretrained(source, trust_remote_code=False), n_rows)


def device_map(model: nn.Module, n_layers: int, places: Sequence[torch.device]) -> dict[str, torch.device]:
    """The device of each part of a model: its layers in runs of equal length, what is before them on the first.

    Keys are names of modules and parameters, "" of the whole; every parameter is below one of them.
    """
    if len(places) == 1:
        return {"": places[0]}
    found: dict[str, torch.device] = {}
    is_after = False

    def visit(prefix: str, part: nn.Module) -> None:
        nonlocal is_after
        if isinstance(part, nn.ModuleList) and len(part) == n_layers:
            is_after = True
            found.update({f"{prefix}.{i}": places[i * len(places) // n_layers] for i in range(n_layers)})
        elif any(isinstance(child, nn.ModuleList) and len(child) == n_layers for child in part.modules()):
            found.update(dict.fromkeys(_joined(prefix, part._parameters), places[0]))
            for name, child in part.named_children():
                visit(f"{prefix}.{name}".lstrip("."), child)
        else:
            found[prefix] = places[-1] if is_after else places[0]

    visit("", model)
    return found


def _joined(prefix: str, names: Iterable[str]) -> list[str]:
    return [f"{prefix}.{name}".lstrip(".") for name in names]


def _check_room(name: str, weights: Mapping[str, StoredTensor], where: Mapping[str, torch.device], dtype: str) -> None:
    size = DTYPES[dtype].itemsize
    needed: Counter[torch.device] = Counter()
    for key, tensor in weights.items():
        part = max((part for part in where if f"{key}.".startswith(f"{part}." if part else "")), key=len)
        needed[where[part]] += tensor.n_bytes // tensor.dtype.itemsize * size
    for place, n_bytes in needed.items():
        free = free_bytes(place)
        if free is not None and n_bytes > free:
            part = "" if len(needed) == 1 else f" on {place}"
            raise FailedPrecondition(
                f"{name!r} takes {n_bytes / 1e9:,.1f} GB in {dtype}{part}, and {device_name(place)} has "
                f"{free / 1e9:,.1f} GB free; choose a device with more memory, or several with --split-layers"
                + (", or --dtype bfloat16" if size == 4 else "")
            )


def _filled(
    name: str,
    kind: Any,
    config: Any,
    weights: Mapping[str, StoredTensor],
    where: Mapping[str, torch.device],
    dtype: torch.dtype,
) -> Any:
    """The model of transformers, its weights read from their files one by one."""
    alone = where.get("")
    on_device = {} if alone is not None and alone.type == "cpu" else {"device_map": dict(where)}
    with _in_words(f"cannot load the weights of {name!r}"):
        return kind.from_pretrained(None, config=config, state_dict=dict(weights), dtype=dtype, **on_device)


def _own_dtype(config: Any) -> torch.dtype | None:
    """Return the number type that the config says the weights are meant in."""
    dtype: torch.dtype | str | None = config.dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
