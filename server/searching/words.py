"""Words of texts and of queries, made alike: case, accents and widths aside, a character of CJK each a word.

A query is words, all of which must be there, and "phrases" in quotes. It has no other syntax: what users write never
reaches SQLite as an expression.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from polysem.proto.errors import InvalidArgument

MAX_QUERY, MAX_TERMS = 200, 16  # characters, words and phrases
_CJK = re.compile(r"([\u2e80-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[\U00020000-\U0003ffff])")
_WORD = re.compile(r"\w+")
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


class Query(NamedTuple):
    """Words that are looked for: terms, each a word or a phrase of several; token, as key tokens are kept, or ""."""

    terms: Sequence[tuple[str, ...]]
    token: str


def fold(text: str) -> str:
    """Return the text without case, accents and widths."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if unicodedata.category(c) != "Mn"))


def words(text: str) -> list[str]:
    """Return the text's words, in their order."""
    return _WORD.findall(_CJK.sub(r" \1 ", fold(text)))


def line(text: str) -> str:
    """Return the text's words with a space around each, so that a phrase is found as it is written."""
    return f" {' '.join(words(text))} "


def holds(in_line: str, terms: Sequence[tuple[str, ...]]) -> bool:
    """Whether a `line` holds every term."""
    return all(f" {' '.join(term)} " in in_line for term in terms)


def parse(query: str) -> Query:
    """Return what a query looks for. Raises InvalidArgument for an empty one, and one that is too long."""
    if len(query) > MAX_QUERY:
        raise InvalidArgument(f"the query has {len(query)} characters; give at most {MAX_QUERY}", "query")
    parts = [quoted or bare for quoted, bare in _TERM.findall(query)]
    terms = [tuple(found) for part in parts if (found := words(part))]
    token = fold(" ".join(parts).strip()) if len(parts) == 1 else ""
    if not (terms or token):
        raise InvalidArgument('the query is empty; write a word, a "phrase" or a token', "query")
    if len(terms) > MAX_TERMS:
        raise InvalidArgument(f"the query has {len(terms)} words; give at most {MAX_TERMS}", "query")
    return Query(terms, token)
