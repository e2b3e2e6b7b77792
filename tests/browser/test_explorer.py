"""The explorer in a browser: what a person does in it, with mouse and keyboard, and what goes wrong."""

import csv
import io
import json
import socket
import struct
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest

import polysem.server
from polysem.server.in_process import _running
from polysem.server.settings import Settings

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def neuron(server):
    """The neuron with most examples."""
    return max(server.cluster("0.*"), key=lambda n: (n.metrics.n_examples, n.metrics.n_clusters))


def cards(page):
    return page.locator(".ps-card").count()


def show_all(page):
    while (buttons := page.get_by_role("button", name="show all")).count():
        buttons.first.click()


def until_cut_at(page, threshold):
    page.wait_for_function(
        f"() => document.querySelector('[role=slider]').getAttribute('aria-valuenow') === '{threshold:g}'"
    )


def test_a_neuron_is_named_in_the_box(page, explorer):
    page.goto(explorer)
    page.get_by_role("searchbox").or_(page.get_by_label("neuron", exact=True)).fill("L1N5")
    page.keyboard.press("Enter")
    page.wait_for_url("**/neuron/1.5")
    assert page.locator("h1").inner_text() == "Neuron 1.5"


def test_random_and_back(page, explorer):
    page.goto(f"{explorer}/neuron/0.3")
    page.get_by_role("link", name="random").click()
    page.wait_for_url(lambda url: "/neuron/" in url and not url.endswith("/neuron/0.3"))
    assert page.locator(".ps-card").first.is_visible()
    page.go_back()
    assert page.locator("h1").inner_text() == "Neuron 0.3"


def test_neighbours_are_a_click_away(page, explorer):
    page.goto(f"{explorer}/neuron/0.3?embedding=pre_mlp")
    page.get_by_role("link", name="0.4").click()
    page.wait_for_url("**/neuron/0.4**")
    assert page.locator("h1").inner_text() == "Neuron 0.4"
    assert "embedding=pre_mlp" in page.url


def test_the_line_is_dragged_and_the_tree_is_cut_anew(page, watched, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    line = page.locator(".ps-handle circle").bounding_box()
    x, y = line["x"] + line["width"] / 2, line["y"] + line["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "() => parseFloat(document.querySelector('[role=slider]').getAttribute('aria-valuenow')) < 0.5"
    )
    threshold = float(page.get_by_role("slider").get_attribute("aria-valuenow"))
    wanted = neuron.cut(threshold).metrics
    assert (
        page.locator(".ps-summary").inner_text().startswith(f"{wanted.n_examples} examples in {wanted.n_clusters} cl")
    )
    assert not [address for address in watched.requests if "/api/" in address]  # nobody was asked


def test_the_line_follows_the_keys(page, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    until_cut_at(page, 0.51)
    page.keyboard.press("PageDown")
    until_cut_at(page, 0.41)
    page.keyboard.press("Home")
    until_cut_at(page, 0)
    assert page.get_by_role("slider").get_attribute("aria-valuetext").startswith("0: ")


def test_every_view_has_an_address(page, explorer, neuron, server):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    page.get_by_label("algorithm").select_option("scc")
    page.wait_for_function("() => document.querySelector('.ps').innerText.includes('Sub-Cluster Component')")
    page.get_by_label("embedding").select_option("pre_mlp")
    page.wait_for_function("() => document.querySelector('.ps').innerText.includes('pre-MLP')")
    page.get_by_role("spinbutton", name="cut at").fill("0.34")
    page.keyboard.press("Enter")
    page.wait_for_url("**distance_threshold=0.34**")
    query = parse_qs(urlsplit(page.url).query)
    assert query == {"algorithm": ["scc"], "embedding": ["pre_mlp"], "distance_threshold": ["0.34"]}
    summary = page.locator(".ps-summary").inner_text()
    page.goto(page.url)
    assert page.locator(".ps-summary").inner_text() == summary
    found = server.cluster(neuron.id, algorithm="scc", embedding="pre_mlp", distance_threshold=0.34)[0].metrics
    assert f"in {found.n_clusters} clusters at" in summary


def test_a_text_opens_to_its_whole_context(page, explorer, server):
    place, whole = next(
        (e.example, w)
        for e, w in zip(server.examples("0.3"), server.examples("0.3", whole_context=True), strict=True)
        if len(w.tokens) >= len(e.tokens)
    )
    page.goto(f"{explorer}/neuron/0.3")
    show_all(page)
    row = page.locator(f"[data-place='{place}']")
    row.get_by_role("button", name="whole text").click()
    row.get_by_role("button", name="shorter").wait_for()
    assert row.locator(".ps-text").text_content().replace("⏎", "\n").strip()[:10] == whole.text.strip()[:10]


def test_what_is_seen_can_be_taken_away(page, explorer, neuron, tmp_path):
    page.goto(f"{explorer}/neuron/{neuron.id}?distance_threshold=0.3")
    got = {}
    for kind, label in (("json", "JSON"), ("csv", "CSV"), ("png", "PNG"), ("svg", "SVG of the tree")):
        with page.expect_download() as download:
            page.get_by_role("button", name=label, exact=True).click()
        got[kind] = tmp_path / kind
        download.value.save_as(got[kind])
        assert download.value.suggested_filename == f"polysem-{neuron.id}.{kind}"
    labels = neuron.cut(0.3).labels.tolist()
    assert json.loads(got["json"].read_text())["labels"] == labels
    rows = list(csv.DictReader(io.StringIO(got["csv"].read_text())))
    assert [int(row["cluster"]) for row in rows] == labels
    assert not any(row["text"].startswith(("=", "+", "-", "@")) for row in rows)
    png = got["png"].read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    n_cards = cards(page)
    assert width == 2 * (380 + 620 + 3 * 16)  # the tree, and the cards beside it
    assert height >= 2 * 50 * n_cards
    drawn = ElementTree.parse(got["svg"]).getroot()
    assert drawn.tag.endswith("svg")
    assert "currentColor" not in drawn.get("color")


def test_texts_of_the_corpus_stay_texts(page, explorer, server):
    seen = ""
    for id_ in [n.id for n in server.cluster("*") if any(SCRIPT in e.document for e in n.examples)][:6]:
        page.goto(f"{explorer}/neuron/{id_}")
        show_all(page)
        seen += page.locator("main").inner_text()
        assert page.locator("main img, main script:not([type='application/json'])").count() == 0
    assert "<script>alert(1)</script>" in seen


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/neuron/9.1", "there is no neuron 9.1"),
        ("/neuron/0.100000", "there is no neuron 0.100000"),
        ("/neuron/cat", "'cat' is not a neuron"),
        ("/neuron/0.*", "names many neurons"),
        ("/neuron/0.3?distance_threshold=7", "7"),
        ("/neuron/0.3?distance_threshold=x", "must be a number, not 'x'"),
        ("/neuron/0.3?algorithm=<script>", "algorithm is one of hac, scc, components"),
        ("/neuron/0.3?index=none", "there is no index 'none'; the server has hostile, few"),
        ("/nowhere", "there is no page /nowhere"),
    ],
)
def test_what_is_wrong_is_told_and_the_page_stays_usable(page, watched, explorer, path, words):
    page.goto(explorer + path)
    watched.complaints.clear()  # Chromium notes the status of the page itself
    assert words in page.get_by_role("alert").inner_text()
    page.get_by_label("neuron", exact=True).fill("0.3")
    page.keyboard.press("Enter")
    page.wait_for_url("**/neuron/0.3")
    assert cards(page) > 0


