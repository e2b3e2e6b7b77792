"""The negatives that an index holds of each neuron and side: places that names of its clusters must not fit.

Kinds, none of a context that one of the neuron's dataset examples comes from:

random      any place of a context drawn at random
same_token  one of the neuron's key tokens, in a context in which it does not fire
weak        the key token of a context in which the neuron fires weakly

Each context belongs to a half for good: names are chosen by negatives of the one and scored by those of the other.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

from polysem.proto.arrays import Array
from polysem.server.index.draws import draws

Kind = Literal["random", "same_token", "weak"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NAMES = ("negative_contexts", "negative_positions")  # of a layer's arrays
_SEED_OF_HALVES = 0x4E65


class Negatives(NamedTuple):
    """The negatives of a layer's N neurons, K at most of each kind: contexts (N, 3, K) int32, −1 behind the last one,
    and positions (N, 3, K) uint16 or int32 of tokens in them."""

    contexts: Array
    positions: Array


def is_held_out(contexts: Array) -> Array:
    """(…,) bool: whether names are scored by these contexts, and not chosen by them."""
    return (draws(contexts, _SEED_OF_HALVES) & np.uint64(1)).astype(bool)
