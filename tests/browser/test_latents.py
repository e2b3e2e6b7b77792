"""Pages of an index of latents, in the browser: they say latent, and ask for nothing that latents do not have."""

import json

import pytest

import polysem.server
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model.latent_model import with_latents

from ..server.model.tiny_saes import sae
from .conftest import explore, stop


@pytest.fixture(scope="module")
def latents(small_model, corpus_file, tmp_path_factory):
    """A client of a server over 30 latents of layer 1, and the address of its explorer."""
    model = with_latents(small_model, [sae(1, "resid_post", 30, 24, 1, dead=[29])])
    out = tmp_path_factory.mktemp("latents") / "latents"
    builder.build(model, Corpus(str(corpus_file)), out, builder.Recipe(Selection("top", 0.75, 24)))
    with polysem.server.local(out, device="cpu") as client:
        process, address = explore(client.target)
        yield client, address
        assert "Traceback" not in stop(process)


def test_a_latents_page_draws_its_tree_and_does_not_ask_what_it_writes(page, latents, watched):
    client, address = latents
    id_ = next(str(one.id) for one in client.cluster("1.*") if len(one.labels) > 5)
    page.goto(f"{address}/neuron/{id_}")
    page.wait_for_selector(".ps-card")
    assert page.locator(f"[aria-label='dendrogram of latent {id_}']").count() == 1
    assert page.locator("#writes").count() == 0
    page.mouse.wheel(0, 5000)
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    assert json.loads(download.value.path().read_text("utf-8"))["neuron"] == id_
    assert not [asked for asked in watched.requests if "logit_effects" in asked]


def test_the_overview_and_the_last_latent_say_latent(page, latents):
    _, address = latents
    page.goto(address)
    page.wait_for_selector(".rows > li")
    assert page.get_by_role("heading", name="What do these latents respond to?").count() == 1
    assert page.locator("[aria-label='latents by layer and clarity']").count() == 1
    for part in (".hero", ".kinds", "form.sentence, main form", ".howmany"):  # the rows hold texts
        assert "neuron" not in page.locator(part).first.inner_text().lower()
    page.goto(f"{address}/neuron/1.29")
    assert page.get_by_text("no dataset examples").count() >= 1
    assert page.get_by_role("link", name="1.28", exact=False).count() >= 1
    assert page.locator("a[rel=next]").count() == 0
