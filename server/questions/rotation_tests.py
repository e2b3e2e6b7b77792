"""The rotation test of a batch of neurons on the device, in frame `own`, as it is calibrated."""

from typing import NamedTuple

import torch
from torch import Tensor

from polysem.kernels import significance
from polysem.kernels.significance import RotationTest
from polysem.server.model.model import EmbeddingWeights
from polysem.server.questions import resident
from polysem.server.questions.resident import DeviceBatch

MAX_TESTED = 1000  # examples of a neuron that is compared with rotations


class Embedded(NamedTuple):
    """A batch's embeddings as rows[example_rows] ⊙ weights + offsets; of neurons that are not tested no examples."""

    rows: Tensor
    example_rows: Tensor
    weights: Tensor
    n_examples: Tensor
    offsets: Tensor | None


def embedded_rows(batch: DeviceBatch) -> Embedded:
    """Return the embeddings of the batch, held in memory where no weights and offsets say them."""
    rows, at, how = batch.rows, batch.example_rows, batch.how
    if how.up is not None or batch.scales is not None:
        x = rows[at].float() if batch.scales is None else rows[at].float() * batch.scales[at][..., None]
        rows = resident.embedded(x, how, batch.factors).flatten(0, 1)
        at = torch.arange(at.numel(), device=at.device).view(at.shape)
        how = EmbeddingWeights(torch.ones_like(how.weights))
    n = batch.n_examples.where(batch.n_examples <= MAX_TESTED, 0)
    return Embedded(rows, at, how.weights, n, how.offsets)


def tests_of(batch: DeviceBatch, n_null: int, seed: int) -> RotationTest:
    """The test of each neuron of the batch."""
    return significance.gathered_rotation_test(*embedded_rows(batch), n_null, seed)
