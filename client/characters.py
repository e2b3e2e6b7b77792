"""Texts as they are shown: what a token is where it is less than a character, and what would not be seen.

A character that is split over several tokens stands at its last one, and the others are empty; so joined tokens are the
text. Here each of them is given the character back, with its place among the character's tokens.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

DAMAGE = "\N{REPLACEMENT CHARACTER}"
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # they shape the characters beside them, and nothing else
DOTTED_CIRCLE = "\N{DOTTED CIRCLE}"


class Part(NamedTuple):
    """A token as a reader sees it: whole characters, or part of one.

    text       its text, or the whole character that it is a part of
    number     which of that character's tokens it is, from 1
    of         how many they are; 1 for a token that holds whole characters
    """

    text: str
    number: int = 1
    of: int = 1

    @property
    def fraction(self) -> str:
        """Such as 1/3; empty for a token that holds whole characters."""
        return "" if self.of == 1 else f"{self.number}/{self.of}"


def part(tokens: Sequence[str], place: int, number: int = 0, of: int = 0) -> Part:
    """Return the token at a place of a text as a `Part`. A character that the text's end cuts off counts as damaged.

    number, of  which of a character's tokens it is, as the server says; 0: it does not, and the texts must tell
    """
    if of == 0:
        number, of = _guessed(tokens, place)
    if of == 1:
        return Part(tokens[place] or DAMAGE)
    if tokens[place].strip(" "):  # the last one
        return Part(tokens[place], number, of)
    after = next((text for text in tokens[place + 1 :] if text), DAMAGE)
    return Part(tokens[place] + after[0], number, of)  # a blank, too, may end within a character


def _guessed(tokens: Sequence[str], place: int) -> tuple[int, int]:
    """Part and parts by the empty tokens before a character; one that ends within it unseen is missed."""
    first = place
    while first > 0 and not tokens[first - 1]:
        first -= 1
    last = place
    while last < len(tokens) - 1 and not tokens[last]:
        last += 1
    is_whole = first == last or (last == place and len(tokens[place]) > 1)  # it ends a character and holds others
    return (1, 1) if is_whole else (place - first + 1, last - first + 1)


def moved(tokens: Sequence[str], key: int, found: Part) -> list[str]:
    """The tokens, with the key token's character moved to it where it is a part of one (`found`)."""
    texts = list(tokens)
    if found.of > 1 and not texts[key].strip(" "):
        last = next((i for i in range(key + 1, len(texts)) if texts[i]), None)
        if last is not None:
            texts[last] = texts[last][1:]
        texts[key] = found.text
    return texts


def shown(tokens: Sequence[str], key: int, found: Part) -> list[str]:
    """The tokens of `moved`, made visible. The key token is in words where it is unseen or a part."""
    texts = [visible(token) for token in moved(tokens, key, found)]
    texts[key] = displayed(found)
    return texts


def displayed(found: Part) -> str:
    """A token by itself: visible, with its blanks; in words where it is a part of a character, or would not be seen."""
    text = visible(found.text)
    is_seen = bool(text.strip(" ")) and not is_unseen(found.text)
    return text if found.of == 1 and (is_seen or not found.text.strip(" ")) else named(found)


def named(found: Part) -> str:
    """A token in words, to be listed: visible, without the blanks around it, with its part: 本 1/3.

    Blanks alone are "␠", once each; what cannot be seen by itself is its code and name.
    """
    text = visible(found.text).strip(" ")
    if not text.strip() or is_unseen(found.text):
        text = "␠" * len(found.text) if not found.text.strip(" ") else _alone(found.text)
    return f"{text} {found.fraction}".rstrip()


def spaced(text: str) -> str:
    """A token of a vocabulary, to be listed: visible, each blank as ␣; what cannot be seen by itself in words."""
    return named(Part(text)) if is_unseen(text) else visible(text).replace(" ", "␣")


def is_unseen(text: str) -> bool:
    """Whether there is nothing to see in a text that stands alone: joiners, marks that sit on another character."""
    return bool(text) and all(unicodedata.category(character) in ("Cf", "Mn", "Me") for character in text)


def _alone(text: str) -> str:
    """Show a character that cannot be seen alone: marks on a dotted circle, else codes; its name if it stands alone."""
    if all(unicodedata.category(character) in ("Mn", "Me") for character in text) and not _selects(text):
        return DOTTED_CIRCLE + text
    if len(text) == 1 and (name := unicodedata.name(text, "")):
        return f"{_code(text)} {name}"
    return "".join(map(_code, text))


def _selects(text: str) -> bool:
    """Variation selectors are marks by category; no font draws them."""
    return any("\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100" for character in text)


def visible(text: str) -> str:
    """The text on one line, and harmless: what would move the cursor, the line or the reading direction is a symbol."""
    return text if text.isprintable() else "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    if character in "\n\u2028\u2029":
        return "⏎"
    if character == "\t":
        return "→"
    if character < " ":
        return chr(0x2400 + ord(character))  # ␀ ␛ …
    if unicodedata.category(character) == "Zs":
        return " "
    return "␡" if character == "\x7f" else _code(character)


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
