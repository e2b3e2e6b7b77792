"""The resident model, read layer by layer where its MLP neurons can be seen.

x̂ is the input of the norm before the MLP, normalised without γ and β; every embedding is made of it
(`Model.embedding_weights`). What neurons write is `Model.directions` and `unembedding`; `last` and `logits` say what
the model predicts, also where a visit has changed activations.
"""

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from polysem.proto.arrays import Array
from polysem.proto.errors import InvalidArgument
from polysem.proto.facts import Encoder, ModelInfo
from polysem.proto.questions.clustering import OF_GATES, EmbeddingChoice
from polysem.server.latents.encoder import Latents
from polysem.server.model import controls, direct_path
from polysem.server.model.architecture import Family, Mlp
from polysem.server.model.direct_path import Unembedding
from polysem.server.model.settings import settings_of
from polysem.server.model.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


# visit(layer, residual (b, T, D), activations (b, T, N)): N = MLP neurons a layer. What it writes into activations is
# what the rest of the model reads. Of latents (latent_model.py): what the encoder multiplies, and the latents', which
# the rest of the model does not read.
Visit = Callable[[int, Tensor, Tensor], None]

# keys and values (1, heads, P, D / heads) of each layer: all that later tokens see of P tokens before them
Past = Sequence[tuple[Tensor, Tensor]]


class EmbeddingWeights(NamedTuple):
    """Weights by which B neurons embed x̂: e = x̂ ⊙ weights + offsets, and with `up` e = x̂ ⊙ (u · weights + g · up).

    Then each example has a gate of its own, g = x̂ · weights + biases[:, 0] and u = x̂ · up + biases[:, 1].

    weights  (B, D) float32
    offsets  (B, D) float32, or None for zeros
    up       (B, D) float32, or None
    biases   (B, 2) float32, or None without `up`
    """

    weights: Tensor
    offsets: Tensor | None = None
    up: Tensor | None = None
    biases: Tensor | None = None

    def double(self) -> "EmbeddingWeights":
        """The same in float64."""
        return EmbeddingWeights(*(None if of is None else of.double() for of in self))  # type: ignore[arg-type]


class SeenEnough(Exception):
    """Ends a forward."""


def encoder_of(latents: Latents) -> Encoder:
    """Return the facts about an encoder that an index keeps."""
    hook, model = latents.origin.hook, latents.origin.model or ""
    about = latents.layer, latents.name, latents.sha256, latents.point, latents.origin.kind
    return Encoder(*about, len(latents.weights), hook, model)


@dataclass(eq=False)
class ModelDescription:
    """Describe a model without holding it.

    device    where it is read, here or elsewhere
    settings  of its config, those that change its numbers
    latents   its units in the place of its neurons: of one encoder a layer, ascending; none: its neurons are
    units     what names their folder, as `--units` takes it; "": neurons
    """

    info: ModelInfo
    tokenizer: Tokenizer
    dtype: str
    device: torch.device
    settings: Mapping[str, Any]
    latents: Sequence[Latents] = ()
    units: str = ""

    @property
    def encoders(self) -> Sequence[Encoder]:
        """Facts about the encoders of its latents; none where its units are neurons."""
        return [encoder_of(latents) for latents in self.latents]

    def width(self, layer: int) -> int:
        """Return how many units a layer has; 0 where no encoder reads it."""
        if not self.encoders:
            return self.info.n_neurons_per_layer
        return sum(encoder.n_latents for encoder in self.encoders if encoder.layer == layer)

    @property
    def has_gates(self) -> bool:
        """Whether its units are gated neurons."""
        return self.info.gated and not self.encoders

    @property
    def is_wide(self) -> bool:
        """Whether activations may lie outside float16."""
        return self.info.gated or bool(self.encoders)

    @property
    def wants_bos(self) -> bool:
        """Contexts should begin with BOS: as the tokenizer does it, and in GPT-2, as the paper read it."""
        return self.tokenizer.adds_bos or self.info.family == "gpt2"


