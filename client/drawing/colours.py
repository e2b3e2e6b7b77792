"""Colours of clusters, and how well two colours stand out from each other (WCAG 2).

Colour never stands alone: whatever has one carries its cluster's letter, or stands in a row that does.
"""

import bisect
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polysem.client.questions.cluster import Cluster

# Of the clusters A to L, on a light ground and on a dark one. Searched for: each has a contrast of at least 3 with its
# ground (WCAG AA asks for 3 of graphics), the first six with both; and any two of the first six differ by at least 15
# (CIEDE2000), any two of the twelve by at least 11, in normal vision and in simulated protan-, deuter- and tritanopia.
# Okabe and Ito's eight differ by 10.9, with two of contrast 2.3 on white. The tests compute it all.
ON_ANY_GROUND = ("#3e6af1", "#a58d0d", "#07a48f", "#eb527a", "#84578a", "#a64a2f")
PALETTE = (*ON_ANY_GROUND, "#3c224b", "#680c0c", "#073299", "#2c835a", "#8b7faf", "#733d3b")
PALETTE_ON_DARK = (*ON_ANY_GROUND, "#fbcaf9", "#c6f2aa", "#a495ff", "#6ed4ba", "#dbda44", "#dca36e")
BEYOND, BEYOND_ON_DARK = "#6f6a62", "#a3a7ae"  # clusters after L: their letters tell them apart
SINGLE, SINGLE_ON_DARK = "#8f8a80", "#7d828a"  # clusters of one example
# Activations, as shares of the strongest: from which share on a token has which amber, written on in INK.
STEPS = (0.12, 0.3, 0.5, 0.7, 0.87)
AMBER = ("#fff4e0", "#ffe5bb", "#fdcf8a", "#f8b35a", "#f0952e")  # on a light ground, where stronger is darker
AMBER_ON_ANY_GROUND = ("#bca68d", "#cba376", "#d89f5e", "#e59a46", "#f0952e")  # grey to amber, all equally light
BAND_ON_ANY_GROUND = "#b5620f"  # of a histogram: where the examples come from
INK = "#1c1b19"


def of_clusters(clusters: "Iterable[Cluster]", any_ground: bool = False) -> dict[int, str]:
    """Return a colour for each label, given a neuron's clusters, largest first.

    any_ground  whether it stands on a ground that is not known, as in a terminal: six colours, then a grey
    """
    palette, beyond = (ON_ANY_GROUND, SINGLE) if any_ground else (PALETTE, BEYOND)
    return {
        cluster.label: SINGLE if cluster.size < 2 else palette[rank] if rank < len(palette) else beyond
        for rank, cluster in enumerate(clusters)
    }


def step(share: float) -> int:
    """Return 1 to 5, the amber of a token with this share of the strongest activation; 0: none."""
    return bisect.bisect_right(STEPS, share)


def channels(colour: str) -> tuple[float, float, float]:
    """Red, green and blue of #rrggbb as amounts of light, 0..1."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return _light(red), _light(green), _light(blue)


def _light(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    """0 of black to 1 of white."""
    red, green, blue = channels(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """1 of equals to 21 of black and white; WCAG AA wants 4.5 of text and 3 of graphics."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def letters_on(ground: str) -> str:
    """Black or white, whichever reads better on it; its contrast is 4.58 or more."""
    return max("#000000", "#ffffff", key=lambda ink: contrast(ink, ground))
