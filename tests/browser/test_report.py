"""A report in a browser: from the disk, with nothing fetched."""

import pytest

from polysem.client.drawing import report

from .accessible import check_in_both_themes


@pytest.fixture
def written(server, tmp_path):
    def write(*neurons, **options):
        path = tmp_path / "report.html"
        path.write_text(report.make(server, *neurons, **options).html, encoding="utf-8")
        return path

    return write


def test_it_is_whole_by_itself(page, watched, written, server):
    path = written("0.0-4", "1.2")
    page.goto(path.as_uri())
    assert page.locator("article").count() == 6
    assert page.locator("article").first.locator(".ps-card").count() > 0
    assert watched.requests == [path.as_uri()]


def test_its_tree_is_cut_anew_with_the_keyboard(page, written, server):
    neuron = max(server.cluster("0.*"), key=lambda n: n.metrics.n_examples)
    page.goto(written(str(neuron.id)).as_uri())
    known = lambda name: page.locator(f"[data-metric='{name}'] td").first.text_content()  # noqa: E731
    assert known("agreement with the key token") == f"{neuron.baselines.token_agreement:.2f}"
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
    page.wait_for_function("() => document.querySelector('[role=slider]').getAttribute('aria-valuenow') === '0.2'")
    wanted = neuron.cut(0.2).metrics
    assert known("clusters") == str(wanted.n_clusters)
    assert (known("intra"), known("inter")) == (f"{wanted.intra:.2f}", f"{wanted.inter:.2f}")
    assert known("singletons") == f"{round(100 * neuron.cut(0.2).baselines.singleton_share)}\u202f%"
    assert known("agreement with the key token") == "–"
    silhouette = max((step for step in neuron.silhouettes if step[0] <= 0.2), default=(0, None))[1]
    assert known("silhouette") == ("–" if silhouette is None else f"{silhouette:.2f}")


def test_it_fits_a_phone(page, written):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(written("0.0-9").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_on_paper_there_are_no_buttons(page, written):
    page.goto(written("0.0-3").as_uri())
    assert page.locator("button:visible").count() > 0
    page.emulate_media(media="print")
    assert page.locator("button:visible:not(.ps-key)").count() == 0
    assert page.locator(".ps-card:visible").count() > 0


def test_axe_finds_nothing_and_contrast_is_that_of_wcag_aa_in_both_themes(page, written):
    page.goto(written("0.0-2").as_uri())
    check_in_both_themes(page)


def test_texts_of_the_corpus_stay_texts(page, written):
    page.goto(written("*").as_uri())
    assert "<script>alert(1)</script>" in page.locator("body").text_content()  # what lies off screen, too


def test_many_neurons_are_a_table_and_say_so(page, written, monkeypatch):
    monkeypatch.setattr(report, "MAX_NEURONS", 5)
    page.goto(written("*").as_uri())
    assert page.locator("article").count() == 5
    assert page.locator(".wide tbody tr").count() == 192
    assert "192 neurons are too many for one page" in page.locator("main > p").inner_text()
