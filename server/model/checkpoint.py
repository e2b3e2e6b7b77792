"""A checkpoint as it lies on disk: its config and its tensors, looked at before anything is built or loaded.

The headers of safetensors files name every tensor with its shape. Held against what the architecture has, they tell
what would be made up, ignored or misread, and how much memory the weights need, before a weight is read.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polysem.proto.errors import FailedPrecondition, UnknownModel
from polysem.server.model.architecture import Family

MAX_CONFIG_BYTES = 4 << 20
MAX_HEADER_BYTES = 100 << 20  # as the safetensors library has it
MAX_LAYERS = 10_000
MAX_SIZE = 1 << 24  # of any other size in a config: what is built of it stays in memory
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
_LAYERS = re.compile(r"n_layers?|num_(hidden_)?layers")
_SIZE = re.compile(
    r"n_(embd|heads?|positions|ctx|inner)|num_(attention_|key_value_|kv_)?heads|(hidden|intermediate|vocab)_size|"
    r"ffn_(dim|hidden_size)|max_position_embeddings|seq_length|head_dim|word_embed_proj_dim"
)
_POSITIVE = re.compile(r"(^|_)eps(ilon)?$|rope_theta|rotary_emb_base")  # else a norm or an angle is no number
_OPTIONAL = ("n_inner", "intermediate_size", "ffn_hidden_size", "num_key_value_heads", "num_kv_heads", "head_dim")
log = logging.getLogger(__name__)

Find = Callable[[str], Path | None]  # a file of the model by its name; None: it has no such file


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file; `tensor[...]` reads it, as transformers asks for it. begin: its first byte."""

    path: Path
    begin: int
    n_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __getitem__(self, _all: Any) -> Tensor:
        data = np.fromfile(self.path, np.uint8, self.n_bytes, offset=self.begin)
        return torch.from_numpy(data).view(self.dtype).reshape(self.shape)


# ---- The config


def read_config(name: str, path: Path) -> dict[str, Any]:
    """The config.json of the model called `name`, each size in it possible.

    Raises UnknownModel where it is no config, FailedPrecondition for what no model has. Cost: milliseconds, whatever it
    holds.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UnknownModel(f"cannot read a model {name!r}: its config.json has {path.stat().st_size:,} bytes")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnknownModel(f"cannot read a model {name!r}: its config.json is no JSON ({first_line(error)})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnknownModel(f"cannot read a model {name!r}: its config.json names no model_type")
    for key, value in config.items():
        _check_size(name, key, value)
    return config


def _check_size(name: str, key: str, value: Any) -> None:
    most = MAX_LAYERS if _LAYERS.fullmatch(key) else MAX_SIZE
    if _LAYERS.fullmatch(key) or _SIZE.fullmatch(key):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not (is_whole and 1 <= value <= most) and not (value is None and key in _OPTIONAL):
            raise FailedPrecondition(
                f"the config.json of {name!r} cannot be: {key} is {_shown(value)}; it is a whole number, 1 to {most:,}"
            )
    elif _POSITIVE.search(key) and isinstance(value, int | float) and not 0 < value < math.inf:
        raise FailedPrecondition(f"the config.json of {name!r} cannot be: {key} is {value}; it is a number above 0")
    elif isinstance(value, float) and not math.isfinite(value):
        raise FailedPrecondition(f"the config.json of {name!r} cannot be: {key} is {value}, which is no number")
    elif isinstance(value, list) and (large := _largest(value)) > most:  # lists that transformers multiplies out
        raise FailedPrecondition(f"the config.json of {name!r} cannot be: {key} has the number {large}")


def _largest(values: list[Any]) -> float:
    """The largest whole number of a nested list."""
    todo, largest = list(values), 0
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, int):
            largest = max(largest, value)
    return largest


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def check_kind(name: str, config: Mapping[str, Any], families: Mapping[str, Family], find: Find) -> Family:
    """The model's family. Raises FailedPrecondition for a model, or a kind of checkpoint, that is not read."""
    model_type = config["model_type"]
    if model_type not in families:
        code = f" with code of its own ({named})" if (named := _names(config.get("auto_map"))) else ""
        experts = next((key for key in config if re.fullmatch(r"(num|n)_(local_|routed_)?experts", key)), None)
        mixture = " with experts" if experts else ""
        raise FailedPrecondition(
            f"{name!r} is a {model_type} model{mixture}{code}; Polysem reads {', '.join(families)}"
        )
    if (quantised := config.get("quantization_config")) is not None:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
        raise FailedPrecondition(
            f"the weights of {name!r} are quantised ({_shown(method)}); give the model before quantisation"
        )
    if find(ADAPTER) is not None:
        raise FailedPrecondition(
            f"{name!r} holds an adapter ({ADAPTER}), which is not read: merge it into the weights, and remove its files"
        )
    if named := _names(config.get("auto_map")):
        log.warning(
            "%r names code of its own (%s), which is not run; transformers' own %s reads it", name, named, model_type
        )
    return families[model_type]


def _names(auto_map: Any) -> str:
    """Say in words what a config's auto_map names; empty where it names nothing."""
    return ", ".join(auto_map) if isinstance(auto_map, dict) else _shown(auto_map) if auto_map else ""


# ---- The tensors