class Model(ModelDescription):
    """A model kept on one device, with its tokenizer.

    Raises what `load` says. Of several threads that read at once, one reads after the other.
    """

    def __init__(
        self,
        id_: str,
        family: Family,
        transformer: Any,
        tokenizer: Tokenizer,
        device: torch.device,
        dtype: str,
        sha256: str,
        head: Unembedding,
    ) -> None:
        sizes = family.sizes(transformer.config)
        info = ModelInfo(
            id=id_,
            sha256=sha256,
            n_layers=sizes.n_layers,
            n_neurons_per_layer=sizes.n_neurons_per_layer,
            d_model=sizes.d_model,
            context_length=sizes.context_length,
            family=family.model_type,
            gated=family.gated,
        )
        super().__init__(info, tokenizer, dtype, device, settings_of(transformer.config))
        self._transformer = transformer.eval().requires_grad_(False)
        _fuse_gelu(self._transformer)
        self.bounded = family.bounded
        self.mlps = family.mlps(self._transformer)
        self.final = family.final(self._transformer)
        self.head = head
        arguments = inspect.signature(self._transformer.forward).parameters
        self._cache = "cache" if "cache" in arguments else "past_key_values"  # as transformers called it before
        self._reading = threading.Lock()
        self._visit: Visit | None = None
        self._batch = 0, 0  # contexts and tokens of each, that are read now
        self._last_layer = sizes.n_layers - 1
        for layer, mlp in enumerate(self.mlps):
            self._watch(layer, mlp)

    def _watch(self, layer: int, mlp: Mlp) -> None:
        read: dict[str, Tensor] = {}

        def keep(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            read["residual"] = inputs[0]

        def show(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            if self._visit is not None:  # some modules see the tokens of all contexts one after the other
                self._visit(layer, read["residual"].view(*self._batch, -1), inputs[0].view(*self._batch, -1))
            read.clear()
            if layer == self._last_layer:
                raise SeenEnough

        mlp.reads.register_forward_pre_hook(keep)
        mlp.writes.register_forward_pre_hook(show)

    def on(self, model: "Model") -> "Model":
        """Return the same units of another copy of the model."""
        return model

    @property
    def n_bytes(self) -> int:
        """Return the bytes of its weights, on the device."""
        return sum(weights.nbytes for weights in self._transformer.parameters())

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
        """Return what `read` up to that layer needs of the tokens (P,) int64 before its own. Cost: one forward."""
        from transformers import DynamicCache

        if not len(tokens):
            return ()
        cache: Any = DynamicCache()
        self._forward(tokens[None], None, last_layer, cache)
        return [(layer.keys, layer.values) for layer in cache.layers]

    @torch.inference_mode()
    def last(self, tokens: Tensor, visit: Visit | None) -> Tensor:
        """Return the last vectors (b, T, D) of tokens (b, T) as in `read`, behind the final norm. Cost: one forward."""
        found: Tensor = self._forward(tokens, visit, self.info.n_layers, None).last_hidden_state
        return found

    @torch.inference_mode()
    def logits(self, last: Tensor) -> Tensor:
        """Return (P, V) float32 of last vectors (P, D): of the next token, over the V tokens that the tokenizer has.

        Raises FailedPrecondition as `unembedding`, and where a bias of the logits is missing.
        """
        bias = self.head.biases
        if bias is not None:
            bias = bias[: self.tokenizer.n_tokens].to(self.device)
        return direct_path.logits(last.to(self.device), self.unembedding, bias, self.final)

    def _forward(self, tokens: Tensor, visit: Visit | None, last_layer: int | None, cache: Any) -> Any:
        """Return what the transformer gives, None where it was ended behind last_layer."""
        with self._reading:
            return self._read(tokens, visit, last_layer, cache)

    def _read(self, tokens: Tensor, visit: Visit | None, last_layer: int | None, cache: Any) -> Any:
        self._visit, self._batch = visit, (tokens.shape[0], tokens.shape[1])
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if self.dtype == "tf32" else "highest")
        self._last_layer = self.info.n_layers - 1 if last_layer is None else last_layer
        try:
            with suppress(SeenEnough):
                return self._transformer(tokens.to(self.device), use_cache=cache is not None, **{self._cache: cache})
        finally:
            torch.set_float32_matmul_precision(precision)
            self._visit = None

    def logits_cost(self, n_rows: Array) -> Array:
        """Return the cost of the logits of so many last vectors, in the same unit as `reading_cost`."""
        return n_rows * self.tokenizer.n_tokens * (self.info.d_model / 3 + 100.0)

    def reading_cost(self, n_tokens: Array) -> Array:
        """Return the cost of forwards of n_tokens tokens each, in clustering units (n_examples² · d_model).

        A block's products are 4 · d_model² multiply-adds of attention a token, and 2 or, where it is gated, 3 ·
        d_model · N of the MLP, done some three times as fast as clustering's; a short forward takes as long as one of
        64 tokens.
        """
        info = self.info
        products = 4 * info.d_model + (3 if info.gated else 2) * info.n_neurons_per_layer
        return info.n_layers * info.d_model * products / 3 * np.maximum(n_tokens, 64)

    def normalise(self, layer: int, residual: Tensor) -> Tensor:
        """x̂ (P, D) float32 of residual rows (P, D), which the layer's MLP reads."""
        return self.mlps[layer].normalise(residual)

    def gamma(self, layer: int) -> Tensor | None:
        """γ (D,) of the norm of what the layer's neurons read; None where it has none."""
        return self.mlps[layer].gamma

    def directions(self, layer: int, neurons: Tensor) -> Tensor:
        """Return (B, D) float32 of length 1: what neurons (B,) int64 of a layer add, as the unembedding reads it."""
        return direct_path.directions(self.mlps[layer], self.final, neurons, self.device)

    @cached_property
    def unembedding(self) -> Tensor:
        """The rows (V, D) of the V tokens that the tokenizer has.

        Read, and kept on the device, when it is first asked for. Raises FailedPrecondition, see `Unembedding.read`.
        """
        embeddings: Tensor = self._transformer.get_input_embeddings().weight
        return self.head.read(embeddings.detach(), self.device)[: self.tokenizer.n_tokens]

    def check_choice(self, choice: EmbeddingChoice) -> None:
        """Raise InvalidArgument for an embedding that the model's neurons do not have."""
        if choice.embedding in OF_GATES and not self.has_gates:
            others = "these are latents" if self.encoders else f"those of {self.info.id!r} ({self.info.family}) are not"
            raise InvalidArgument(
                f"embedding {choice.embedding!r} is of gated neurons, and {others}; choose neuron or pre_mlp",
                "embedding",
            )

    def weights_vary(self, choice: EmbeddingChoice) -> bool:
        """Whether each example has weights of its own: of the gates, or where x̂ has a scale that no norm bounds."""
        return not self.bounded or (self.has_gates and choice.of_weights)

    def embedding_weights(self, layer: int, neurons: Tensor, choice: EmbeddingChoice) -> EmbeddingWeights:
        """Return how the neurons (B,) int64 embed x̂. Folded puts γ into the weights; without γ, β the modes are one.

        Foote 2024, eq. 1, for neurons that are not gated; else h ⊙ ∂z/∂h of z = g · u. Controls have the same with
        other weights and, of gated neurons, with the gates that these give.
        """
        self.check_choice(choice)
        mlp, b = self.mlps[layer], (len(neurons), self.info.d_model)
        gamma = torch.ones(b[1], device=self.device) if mlp.gamma is None else mlp.gamma.float().to(self.device)
        beta = None if mlp.beta is None or choice.layer_norm == "folded" else mlp.beta.float().to(self.device)
        if choice.embedding == "pre_mlp":
            if choice.layer_norm == "folded":
                return EmbeddingWeights(torch.ones(b, device=self.device))
            return EmbeddingWeights(gamma.expand(b).contiguous(), None if beta is None else beta.expand(b).contiguous())
        read = neurons
        if choice.embedding == "other":
            read = controls.others(layer, neurons, self.info.n_neurons_per_layer, choice.seed)
        own, order = read.to(mlp.weights.device), None
        if choice.embedding == "permuted":
            order = controls.orders(layer, neurons, b[1], choice.seed).to(self.device)
        matrix = mlp.up if mlp.up is not None and choice.embedding == "up" else mlp.weights
        rows = _ordered(rows_of(matrix, own).to(self.device), order)
        weights, offsets = _scaled(rows, gamma), None if beta is None else _scaled(rows, beta)
        if mlp.up is None or not choice.of_weights:
            return EmbeddingWeights(weights, offsets)
        biases = [torch.zeros(b[0]) if of is None else of[own].float() for of in (mlp.biases, mlp.up_biases)]
        return EmbeddingWeights(
            weights,
            None,
            _scaled(_ordered(rows_of(mlp.up, own).to(self.device), order), gamma),
            torch.stack([of.to(self.device) for of in biases], dim=1),
        )


def rows_of(matrix: Tensor, which: Tensor) -> Tensor:
    """(B, D) float32: rows of a matrix (N, D).

    On a CPU by NumPy, as in `_scaled`: torch spreads such small work over its threads, and on a busy machine waits for
    them, 12 ms instead of 0.1.
    """
    if matrix.device.type == "cpu" and matrix.dtype == torch.float32:
        return torch.from_numpy(matrix.numpy(force=True).take(which.numpy(), axis=0))
    return matrix[which].float()


def _ordered(rows: Tensor, order: Tensor | None) -> Tensor:
    """rows (B, D), each in its order (B, D)."""
    return rows if order is None else rows.gather(1, order)


def _scaled(rows: Tensor, by: Tensor) -> Tensor:
    """rows (B, D) times by (D,)."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.multiply(rows.numpy(force=True), by.numpy(force=True), order="C"))
    return rows * by


def _fuse_gelu(transformer: nn.Module) -> None:
    """The same function in one pass over memory instead of eight."""
    for module in list(transformer.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, nn.GELU("tanh"))
