"""Names of clusters in the browser: on the cards of a report while the clusters are there."""

from polysem.client.drawing import browser, report


def titles(page):
    """The title on each cluster's card, behind its letter."""
    cards = page.locator(".ps-card[data-cluster]").all()
    texts = {card.get_attribute("data-cluster"): card.locator(".ps-title").inner_text() for card in cards}
    return {letter: text.removeprefix(letter).strip() for letter, text in texts.items()}


def shown(text):
    """A name as a page has it: curly quotes in place of backticks."""
    parts = text.split("`")
    return "".join(part if i % 2 == 0 else f"‘{part}’" for i, part in enumerate(parts))


def test_cards_have_the_names_and_a_cluster_of_another_cut_has_none(page, server, tmp_path):
    neuron = next(n for n in server.cluster("0.*") if 4 <= n.metrics.n_clusters <= 12 and n.clusters[1].size > 1)
    names = browser.names_of(server, [neuron.id])[neuron.id]
    path = tmp_path / "report.html"
    path.write_text(report.make(server, str(neuron.id)).html, "utf-8")
    page.goto(path.as_uri())
    wanted = {one.letter: shown(one.text) for one in names if one.size > 1 and one.text.isascii()}
    found = titles(page)
    assert wanted
    assert {letter: found[letter] for letter in wanted} == wanted
    page.get_by_role("slider").press("End")
    page.wait_for_function("() => document.querySelectorAll('.ps-card').length === 1")
    assert titles(page)["A"] not in wanted.values()  # a new cluster: what it fires at
