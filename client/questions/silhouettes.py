"""The silhouette of every cut of a neuron's tree, in few questions."""

from collections.abc import Callable, Sequence

import numpy as np

from polysem.proto.arrays import DoubleArray
from polysem.proto.questions.clustering import MAX_SILHOUETTE_THRESHOLDS

MAX_STEPS = 2 * MAX_SILHOUETTE_THRESHOLDS
MAX_EXAMPLES = 2000  # above it a silhouette at each step is too dear for a picture

Steps = list[tuple[float, float | None]]


def silhouettes_of(heights: DoubleArray, ask: Callable[[Sequence[float]], Sequence[float | None]]) -> Steps:
    """Return (distance, silhouette) of cuts at the tree's merges, the distances rising; None where undefined.

    heights  (M,) of the merges, never decreasing
    ask      returns the silhouettes of cuts at no more than MAX_SILHOUETTE_THRESHOLDS distances
    """
    if not 1 <= len(heights) < MAX_EXAMPLES:
        return []
    steps = np.unique(heights)
    if len(steps) > MAX_STEPS:
        steps = np.unique(steps[np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int)])
    found: list[float | None] = []
    for start in range(0, len(steps), MAX_SILHOUETTE_THRESHOLDS):
        found += ask(steps[start : start + MAX_SILHOUETTE_THRESHOLDS].tolist())
    return list(zip(steps.tolist(), found, strict=True))
