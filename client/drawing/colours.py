"""Colours of clusters, and how well two colours stand out from each other (WCAG 2)."""

# Searched for: each has a contrast of at least 3.1 with white and with the dark pages' ground (WCAG AA asks for 3 of
# graphics), and any two differ by at least 15 (CIEDE2000) in normal vision and in simulated protan-, deuter- and
# tritanopia; Okabe and Ito's by 10.9, with two of contrast 2.3 on white. The tests compute it all.
PALETTE = ("#3e6af1", "#a58d0d", "#07a48f", "#eb527a", "#84578a", "#a64a2f")


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
