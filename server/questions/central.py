"""Central examples of a layer's feature clusters, as unit embeddings on the device.

The least recently used leave first. Only the worker thread touches them.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from polysem.kernels.gates import gated_factors
from polysem.proto.arrays import Array
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.index.format import Index
from polysem.server.model.model import Model
from polysem.server.questions import frames
from polysem.server.questions.resident import embedded, resident

KEPT_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}  # GPT2-small at 10 clusters a neuron: 1.1 GB


def central_units(
    model: Model, index: Index, layer: int, neurons: Array, centrals: Array, choice: EmbeddingChoice
) -> Tensor:
    """(C, D) float32: unit embeddings of examples `centrals` (C,) of the layer's neurons (C,); 0 where an embedding is.

    choice  in frame own, where each neuron has a mean of its own, they are embedded as in raw
    """
    stored = index.layer(layer)
    examples = stored.rows[stored.offsets[neurons] + centrals].astype(np.int64)
    index.check_rows(layer, examples)
    stored_rows, scales = resident(model.device).rows(index, layer)
    places = torch.from_numpy(examples).to(model.device)
    if choice.frame not in frames.OF_LAYERS:
        choice = EmbeddingChoice(choice.embedding, choice.layer_norm, "raw")
    of = neurons[:1] if choice.embedding == "pre_mlp" else neurons  # of h the weights are the same for all neurons
    how = frames.weights(model, index, layer, torch.from_numpy(of.astype(np.int64)), choice)
    factors = None
    if how.up is not None and how.biases is not None:
        one = torch.ones(len(places), dtype=torch.int32, device=model.device)
        factors = gated_factors(stored_rows, places[:, None], how.weights, how.up, how.biases, one, scales)
    x = stored_rows[places].float() if scales is None else stored_rows[places].float() * scales[places][:, None]
    if how.up is not None or scales is not None:  # no weights say the frame
        x = frames.layer_frame(model, index, layer, choice, x)
    return functional.normalize(embedded(x[:, None], how, factors)[:, 0], dim=1)


def kept(device: torch.device, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """Return what was kept on the device under this key, or what `make` makes now."""
    units = _kept(device)
    if (found := units.get(key)) is None:
        found = make()
        units.put(key, found)
    return found


class _Kept:
    """Embeddings on a device, by what they are of, up to a number of bytes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        if key in self._tensors:
            self._tensors.move_to_end(key)
        return self._tensors.get(key)

    def put(self, key: Hashable, tensor: Tensor) -> None:
        self._tensors[key] = tensor
        while len(self._tensors) > 1 and sum(kept.nbytes for kept in self._tensors.values()) > self._room:
            self._tensors.popitem(last=False)


@lru_cache
def _kept(device: torch.device) -> _Kept:
    return _Kept(KEPT_BYTES[device.type])
