"""A card says what its cluster causes when its button is pressed: in words with size and controls, or why not."""

import pytest

from .accessible import check_in_both_themes

A = ".ps-card[data-cluster=A]"


@pytest.fixture(scope="module")
def neuron(server):
    return next(n for n in server.cluster("1.*") if 2 <= n.metrics.n_clusters <= 12 and n.clusters[1].size > 1)


def test_nothing_is_asked_before_the_button_is_pressed(page, watched, explorer, server, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    page.wait_for_selector(A)
    assert [address for address in watched.requests if "/ablation/" in address] == []
    page.locator(A).get_by_role("button", name="what it causes").press("Enter")
    page.wait_for_selector(f"{A} .moves")
    (own,) = (one for one in server.ablate(neuron.id, neuron.clusters[0].label) if one.ablated == "cluster")
    words = page.locator(f"{A} .causes").inner_text()
    assert f"at {own.n_tokens} sampled tokens" in words
    assert f"{own.divergence:.2g}" in words
    assert "Control neurons that are as active there change it by" in words
    moves = [move.inner_text() for move in page.locator(f"{A} .moves code").all()]
    assert len(moves) == len(own.likelier) + len(own.less_likely)
    page.locator(f"{A} .causes summary").click()
    rows = page.locator(f"{A} .causes tbody th").all_inner_texts()
    assert rows[:2] == ["this cluster", "the whole neuron"]
    assert sum(row.startswith("control ") for row in rows) == 4
    check_in_both_themes(page)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_fails_is_told_on_the_card_and_can_be_asked_again(page, watched, explorer, neuron):
    page.goto(f"{explorer}/neuron/{neuron.id}")
    page.wait_for_selector(A)
    page.context.set_offline(True)
    button = page.locator(A).get_by_role("button", name="what it causes")
    button.click()
    page.wait_for_selector(f"{A} .causes .error")
    assert "the explorer does not answer" in page.locator(f"{A} .causes").inner_text()
    page.context.set_offline(False)
    watched.complaints.clear()
    button.click()
    page.wait_for_selector(f"{A} .moves")
    assert not page.locator(f"{A} .causes .error").count()
