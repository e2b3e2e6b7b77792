"""Texts, each token shaded by activation, on one line around the key token or whole."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from polysem.client import characters
from polysem.client.drawing import colours, dendrogram
from polysem.client.questions.examples import Example


def has_colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


class _Parts(NamedTuple):
    """An example around its key token."""

    before: Text
    key: Text
    after: Text

    def fitted(self, left: int, width: int) -> Text:
        """The key token at column `left`, further left where it would not fit, and as much as fits around it."""
        if self.key.cell_len > width:
            return cropped(self.key, width)
        left = min(left, width - self.key.cell_len)
        line = cropped(self.before, left, from_the_left=True)
        line.pad_left(left - line.cell_len)
        line.append_text(self.key)
        return line.append_text(cropped(self.after, width - line.cell_len))


def example_lines(examples: Sequence[Example], width: int, coloured: bool = True) -> list[Text]:
    """Each text on one line of at most `width` cells, the key tokens in view and one under the other.

    Tokens are shaded from grey to amber by their activation as a share of the example's maximum; without colour the key
    token stands in «…».
    """
    parts = [_parts(example, coloured) for example in examples]
    left = max((part.before.cell_len for part in parts), default=0)
    right = max((part.key.cell_len + part.after.cell_len for part in parts), default=0)
    column = min(left, max(width * 11 // 20, width - right))
    return [part.fitted(column, width) for part in parts]


def _parts(example: Example, coloured: bool) -> _Parts:
    shown = characters.shown(example.tokens, example.key, example.key_part)
    pieces = list(zip(shown, dendrogram.shades(example).tolist(), strict=True))
    key = pieces[example.key][0]
    indent = len(key) - len(key.lstrip(" ")) if key.strip(" ") else 0  # the blank before a word is not emphasised
    before = shaded([*pieces[: example.key], (key[:indent], 0.0)])
    return _Parts(before, key_text(key[indent:], coloured), shaded(pieces[example.key + 1 :]))


def key_text(token: str, coloured: bool) -> Text:
    return Text(token, KEY_STYLE) if coloured else Text(f"«{token}»", "bold")


def shaded(pieces: Iterable[tuple[str, float]]) -> Text:
    return Text.assemble(*((piece, shade_style(shade)) for piece, shade in pieces))


def cropped(text: Text, width: int, from_the_left: bool = False) -> Text:
    """At most `width` cells of the text, from its start or its end; … where something is missing."""
    if text.cell_len <= width:
        return text
    if width < 1:
        return Text()
    characters = text.plain[::-1] if from_the_left else text.plain
    used = np.cumsum([cell_len(character) for character in characters])
    n = int(np.searchsorted(used, width - 1, side="right"))
    kept, more = text[len(text) - n :] if from_the_left else text[:n], ("…", "dim")
    return Text.assemble(more, kept) if from_the_left else Text.assemble(kept, more)


def shade_style(shade: float) -> Style | str:
    """Grey to amber at one lightness, with dark letters: it reads on white and on black."""
    step = colours.step(shade)
    return Style(color=colours.INK, bgcolor=colours.AMBER_ON_ANY_GROUND[step - 1]) if step else ""


KEY_STYLE = Style(color=colours.INK, bgcolor=colours.AMBER_ON_ANY_GROUND[-1], bold=True, underline=True)


class ExampleText:
    """An example with its neuron, document and activation in one line, and its text below: cropped to a line around the
    key token, or whole, wrapped as it stands."""

    def __init__(self, example: Example, whole: bool = False) -> None:
        self._example, self._whole = example, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        example, coloured = self._example, has_colour(console)
        yield Text.assemble(
            (f"{example.neuron} ", "bold"),
            f"#{example.example}  {example.activation:.2f}  ",
            (characters.visible(example.document), "dim"),
            (f"  {characters.named(found)}" if (found := example.key_part).of > 1 else "", "dim"),
        )
        if not self._whole:
            yield from example_lines([example], options.max_width - 2, coloured)
            return
        shades = dendrogram.shades(example).tolist()
        text = Text()
        tokens = characters.moved(example.tokens, example.key, example.key_part)
        for i, (token, shade) in enumerate(zip(tokens, shades, strict=True)):
            is_key = i == example.key
            whole = characters.displayed(example.key_part) if is_key and not token.isspace() else token
            shown = "\n".join(characters.visible(line) for line in whole.split("\n"))
            text.append_text(key_text(shown, coloured) if is_key else Text(shown, shade_style(shade)))
        yield text
