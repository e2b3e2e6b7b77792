"""The table of neurons, and clusters that are like one, in a browser."""

import re

import numpy as np
import pytest


def first_rows(page, n=5):
    return [row.locator("th").inner_text() for row in page.locator("tbody tr").all()[:n]]


def test_it_is_sorted_filtered_and_turned_page_by_page(page, explorer, server, monkeypatch):
    page.goto(f"{explorer}/?look=table")
    wanted = [str(n.id) for n in server.neurons(sort_by="-n_clusters", limit=5)]
    assert first_rows(page) == wanted
    page.get_by_role("link", name="intra", exact=True).click()
    page.wait_for_url("**sort_by=-intra**")
    page.get_by_role("link", name=re.compile("^intra ↓")).click()
    page.wait_for_url("**sort_by=intra**")
    assert first_rows(page) == [str(n.id) for n in server.neurons(sort_by="intra", limit=5)]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("intra")
    page.get_by_role("link", name="next →").click()
    page.wait_for_url("**page=2**")
    assert first_rows(page) == [str(n.id) for n in server.neurons(sort_by="intra", limit=5, skip=100)]


def test_what_exceeds_chance_stands_first_where_the_index_holds_tests(page, explorer, server):
    page.goto(f"{explorer}/?look=table")
    assert "holds no tests against chance" in page.locator("main").inner_text()
    assert page.get_by_role("link", name="beyond chance").count() == 0
    page.goto(f"{explorer}/?look=table&index=few")
    headings = [heading.inner_text() for heading in page.locator("thead th").all()[:7]]
    assert headings == ["neuron", "beyond chance ↓", "p", "q", "significant", "stability", "strength"]
    listed = server.neurons(sort_by="-excess_silhouette", limit=5, index="few")
    assert first_rows(page) == [str(row.id) for row in listed]
    cells = page.locator("tbody tr").first.locator("td").all()
    of_tests = f"{listed[0].excess_silhouette:+.2f}", f"{listed[0].p_value:.2g}", f"{listed[0].q_value:.2g}"
    assert tuple(cell.inner_text() for cell in cells[:3]) == of_tests
    page.get_by_role("link", name="stability", exact=True).click()
    page.wait_for_url("**sort_by=-stability**")
    assert first_rows(page) == [str(n.id) for n in server.neurons(sort_by="-stability", limit=5, index="few")]
    page.goto(f"{explorer}/?look=table&index=few&embedding=pre_mlp")  # which is not what was tested
    assert {cell.inner_text() for cell in page.locator("tbody tr").first.locator("td").all()[:6]} == {"–"}


def test_filters_stand_in_the_address(page, explorer, server):
    page.goto(f"{explorer}/?look=table")
    page.get_by_role("textbox", name="neurons").fill("1.*")
    page.get_by_text("filter by metrics").click()
    page.get_by_role("group", name="examples").get_by_label("least").fill("20")
    page.get_by_role("button", name="show").click()
    page.wait_for_url("**least_n_examples=20**")
    assert "least_intra" not in page.url
    found = list(server.neurons("1.*", where={"n_examples": (20, None)}))
    assert f"of {len(found)} neurons" in page.locator("main").inner_text()
    page.locator("tbody a").first.click()
    page.wait_for_url("**/neuron/1.*")
    page.go_back()
    assert page.get_by_role("textbox", name="neurons").input_value() == "1.*"


def test_nothing_found_is_told(page, explorer):
    page.goto(f"{explorer}/?look=table&least_n_examples=100000")
    assert "No neuron is so" in page.locator("main").inner_text()
    page.get_by_role("link", name="Show all").click()
    page.wait_for_url(lambda url: "least" not in url)
    assert page.locator("tbody tr").count() == 100


def test_similar_clusters_are_found_and_visited(page, explorer, server):
    neuron = max(server.cluster("0.*"), key=lambda n: n.metrics.n_examples)
    page.goto(f"{explorer}/neuron/{neuron.id}")
    label = neuron.clusters[0].label
    card = page.locator(f"[data-label='{label}']")
    card.get_by_role("button", name="similar clusters").click()
    card.locator(".others li").first.wait_for()
    wanted = server.similar(neuron.id, label)
    assert card.locator(".others li").count() == len(wanted)
    other = server.cluster(wanted[0].neuron, n_null=0)[0]
    letter = next(c.letter for c in other.clusters if c.label == wanted[0].label)
    assert card.locator(".others a").first.inner_text().split() == [str(wanted[0].neuron), letter]
    card.locator(".others a").first.click()
    page.wait_for_url(f"**/neuron/{wanted[0].neuron}")


def test_the_histogram_has_the_band_of_the_examples(page, explorer, server):
    neuron = max(server.cluster("0.*"), key=lambda n: n.metrics.n_examples)
    known = server.statistics(neuron.id)[0]
    page.goto(f"{explorer}/neuron/{neuron.id}")
    bars = page.locator(".histogram .bar")
    assert bars.count() == 64
    inside = sum(
        bool(high >= known.lowest_example and low <= known.highest_example)
        for low, high in zip(known.bin_edges[:-1], known.bin_edges[1:], strict=True)
    )
    assert page.locator(".histogram .inside").count() == inside > 0
    heights = [float(bar.get_attribute("height")) for bar in bars.all()]
    assert heights == pytest.approx(142 * np.sqrt(known.histogram / known.histogram.max()))  # a root scale


def test_the_importance_of_tokens_is_shown_on_demand(page, explorer, server):
    page.goto(f"{explorer}/neuron/0.3")
    row = page.locator(".ps-line").first
    place = int(row.get_attribute("data-place"))
    row.locator(".ps-key").click()
    row.get_by_role("button", name="importance").click()
    row.get_by_role("button", name="activation").wait_for()
    found = server.importance("0.3", examples=[place])[0]
    key = row.locator("mark")
    assert key.get_attribute("title") == f"importance {found.relative[-1]:.2f}"
    row.get_by_role("button", name="activation").click()
    assert key.get_attribute("title").startswith("activation")