def stored_tensors(name: str, find: Find) -> dict[str, StoredTensor]:
    """Every tensor of the model's safetensors files, by its name there. Raises FailedPrecondition."""
    found: dict[str, StoredTensor] = {}
    for file in _weight_files(name, find):
        path = find(file)
        if path is None:
            raise FailedPrecondition(f"cannot load the weights of {name!r}: the file {file!r} is missing")
        found |= _read_header(name, path)
    return found


def _weight_files(name: str, find: Find) -> list[str]:
    if find(WEIGHTS) is not None:
        return [WEIGHTS]
    index = find(f"{WEIGHTS}.index.json")
    if index is None:
        pickled = next((file for file in ("pytorch_model.bin", "pytorch_model.bin.index.json") if find(file)), None)
        pickles = f" (only {pickled}, which is never unpickled)" if pickled else ""
        raise FailedPrecondition(f"cannot load the weights of {name!r}: it has no {WEIGHTS}{pickles}")
    try:
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise FailedPrecondition(f"cannot load the weights of {name!r}: {index.name} cannot be read") from error
    if strange := [file for file in files if not isinstance(file, str) or "/" in file or "\\" in file]:
        raise FailedPrecondition(f"cannot load the weights of {name!r}: {index.name} names {_shown(strange[0])}")
    return files


def _read_header(name: str, path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                raise ValueError("it has no header")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {key: _stored(key, entry, path, 8 + length, size) for key, entry in header.items()}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise FailedPrecondition(
            f"cannot load the weights of {name!r}: {path.name} is no safetensors file ({first_line(error)})"
        ) from error


def _stored(key: str, entry: Mapping[str, Any], path: Path, data: int, size: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"])
    shape = tuple(entry["shape"])
    if not (0 <= begin <= end <= size - data):
        raise ValueError(f"{key} ends at byte {data + end:,} of {size:,}")
    if dtype is not None and end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{key} has {end - begin:,} bytes for the shape {shape}")
    return StoredTensor(path, data + begin, end - begin, dtype or torch.uint8, shape)


def matched(name: str, causal: Any, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of a model without its head, by their names in it.

    causal  the model with its head, on the device "meta"

    Raises FailedPrecondition where one is missing, has another shape, is no plain number, or where the layers have one
    that the architecture does not know; what it does not know elsewhere is warned of.
    """
    base = causal.base_model
    wanted = base.state_dict()
    prefix = f"{causal.base_model_prefix}."
    found = {key.removeprefix(prefix): tensor for key, tensor in stored.items()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise FailedPrecondition(
            f"the weights of {name!r} are incomplete: {len(missing)} missing, such as {missing[0]}"
        )
    for key, tensor in wanted.items():
        if found[key].shape != tuple(tensor.shape):
            raise FailedPrecondition(
                f"the weights of {name!r} do not fit its config.json: {key} has the shape {found[key].shape}, by the "
                f"config {tuple(tensor.shape)}"
            )
        if not found[key].dtype.is_floating_point:
            raise FailedPrecondition(f"the weights of {name!r} are quantised: {key} is stored in whole numbers")
    _check_unknown(name, causal, prefix, sorted(found.keys() - wanted.keys()))
    return {key: found[key] for key in wanted}


def _check_unknown(name: str, causal: Any, prefix: str, keys: Iterable[str]) -> None:
    heads = {key.removeprefix(prefix) for key in causal.state_dict()}
    ignored = getattr(type(causal.base_model), "_keys_to_ignore_on_load_unexpected", None) or []
    ignored = [
        *ignored,
        r"^embed_out\.",
        r"rotary_emb\.inv_freq",
        r"attn\.(masked_)?bias$",
        r"attention\.(masked_)?bias$",
    ]
    unknown = [key for key in keys if key not in heads and not any(re.search(pattern, key) for pattern in ignored)]
    inside = {key.partition(".")[0] for key in causal.base_model.state_dict()}
    if of_layers := [key for key in unknown if key.partition(".")[0] in inside]:
        raise FailedPrecondition(
            f"the weights of {name!r} are of another architecture than its config.json says: "
            f"{type(causal.base_model).__name__} knows no {of_layers[0]}"
        )
    if unknown:
        log.warning("%r has tensors that are not read: %s", name, ", ".join(unknown[:5]) + ("…" * (len(unknown) > 5)))


def sha256(tensors: Mapping[str, StoredTensor], dtype: torch.dtype | None) -> str:
    """The hash of names, shapes and values, whatever the layout of the files and the dtype they are read in.

    dtype  that the config says the values are meant in; None: that of the first tensor
    """
    dtype = dtype or next(iter(tensors.values())).dtype
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {dtype} {tensor.shape}\n".encode())
        for chunk in chunks(tensor):
            digest.update(chunk.to(dtype).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def chunks(tensor: StoredTensor, n: int = 1 << 21) -> Iterator[Tensor]:
    """The values of a tensor, flat, n at a time. Raises OSError, and ValueError where the file has become shorter."""
    size = tensor.dtype.itemsize
    for begin in range(0, tensor.n_bytes, n * size):
        n_bytes = min(n * size, tensor.n_bytes - begin)
        data = np.fromfile(tensor.path, np.uint8, n_bytes, offset=tensor.begin + begin)
        if len(data) < n_bytes:
            raise ValueError(f"{tensor.path.name} is shorter than it was")
        yield torch.from_numpy(data).view(tensor.dtype)


def first_line(error: BaseException) -> str:
    """Return the error's text in one line: its first, and the next where that says what follows a colon."""
    lines = [line.strip() for line in (str(error).strip() or type(error).__name__).splitlines()]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
