"""How the docs site reads pages and docstrings that are written as plain text."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
SPEC = importlib.util.spec_from_file_location("site_sources", DOCS / "site_sources.py")
site_sources = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site_sources)


def read(text):
    lines = text.split("\n")
    site_sources.read_docstring(None, None, None, None, None, lines)
    return "\n".join(lines).strip()


def test_links_lead_to_the_sites_pages_and_source_files_become_text():
    text = (
        "[a](docs/jobs.md#jobs) [b](CHANGELOG.md) [c](kernels) [d](https://arxiv.org) ![e](docs/pictures/overview.png)"
    )
    written = site_sources.on_site(text, DOCS.parent, DOCS)
    assert written == "[a](jobs.md#jobs) [b](changelog.md) c [d](https://arxiv.org) ![e](pictures/overview.png)"
    assert site_sources.on_site("[g](../glossary.md)", DOCS / "api", DOCS / "api") == "[g](../glossary.md)"


def test_a_broken_link_stays_so_that_the_build_fails():
    assert site_sources.on_site("[a](nowhere.md)", DOCS, DOCS) == "[a](nowhere.md)"


def test_columns_of_a_docstring_become_definitions():
    text = "Cut.\n\nx  (B,) float32, 2*n\n   of each `neuron`\nw_j  (D,)\n\nRaises TypeError."
    assert read(text) == (
        "Cut.\n\n\n``x``\n    (B,) float32, 2\\*n\n    of each ``neuron``\n\n``w_j``\n    (D,)\n\nRaises TypeError."
    )


def test_doctests_stay_as_they_are():
    assert read("One.\n\n>>> 2 ** 3  # a power\n8") == "One.\n\n>>> 2 ** 3  # a power\n8"
