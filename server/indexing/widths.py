"""Sizes of a build that follow from how many units a layer has: a sparse autoencoder may have a hundred thousand."""

from collections.abc import Sequence

from polysem.proto.errors import InvalidArgument
from polysem.proto.work.shards import SHARD_CONTEXTS
from polysem.server.index.format import layers_in_words
from polysem.server.indexing.scan import ReadOptions
from polysem.server.model.model import ModelDescription

BATCH_LATENTS = {"cpu": 1 << 26, "cuda": 1 << 30}  # activations of a batch at one layer: 256 MiB, 4 GiB
HELD_ACTIVATIONS = 1 << 25  # key activations of latents that are held unreduced, 8 bytes each


def batch_tokens(model: ModelDescription, most: int) -> int:
    """Return how many tokens to read at once: `most`, or fewer where their latents would fill memory."""
    widest = max((encoder.n_latents for encoder in model.encoders), default=1)
    return min(most, max(BATCH_LATENTS[model.device.type] // widest, 1))


def contexts_at_once(model: ModelDescription, reading: ReadOptions) -> int:
    """Return of how many contexts to hold key activations before they are reduced."""
    if not model.encoders:
        return SHARD_CONTEXTS
    return min(SHARD_CONTEXTS, max(HELD_ACTIVATIONS // int(reading.bounds[-1]), 1))


def check_latents(model: ModelDescription, layers: Sequence[int], both_sides: bool) -> None:
    """Raise InvalidArgument for layers that no encoder reads, and for sides that latents do not have."""
    for missing in [layer for layer in layers if not model.width(layer)][:1]:
        read = layers_in_words([encoder.layer for encoder in model.encoders])
        raise InvalidArgument(f"no encoder reads layer {missing}: those given read {read}", "layers")
    if both_sides:
        raise InvalidArgument("latents have no negative side; leave out --sides both", "sides")
