"""Scripts that check a page: axe-core's rules, and the contrasts of WCAG AA, in both themes."""

import importlib.resources
from typing import Any

CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = (text) => { const v = text.match(/[\\d.]+/g).map(Number); return [v[0], v[1], v[2], v[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const behind = (of) => { // the ground that an element stands on, and its opacity
    const chain = [];
    for (let e = of; e; e = e.parentElement) chain.unshift(e);
    let ground = [255, 255, 255, 1], opacity = 1;
    for (const e of chain) {
      ground = over(parse(getComputedStyle(e).backgroundColor), ground);
      opacity *= Number(getComputedStyle(e).opacity);
    }
    return [ground, opacity];
  };
  const worst = { text: [99, ""], graphics: [99, ""] };
  const meet = (kind, colour, of, words, alone) => {
    const [ground, opacity] = behind(of), [r, g, b, a] = parse(colour);
    const found = ratio(over([r, g, b, a * opacity * (alone ?? 1)], ground), ground);
    if (found < worst[kind][0]) worst[kind] = [found, words];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const of = node.parentElement, style = getComputedStyle(of);
    if (!node.data.trim() || !of.checkVisibility()) continue;
    if (of.closest(".ps-unseen, .ps-griptext, .skip, script, title")) continue; // the grip's is ground on ink
    meet("text", of.closest("svg") ? style.fill : style.color, of, node.data.slice(0, 40));
  }
  for (const field of document.querySelectorAll("input[placeholder]")) {
    const style = getComputedStyle(field, "::placeholder");
    meet("text", style.color, field, field.placeholder, Number(style.opacity));
  }
  // Cells of the field are shades of counts, which their names tell.
  const decoration = ".ps-grid, .grid, .band, .ps-hit, .ps-track, .struct .axis, .field rect";
  for (const shape of document.querySelectorAll(`svg :is(path, line, circle, rect):not(${decoration})`)) {
    for (const colour of [getComputedStyle(shape).stroke, getComputedStyle(shape).fill]) {
      if (colour === "none" || parse(colour)[3] === 0) continue;
      if (shape.matches(".ps-profile, .null") && colour === getComputedStyle(shape).fill) continue; // its line has it
      if (shape.tagName === "line" && colour === getComputedStyle(shape).fill) continue; // a line has no inside
      meet("graphics", colour, shape, shape.outerHTML.slice(0, 80));
    }
  }
  for (const box of document.querySelectorAll("input:not([type=hidden]), select, textarea, button, .ps-card")) {
    if (box.matches(".ps-link, .ps-key")) continue; // drawn as a link, and as part of a text
    if (!box.checkVisibility()) continue;
    const edge = box.closest(".sentence") && box.tagName === "SELECT" ? "borderBottomColor" : "borderLeftColor";
    meet("graphics", getComputedStyle(box)[edge], box.parentElement, box.outerHTML.slice(0, 80));
  }
  return worst;
}"""


AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
COMPLAINTS = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
  .map((one) => [one.id, one.help, one.nodes.slice(0, 2).map((node) => node.html.slice(0, 120))])"""


def check_in_both_themes(page: Any) -> None:
    """Fail where axe-core finds something, or text or graphics stand out too little, in light or in dark."""
    page.evaluate(AXE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        worst = page.evaluate(CONTRAST)
        assert worst["text"][0] >= 4.5, (scheme, worst)
        assert worst["graphics"][0] >= 3, (scheme, worst)
        assert not (found := page.evaluate(COMPLAINTS)), (scheme, found)
