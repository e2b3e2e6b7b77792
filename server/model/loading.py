"""Models by name: the demo's, a folder, a hub's."""

import logging
import os
from pathlib import Path
from typing import Any

import torch

from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownModel
from polysem.server.model.devices import resolve_device
from polysem.server.model.families import FAMILIES
from polysem.server.model.model import DTYPES, Model
from polysem.server.model.tokenizer import Tokenizer

DEMO_MODEL = "demo"
DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "model"
log = logging.getLogger(__name__)


def load(name: str, device: str = "auto", dtype: str = "float32") -> Model:
    """The model of that name, resident on `device`.

    name    "demo", a folder, or a hub name; safetensors only, no remote code
    device  cpu, cuda, cuda:1 …, or auto: cuda where there is one
    dtype   of the forward pass: float32; bfloat16; or tf32, where a GPU rounds the operands of float32 products

    Raises UnknownModel where there is none, FailedPrecondition where it is of no known family or has no tokenizer,
    InvalidArgument for a device or dtype that this machine does not have.
    """
    if dtype not in DTYPES:
        raise InvalidArgument(f"unknown dtype {dtype!r}: choose {', '.join(DTYPES)}", "dtype")
    place = resolve_device(device)
    if dtype == "tf32" and place.type == "cpu":
        raise InvalidArgument("tf32 is arithmetic of GPUs; on the CPU choose float32 or bfloat16", "dtype")
    if dtype == "bfloat16" and place.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning("this CPU has no bfloat16 arithmetic: reading will take many times as long as in float32")
    source = _source(name)
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # seconds to import, so not before needed
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnknownModel(f"cannot read a model {name!r}: {_first_line(error)}") from error
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise FailedPrecondition(f"{name!r} is a {config.model_type} model; Polysem reads {', '.join(FAMILIES)}")
    try:
        loaded: Any = AutoModel.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise FailedPrecondition(f"cannot load the weights of {name!r}: {_first_line(error)}") from error
    transformer, found = loaded
    if missing := sorted(found["missing_keys"]):  # transformers would make them up
        raise FailedPrecondition(
            f"the weights of {name!r} are incomplete: {len(missing)} missing, such as {missing[0]}"
        )
    try:
        hugging_face_tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"{name!r} has no tokenizer that can be read: {_first_line(error)}") from error
    tokenizer = Tokenizer(hugging_face_tokenizer)
    if not any(tokenizer.encode(["text"])):  # what transformers makes of a folder without one
        raise FailedPrecondition(f"{name!r} has no tokenizer that can be read: it knows no tokens")
    if tokenizer.n_tokens > (n_tokens := family.sizes(config).n_tokens):
        raise FailedPrecondition(
            f"the tokenizer of {name!r} has {tokenizer.n_tokens} tokens, but the model only {n_tokens}"
        )
    return Model(name if name == DEMO_MODEL else source, family, transformer, tokenizer, place, dtype)


def _source(name: str) -> str:
    """What from_pretrained is given for the name."""
    if name == DEMO_MODEL:
        return str(DEMO_FOLDER)
    folder = Path(os.path.expanduser(name))  # "~nobody" stays as it is
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UnknownModel(f"the folder {name!r} holds no model: it has no config.json")
        return str(folder.resolve())
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise UnknownModel(f"there is no model folder {name!r}; give 'demo', a folder or a hub name such as gpt2")
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
