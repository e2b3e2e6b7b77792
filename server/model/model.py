"""The resident model, read layer by layer where its MLP neurons can be seen.

x̂ is the input of the norm before the MLP, normalised without γ and β; every embedding is x̂ ⊙ weights + offsets (four
of them, see `Model.embedding_weights`). No logits are computed.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array
from polysem.proto.facts import ModelInfo
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.model.architecture import Family, Mlp
from polysem.server.model.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


# visit(layer, residual (b, T, D), activations (b, T, N)): N = MLP neurons a layer
Visit = Callable[[int, Tensor, Tensor], None]

# keys and values (1, heads, P, D / heads) of each layer: all that later tokens see of P tokens before them
Past = Sequence[tuple[Tensor, Tensor]]


class _SeenEnough(Exception):
    """Ends a forward."""


@dataclass(eq=False)
class ModelDescription:
    """What is known of a model without holding it. device: where it is read, here or elsewhere."""

    info: ModelInfo
    tokenizer: Tokenizer
    dtype: str
    device: torch.device


class Model(ModelDescription):
    """A model kept on one device, with its tokenizer.

    Raises what `load` says. Not safe for several threads at once.
    """

    def __init__(
        self, id_: str, family: Family, transformer: Any, tokenizer: Tokenizer, device: torch.device, dtype: str
    ) -> None:
        sizes = family.sizes(transformer.config)
        info = ModelInfo(
            id=id_,
            sha256=_weights_sha256(transformer),
            n_layers=sizes.n_layers,
            n_neurons_per_layer=sizes.n_neurons_per_layer,
            d_model=sizes.d_model,
            context_length=sizes.context_length,
        )
        super().__init__(info, tokenizer, dtype, device)
        self._transformer = transformer.to(device=device, dtype=DTYPES[dtype]).eval().requires_grad_(False)
        self.mlps = family.mlps(self._transformer)
        arguments = inspect.signature(self._transformer.forward).parameters
        self._cache = "cache" if "cache" in arguments else "past_key_values"  # as transformers called it before
        self._visit: Visit | None = None
        self._last_layer = sizes.n_layers - 1
        for layer, mlp in enumerate(self.mlps):
            self._watch(layer, mlp)

    def _watch(self, layer: int, mlp: Mlp) -> None:
        read: dict[str, Tensor] = {}

        def keep(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            read["residual"] = inputs[0]

        def show(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            if self._visit is not None:
                self._visit(layer, read.pop("residual"), inputs[0])
            if layer == self._last_layer:
                raise _SeenEnough

        mlp.reads.register_forward_pre_hook(keep)
        mlp.writes.register_forward_pre_hook(show)

    @property
    def n_bytes(self) -> int:
        """Of its weights, on the device."""
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
            with suppress(_SeenEnough):
                self._transformer(tokens.to(self.device), use_cache=cache is not None, **{self._cache: cache})
        finally:
            torch.set_float32_matmul_precision(precision)
            self._visit = None

    def reading_cost(self, n_tokens: Array) -> Array:
        """Of forwards of so many tokens each, beside n_examples² · d_model of clustering, as far as time goes.

        A block's products are 12 · d_model² multiply-adds a token, done some three times as fast as clustering's; a
        short forward takes as long as one of 64 tokens.
        """
        return 4.0 * self.info.n_layers * self.info.d_model**2 * np.maximum(n_tokens, 64)

    def normalise(self, layer: int, residual: Tensor) -> Tensor:
        """x̂ (P, D) float32 of residual rows (P, D), which the layer's MLP reads."""
        return self.mlps[layer].normalise(residual)

    def embedding_weights(self, layer: int, neurons: Tensor, choice: EmbeddingChoice) -> tuple[Tensor, Tensor | None]:
        """weights and offsets (B, D) float32, such that the embedding is e = x̂ ⊙ weights + offsets.

        neurons  (B,) int64. Offsets are None where they are 0. Foote 2024, eq. 1; folded puts γ into the weights.
        """
        mlp = self.mlps[layer]
        gamma = mlp.gamma.float()
        beta = None if mlp.beta is None or choice.layer_norm == "folded" else mlp.beta.float()
        b = (len(neurons), self.info.d_model)
        if choice.embedding == "pre_mlp":
            if choice.layer_norm == "folded":
                return torch.ones(b, device=self.device), None
            return gamma.expand(b).contiguous(), None if beta is None else beta.expand(b).contiguous()
        rows = _rows(mlp.weights, neurons.to(self.device))
        return _scaled(rows, gamma), None if beta is None else _scaled(rows, beta)


def _rows(matrix: Tensor, which: Tensor) -> Tensor:
    """(B, D) float32: rows of a matrix (N, D).

    On a CPU by NumPy, as in `_scaled`: torch spreads such small work over its threads, and on a busy machine waits for
    them, 12 ms instead of 0.1.
    """
    if matrix.device.type == "cpu" and matrix.dtype == torch.float32:
        return torch.from_numpy(matrix.numpy(force=True).take(which.numpy(), axis=0))
    return matrix[which].float()


def _scaled(rows: Tensor, by: Tensor) -> Tensor:
    """rows (B, D) times by (D,)."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.multiply(rows.numpy(force=True), by.numpy(force=True), order="C"))
    return rows * by


def _weights_sha256(transformer: Any) -> str:
    """Of names, shapes and values as stored in the checkpoint, whatever its file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(transformer.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
