"""The explorer in a browser: what a person does in it, with mouse and keyboard, and what goes wrong."""

import csv
import io
import json
import re
import socket
import struct
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest

import polysem.server
from polysem.server.in_process import _running
from polysem.server.settings import Settings

from .accessible import check_in_both_themes

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def neuron(server):
    """The neuron with most examples."""
    return max(server.cluster("0.*"), key=lambda n: (n.metrics.n_examples, n.metrics.n_clusters))


def cards(page):
    return page.locator(".ps-card").count()


def show_all(page):
    while (buttons := page.locator(".ps-more[aria-expanded=false]")).count():
        buttons.first.click()


def n_clusters(page):
    """Of the cut that is seen, single examples among them."""
    return int(page.locator("[data-metric=clusters] td").first.text_content())


def until_cut_at(page, threshold):
    page.wait_for_function(
        f"() => document.querySelector('[role=slider]').getAttribute('aria-valuenow') === '{threshold:g}'"
    )


def test_a_neuron_is_named_in_the_box(page, explorer):
    page.goto(explorer)
    page.keyboard.press("/")
    page.keyboard.type("L1N5")
    page.keyboard.press("Enter")
    page.wait_for_url("**/neuron/1.5")
    assert page.locator("h1").inner_text() == "1.5"


def test_a_mistyped_id_keeps_the_page(page, watched, explorer):
    page.goto(f"{explorer}/neuron/0.3")
    for typed, words in (("9.1", "there is no neuron 9.1"), ("1.5.2", "'1.5.2' is not a neuron")):
        page.get_by_label("neuron", exact=True).fill(typed)
        page.keyboard.press("Enter")
        page.wait_for_function("(words) => document.querySelector('#status').innerText.includes(words)", arg=words)
        assert page.url.endswith("/neuron/0.3")
        assert page.get_by_label("neuron", exact=True).input_value() == typed
        assert cards(page) > 0
    assert all("Failed to load resource" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_a_cluster_has_an_address_that_opens_it(page, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}/B")
    card = page.locator(".ps-card[data-cluster=B]")
    assert card.locator(".ps-line").count() == neuron.clusters[1].size
    assert "ps-now" in card.get_attribute("class")


def test_keys_go_through_the_clusters_and_to_the_suggested_cut(page, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    for key, letter in (("j", "A"), ("j", "B"), ("k", "A")):
        page.keyboard.press(key)
        assert page.locator(".ps-now").get_attribute("data-cluster") == letter
    page.keyboard.press("?")
    assert page.get_by_role("heading", name="Keys and signs").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("]")
    page.wait_for_url(f"**/neuron/0.{neuron.id.neuron + 1}")
    page.keyboard.press("[")
    page.wait_for_url(f"**/neuron/{neuron.id}")
    for key in ("/", "Control+k"):
        page.keyboard.press(key)
        assert page.get_by_label("neuron", exact=True).evaluate("(box) => box === document.activeElement")
        page.keyboard.type("j?")  # no keys of the page while a field has the focus
        assert page.locator(".ps-now, dialog[open]").count() == 0
        page.keyboard.press("Escape")
    line = page.locator(".ps-key").first
    line.focus()
    page.keyboard.press("e")
    assert page.locator(".ps-source").first.is_visible()
    page.keyboard.press("e")
    assert not page.locator(".ps-source").first.is_visible()


def test_significant_merges_are_marked_and_the_suggested_cut_is_a_click_away(page, explorer, server):
    tested = (
        server.cluster(n.id, n_null=99)[0]
        for n in server.neurons("*", where={"n_examples": (30, None)}, sort_by="-silhouette")
    )
    neuron = next(n for n in tested if (n.significant_clusters or 0) > 1)
    page.goto(f"{explorer}/neuron/{neuron.id}")
    assert page.locator(".ps-significant circle").count() == int(neuron.merge_tests[:, 1].sum()) > 0
    badge = page.locator("#badges .ps-tested")
    assert "more than chance" in badge.inner_text()
    badge.hover()
    assert f"p {float(f'{neuron.significance.p_value:.2g}'):g}" in page.get_by_role("tooltip").inner_text()
    page.keyboard.press("s")
    until_cut_at(page, round(neuron.significant_cut, 3))
    assert page.locator(".ps-suggested").get_attribute("aria-pressed") == "true"
    assert n_clusters(page) == neuron.cut(neuron.significant_cut).metrics.n_clusters
    page.locator(".ps-paper").click()
    until_cut_at(page, 0.5)
    page.locator(".ps-suggested").click()
    until_cut_at(page, round(neuron.significant_cut, 3))


def test_random_and_back(page, explorer):
    page.goto(f"{explorer}/neuron/0.3")
    page.get_by_role("link", name="Random").click()
    page.wait_for_url(lambda url: "/neuron/" in url and not url.endswith("/neuron/0.3"))
    assert page.locator(".ps-card").first.is_visible()
    page.go_back()
    assert page.locator("h1").inner_text() == "0.3"


def test_neighbours_are_a_click_away(page, explorer):
    page.goto(f"{explorer}/neuron/0.3?embedding=pre_mlp")
    page.get_by_role("link", name="0.4").click()
    page.wait_for_url("**/neuron/0.4**")
    assert page.locator("h1").inner_text() == "0.4"
    assert "embedding=pre_mlp" in page.url


def test_the_line_is_dragged_and_the_tree_is_cut_anew(page, watched, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    watched.requests.clear()  # of the page itself
    line = page.locator(".ps-grip").bounding_box()
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
    assert n_clusters(page) == wanted.n_clusters
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
    page.get_by_text("How it was clustered").click()
    page.get_by_label("algorithm").select_option("scc")
    page.wait_for_url("**by=scc**")
    page.get_by_label("embedding").select_option("pre_mlp")
    page.wait_for_url("**embedding=pre_mlp**")
    page.get_by_role("spinbutton", name="cut at").fill("0.34")
    page.keyboard.press("Enter")
    page.wait_for_url("**cut=0.34**")
    query = parse_qs(urlsplit(page.url).query)
    assert query == {"by": ["scc"], "embedding": ["pre_mlp"], "cut": ["0.34"]}
    found = server.cluster(neuron.id, algorithm="scc", embedding="pre_mlp", distance_threshold=0.34)[0].metrics
    old = page.url.replace("by=", "algorithm=").replace("cut=", "distance_threshold=")
    counted = page.locator("[data-metric=clusters] td:first-of-type")
    shown = counted.filter(has_text=re.compile(f"^{found.n_clusters}$"))
    for address in (page.url, page.url, old):
        shown.wait_for(state="attached")  # the address may change before the next frame is drawn
        page.goto(address)
    shown.wait_for(state="attached")


def test_a_text_opens_to_its_whole_context(page, explorer, server):
    place, whole = next(
        (e.example, w)
        for e, w in zip(server.examples("0.3"), server.examples("0.3", whole_context=True), strict=True)
        if len(w.tokens) >= len(e.tokens)
    )
    page.goto(f"{explorer}/neuron/0.3")
    show_all(page)
    row = page.locator(f"[data-place='{place}']")
    row.locator(".ps-key").click()
    row.get_by_role("button", name="whole text").click()
    row.get_by_role("button", name="shorter").wait_for()
    assert row.locator(".ps-text").text_content().replace("⏎", "\n").strip()[:10] == whole.text.strip()[:10]


def test_what_is_seen_can_be_taken_away(page, explorer, neuron, tmp_path):
    page.goto(f"{explorer}/neuron/{neuron.id}?distance_threshold=0.3")
    got = {}
    for kind, label in (("json", "JSON"), ("csv", "CSV"), ("png", "PNG"), ("svg", "tree (SVG)")):
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
    n_cards = page.locator(".ps-card[data-cluster]").count()
    assert width == 2 * (400 + 620 + 3 * 16)  # the tree, and the cards beside it
    assert height >= 2 * 50 * n_cards
    drawn = ElementTree.parse(got["svg"]).getroot()
    assert drawn.tag.endswith("svg")
    assert "currentColor" not in drawn.get("color")


def test_texts_of_the_corpus_stay_texts(page, explorer, server):
    seen = ""
    for id_ in [n.id for n in server.cluster("*") if any(SCRIPT in e.document for e in n.examples)][:6]:
        page.goto(f"{explorer}/neuron/{id_}")
        show_all(page)
        for key in page.locator(".ps-key").all()[:6]:
            key.click()
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
    assert "no dataset examples" in page.locator("main").inner_text()
    page.locator(".empty a").first.click()
    page.locator(".ps-card").first.wait_for()


def test_a_server_that_went_away_is_told_and_the_cut_still_moves(page, watched, index_folder, another_explorer):
    with polysem.server.local(index_folder, device="cpu") as client:
        busy = max(client.cluster("0.*"), key=lambda n: n.metrics.n_clusters)
        process, address = another_explorer(client.target)
        page.goto(f"{address}/neuron/{busy.id}")
    page.get_by_text("How it was clustered").click()
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
    page.wait_for_url("**/neuron/0.3?by=scc")
    assert all("Failed to load resource" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_it_fits_a_phone_in_the_dark(page, explorer, neuron):
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{explorer}/neuron/{neuron.id}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(
    "path",
    [
        *("/neuron/{}", "/neuron/{}?cut=0.1", "/neuron/1.3", "/neuron/99.1"),
        *("/", "/?index=few&side=negative", "/?kind=one&layer=1", "/?look=table"),
        *("/text?text=tea", "/text?text=tea&neurons={}", "/text"),
    ],
)
def test_axe_finds_nothing_and_contrast_is_that_of_wcag_aa_in_both_themes(page, watched, explorer, neuron, path):
    page.goto(explorer + path.format(neuron.id))
    watched.complaints.clear()  # Chromium notes the status of the page itself
    check_in_both_themes(page)


def test_every_control_is_reached_by_the_tab_key_and_has_a_name(page, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    names = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), select, [tabindex='0']")]
             .map((e) => (e.labels?.[0]?.innerText || e.getAttribute("aria-label") || e.textContent || "").trim())"""
    )
    assert all(names)
    assert page.evaluate("[...document.querySelectorAll('[tabindex]')].every((e) => e.tabIndex <= 0)")
