"""README and docs: two screens, links that lead somewhere, commands that exist."""

import re
import shlex
from pathlib import Path

import click
import pytest

from polysem.client.commands.cli import cli

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)\s#]*)(?:#([^)\s]+))?\)")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page):
    """The command lines of `polysem` in a page's code blocks, joined where a backslash continues them."""
    text = re.sub(r"\\\n\s+", "", page.read_text("utf-8"))
    return re.findall(r"^(?:    |\$ )(?:docker compose run --rm )?(polysem [a-z].*)", text, re.MULTILINE)


def test_the_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_a_file_and_a_heading(page):
    for path, anchor in LINK.findall(page.read_text("utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_what_polysem_takes(page):
    for line in commands(page):
        words = [word for word in shlex.split(line.partition(" &")[0], comments=True) if word != "…"]
        command, context = cli, click.Context(cli)
        del words[0]
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
            assert command is not None, line
        try:
            command.make_context(command.name, words)
        except click.MissingParameter:
            assert "…" in line, line


def test_every_page_is_in_the_docs_table_of_contents():
    index = (ROOT / "docs/index.md").read_text("utf-8")
    listed = {name for block in re.findall(r"```{toctree}(.*?)```", index, re.DOTALL) for name in block.split()}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed
