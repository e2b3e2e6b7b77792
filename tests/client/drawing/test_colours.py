"""Colours are told apart by all eyes, and stand out from their grounds: WCAG 2 and simulated colour blindness."""

import itertools
import re

import numpy as np
import pytest

from polysem.client.drawing import browser, figures, report
from polysem.client.drawing import colours as of
from polysem.client.drawing.colours import channels, contrast, letters_on, luminance

LIGHT, DARK = ("#ffffff", "#14161a")
# Machado, Oliveira and Fernandes 2009, at full severity, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def lab(colour, vision="normal"):
    xyz = TO_XYZ @ np.clip(VISIONS[vision] @ np.array(channels(colour)), 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(one, other):
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = (1 - np.sqrt(mean7 / (mean7 + 25**7))) / 2
    c1, c2 = np.hypot((1 + g) * a1, b1), np.hypot((1 + g) * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, (1 + g) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    l_, c, h = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2) % 360
    t = sum(
        f * np.cos(np.radians(n * h + at)) for f, n, at in ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    )
    dl = (l2 - l1) / (1 + 0.015 * (l_ - 50) ** 2 / np.sqrt(20 + (l_ - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * c)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * (1 + t))
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh))


def test_the_difference_is_that_of_its_authors_examples():
    """Sharma, Wu and Dalal 2005, Table 1."""
    for one, other, want in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ):
        assert ciede2000(one, other) == pytest.approx(want, abs=2e-4)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(
    ("palette", "least"), [(of.ON_ANY_GROUND, 15), (of.PALETTE, 11), (of.PALETTE_ON_DARK, 12)], ids=["6", "12", "dark"]
)
def test_any_two_clusters_are_told_apart_in_any_colour_vision(vision, palette, least):
    assert min(ciede2000(lab(a, vision), lab(b, vision)) for a, b in itertools.combinations(palette, 2)) >= least


ON_LIGHT = (*of.PALETTE, of.BEYOND, of.SINGLE)
ON_DARK = (*of.PALETTE_ON_DARK, of.BEYOND_ON_DARK, of.SINGLE_ON_DARK)


@pytest.mark.parametrize(
    ("palette", "ground"),
    [(ON_LIGHT, LIGHT), (ON_DARK, DARK), *((of.ON_ANY_GROUND, ground) for ground in (LIGHT, DARK, "#000000"))],
)
def test_every_cluster_stands_out_from_its_ground(palette, ground):
    assert min(contrast(colour, ground) for colour in palette) >= 3


def test_letters_on_a_clusters_colour_can_be_read():
    assert min(contrast(letters_on(colour), colour) for colour in {*ON_LIGHT, *ON_DARK}) >= 4.5


def test_contrast_is_that_of_the_definition():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def colours_of(style):
    """The custom properties of the light and of the dark theme."""
    both = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style.partition(".ps-A")[0])
    return {LIGHT: {name: light for name, light, _ in both}, DARK: {name: dark for name, _, dark in both}}


@pytest.mark.parametrize("ground", [LIGHT, DARK])
def test_the_pages_own_colours_have_the_contrast_of_wcag_aa(ground):
    colours = colours_of(browser.style())[ground]
    assert colours["ground"] == ground
    for behind in (colours["ground"], colours["sunk"]):
        for text in ("ink", "ink-2", "ink-3", "accent", "good", "weak", "bad"):
            assert contrast(colours[text], behind) >= 4.5
        assert contrast(colours["edge"], behind) >= 3  # of fields and buttons
    for text in ("good", "weak"):
        assert contrast(colours[text], colours[f"{text}-wash"]) >= 4.5


@pytest.mark.parametrize("ground", [LIGHT, DARK])
def test_shaded_tokens_can_be_read_however_strongly_they_fire(ground):
    colours = colours_of(browser.style())[ground]
    steps = [colours[f"{kind}{step}"] for kind in "ti" for step in range(1, 6)]  # activation and importance
    assert min(contrast(colours["ink"], step) for step in steps) >= 4.5
    lights = [luminance(colours[f"t{step}"]) for step in range(1, 6)]
    assert lights == sorted(lights, reverse=ground == LIGHT)  # stronger is always further from the ground


def test_the_ambers_are_the_pages_and_are_read_on_any_ground():
    light = colours_of(browser.style())[LIGHT]
    assert tuple(light[f"t{step}"] for step in range(1, 6)) == of.AMBER
    assert min(contrast(of.INK, amber) for amber in (*of.AMBER, *of.AMBER_ON_ANY_GROUND)) >= 4.5
    assert np.ptp([luminance(amber) for amber in of.AMBER_ON_ANY_GROUND]) < 0.005  # none stands out by its lightness
    assert min(contrast(of.BAND_ON_ANY_GROUND, ground) for ground in (LIGHT, DARK, "#000000")) >= 3
    assert [of.step(share) for share in (0, 0.119, 0.12, 0.5, 0.87, 2)] == [0, 0, 1, 3, 5, 5]


def test_the_pages_colours_of_clusters_are_pythons():
    rules = re.findall(r"\.ps-([A-L]) \{ --c: (.*?); --on: (.*?); \}", browser.style())
    found = {name: (colour, on) for name, colour, on in rules}
    for name, light, dark in zip("ABCDEFGHIJKL", of.PALETTE, of.PALETTE_ON_DARK, strict=True):
        assert found[name] == (themed(light, dark), themed(letters_on(light), letters_on(dark)))


def themed(light, dark):
    return light if light == dark else f"light-dark({light}, {dark})"


@pytest.mark.parametrize("ground", [LIGHT, DARK])
def test_the_reports_own_colours_have_the_contrast_of_wcag_aa(ground):
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in re.findall(r":root {(.*?)}", report.STYLE, re.S)[:2]
    )
    colours = light if ground == LIGHT else light | dark
    assert min(contrast(colours[text], colours["ground"]) for text in ("ink", "link")) >= 4.5


def test_a_figures_lines_and_letters_stand_out_on_paper():
    assert contrast(figures.INK, LIGHT) >= 4.5
    assert contrast(figures.CUT, LIGHT) >= 3
