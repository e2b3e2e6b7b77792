"""Names of clusters in the browser: on cards while the clusters are there, and in the rows of the overview."""

from collections import Counter

import pytest

from polysem.client import characters
from polysem.client.drawing import browser, report

from .accessible import check_in_both_themes

PLACES = """() => [...document.querySelectorAll(".row, .row *")]
  .filter((one) => one.localName !== "b" && !one.closest(".ps-share"))
  .map((one) => [one.localName, one.getBoundingClientRect()])
  .map(([name, { x, y, width, height }]) => [name, x, y, width, height])"""


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


class Held:
    """The questions for names that a page asks wait until they are answered."""

    def __init__(self, page):
        self._page, self._asked, self._waits = page, [], True
        page.route("**/api/names?**", self._ask)

    def _ask(self, route):
        if self._waits:
            self._asked.append(route)
        else:
            route.continue_()

    def answer(self):
        self._waits = False
        while self._asked:
            self._asked.pop().continue_()


@pytest.fixture
def held(page):
    found = Held(page)
    yield found
    found.answer()


def rows(page):
    """The titles of the features of each row."""
    return [row.locator(".named b").all_inner_texts() for row in page.locator(".row").all()]


def wait_for_name(page, row, text):
    page.wait_for_function(
        "([i, text]) => document.querySelectorAll('.row')[i].querySelector('.named b').textContent === text",
        arg=[row, text],
    )


def named(server, id_, cut):
    """The titles that a row of the neuron should have."""
    texts = [one.text for one in server.labels(id_, distance_threshold=cut) if one.size > 1]
    return [shown(characters.visible(text)) for text in texts[:3]]


def test_rows_in_view_get_names_once_they_stand_and_nothing_moves(page, held, explorer, server):
    page.goto(f"{explorer}/?cut=0.47")
    ids = page.locator(".row .id").all_inner_texts()
    neuron = server.cluster(ids[0], n_null=0, distance_threshold=0.47)[0]
    for cluster, title in zip(neuron.clusters, rows(page)[0], strict=False):
        words = Counter(characters.named(neuron.examples[i].key_part) for i in cluster.members.tolist())
        tokens = ", ".join(f"‘{token}’" for token, _ in words.most_common(3)) + " …" * (len(words) > 3)
        assert title == f"at {tokens}"
    before = page.evaluate(PLACES)
    held.answer()
    wait_for_name(page, 0, named(server, ids[0], 0.47)[0])
    assert rows(page)[0] == named(server, ids[0], 0.47)
    assert page.evaluate(PLACES) == before
    bar = page.locator(".row").first.locator(".ps-share li").first
    assert rows(page)[0][0] in bar.get_attribute("title")
    check_in_both_themes(page)
    assert all(title.startswith("at ") for title in rows(page)[-1])  # nobody has seen it
    page.locator(".row").last.scroll_into_view_if_needed()
    wait_for_name(page, len(ids) - 1, named(server, ids[-1], 0.47)[0])


def test_names_that_are_kept_or_were_asked_before_stand_there_at_once(page, held, explorer, server):
    page.goto(f"{explorer}/?cut=0.46")
    ids = page.locator(".row .id").all_inner_texts()
    first = named(server, ids[0], 0.46)
    held.answer()
    wait_for_name(page, 0, first[0])
    server.name(ids[0], "A", "kept `here`", distance_threshold=0.46)
    server.name(ids[-1], "A", "at the end", distance_threshold=0.46)
    try:
        Held(page)
        page.goto(f"{explorer}/?cut=0.46&sort_by=-best_silhouette")  # the same rows
        assert rows(page)[0] == ["kept ‘here’", *first[1:]]
        assert rows(page)[-1][0] == "at the end"
    finally:
        server.keep_names(*(name._replace(text="") for name in server.names()))


def test_a_question_for_names_of_too_many_neurons_is_refused_in_words(page, watched, explorer):
    ids = "+".join(f"0.{i}" for i in range(51))
    answer = page.request.get(f"{explorer}/api/names?neurons={ids}")
    assert (answer.status, "at most 50 at once" in answer.json()["error"]) == (400, True)
