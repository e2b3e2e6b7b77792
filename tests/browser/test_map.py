"""The map in a browser: from a layer to a group, to a cluster on its neuron's page, and its texts."""

import pytest

from .accessible import check_in_both_themes


def test_one_walks_from_group_to_cluster_to_text(page, explorer, server):
    (layer,) = server.map(1)
    page.goto(explorer)
    page.get_by_role("link", name="Map").click()
    page.wait_for_url("**/map")
    page.wait_for_selector("#found .hit")
    page.get_by_label("layer").select_option("1")
    page.wait_for_url("**layer=1**")
    page.wait_for_selector("#found .hit")
    rows = page.locator("#found .hit")
    assert rows.count() == min(layer.n_groups, 25)
    first = layer.groups[0]
    assert f"{len(first.clusters)} clusters of {first.n_neurons} neurons" in rows.first.inner_text()
    assert rows.first.locator(".ps-snippet").count() == 2
    check_in_both_themes(page)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**group=0**")
    page.wait_for_selector("#found .hit")
    assert page.locator("h1").inner_text() == first.text.replace("`", "")
    shown = [link.inner_text().split()[0] for link in page.locator("#found .to").all()]
    assert shown == [str(one.neuron) for one in first.clusters[:25]]
    assert page.locator("#found .hit .ps-chip").first.inner_text() == first.clusters[0].letter
    check_in_both_themes(page)
    page.keyboard.press("]")
    page.wait_for_url("**group=1**")
    page.go_back()
    page.wait_for_selector("#found .hit")
    page.locator("#found .to").first.click()
    page.wait_for_url(f"**/neuron/{first.clusters[0].neuron}/{first.clusters[0].letter}*")
    card = page.locator(".ps-card.ps-now")
    assert card.get_attribute("data-cluster") == first.clusters[0].letter
    assert card.locator(".ps-line").count()


def test_clusters_of_a_map_go_to_the_list(page, explorer):
    page.goto(f"{explorer}/map?layer=1&group=0")
    page.locator("#found .hit").first.get_by_role("button", name="add to the list").click()
    assert page.locator("#listed").inner_text() == " (1)"


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("layer=9", 404, "layer 9"),
        ("layer=x", 400, "layer is a whole number"),
        ("layer=1&group=99999", 404, "layer 1 has no group 99999"),
        ("group=-1", 400, "group is a whole number"),
    ],
)
def test_what_there_is_not_is_told(page, watched, explorer, query, status, words):
    assert page.goto(f"{explorer}/map?{query}").status in (status, 202)
    assert words in page.get_by_role("alert").inner_text()
    watched.complaints.clear()


@pytest.mark.parametrize("query", ["layer=1", "layer=1&group=0"])
def test_on_a_phone_nothing_scrolls_sideways(page, explorer, query):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{explorer}/map?{query}")
    page.wait_for_selector("#found .hit")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
