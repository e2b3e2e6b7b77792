"""Seeded draws that are the same everywhere: what is drawn depends on a number and a seed alone."""

import numpy as np

from polysem.proto.arrays import Array


def draws(numbers: Array, seed: int) -> Array:
    """(…,) uint64 for numbers (…,) int, no two alike; 0 <= seed < 2⁶⁴.

    It is entry `numbers` of the generator SplitMix64 (Steele, Lea and Flood 2014) begun at `seed`.
    """
    state = np.uint64(seed) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
