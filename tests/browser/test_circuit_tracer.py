"""Files exported for circuit-tracer are read by its own models and shown by its own page.

`make peers` installs its package without what that needs; its page's libraries come from npm (`make other-clients`).
Without the two these tests are skipped; where POLYSEM_NEEDS_PEERS is set, as in .ci/run, they fail.
"""

import importlib.util
import json
import mimetypes
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from polysem.client.exporting import circuit_tracer, writing

ROOT = Path(__file__).parent.parent.parent
PEER = ROOT / "build" / "peers" / "circuit_tracer" / "frontend"
NODE = ROOT / "build" / "node" / "node_modules"
D3, JETPACK = NODE / "d3" / "dist" / "d3.js", NODE / "d3-jetpack" / "build" / "d3-jetpack.cjs"


@pytest.fixture(scope="module")
def exported(server, tmp_path_factory):
    if not (PEER.is_dir() and JETPACK.is_file()):
        if os.environ.get("POLYSEM_NEEDS_PEERS"):
            pytest.fail("no circuit-tracer: make peers other-clients")
        pytest.skip("no circuit-tracer: make peers other-clients")
    folder = tmp_path_factory.mktemp("circuit-tracer") / "out"
    writing.export(server, "circuit-tracer", folder, "0.0-20")
    return folder


def test_its_own_models_take_every_file(exported):
    spec = importlib.util.spec_from_file_location("feature_models", PEER / "feature_models.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    files = list((exported / "features" / "hostile").iterdir())
    assert files
    for path in files:
        model = models.Model.model_validate_json(path.read_bytes(), strict=True)
        assert str(model.index) == path.stem
        for quantile in model.examples_quantiles:
            assert all(len(e.tokens) == len(e.tokens_acts_list) > e.train_token_ind for e in quantile.examples)


def test_its_own_page_shows_the_clusters_with_their_names_and_texts(exported, chromium, server):
    number = circuit_tracer.paired(0, 0)
    want = json.loads((exported / "features" / "hostile" / f"{number}.json").read_text())
    complaints = []

    def answer(route):
        """The page's files, the export, d3 and jetpack, which joins it; nothing for libraries that it does not use."""
        path = urlsplit(route.request.url).path
        file = PEER / "assets" / path.lstrip("/")
        if "/features/" in path:
            file = exported / path.lstrip("/")
        elif "/lib/" in path:
            file = {"d3.js": D3, "jetpack_2024-07-20.js": JETPACK}.get(file.name, Path(os.devnull))
        body, kind = file.read_bytes(), mimetypes.guess_type(file.name)[0] or "text/javascript"
        body = body.replace(b"global.d3 = {}", b"global.d3") if file == JETPACK else body
        route.fulfill(body=body, content_type=kind, headers={"Access-Control-Allow-Origin": "*"})

    context = chromium.new_context()
    context.route("**/*", answer)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(f"http://peer.test/feature-view.html?model=hostile&featureId={number}")
    page.locator(".example-quantile").first.wait_for()
    titles = [title.strip() for title in page.locator(".quantile-title").all_inner_texts()]
    assert titles == [" ".join(quantile["quantile_name"].split()) for quantile in want["examples_quantiles"]]
    sizes = [page.locator(".example-2-col > div").nth(i).locator(".ctx-container").count() for i in range(len(titles))]
    assert sizes == [len(quantile["examples"]) for quantile in want["examples_quantiles"]]
    assert complaints == []
    context.close()
