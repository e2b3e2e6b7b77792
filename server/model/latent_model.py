"""A model whose units are latents of encoders that read it: SAEs and transcoders.

It shares the weights of the model that it was made of. A visit gets what each encoder multiplies in the place of the
residual stream, and the activations of its latents; what it writes into them changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.facts import Encoder, ModelInfo
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.latents.encoder import Latents
from polysem.server.latents.folder import read_latents
from polysem.server.model import controls, points
from polysem.server.model.model import EmbeddingWeights, Model, ModelDescription, SeenEnough, Visit, encoder_of, rows_of

Rows = Callable[[int], Tensor]  # of a layer: (F, D) float32


class LatentModel(Model):
    """A model with latents in the place of its neurons.

    encoders   one a layer, ascending
    rows       what x̂ is multiplied with
    read_by    the encoders themselves, asked for when a text is first read; they may lie in files that are not there
    units      what names their folder
    """

    def __init__(
        self,
        model: Model,
        encoders: Sequence[Encoder],
        rows: Rows,
        read_by: Callable[[], Sequence[Latents]],
        units: str = "",
    ) -> None:
        self.__dict__.update({name: value for name, value in vars(model).items() if name != "latents"})
        self._plain, self._encoders, self._rows, self._read_by = model, tuple(encoders), rows, read_by
        self._copies: dict[Model, LatentModel] = {}
        self.units = units
        self.bounded = False

    @property
    def encoders(self) -> Sequence[Encoder]:
        return self._encoders

    @cached_property
    def latents(self) -> Sequence[Latents]:  # type: ignore[override]  # opened when a text is first read
        """The encoders, on the model's device. Raises what opening them does, and what `check_fits` does."""
        found = self._read_by()
        for latents in found:
            check_fits(latents, self.info)
        return [latents.to(self.device) for latents in found]

    @cached_property
    def _blocks(self) -> nn.ModuleList:
        return points.blocks(self._transformer, self.info.n_layers)

    def on(self, model: Model) -> "LatentModel":
        """Return the latents of another copy of the model, the same whenever it is asked for."""
        if model is self._plain:
            return self
        if model not in self._copies:
            self._copies[model] = LatentModel(model, self._encoders, self._rows, self._read_by, self.units)
        return self._copies[model]

    def _read(self, tokens: Tensor, visit: Visit | None, last_layer: int | None, cache: Any) -> Any:
        last = self._encoders[-1].layer if last_layer is None else last_layer
        hooks = []
        try:
            if visit is not None:
                mine = [latents for latents in self.latents if latents.layer <= last]
                hooks += [self._watch_latents(latents, tuple(tokens.shape), visit) for latents in mine]
            if last < self.info.n_layers:
                hooks.append(self._blocks[last].register_forward_hook(_end))
            return self._plain._read(tokens, None, self.info.n_layers, cache)
        finally:
            for hook in hooks:
                hook.remove()

    def _watch_latents(self, latents: Latents, shape: tuple[int, ...], visit: Visit) -> Any:
        def see(x: Tensor) -> None:
            read = latents.read(x.reshape(-1, x.shape[-1]).to(self.device))
            visit(latents.layer, read.view(*shape, -1), latents.activations(read).view(*shape, -1))

        layer, origin = latents.layer, latents.origin
        block, mlp = self._blocks[layer], self.mlps[layer]
        return points.watch(block, mlp, self._transformer.config, latents.point, origin.before_norm, see)

    def reading_cost(self, n_tokens: Array) -> Array:
        """Return the model's, and the products with all encoders."""
        n_latents = sum(encoder.n_latents for encoder in self._encoders)
        return self._plain.reading_cost(n_tokens) + n_latents * self.info.d_model / 3 * np.maximum(n_tokens, 64)

    def normalise(self, layer: int, residual: Tensor) -> Tensor:
        """x̂ (P, D) float32: what a visit got is what the encoder multiplies already."""
        return residual.float()

    def gamma(self, layer: int) -> Tensor | None:
        """None: no norm lies between x̂ and the weights."""
        return None

    def directions(self, layer: int, neurons: Tensor) -> Tensor:
        """Raise FailedPrecondition: decoders are not read."""
        raise FailedPrecondition("what a latent writes is not known: Polysem reads encoders, and no decoders")

    def embedding_weights(self, layer: int, neurons: Tensor, choice: EmbeddingChoice) -> EmbeddingWeights:
        """Return how latents (B,) int64 embed x̂: x̂ ⊙ W_enc[:, f]; pre_mlp is x̂ itself. LayerNorm modes are one."""
        self.check_choice(choice)
        if choice.embedding == "pre_mlp":
            return EmbeddingWeights(torch.ones((len(neurons), self.info.d_model), device=self.device))
        read = neurons
        if choice.embedding == "other":
            read = controls.others(layer, neurons, self.width(layer), choice.seed)
        rows = rows_of(self._rows(layer), read)
        if choice.embedding == "permuted":
            rows = rows.gather(1, controls.orders(layer, neurons, self.info.d_model, choice.seed))
        for which in (~rows.isfinite().all(1)).nonzero()[:1].flatten().tolist():
            raise FailedPrecondition(f"the input weights of latent {layer}.{int(neurons[which])} are not finite")
        return EmbeddingWeights(rows.to(self.device))


