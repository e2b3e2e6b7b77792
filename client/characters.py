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
    of         how many they are; 1 for a token that holds whole characters, 0 where an older server does not say
    """

    text: str
    number: int = 1
    of: int = 1

    @property
    def fraction(self) -> str:
        """Such as 1/3; empty for a token that holds whole characters, and where an older server does not say."""
        return "" if self.of < 2 else f"{self.number}/{self.of}"


def part(tokens: Sequence[str], place: int, number: int = 0, of: int = 0) -> Part:
    """Return the token at a place of a text as a `Part`. A character that the text's end cuts off counts as damaged.

    number, of  which of a character's tokens it is, as the server says; 0: it is older and says only the token's text,
                which does not tell a blank, or nothing, from a part of a character
    """
    if of == 0:
        return Part(tokens[place], 0, 0)
    if of == 1:
        return Part(tokens[place] or DAMAGE)
    if tokens[place].strip(" "):  # the last one
        return Part(tokens[place], number, of)
    after = next((text for text in tokens[place + 1 :] if text), DAMAGE)
    return Part(tokens[place] + after[0], number, of)  # a blank, too, may end within a character


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
    are_blanks = found.of == 1 and not found.text.strip(" ")
    return text if found.of < 2 and (is_seen or are_blanks) else named(found)


def named(found: Part) -> str:
    """A token in words, to be listed: visible, without the blanks around it, with its part: 本 1/3.

    Blanks alone are "␠", once each; what cannot be seen by itself is its code and name. Where an older server does not
    say whether they are blanks, or a part, they are quoted: ' '.
    """
    text = visible(found.text).strip(" ")
    if not found.text.strip(" "):
        text = "␠" * len(found.text) if found.of else f"'{found.text}'"
    elif not text.strip() or is_unseen(found.text):
        text = _alone(found.text)
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
