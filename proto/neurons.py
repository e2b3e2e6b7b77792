"""Neuron ids and ranges, and the spellings that name them.

7.1234   L7N1234   (7, 1234)     one neuron; so is any row of two whole numbers, as of an array or of pandas
7.0-99                           neurons 0 to 99 of layer 7, both included
7.*                              a whole layer
*                                the whole model
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from numbers import Real
from typing import NamedTuple, TypeAlias, cast

from polysem.proto.errors import InvalidArgument


class NeuronId(NamedTuple):
    """MLP neuron `neuron` of layer `layer`, both from 0.

    >>> from polysem.client import NeuronId
    >>> str(NeuronId(7, 1234))
    '7.1234'
    """

    layer: int
    neuron: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.neuron}"


class NeuronRange(NamedTuple):
    """Neurons first..last (both included) of a layer; None: all of them."""

    layer: int | None = None
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        if self.layer is None:
            return "*"
        if self.first is None:
            return f"{self.layer}.*"
        return f"{self.layer}.{self.first}" if self.first == self.last else f"{self.layer}.{self.first}-{self.last}"


NeuronLike: TypeAlias = "str | tuple[int, int] | NeuronRange | Iterable[NeuronLike]"

SPELLINGS = "write 7.1234, L7N1234 or (7, 1234) for one neuron, 7.0-99 for some, 7.* for a layer, * for all"
MAX_INDEX = 2**31 - 1

_NUMBER = r"\d{1,10}"  # as many digits as MAX_INDEX has
_SPELLING = re.compile(
    rf"(?P<layer>{_NUMBER})\.(?:(?P<first>{_NUMBER})(?:-(?P<last>{_NUMBER}))?|\*)|[lL](?P<L>{_NUMBER})[nN](?P<N>{_NUMBER})",
    re.ASCII,
)


def parse_neurons(*neurons: NeuronLike) -> tuple[NeuronRange, ...]:
    """The ranges that the spellings name, in their order.

    Raises InvalidArgument for anything else, and where nothing is named.
    """
    ranges = tuple(_ranges(neurons))
    if not ranges:
        raise InvalidArgument(f"no neuron was named: {SPELLINGS}", "neurons")
    return ranges


def parse_layers(text: str) -> tuple[int, ...]:
    """The layers that "4,12,20" or "0-7,12" names, ascending. Raises InvalidArgument for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip(), re.ASCII)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if first > last:
            raise InvalidArgument(f"layers are {text!r}; write 4,12,20 or 0-7", "layers")
        found |= set(range(first, last + 1))
    return tuple(sorted(found))


def parse_neuron(neuron: NeuronLike) -> NeuronId:
    """The one neuron that the spelling names; raises InvalidArgument for several."""
    (first, *more) = parse_neurons(neuron)
    if more or first.layer is None or first.first is None or first.first != first.last:
        raise InvalidArgument(f"{_shown(neuron)} is not one neuron: write 7.1234, L7N1234 or (7, 1234)", "neuron")
    return NeuronId(first.layer, first.first)


def _ranges(neurons: Iterable[NeuronLike]) -> Iterator[NeuronRange]:
    for neuron in neurons:
        if isinstance(neuron, NeuronRange):
            yield _whole(neuron)
        elif isinstance(neuron, str):
            yield _parse(neuron)
        elif isinstance(neuron, Iterable) and not isinstance(neuron, bytes | Mapping):
            parts = _parts(neuron)
            pair = [whole(part) for part in parts]
            if len(pair) == 2 and None not in pair:
                if isinstance(neuron, Set):  # which may begin with either
                    raise InvalidArgument(f"{_shown(neuron)} is not a neuron: {SPELLINGS}", "neurons")
                layer, index = cast("list[int]", pair)
                yield _checked(neuron, layer, index, index)
            else:
                yield from _ranges(parts)
        else:
            raise InvalidArgument(f"{_shown(neuron)} is not a neuron: {SPELLINGS}", "neurons")


def _parts(neuron: "Iterable[NeuronLike] | tuple[int, int]") -> tuple[NeuronLike, ...]:
    try:
        return cast("tuple[NeuronLike, ...]", tuple(neuron))
    except TypeError as error:  # an array of no dimensions says that it is iterable
        raise InvalidArgument(f"{_shown(neuron)} is not a neuron: {SPELLINGS}", "neurons") from error


def _whole(r: NeuronRange) -> NeuronRange:
    """A range made by hand, with plain numbers; refused where it lacks its layer or an end."""
    named = [part for part in r if part is not None]
    if not all(is_number(part) for part in named) or r[len(named) :] != (None,) * (3 - len(named)) or len(named) == 2:
        raise InvalidArgument(f"{_shown(tuple(r))} is no range: give layer, first and last, or a layer", "neurons")
    layer, first, last = (part if part is None else int(part) for part in r)
    return r if layer is None else _checked(r, layer, first, last)


def is_number(part: object) -> bool:
    """Whole numbers; numpy's count too, True does not."""
    return hasattr(part, "__index__") and not isinstance(part, bool) and not getattr(part, "ndim", 0)  # no array


def whole(part: object) -> int | None:
    """The whole number that the part is, also as a float, which rows of pandas make of it; None where it is none."""
    if is_number(part):
        return int(part)  # type: ignore[call-overload, no-any-return]
    is_float = isinstance(part, Real) and not isinstance(part, bool)
    return int(part) if is_float and math.isfinite(part) and part == int(part) else None  # type: ignore[arg-type, call-overload]


def _parse(text: str) -> NeuronRange:
    if text.strip() == "*":
        return NeuronRange()
    match = _SPELLING.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{_shown(text)} is not a neuron: {SPELLINGS}", "neurons")
    if match["L"] is not None:
        return _checked(text, int(match["L"]), int(match["N"]), int(match["N"]))
    if match["first"] is None:
        return _checked(text, int(match["layer"]), None, None)
    return _checked(text, int(match["layer"]), int(match["first"]), int(match["last"] or match["first"]))


def _checked(named: object, layer: int, first: int | None, last: int | None) -> NeuronRange:
    if not all(0 <= part <= MAX_INDEX for part in (layer, first or 0, last or 0)):
        raise InvalidArgument(f"{_shown(named)} is not a neuron: layers and neurons are counted from 0", "neurons")
    if first is not None and last is not None and last < first:
        raise InvalidArgument(f"the range {_shown(named)} runs backwards; write {layer}.{last}-{first}", "neurons")
    return NeuronRange(layer, first, last)


def _shown(named: object) -> str:
    """Return what was named, as far as a message has room for it."""
    try:
        text = repr(named)
    except ValueError:  # a number of thousands of digits
        return "what was named"
    return text if len(text) <= 80 else f"{text[:79]}…"
