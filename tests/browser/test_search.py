"""Search and lists in a browser: words to clusters, clusters to a list, a list to its link."""

import pytest

from .accessible import check_in_both_themes


def found(page):
    """Neuron and letter of each row."""
    rows = page.locator("#found .hit")
    return [
        f"{row.locator('.to').inner_text().split()[0]}.{row.locator('.ps-chip').first.inner_text()}"
        for row in rows.all()
    ]


def asked(page, explorer, query):
    page.goto(f"{explorer}/search")
    page.get_by_role("searchbox").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?**q=*")
    page.wait_for_selector("#found .hit, .howmany, .error")
    if page.locator("#making").count():
        page.wait_for_selector("#found .hit")


def test_words_find_clusters_and_a_row_leads_to_its_cluster(page, explorer, server):
    wanted = server.search("script")
    asked(page, explorer, "script")
    rows = found(page)
    assert len(rows) == len(wanted.clusters)
    assert rows[0].startswith(f"{wanted.clusters[0].neuron}.")
    assert page.locator(".match").first.inner_text().lower() == "script"
    tops = [line.bounding_box()["y"] for line in page.locator("#found .ps-snippet").all()]
    assert len(set(tops)) == len(tops)  # a line each
    check_in_both_themes(page)
    page.keyboard.press("Escape")  # leaves the field
    page.locator("h1").click()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/neuron/{wanted.clusters[0].neuron}/*")
    assert page.locator(".ps-card.ps-now").count() == 1


def test_the_go_box_searches_for_what_is_no_id(page, explorer, server):
    page.goto(f"{explorer}/neuron/0.5")
    box, offer = page.get_by_placeholder("or words"), page.locator("#offer")
    page.keyboard.press("/")
    page.keyboard.type("0.5.B")
    assert not offer.is_visible()
    box.fill("script")
    assert offer.inner_text() == "search all clusters for “script”"
    check_in_both_themes(page)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == "offer"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?**q=script**")
    page.wait_for_selector("#found .hit")
    assert page.get_by_role("searchbox").input_value() == "script"
    assert len(found(page)) == len(server.search("script").clusters)


def test_facets_pages_and_an_empty_answer_have_addresses(page, explorer, server):
    asked(page, explorer, "e")
    first = found(page)
    page.get_by_role("link", name="more").click()
    page.wait_for_url("**cursor=**")
    assert not set(first) & set(found(page))
    page.goto(f"{explorer}/search?q=e")
    page.get_by_label("layer").select_option("1")
    page.wait_for_url("**layer=1**")
    assert {row[0] for row in found(page)} == {"1"}
    layers = page.get_by_label("layer").locator("option").all_inner_texts()
    assert layers == ["every layer", *(f"layer {layer} ({n:,})" for layer, n in server.search("e").layers.items())]
    page.get_by_label("found by").select_option("key")
    page.wait_for_url("**found_by=key**")
    assert "of its key tokens" in page.locator("#found .hit").first.inner_text()
    asked(page, explorer, "zzzz")
    assert "No cluster has this" in page.locator(".howmany").inner_text()


@pytest.mark.parametrize("query", ['"', "NEAR(a", "a* OR b", "<img src=x onerror=alert(1)>"])
def test_hostile_queries_are_words(page, watched, explorer, query):
    asked(page, explorer, query)
    assert page.get_by_role("searchbox").input_value() == query
    watched.complaints[:] = [text for text in watched.complaints if "400" not in text]  # an empty query is told


def test_clusters_are_kept_in_a_list_that_its_link_shares(page, explorer, server):
    asked(page, explorer, "model")
    rows = found(page)[:3]
    for i in range(3):
        page.locator("#found .hit").nth(i).get_by_role("button").click()
    assert page.locator("#listed").inner_text() == " (3)"
    page.get_by_role("link", name="List").click()
    page.wait_for_url("**/list?c=**")
    assert found(page) == rows
    check_in_both_themes(page)
    page.locator("#found .hit").nth(0).get_by_role("button", name="down").click()
    page.wait_for_function(f"() => document.querySelector('#found .to').textContent.startsWith('{rows[1][:-2]} ')")
    assert found(page) == [rows[1], rows[0], rows[2]]
    page.locator("#found .hit").nth(0).get_by_role("button", name="remove").click()
    page.wait_for_function("() => document.querySelectorAll('#found .hit').length === 2")
    assert page.locator("#listed").inner_text() == " (2)"
    with page.expect_download() as download:
        page.get_by_role("button", name="save as file").click()
    assert download.value.path().read_text().split() == [f"{row}@0.5" for row in (rows[0], rows[2])]
    page.goto(f"{explorer}/list?c={rows[1]}@0.5,0.0.ZZ@0.5")
    assert found(page)[0] == rows[1]
    assert "no such cluster at this cut" in page.locator("#found .hit").nth(1).inner_text()


def test_a_card_goes_to_the_list_by_its_cut(page, explorer, server):
    neuron = next(n for n in server.cluster("0.*") if 4 <= n.metrics.n_clusters <= 12 and n.clusters[1].size > 1)
    page.goto(f"{explorer}/neuron/{neuron.id}?cut=0.3")
    page.locator(".ps-card[data-cluster=A]").get_by_role("button", name="add to the list").click()
    page.goto(f"{explorer}/list")
    page.wait_for_url(f"**c={neuron.id}.A@0.3**")
    assert "cut at 0.3" in page.locator("#found .hit").inner_text()


@pytest.mark.parametrize("address", ["/search?q=script", "/list?c=0.5.A@0.5"])
def test_on_a_phone_nothing_scrolls_sideways(page, explorer, address):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(explorer + address)
    page.wait_for_selector("#found .hit")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
