"""Direct logit effects in a browser: on a neuron's page, in its downloads, and in a report."""

import json

import pytest

import polysem.server
from polysem.client.drawing import browser, report

from .accessible import AXE, COMPLAINTS, CONTRAST


@pytest.fixture
def effects(server):
    return server.logit_effects("0.3")[0]


def listed(page, name):
    """(token, effect) of each line of a list."""
    rows = page.get_by_role("list", name=name, exact=True).get_by_role("listitem")
    rows.first.wait_for()
    return [tuple(row.locator("code, .ps-value").all_text_contents()) for row in rows.all()]


def seen(page):
    page.locator("#writes").scroll_into_view_if_needed()
    page.locator(".ps-effects").wait_for()


def test_the_page_asks_once_it_is_looked_at_and_lists_both(page, watched, explorer, effects):
    page.goto(f"{explorer}/neuron/0.3")
    asked = lambda: [address for address in watched.requests if "logit_effects" in address]  # noqa: E731
    assert asked() == []
    seen(page)
    assert len(asked()) == 1
    for name, tokens in (("makes likelier", effects.likelier), ("makes less likely", effects.less_likely)):
        shown = [browser._output(token)["shown"] for token in tokens]
        signs = ["+" if token.effect > 0 else "−" for token in tokens]
        want = [f"{sign}{abs(token.effect):.2f}" for sign, token in zip(signs, tokens, strict=True)]
        assert listed(page, name) == list(zip(shown, want, strict=True))
    words = page.locator("main").inner_text()
    assert "direct effect of its output weights" in words
    assert "standard deviations over the 257 tokens" in words
    assert "What later layers make of it is not in it." in words


def test_bars_share_one_scale(page, explorer, effects):
    page.goto(f"{explorer}/neuron/0.3")
    seen(page)
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.ps-effect')].map((e) => e.getBoundingClientRect().width)"
    )
    values = [abs(token.effect) for token in (*effects.likelier, *effects.less_likely)]
    assert widths == pytest.approx([value / max(values) * max(widths) for value in values], rel=0.01, abs=0.5)
    assert page.locator(".ps-spread rect").count() == int((effects.histogram > 0).sum())


def test_it_is_in_the_json_that_is_taken_along(page, explorer, effects, tmp_path):
    page.goto(f"{explorer}/neuron/0.3")
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON", exact=True).click()
    download.value.save_as(tmp_path / "json")
    found = json.loads((tmp_path / "json").read_text())["logit_effects"]
    assert [token["token"] for token in found["likelier"]] == [token.token for token in effects.likelier]
    assert found["histogram"] == effects.histogram.tolist()


def test_axe_finds_nothing_and_contrast_is_that_of_wcag_aa_in_both_themes(page, explorer):
    page.goto(f"{explorer}/neuron/0.3")
    seen(page)
    page.evaluate(AXE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        worst = page.evaluate(CONTRAST)
        assert worst["text"][0] >= 4.5, (scheme, worst)
        assert worst["graphics"][0] >= 3, (scheme, worst)
        assert page.evaluate(COMPLAINTS) == [], scheme
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_server_that_went_away_is_told_in_the_section(page, watched, index_folder, another_explorer):
    with polysem.server.local(index_folder, device="cpu") as client:
        _, address = another_explorer(client.target)
        page.goto(f"{address}/neuron/0.3")
    page.locator("#writes").scroll_into_view_if_needed()
    page.wait_for_function(
        "(target) => document.querySelector('#effects-says').innerText.includes(target)", arg=client.target
    )
    assert page.locator(".ps-card").count() > 0
    assert all("Failed to load resource" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_a_report_has_it(page, watched, server, effects, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report.make(server, "0.3").html, encoding="utf-8")
    page.goto(path.as_uri())
    section = page.locator("section", has=page.get_by_role("heading", name="What it adds to the output"))
    found = listed(section, "makes likelier")  # below its heading, not among the clusters
    assert [float(effect) for _, effect in found] == [round(token.effect, 2) for token in effects.likelier]
    assert watched.requests == [path.as_uri()]
