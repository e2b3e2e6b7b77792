"""Which parts are over-represented in one group of contexts against another: log-odds with an informative prior.

Monroe, Colaresi and Quinn (2008), "Fightin' Words", with contexts in the place of words: of n contexts y hold a part.
The prior of each part is its share of the corpus, worth PRIOR contexts, and half a context of either kind beside:

    δ = log((y₁ + α) / (n₁ − y₁ + β)) − log((y₂ + α) / (n₂ − y₂ + β)),   α = ½ + PRIOR · p,   β = ½ + PRIOR · (1 − p)
    z = δ / √(1/(y₁ + α) + 1/(n₁ − y₁ + β) + 1/(y₂ + α) + 1/(n₂ − y₂ + β))
"""

import numpy as np

from polysem.proto.arrays import Array, DoubleArray

PRIOR = 2.0


def log_odds(y1: Array, n1: int, y2: Array, n2: int, p: Array) -> DoubleArray:
    """Return z (F,) of F parts: how surely they hold more often in the first group than in the second.

    y1, y2  (F,) int: contexts of each group that hold the part, of n1 and n2
    p       (F,) float64, 0..1: shares of the corpus's contexts
    """
    alpha, beta = 0.5 + PRIOR * p, 0.5 + PRIOR * (1 - p)
    with_1, with_2, without_1, without_2 = y1 + alpha, y2 + alpha, n1 - y1 + beta, n2 - y2 + beta
    delta = np.log(with_1 / without_1) - np.log(with_2 / without_2)
    z: DoubleArray = delta / np.sqrt(1 / with_1 + 1 / without_1 + 1 / with_2 + 1 / without_2)
    return z
