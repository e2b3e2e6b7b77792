"""The resident model: a GPT-2 of any size, read layer by layer where its MLP neurons can be seen.

x̂ is the input of the LayerNorm before the MLP, normalised without γ and β; every embedding is x̂ ⊙ weights + offsets
(four of them, see `Model.embedding_weights`). No logits are computed.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownModel
from polysem.proto.facts import ModelInfo
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.arrays import Array
from polysem.server.tokens import Tokenizer

DEMO_MODEL = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo" / "model"
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}

log = logging.getLogger(__name__)

# visit(layer, residual (b, T, D), activations (b, T, N)): N = MLP neurons a layer
Visit = Callable[[int, Tensor, Tensor], None]

# keys and values (1, heads, P, D / heads) of each layer: all that later tokens see of P tokens before them
Past = Sequence[tuple[Tensor, Tensor]]


class _SeenEnough(Exception):
    """Ends a forward."""


@dataclass(eq=False)
class Described:
    """What is known of a model without holding it. device: where it is read, here or elsewhere."""

    info: ModelInfo
    tokenizer: Tokenizer
    dtype: str
    device: torch.device


class Model(Described):
    """A GPT-2 kept on one device, with its tokenizer.

    Raises what `load` says. Not safe for several threads at once.
    """

    def __init__(self, id_: str, gpt2: Any, tokenizer: Tokenizer, device: torch.device, dtype: str) -> None:
        config = gpt2.config
        info = ModelInfo(
            id=id_,
            sha256=_weights_sha256(gpt2),
            n_layers=config.n_layer,
            n_neurons_per_layer=config.n_inner or 4 * config.n_embd,
            d_model=config.n_embd,
            context_length=config.n_positions,
        )
        super().__init__(info, tokenizer, dtype, device)
        self._gpt2 = gpt2.to(device=device, dtype=DTYPES[dtype]).eval().requires_grad_(False)
        self._eps: float = config.layer_norm_epsilon
        self._visit: Visit | None = None
        self._last_layer = config.n_layer - 1
        for layer, block in enumerate(self._gpt2.h):
            if config.activation_function == "gelu_new":
                block.mlp.act = nn.GELU("tanh")  # the same function in one pass over memory instead of eight
            self._watch(layer, block)

    def _watch(self, layer: int, block: Any) -> None:
        seen: dict[str, Tensor] = {}

        def keep_residual(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            seen["residual"] = inputs[0]

        def show(_module: Any, _inputs: tuple[Tensor, ...], activations: Tensor) -> None:
            if self._visit is not None:
                self._visit(layer, seen.pop("residual"), activations)
            if layer == self._last_layer:
                raise _SeenEnough

        block.ln_2.register_forward_pre_hook(keep_residual)
        block.mlp.act.register_forward_hook(show)

    @property
    def n_bytes(self) -> int:
        """Of its weights, on the device."""
        return sum(weights.nbytes for weights in self._gpt2.parameters())

    @torch.inference_mode()
    def read(self, tokens: Tensor, visit: Visit | None, last_layer: int | None = None, past: Past = ()) -> None:
        """Run the model over tokens (b, T) int64, right-padded with any token, and show each layer to `visit`.

        Attention is causal, so padding on the right changes nothing before it. Cost: one forward without logits.

        last_layer  what comes after its activations is not computed; None: the model's last
        past        what `past` gave for the tokens that come before each row, at least up to that layer
        """
        from transformers import DynamicCache

        b = len(tokens)
        with_past = DynamicCache([(k.expand(b, *k.shape[1:]), v.expand(b, *v.shape[1:])) for k, v in past])
        self._forward(tokens, visit, last_layer, with_past if past else None)

    @torch.inference_mode()
    def past(self, tokens: Tensor, last_layer: int) -> Past:
        """What `read` up to that layer needs of tokens (P,) int64 before its own. Cost: one forward up to there."""
        from transformers import DynamicCache

        if not len(tokens):
            return ()
        cache: Any = DynamicCache()
        self._forward(tokens[None], None, last_layer, cache)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _forward(self, tokens: Tensor, visit: Visit | None, last_layer: int | None, cache: Any) -> None:
        self._visit = visit
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if self.dtype == "tf32" else "highest")
        self._last_layer = self.info.n_layers - 1 if last_layer is None else last_layer
        try:
            embedded = self._gpt2.wte(tokens.to(self.device))  # (b, T, D)
            with suppress(_SeenEnough):
                self._gpt2(None, cache, inputs_embeds=embedded, use_cache=cache is not None)
        finally:
            torch.set_float32_matmul_precision(precision)
            self._visit = None

    def reading_cost(self, n_tokens: Array) -> Array:
        """Of forwards of so many tokens each, beside n_examples² · d_model of clustering, as far as time goes.

        A block's products are 12 · d_model² multiply-adds a token, done some three times as fast as clustering's; a
        short forward takes as long as one of 64 tokens.
        """
        return 4.0 * self.info.n_layers * self.info.d_model**2 * np.maximum(n_tokens, 64)

    def normalise(self, residual: Tensor) -> Tensor:
        """x̂ (P, D) float32 of residual rows (P, D): mean 0, variance 1."""
        return functional.layer_norm(residual.float(), residual.shape[-1:], eps=self._eps)

    def embedding_weights(self, layer: int, neurons: Tensor, choice: EmbeddingChoice) -> tuple[Tensor, Tensor | None]:
        """weights and offsets (B, D) float32, such that the embedding is e = x̂ ⊙ weights + offsets.

        neurons  (B,) int64. Offsets are None where they are 0. Foote 2024, eq. 1; folded puts γ into the weights.
        """
        norm, w_in = (
            self._gpt2.h[layer].ln_2,
            self._gpt2.h[layer].mlp.c_fc.weight,
        )  # (D, N): neuron j is column j
        gamma, beta = norm.weight.float(), norm.bias.float()
        b = (len(neurons), self.info.d_model)
        if choice.embedding == "pre_mlp":
            if choice.layer_norm == "folded":
                return torch.ones(b, device=self.device), None
            return gamma.expand(b).contiguous(), beta.expand(b).contiguous()
        columns = _columns(w_in, neurons.to(self.device))
        return _scaled(columns, gamma), None if choice.layer_norm == "folded" else _scaled(columns, beta)

    def biases(self, layer: int, neurons: Tensor, choice: EmbeddingChoice) -> Tensor:
        """(B,) float32: what Σe lacks to the pre-activation h·w + b. Folding moves β·w into it."""
        block = self._gpt2.h[layer]
        index = neurons.to(self.device)
        bias = block.mlp.c_fc.bias.float()[index]
        if choice.layer_norm == "raw":
            return cast(Tensor, bias)
        return cast(Tensor, bias + block.mlp.c_fc.weight[:, index].float().T @ block.ln_2.bias.float())


def _columns(matrix: Tensor, which: Tensor) -> Tensor:
    """(B, D) float32: columns of a matrix (D, N).

    On a CPU by NumPy, as in `_scaled`: torch spreads such small work over its threads, and on a busy machine waits for
    them, 12 ms instead of 0.1.
    """
    if matrix.device.type == "cpu" and matrix.dtype == torch.float32:
        return torch.from_numpy(matrix.numpy(force=True).take(which.numpy(), axis=1)).T
    return matrix[:, which].T.float()


def _scaled(columns: Tensor, by: Tensor) -> Tensor:
    """columns (B, D) times by (D,)."""
    if columns.device.type == "cpu":
        return torch.from_numpy(np.multiply(columns.numpy(force=True), by.numpy(force=True), order="C"))
    return columns * by


def load(name: str, device: str = "auto", dtype: str = "float32") -> Model:
    """The model of that name, resident on `device`.

    name    "demo", a folder, or a hub name; safetensors only, no remote code
    device  cpu, cuda, cuda:1 …, or auto: cuda where there is one
    dtype   of the forward pass: float32; bfloat16; or tf32, where a GPU rounds the operands of float32 products

    Raises UnknownModel where there is none, FailedPrecondition where it is no GPT-2 or has no tokenizer,
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
    from transformers import AutoConfig, AutoTokenizer, GPT2Model  # seconds to import, so not before needed
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnknownModel(f"cannot read a model {name!r}: {_first_line(error)}") from error
    if config.model_type != "gpt2":
        raise FailedPrecondition(f"{name!r} is a {config.model_type} model; Polysem reads GPT-2 architectures only")
    try:
        loaded: Any = GPT2Model.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            dtype="auto",
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise FailedPrecondition(f"cannot load the weights of {name!r}: {_first_line(error)}") from error
    gpt2, found = loaded
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
    if tokenizer.n_tokens > config.vocab_size:
        raise FailedPrecondition(
            f"the tokenizer of {name!r} has {tokenizer.n_tokens} tokens, but the model only {config.vocab_size}"
        )
    return Model(name if name == DEMO_MODEL else source, gpt2, tokenizer, place, dtype)


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; raises InvalidArgument where this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidArgument(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N", "device") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgument(f"Polysem runs on cpu and cuda, not on {name!r}", "device")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InvalidArgument(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs", "device")
    return device


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


def _weights_sha256(gpt2: Any) -> str:
    """Of names, shapes and values as stored in the checkpoint, whatever its file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(gpt2.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
