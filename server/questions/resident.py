"""The x̂ of neurons' dataset examples, on the device: batches of neurons of one layer, padded to the largest.

x̂ rows stay on a GPU once they were asked for, the least recently used leaving first when half its memory is taken; on a
CPU they are the index's own mapped files.
"""

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysem.kernels.gates import gated_factors
from polysem.kernels.significance import centring_offsets
from polysem.proto.arrays import Array, IntArray
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.index.format import Index
from polysem.server.model.model import EmbeddingWeights, Model
from polysem.server.model.transfers import send
from polysem.server.questions import frames

CPU_BATCH_BYTES = 8 << 20  # a thread; a batch twice or five times as large was slower, out of cache
GPU_BATCH_BYTES = 4 << 30
BYTES_AT_WORK = 12  # times a batch's distances: distances, work matrices and checks of two batches under way


class DeviceBatch(NamedTuple):
    """Neurons of one layer that go through the kernels together, padded to N examples. Tensors are on the device.

    places      (B,) int64: where the batch's neurons stand in the request
    n_examples  (B,) int32
    used        (B, N) bool: slots that hold an example
    rows        (P, D) float16, example_rows (B, N) int64: x̂
    scales      (P,) float32 that rows are to be multiplied by, or None
    how         the embedding of the neurons
    factors     (B, N, 2) float32: u and g of each example, where how.up is
    """

    places: Array
    n_examples: Tensor
    used: Array
    rows: Tensor
    example_rows: Tensor
    scales: Tensor | None
    how: EmbeddingWeights
    factors: Tensor | None

    def part(self, first: int, last: int) -> "DeviceBatch":
        """Its neurons first..last − 1."""
        part = slice(first, last)
        return self._replace(
            places=self.places[part],
            n_examples=self.n_examples[part],
            used=self.used[part],
            example_rows=self.example_rows[part],
            how=EmbeddingWeights(*(None if of is None else of[part] for of in self.how)),  # type: ignore[arg-type]
            factors=None if self.factors is None else self.factors[part],
        )


def device_batches(
    model: Model, index: Index, neurons: IntArray, choice: EmbeddingChoice, tested: bool = False
) -> Iterator[DeviceBatch]:
    """Cut neurons into batches by layer and size, so that little is padding and their distances fit.

    tested  they will be compared with rotations. Where that, or their frame, takes the embeddings themselves, those of
            a batch fit, too
    """
    counts = index.n_examples[neurons[:, 0], neurons[:, 1]].astype(np.int64)
    order = np.lexsort((counts, neurons[:, 0]))
    budget = batch_bytes(model.device)
    is_built = (tested or choice.frame != "raw") and model.weights_vary(choice)
    for layer in np.unique(neurons[:, 0]):
        left = order[neurons[order, 0] == layer]
        of_example = model.info.d_model if is_built else 0
        while len(left):
            n = counts[left]
            n_bytes = np.arange(1, len(left) + 1) * n * np.maximum(n, of_example) * 4  # of so many padded matrices
            places, left = np.split(left, [max(int(np.searchsorted(n_bytes, budget, side="right")), 1)])
            yield _device_batch(model, index, int(layer), places, neurons[places, 1], counts[places], choice)


