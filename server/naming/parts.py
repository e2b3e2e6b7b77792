"""Parts of names: what can be said of a token by rules, each true or false at a place of a text.

key           the token itself, without the spaces around it
kind          what it is: a number, a punctuation mark, a capitalised word, the rest of a word, a line break, spaces
in            the word that it is a piece of
right after   the word before it, or the two words before it
after         a word among the 12 before it
right before  before, the same of what follows it: the next word or two, a word among the next 6
where         where it stands: at the start of a line, of a text, right after a number, in code

A word is a run of letters, digits and underscores; every other sign that is no space is a word of its own.
"""

import re
from typing import Literal, NamedTuple, get_args

from polysem.server.naming.places import Place

Relation = Literal["key", "kind", "in", "right after", "after", "where", "right before", "before"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
N_BEFORE, N_AFTER = 12, 6
BLANKS = {"⏎": "a line break", "␣": "spaces"}
CODE_SHARE = 0.1  # of the signs that are no spaces: prose has 0.02, programs 0.15 to 0.25

_WORD = re.compile(r"\w+|[^\w\s]")
_TAIL, _HEAD = re.compile(r"\w+\Z"), re.compile(r"\w+")
_CODE = re.compile(r"[(){}\[\]=<>_;/\\#*&|+@]")
_NUMBER = re.compile(r"\d[\d.,]*\Z")
_FRACTION = re.compile(r". \d/\d\Z")


class Part(NamedTuple):
    """Something that holds at a place, or does not: a relation and the text that it is about."""

    relation: Relation
    text: str

    @property
    def words(self) -> str:
        """The part as a name has it."""
        if self.relation in ("kind", "where"):
            return self.text
        if self.relation == "key":
            return BLANKS.get(self.text, f"`{self.text}`")
        return f"{self.relation} `{self.text}`"


def key_of(place: Place) -> str:
    """Return the token as names have it: without spaces around it; of nothing but spaces ⏎ or ␣."""
    return place.token.strip() or _blank(place.token)


def parts_of(place: Place) -> frozenset[Part]:
    """Return all that holds at a place. Cost: some 20 µs."""
    token = place.token.strip()
    is_part = bool(_FRACTION.match(token))  # of a character
    tail = None if is_part or not _is_word(place.token[:1]) else _TAIL.search(place.before)
    head = None if is_part or not _is_word(place.token[-1:]) else _HEAD.match(place.after)
    before = place.before[: tail.start()] if tail else place.before
    after = place.after[head.end() :] if head else place.after
    whole = (tail[0] if tail else "") + token + (head[0] if head else "")
    found = {Part("key", key_of(place)), *_kinds(place.token, whole, bool(tail))}
    if whole != token:
        found.add(Part("in", whole))
    lefts, rights = [*_WORD.finditer(before)][-N_BEFORE:], [*_WORD.finditer(after)][:N_AFTER]
    found |= {Part("after", word[0]) for word in lefts} | {Part("before", word[0]) for word in rights}
    if lefts:
        found.add(Part("right after", lefts[-1][0]))
    if rights:
        found.add(Part("right before", rights[0][0]))
    if len(lefts) > 1:
        found.add(Part("right after", _between(before, lefts[-2].start(), lefts[-1].end())))
    if len(rights) > 1:
        found.add(Part("right before", _between(after, rights[0].start(), rights[1].end())))
    return frozenset(found | _where(place, before, lefts))


def _kinds(token: str, whole: str, inside: bool) -> set[Part]:
    stripped = token.strip()
    if not stripped:
        return {Part("kind", BLANKS[_blank(token)])}
    if _NUMBER.match(stripped):
        return {Part("kind", "a number")}
    if not any(_is_word(character) for character in stripped):
        return {Part("kind", "a punctuation mark")}
    kinds = {Part("kind", "the rest of a word")} if inside else set()
    return kinds | ({Part("kind", "a capitalised word")} if whole[:1].isupper() and not inside else set())


def _where(place: Place, before: str, lefts: list[re.Match[str]]) -> set[Part]:
    lead = before + place.token[: len(place.token) - len(place.token.lstrip())]
    gap = lead[len(lead.rstrip()) :]
    found = set()
    if place.token.strip():
        if place.opens and not lead.strip():
            found.add("at the start of a text")
        elif "\n" in gap:
            found.add("at the start of a line")
    if lefts and _NUMBER.match(lefts[-1][0]):
        found.add("right after a number")
    signs = "".join((place.before + place.after).split())
    if len(_CODE.findall(signs)) >= CODE_SHARE * max(len(signs), 1) and signs:
        found.add("in code")
    return {Part("where", text) for text in found}


def _between(text: str, begin: int, end: int) -> str:
    return " ".join(text[begin:end].split())


def _blank(token: str) -> str:
    return "⏎" if "\n" in token else "␣"


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
