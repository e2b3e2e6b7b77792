"""Texts in a real browser: key tokens within characters are named, downloads hold the data."""

import csv
import io
import json

from polysem.client import characters


def characters_in(client):
    """Neurons of which a key token is a part of a character."""
    return {str(e.neuron): e for e in client.examples("*") if e.key_part.of > 1 and e.key_part.number < e.key_part.of}


def test_a_key_token_within_a_character_is_named_everywhere(page, explorer, server):
    name, example = next(iter(characters_in(server).items()))
    page.goto(f"{explorer}/neuron/{name}?distance_threshold=2")
    page.locator(".ps-more").first.click() if page.locator(".ps-more").count() else None
    row = page.locator(f".ps-line[data-place='{example.example}']")
    row.locator(".ps-key").click()
    assert row.locator("mark").inner_text() == characters.named(example.key_part)
    row.get_by_text("importance", exact=True).click()
    row.get_by_text("activation", exact=True).wait_for()
    assert row.locator("mark").inner_text() == characters.named(example.key_part)
    assert "a space" not in page.locator("#neuron").inner_text()


def test_downloads_hold_the_texts_as_they_are(page, explorer, server):
    name = next(iter(characters_in(server)))
    page.goto(f"{explorer}/neuron/{name}")
    got = {}
    for kind, label in (("json", "JSON"), ("csv", "CSV")):
        with page.expect_download() as download:
            page.get_by_role("button", name=label, exact=True).click()
        got[kind] = download.value.path().read_bytes().decode()
    want = server.examples(name)
    found = json.loads(got["json"])["examples"]
    assert [e["tokens"] for e in found] == [list(e.tokens) for e in want]
    assert [e["document"] for e in found] == [e.document for e in want]
    assert [(e["key_token"], e["key_part"]) for e in found] == [(e.key_part.text, e.key_part.fraction) for e in want]
    rows = list(csv.DictReader(io.StringIO(got["csv"], newline="")))
    assert [unquoted(row["text"]) for row in rows] == [e.text for e in want]
    assert [unquoted(row["document"]) for row in rows] == [e.document for e in want]
    assert [unquoted(row["key_token"]) for row in rows] == [e.key_part.text for e in want]
    assert [row["key_part"] for row in rows] == [e.key_part.fraction for e in want]


def unquoted(cell):
    """A cell as the page's note says: an apostrophe at its beginning is not its own."""
    return cell.removeprefix("'")


CELLS = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "'x", "''x", "＝1", "x", "", "a,b", 'a"b', "a\r\nb", "'"]


def test_no_cell_is_a_formula_and_each_can_be_read_back(page, explorer, server):
    name = next(iter(characters_in(server)))

    def changed(route):
        answer = route.fetch()
        if answer.status == 202:  # the page in grey, which has no data yet
            route.fulfill(response=answer)
        else:
            route.fulfill(body=hostile(answer.text()), content_type="text/html")

    page.route("**/neuron/*", changed)
    page.goto(f"{explorer}/neuron/{name}")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    text = download.value.path().read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [unquoted(row["document"]) for row in rows] == (CELLS * 40)[: len(rows)]
    assert not any(row["document"].startswith(tuple("=+-@\t\r\n＝")) for row in rows)


def hostile(html):
    """The page with other names of documents in its data."""
    start, end = '<script type="application/json" id="data">', "</script>"
    before, _, rest = html.partition(start)
    data, _, after = rest.partition(end)
    changed = json.loads(data)
    for i, example in enumerate(changed["examples"]):
        example["document"] = CELLS[i % len(CELLS)]
    return before + start + json.dumps(changed) + end + after