def batch_bytes(device: torch.device) -> int:
    """Return the bytes that the distances of one batch may take."""
    if device.type == "cpu":
        return CPU_BATCH_BYTES * torch.get_num_threads()
    free, _ = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min((free + reserved) // BYTES_AT_WORK, GPU_BATCH_BYTES)


def _device_batch(
    model: Model, index: Index, layer: int, places: Array, neurons: Array, n: Array, choice: EmbeddingChoice
) -> DeviceBatch:
    stored = index.layer(layer)
    slots = np.arange(n.max())
    used = slots < n[:, None]  # (B, N)
    examples = np.where(used, stored.offsets[neurons][:, None] + slots, 0)
    example_rows = np.where(used, stored.rows[examples], 0) if len(stored.rows) else np.zeros(used.shape)
    index.check_rows(layer, example_rows[used].astype(np.int64))
    how = frames.weights(model, index, layer, torch.from_numpy(neurons.astype(np.int64)), choice)
    n_examples = send(torch.from_numpy(n.astype(np.int32)), model.device)
    rows, scales = resident(model.device).rows(index, layer)
    at = send(torch.from_numpy(example_rows.astype(np.int64)), model.device)
    factors = None
    if how.up is not None and how.biases is not None:
        factors = gated_factors(rows, at, how.weights, how.up, how.biases, n_examples, scales)
    if choice.frame != "raw" and (how.up is not None or scales is not None):  # no weights and offsets say it
        x = rows[at].float() if scales is None else rows[at].float() * scales[at][..., None]
        e = embedded(frames.layer_frame(model, index, layer, choice, x), how, factors).where(
            send(torch.from_numpy(used), model.device)[..., None], 0.0
        )
        rows, at = e.flatten(0, 1), torch.arange(used.size, device=model.device).view(used.shape)
        how, scales, factors = EmbeddingWeights(torch.ones_like(how.weights)), None, None
    if choice.frame == "own":
        how = how._replace(offsets=centring_offsets(rows, at, how.weights, n_examples, how.offsets))
    return DeviceBatch(places, n_examples, used, rows, at, scales, how, factors)


def embedded(x: Tensor, how: EmbeddingWeights, factors: Tensor | None) -> Tensor:
    """The embeddings (B, N, D) float32 of examples x (B, N, D) of B neurons; factors (B, N, 2): as in DeviceBatch."""
    weights = how.weights[:, None]
    if how.up is not None and factors is not None:
        weights = factors[..., :1] * weights + factors[..., 1:] * how.up[:, None]
    e = x.float() * weights
    return e if how.offsets is None else e + how.offsets[:, None]


class Resident:
    """The x̂ rows that are kept on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[str, str, int], tuple[Tensor, Tensor | None]] = OrderedDict()
        self._room = 0 if device.type == "cpu" else torch.cuda.mem_get_info(device)[1] // 2

    def rows(self, index: Index, layer: int) -> tuple[Tensor, Tensor | None]:
        """(P, D) float16, and the scales (P,) float32 of those that have some."""
        stored = index.layer(layer)
        rows, scales = torch.from_numpy(stored.xhat), None if stored.scales is None else torch.from_numpy(stored.scales)
        if self._device.type == "cpu":
            return rows, scales
        key = index.sha256, index.side, layer
        if key not in self._kept:
            while self._kept and self._n_bytes() + rows.nbytes > self._room:
                torch.cuda.synchronize(self._device)  # nobody reads it any more
                self._kept.popitem(last=False)
            on_device = rows.pin_memory().to(self._device, non_blocking=True)
            self._kept[key] = on_device, None if scales is None else scales.to(self._device)
            torch.cuda.synchronize(self._device)  # any stream may read it
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, index: Index) -> str:
        """Fetch all of the index's rows where there is room; what became of them, in words."""
        held = [(index.of(side), layer) for side in index.info.sides for layer in index.info.held_layers]
        n_bytes = sum(of.layer(layer).xhat.nbytes for of, layer in held)
        size = f"{n_bytes / 1e6:,.0f} MB of x̂"
        if self._device.type == "cpu":
            return f"{size}, mapped from its files"
        if self._n_bytes() + n_bytes > self._room:
            return f"{size}, fetched layer by layer: {self._device} has room for {self._room / 1e6:,.0f} MB"
        for of, layer in held:
            self.rows(of, layer)
        return f"{size}, resident on {self._device}"

    def _n_bytes(self) -> int:
        return sum(rows.nbytes for rows, _ in self._kept.values())


@lru_cache
def resident(device: torch.device) -> Resident:
    """The one of that device."""
    return Resident(device)
