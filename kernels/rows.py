"""One row of x as an embedding, for kernels that read it as they go (Numba)."""

import numpy as np

from polysem.kernels.arrays import Array
from polysem.kernels.parallel import compiled


@compiled
def embed(x: Array, weights: Array, offsets: Array, row: Array) -> None:
    """row = x ⊙ weights + offsets, in float32.

    x  (D,) float32, or the bits of float16, which Numba does not know; offsets (D,), or none
    """
    if x.itemsize == 2:
        widen(x, row)
    else:
        row[:] = x
    if len(offsets) > 0:
        for d in range(row.shape[0]):
            row[d] = row[d] * weights[d] + offsets[d]
    else:
        for d in range(row.shape[0]):
            row[d] *= weights[d]


@compiled
def embed_gated(x: Array, weights: Array, up: Array, factors: Array, row: Array) -> None:
    """row = x ⊙ (factors[0] · weights + factors[1] · up), in float32. x as in `embed`; factors (2,)."""
    if x.itemsize == 2:
        widen(x, row)
    else:
        row[:] = x
    first, second = factors
    for d in range(row.shape[0]):
        row[d] *= first * weights[d] + second * up[d]


@compiled
def widen(half: Array, row: Array) -> None:
    """float16 to float32: the exponent's bias differs by 112."""
    bits = row.view(np.uint32)
    for d in range(half.shape[0]):
        h = np.uint32(half[d])
        infinite = np.uint32(0x7F800000) if (h & np.uint32(0x7C00)) == np.uint32(0x7C00) else np.uint32(0)
        magnitude = (h & np.uint32(0x7FFF)) << np.uint32(13)
        bits[d] = ((h & np.uint32(0x8000)) << np.uint32(16)) | magnitude | infinite
    for d in range(half.shape[0]):
        row[d] *= np.float32(2.0**112)
