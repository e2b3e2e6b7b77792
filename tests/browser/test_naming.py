"""Clusters are named in place on the page of their neuron, by mouse and keyboard."""

import pytest

from .accessible import check_in_both_themes
from .test_names import titles

A = ".ps-card[data-cluster=A]"


@pytest.fixture
def neuron(server):
    """A neuron of several clusters; what was named is forgotten afterwards."""
    yield next(n for n in server.cluster("0.*") if 4 <= n.metrics.n_clusters <= 12 and n.clusters[1].size > 1)
    server.keep_names(*(name._replace(text="") for name in server.names()))


def test_a_cluster_is_named_renamed_and_forgotten_in_place(page, explorer, server, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    made = titles(page)["A"]
    page.locator(f"{A} .name-open").click()
    page.get_by_label("name of cluster A").fill("a <b>bold</b> thing")
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => document.querySelector('{A} .ps-title').textContent.includes('bold')")
    assert titles(page)["A"] == "a <b>bold</b> thing"
    assert "named by anyone" in page.locator(f"{A} .ps-measures").inner_text()
    (kept,) = server.names(neuron.id)
    assert kept.members == tuple(neuron.clusters[0].members.tolist())
    assert page.evaluate("document.activeElement.textContent") == "rename"
    page.keyboard.press("Enter")  # the button in focus
    assert page.get_by_label("name of cluster A").input_value() == "a <b>bold</b> thing"
    page.keyboard.press("Escape")
    assert not page.get_by_label("name of cluster A").is_visible()
    check_in_both_themes(page)
    page.reload()
    assert titles(page)["A"] == "a <b>bold</b> thing"
    page.locator(f"{A} .name-open").click()
    page.get_by_role("button", name="forget").click()
    page.wait_for_function(f"() => !document.querySelector('{A} .ps-title').textContent.includes('bold')")
    assert titles(page)["A"] == made
    assert list(server.names(neuron.id)) == []


def test_a_name_detaches_when_the_cut_moves_and_comes_back_with_it(page, explorer, server, neuron):
    neuron = next(n for n in server.cluster("1.*") if 4 <= n.metrics.n_clusters <= 12 and n.clusters[1].size > 1)
    server.name(neuron.id, "A", "kept")
    page.goto(f"{explorer}/neuron/{neuron.id}")
    assert titles(page)["A"] == "kept"
    assert page.locator("#detached").is_hidden()
    page.get_by_role("slider").press("End")
    page.wait_for_function("() => document.querySelectorAll('.ps-card').length === 1")
    assert titles(page)["A"] != "kept"
    said = page.locator("#detached li").inner_text()
    assert f"kept detached · {neuron.clusters[0].size} examples" in said.replace("\n", " ")
    page.locator(".ps-paper").click()
    page.wait_for_function("() => document.querySelectorAll('.ps-card').length > 1")
    assert (titles(page)["A"], page.locator("#detached").is_hidden()) == ("kept", True)


def test_a_refused_name_is_told_and_the_field_stays(page, watched, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    page.locator(f"{A} .name-open").click()
    page.get_by_label("name of cluster A").fill("zero\u202ewidth")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('status').textContent.includes('cannot be seen')")
    assert page.get_by_label("name of cluster A").is_visible()
    watched.complaints.clear()  # of the answer 400


def test_another_page_can_name_nothing(page, watched, explorer, server, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    script = """async ([address, headers]) =>
        (await fetch(address, { method: "POST", headers, body: '{"text": "x", "members": [0]}' })).status"""
    address = f"/api/neuron/{neuron.id}/name"
    assert page.evaluate(script, [address, {"content-type": "text/plain"}]) == 403
    assert page.evaluate(script, [address, {"content-type": "application/json"}]) == 200
    watched.complaints.clear()
    assert len(server.names(neuron.id)) == 1