def open_units(units: str, layers: Sequence[int] = ()) -> Sequence[Latents]:
    """Return the encoders that units name, of these layers; none: of all.

    units  "sae:" and a folder or a hub name

    Raises InvalidArgument for units of another kind, and what `read_latents` does.
    """
    kind, _, where = units.partition(":")
    if kind != "sae" or not where:
        raise InvalidArgument(f"units are {units!r}; write sae:FOLDER, or sae: and a hub name", "units")
    return read_latents(where, layers or None)


def described(model: ModelDescription, units: str, layers: Sequence[int] = ()) -> ModelDescription:
    """Return the model with the latents that units name, as `open_units`; a Model where it is one."""
    if isinstance(model, Model):
        return of(model, units, layers)
    found = open_units(units, layers)
    for latents in found:
        check_fits(latents, model.info)
    return replace(model, latents=found, units=_anchored(units))


def of(model: Model, units: str, layers: Sequence[int] = ()) -> LatentModel:
    """Return the model with the latents that units name, as `open_units`."""
    return with_latents(model, open_units(units, layers), _anchored(units))


def _anchored(units: str) -> str:
    """Return what names units with an absolute path, which holds wherever a process stands."""
    kind, _, where = units.partition(":")
    for name, hook in ((where, ""), (where.rpartition("@")[0], f"@{where.rpartition('@')[2]}")):
        if name and Path(name).expanduser().is_dir():
            return f"{kind}:{Path(name).expanduser().resolve()}{hook}"
    return units


def with_latents(model: Model, latents: Sequence[Latents], units: str = "") -> LatentModel:
    """Return the model with these latents, of one encoder a layer, ascending. Raises as `check_fits`."""
    for one in latents:
        check_fits(one, model.info)
    of_layer = {one.layer: one.weights for one in latents}
    return LatentModel(model, list(map(encoder_of, latents)), of_layer.__getitem__, lambda: latents, units)


def check_fits(latents: Latents, model: ModelInfo) -> None:
    """Raise InvalidArgument where the encoder reads another width or layer than the model has, or another model."""
    width = latents.weights.shape[1]
    if width != model.d_model:
        raise InvalidArgument(
            f"the SAE {latents.name!r} reads vectors of {width:,} elements, and those of {model.id!r} have "
            f"{model.d_model:,}; give an SAE of this model",
            "units",
        )
    if latents.layer >= model.n_layers:
        raise InvalidArgument(
            f"the SAE {latents.name!r} reads layer {latents.layer}, and {model.id!r} has layers 0 to "
            f"{model.n_layers - 1}; give an SAE of this model",
            "units",
        )
    trained_on = latents.origin.model
    if trained_on and _is_hub_name(model.id) and _name(trained_on) != _name(model.id):
        raise InvalidArgument(
            f"the SAE {latents.name!r} was trained on {trained_on!r}, not on {model.id!r}; give an SAE of this "
            "model, or the model as a folder if only its name is another",
            "units",
        )


def _is_hub_name(id_: str) -> bool:
    """Whether a model was named by its name on the hub, and not by a folder, which may be called anything."""
    return not id_.startswith(("/", "~", ".")) and id_ != "demo"


def _name(model: str) -> str:
    """The model's name without its owner; TransformerLens calls gpt2 gpt2-small."""
    name = model.rsplit("/", 1)[-1].lower()
    return "gpt2" if name == "gpt2-small" else name


def _end(*_of_hook: object) -> None:
    raise SeenEnough
