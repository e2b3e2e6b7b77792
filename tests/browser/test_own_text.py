"""Your own text in a browser: read token by token, by the neurons that fire hardest or by those that are named."""

from collections import Counter
from urllib.parse import quote

import pytest

from polysem.client import characters

from .test_names import shown

TEXT = "tea in <b>Zürich</b>\nthe café"


def pieces(page):
    return page.locator(".piece")


def choose(page, name):
    page.locator(".pick button", has=page.get_by_text(name, exact=True)).click()


def test_the_neurons_that_fire_hardest_anywhere_are_listed(page, explorer, server):
    page.goto(f"{explorer}/text")
    page.get_by_label("A text, read as one context").fill(TEXT)
    page.get_by_role("button", name="read it").click()
    pieces(page).first.wait_for()
    tokens = list(server.explain(TEXT))
    assert pieces(page).count() == len(tokens)
    hardest = Counter()
    for firing in (firing for token in tokens for firing in token.firings):
        hardest[firing.neuron] = max(hardest[firing.neuron], firing.share)
    wanted = sorted(hardest, key=lambda id_: (-hardest[id_], id_))[:10]
    assert page.locator(".pick b").all_inner_texts() == [str(id_) for id_ in wanted]
    assert "You named none: the 10 that fire hardest" in page.locator("main").inner_text()
    pieces(page).nth(1).click()
    assert page.locator("#strong a").all_inner_texts() == [str(firing.neuron) for firing in tokens[1].firings]
    page.get_by_text("Write another text").click()
    assert page.get_by_label("A text, read as one context").input_value() == TEXT


def test_letters_are_those_of_the_clusters_that_tokens_fall_in(page, explorer, server):
    tokens = list(server.explain(TEXT, "0.0-19"))
    ids = [firing.neuron for firing in tokens[0].firings]
    letters = {(n.id, c.label): c.letter for n in server.cluster("0.0-19", n_null=0) for c in n.clusters}
    page.goto(f"{explorer}/text?text={quote(TEXT)}&neurons=0.0-19")
    assert "Those that you named" in page.locator("main").inner_text()
    for place in (0, 7, 19):
        choose(page, str(ids[place]))
        firings = [token.firings[place] for token in tokens]
        signs = ["∅" if f.cluster is None else letters[f.neuron, f.cluster] for f in firings if f.fires]
        assert page.locator(".paper .ps-chip, .paper .none").all_inner_texts() == signs
        falls_in = sorted({letters[f.neuron, f.cluster] for f in firings if f.cluster is not None})
        assert sorted(hit.get_attribute("data-letter") for hit in page.locator(".hit").all()) == falls_in
    steps = [sum(f.share >= step for step in (0.12, 0.3, 0.5, 0.7, 0.87)) for f in firings]
    found = [piece.get_attribute("class") for piece in pieces(page).all()]
    assert [int(text.partition("ps-t")[2][:1] or 0) for text in found] == steps


def test_the_corpus_explains_a_letter(page, explorer, server):
    page.goto(f"{explorer}/text?text={quote(TEXT)}")
    name = page.locator(".pick b").first.inner_text()
    hit = page.locator(".hit:not(.ps-single)").first
    letter = hit.get_attribute("data-letter")
    cluster = next(c for c in server.cluster(name, n_null=0)[0].clusters if c.letter == letter)
    examples = server.examples(name)
    words = Counter(characters.named(examples[i].key_part) for i in cluster.members.tolist())
    title = ", ".join(f"‘{token}’" for token, _ in words.most_common(3))
    assert hit.locator("b").first.inner_text() == f"at {title}{' …' if len(words) > 3 else ''}"
    assert int(hit.locator(".ps-line").first.get_attribute("data-place")) == cluster.central
    hit.locator("a").first.click()
    page.wait_for_url(f"**/neuron/{name}/{letter}")
    heading = page.locator(f".ps-card[data-cluster={letter}] .ps-title").inner_text()
    named = {one.letter: shown(characters.visible(one.text)) for one in server.labels(name) if one.size > 1}
    assert heading.removeprefix(letter).strip() == named[letter]


def test_keys_go_through_neurons_and_tokens(page, explorer):
    page.goto(f"{explorer}/text?text=tea")
    names = page.locator(".pick b").all_inner_texts()
    for key, place in (("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert page.locator(".pick [aria-pressed=true] b").inner_text() == names[place]
        assert names[place] in page.locator("#reader").inner_text()
    pieces(page).first.click()
    page.keyboard.press("ArrowRight")
    assert pieces(page).nth(1).evaluate("(piece) => piece === document.activeElement && piece.ariaPressed === 'true'")
    page.keyboard.press("End")
    assert pieces(page).last.get_attribute("aria-pressed") == "true"


def test_a_strong_neuron_is_seen_in_the_whole_text(page, explorer):
    page.goto(f"{explorer}/text?text=tea&neurons=0.3")
    link = page.locator("#strong a", has_not_text="0.3").first
    name = link.inner_text()
    link.click()
    page.wait_for_url(f"**neurons={name}")
    assert page.locator(".pick b").all_inner_texts() == [name]


@pytest.mark.parametrize("text", ["a\nb", "\na\n\nb\n", "a\tb ", "  a", "日本\n😀", "<b>&amp;</b>", "a'b\"c"])
def test_a_text_arrives_as_it_was_typed(page, explorer, server, text):
    page.goto(f"{explorer}/text")
    page.fill("#text", text)
    page.click("#own .choices button")
    for _ in range(2):  # and once more, from the page that answered
        pieces(page).first.wait_for()
        want = server.explain(text)
        assert pieces(page).count() == len(want)
        labels = pieces(page).evaluate_all("all => all.map((one) => one.ariaLabel)")
        for label, part in zip(labels, want.parts, strict=True):
            assert label.startswith(characters.named(part))
        assert page.input_value("#text") == text
        page.get_by_text("Write another text").click()
        page.click("#own .choices button")


def test_a_link_may_hold_any_line_end(page, explorer, server):
    page.goto(f"{explorer}/text?text=a%0D%0Ab")
    assert pieces(page).count() == len(server.explain("a\r\nb")) == 4


def test_markup_in_a_text_stays_text(page, explorer):
    page.goto(f"{explorer}/text?text={quote('<img src=x onerror=alert(1)>')}")
    assert page.locator("#paper").text_content().startswith("<img src=x")
    assert page.locator("main img").count() == 0


def test_a_text_that_cannot_be_read_is_told_and_not_lost(page, watched, explorer):
    for text, words in (("x" * 300, "300"), ("", "")):
        page.goto(f"{explorer}/text?text={text}")
        watched.complaints.clear()  # Chromium notes the status of the page itself
        assert words in page.get_by_role("alert").inner_text()
        assert page.get_by_label("A text, read as one context").input_value() == text
    page.get_by_label("A text, read as one context").fill("y" * 20_001)
    page.get_by_role("button", name="read it").click()
    assert "the text has 20,001 characters" in page.locator("#status").inner_text()


def test_without_script_it_is_a_table(chromium, explorer, server):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{explorer}/text?text=tea&neurons=0.3")
    page.locator("tbody tr").first.wait_for()  # a page in grey comes again by itself
    assert page.locator("tbody tr").count() == 3
    assert page.locator("noscript .paper span, .paper span").count() == 3
    context.close()
