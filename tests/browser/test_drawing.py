"""The drawing in the browser: its cut is everyone's cut."""

import json
from pathlib import Path

import pytest

from polysem.client import letters
from polysem.client.drawing import browser

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "cuts.json").read_text())


def test_the_browser_cuts_as_scipy(page):
    page.goto("about:blank")
    page.add_script_tag(content=browser.script())
    for vector in VECTORS:
        for cut in vector["cuts"]:
            found = page.evaluate(
                """([v, t]) => {
                  const { labels, tops } = Polysem.cut(v.n, v.merges, v.heights, t);
                  const sizes = Polysem.nodeSizes(v.n, v.merges);
                  return { labels, ...Polysem.intraAndInter(v.n, sizes, v.mean_distances, tops) };
                }""",
                [vector, cut["distance_threshold"]],
            )
            assert found["labels"] == cut["labels"], (vector["name"], cut["distance_threshold"])
            assert found["intra"] == pytest.approx(cut["intra"])
            assert found["inter"] == pytest.approx(cut["inter"])


def test_the_browser_cuts_a_servers_tree_as_the_client(page, server):
    page.goto("about:blank")
    page.add_script_tag(content=browser.script())
    for options in ({}, {"algorithm": "scc"}, {"algorithm": "components"}, {"linkage": "complete"}):
        for neuron in server.cluster("0.0-20", **options):
            data = browser.data(neuron, None)
            for threshold in (0.0, 0.2, 0.5, 1.0, 2.0):
                found = page.evaluate("([d, t]) => Polysem.cut(d.n, d.merges, d.heights, t).labels", [data, threshold])
                assert found == neuron.cut(threshold).labels.tolist()


def test_the_browsers_letters_are_pythons(page, server):
    page.goto("about:blank")
    page.add_script_tag(content=browser.script())
    ranks = [*range(60), 701, 702, 20_000]
    assert page.evaluate("(ranks) => ranks.map(Polysem.letter)", ranks) == [letters.letter(rank) for rank in ranks]
    neuron = max(server.cluster("0.*"), key=lambda n: n.metrics.n_clusters)
    found = page.evaluate(
        "(d) => Polysem.clustering(d, Polysem.nodeSizes(d.n, d.merges), 0.5).clusters.map((c) => [c.letter, c.label])",
        browser.data(neuron, None),
    )
    assert found == [[c.letter, c.label] for c in neuron.clusters]


def test_a_notebooks_display_is_drawn_and_can_be_cut(page, server, tmp_path):
    neuron = next(n for n in server.cluster("0.*") if 3 <= n.metrics.n_clusters <= 15)
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><meta charset='utf-8'><title>cell</title><body>{neuron._repr_html_()}")
    page.goto(path.as_uri())
    letters_ = [c.letter for c in neuron.clusters if c.size > 1]
    assert [card.get_attribute("data-cluster") for card in page.locator(".ps-card[data-cluster]").all()] == letters_
    page.get_by_role("spinbutton").fill("2")
    page.get_by_role("spinbutton").press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.ps-card').length === 1")


def test_a_test_without_its_merges_is_a_badge_that_says_so(page, server, tmp_path):
    neuron = max((server.cluster(n.id)[0] for n in server.neurons("0.0-9")), key=lambda n: n.metrics.n_examples)
    assert neuron.merge_tests is None
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><meta charset='utf-8'><title>cell</title><body>{neuron._repr_html_()}")
    page.goto(path.as_uri())
    badge = page.locator(".ps-tested")
    assert (
        f"{neuron.significance.best_silhouette:.2f} against {neuron.significance.null_mean:.2f}" in badge.inner_text()
    )
    assert "Its merges were not tested." in page.content()
    assert page.locator(".ps-suggested").count() == 0


def test_a_small_p_alone_lets_a_behaviour_be_rare(page):
    page.goto("about:blank")
    page.add_script_tag(content=browser.script())
    data = {
        "n": 23, "merges": [[0, 1], *([22 + i, i + 1] for i in range(1, 22))], "heights": [0.1] * 19 + [0.9] * 3,
        "centrals": [0] * 22, "mean_distances": [0.1] * 22, "leaves": [*range(23)], "silhouettes": [],
        "rare": {"least_examples": 20, "common_share": 0.8, "least_minority": 3},
    }  # fmt: skip
    rare = "([d, tested]) => Polysem.clustering({ ...d, tested }, Polysem.nodeSizes(d.n, d.merges), 0.5).rare"
    for tested, want in ((None, True), ({"several": True}, True), ({"several": False}, False)):
        assert page.evaluate(rare, [data, tested]) == want


def test_rare_behaviours_are_marked_where_the_server_says_so(page, server):
    page.goto("about:blank")
    page.add_script_tag(content=browser.script())
    rare = {str(n.id) for n in server.neurons("*", distance_threshold=0.9) if n.rare}
    assert rare
    for neuron in server.cluster("*", distance_threshold=0.9):
        data = browser.data(neuron, None)
        found = page.evaluate("(d) => Polysem.clustering(d, Polysem.nodeSizes(d.n, d.merges), 0.9).rare", data)
        assert found == (str(neuron.id) in rare)