def test_a_neuron_without_examples_says_so(page, explorer):
    page.goto(f"{explorer}/neuron/1.3")
    assert "no dataset examples" in page.locator("#neuron").inner_text()


def test_a_server_that_went_away_is_told_and_the_cut_still_moves(page, watched, index_folder, another_explorer):
    with polysem.server.local(index_folder, device="cpu") as client:
        busy = max(client.cluster("0.*"), key=lambda n: n.metrics.n_clusters)
        process, address = another_explorer(client.target)
        page.goto(f"{address}/neuron/{busy.id}")
    page.get_by_label("algorithm").select_option("scc")
    page.wait_for_function("() => document.querySelector('#status').className === 'error'")
    assert client.target in page.locator("#status").inner_text()
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    until_cut_at(page, 0)
    process.terminate()
    process.wait(30)
    page.get_by_label("algorithm").select_option("components")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('polysem explore')")
    page.evaluate("1")  # what it complained of has come by then
    assert all("Failed to load resource" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_a_page_that_comes_too_early_goes_on_by_itself(page, watched, index_folder, another_explorer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _, address = another_explorer(f"127.0.0.1:{port}")
    page.goto(f"{address}/neuron/0.3?algorithm=scc")
    assert f"127.0.0.1:{port}" in page.get_by_role("alert").inner_text()
    with _running(Settings(index=[index_folder], port=port, device="cpu", state=tmp_path)):
        page.locator(".ps-card").first.wait_for(timeout=60_000)
    assert page.url.endswith("/neuron/0.3?algorithm=scc")
    assert all("Failed to load resource" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_it_fits_a_phone_in_the_dark(page, explorer, neuron):
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{explorer}/neuron/{neuron.id}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


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
    if (!node.data.trim() || !of.checkVisibility() || of.closest(".skip, script, title")) continue;
    meet("text", of.closest("svg") ? style.fill : style.color, of, node.data.slice(0, 40));
  }
  for (const field of document.querySelectorAll("input[placeholder]")) {
    const style = getComputedStyle(field, "::placeholder");
    meet("text", style.color, field, field.placeholder, Number(style.opacity));
  }
  for (const shape of document.querySelectorAll("svg :is(path, line, circle, rect):not(.ps-grid)")) {
    for (const colour of [getComputedStyle(shape).stroke, getComputedStyle(shape).fill]) {
      if (colour === "none" || parse(colour)[3] === 0) continue;
      if (shape.tagName === "line" && colour === getComputedStyle(shape).fill) continue; // a line has no inside
      meet("graphics", colour, shape, shape.outerHTML.slice(0, 80));
    }
  }
  for (const box of document.querySelectorAll("input:not([type=hidden]), select, textarea, button, .ps-card")) {
    if (box.classList.contains("ps-small") && box.closest(".ps-example")) continue; // drawn as a link
    if (!box.checkVisibility()) continue;
    meet("graphics", getComputedStyle(box).borderLeftColor, box.parentElement, box.outerHTML.slice(0, 80));
  }
  return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "path", ["/neuron/{}", "/neuron/{}?distance_threshold=0.1", "/", "/text?text=tea&neurons={}", "/text"]
)
def test_texts_and_graphics_have_the_contrast_of_wcag_aa(page, explorer, neuron, scheme, path):
    page.emulate_media(color_scheme=scheme)
    page.goto(explorer + path.format(neuron.id))
    worst = page.evaluate(CONTRAST)
    assert worst["text"][0] >= 4.5, worst
    assert worst["graphics"][0] >= 3, worst


def test_every_control_is_reached_by_the_tab_key_and_has_a_name(page, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    names = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), select, [tabindex='0']")]
             .map((e) => (e.labels?.[0]?.innerText || e.getAttribute("aria-label") || e.innerText || "").trim())"""
    )
    assert all(names)
    assert page.evaluate("[...document.querySelectorAll('[tabindex]')].every((e) => e.tabIndex <= 0)")
