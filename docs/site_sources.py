"""Sources of the site besides its pages: README, CONTRIBUTING and CHANGELOG, and the package's docstrings.

Pages are written for the repository: a link to a source file is kept there, and becomes plain text on the site.
Docstrings are plain text with aligned columns of names; they become paragraphs and definition lists.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
INCLUDE = re.compile(r"^<!-- include (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|#)([^)\s#]+)(#[^)\s]+)?\)")
NAMED = re.compile(r"(\S(?:.*?\S)?)  +(\S.*)")


def setup(app):
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring)
    return {"parallel_read_safe": True}


def read_page(_app, name, source):
    """Insert the files that a page includes, and turn links out of docs/ into what the site has in their place."""
    folder = (DOCS / name).parent
    text = INCLUDE.sub(
        lambda found: on_site((folder / found[1]).read_text("utf-8"), (folder / found[1]).parent, folder), source[0]
    )
    source[0] = on_site(text, folder, folder)


def on_site(text, base, folder):
    """The text, written in folder `base`, with its links as they are for a page in `folder`."""

    def link(found):
        picture, words, target, anchor = found.groups()
        path = (base / target).resolve()
        if not path.exists():
            return found[0]  # Sphinx complains of it
        if not picture and path.suffix != ".md" and path.suffix != ".ipynb":
            return words
        if path.parent == ROOT:
            path = DOCS / PAGES.get(path.name, path.name)
        if not path.is_relative_to(DOCS):
            return words
        up = "../" * len(folder.resolve().relative_to(DOCS).parts)
        return f"{picture}[{words}]({up}{path.relative_to(DOCS)}{anchor or ''})"

    return LINK.sub(link, text)


def read_docstring(_app, _what, _name, _object, _options, lines):
    """Turn a docstring's plain text into reStructuredText, in place."""
    paragraphs = [part.split("\n") for part in re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))]
    lines[:] = [line for paragraph in paragraphs for line in [*written(paragraph), ""]]


def written(paragraph):
    """A docstring's paragraph: doctests as they are, columns of names as a definition list, else its text."""
    if paragraph[0].lstrip().startswith(">>>"):
        return paragraph
    if not any(NAMED.fullmatch(line) for line in paragraph):
        return [escaped(line.strip()) for line in paragraph]
    found = []
    for line in paragraph:
        named = NAMED.fullmatch(line)
        if named:
            found += ["", f"``{named[1]}``", f"    {escaped(named[2])}"]
        elif line.startswith(" ") and any(line.startswith("``") for line in found):
            found.append(f"    {escaped(line.strip())}")
        else:
            found += ["", escaped(line.strip())]
    return found


def escaped(text):
    """The text without reStructuredText's marks; code between backticks stays code."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([*_|\\`])", r"\\\1", part) for part in parts
    )
