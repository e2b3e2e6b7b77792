"""Tokens that are parts of a character: which, and of how many."""

from collections.abc import Sequence
from typing import Protocol

MOST_TOKENS = 4  # of a character: UTF-8 has at most so many bytes
DAMAGE = "\N{REPLACEMENT CHARACTER}"


class Decodes(Protocol):
    def texts(self, ids: Sequence[int]) -> list[str]: ...


def parts(tokenizer: Decodes, ids: Sequence[int], texts: Sequence[str], places: Sequence[int]) -> list[tuple[int, int]]:
    """Return for each token at `places` which of a character's tokens it is, from 1, and how many they are; (1, 1): of
    whole characters.

    texts  of all ids: joined they are the text; a character of several tokens stands at its last one

    A token of blanks that ends within a character counts as a part of it. Decodes a few tokens for each place beside
    characters beyond ASCII.
    """
    return [_part(tokenizer, ids, texts, place) for place in places]


def _part(tokenizer: Decodes, ids: Sequence[int], texts: Sequence[str], place: int) -> tuple[int, int]:
    last = place
    while last < len(texts) - 1 and not texts[last]:
        last += 1
    if last == place and not texts[place].strip(" ") and _is_open(tokenizer, ids, texts, place):
        last = next((i for i in range(place + 1, len(texts)) if texts[i]), place)
    first = last
    while first > 0 and not texts[first - 1]:
        first -= 1
    if first > 0 and _is_open(tokenizer, ids, texts, first - 1):
        first -= 1
    is_whole = first == last or (place == last and len(texts[place]) > 1)  # it ends a character and holds others
    return (1, 1) if is_whole else (place - first + 1, last - first + 1)


def _is_open(tokenizer: Decodes, ids: Sequence[int], texts: Sequence[str], place: int) -> bool:
    """Whether a token with a text of its own ends within the character that comes next."""
    following = next((text for text in texts[place + 1 :] if text), "")
    if following[:1].isascii() or texts[place].endswith(DAMAGE):
        return False
    begin = max(place + 1 - MOST_TOKENS, 0)
    return tokenizer.texts(list(ids[begin : place + 1]))[-1].endswith(DAMAGE)
