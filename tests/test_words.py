"""How docstrings, help and pages read: plain technical English, each first line with a subject or a verb of its own."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("client", "kernels", "proto", "server")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent != ROOT / "proto/polysem/v1"
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NO_SUBJECT = re.compile(r"(Of|What|Those|Where|As|How)\s")
# Phrases that were replaced, each with what to write: they are correct, and hard to read.
REPLACED = {
    r"what a server stands": "behaviour under load and failure",
    r"which any other address wants": "which every other address requires",
    r"does (?:it|the job) no harm": "Ctrl-C stops watching; the job goes on",
    r"nobody is asked": "no request is sent",
    r"so that company changes": "so the result does not depend on what else is in the batch",
    r"\blet [^.]{1,60} in no more\b": "revoke",
    r"mend it\b": "fix it",
    r"what is no text": "what is not text",
    r"name another file": "choose another file",
    r"jobs are held up": "the job runner failed; retrying in 60 s",
    r"half a character stands": "unpaired surrogate",
    r"take what you see": "export this view",
}


def docstrings(node, line=1):
    """The docstrings of a module or class and of everything public in it, each with its line."""
    yield line, ast.get_docstring(node) or ""
    for child in getattr(node, "body", []):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from docstrings(child, child.lineno)


def test_every_public_docstring_begins_with_a_subject_or_a_verb():
    found = [
        f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
        for path in SOURCES
        for line, text in docstrings(ast.parse(path.read_text("utf-8")))
        if NO_SUBJECT.match(text)
    ]
    assert found == []


@pytest.mark.parametrize("phrase", REPLACED)
def test_a_phrase_that_was_replaced_does_not_come_back(phrase):
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}, write: {REPLACED[phrase]}"
        for path in (*SOURCES, *PAGES)
        for match in re.finditer(phrase, " ".join(path.read_text("utf-8").split()), re.IGNORECASE)
    ]
    assert found == []
