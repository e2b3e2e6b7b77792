"""Rules that several questions keep. The client checks before it sends, the server before it works."""

import math
from collections.abc import Iterable
from numbers import Real

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, is_number, whole


def check_count(value: object, field: str, least: int, most: int = MAX_INDEX) -> None:
    """Raise InvalidArgument unless it is a whole number from least to most."""
    if not is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise InvalidArgument(f"{field} is {value!r}; it is a whole number from {least} to {most}", field)


def whole_numbers(values: object, field: str, each: str) -> tuple[int, ...]:
    """The whole numbers that the caller named, one or several; floats of rows of pandas count where they are whole.

    each  what one of them is, in words

    Raises InvalidArgument.
    """
    is_one = isinstance(values, str | bytes) or getattr(values, "ndim", 1) == 0
    listed = values if isinstance(values, Iterable) and not is_one else (values,)
    found = []
    for value in listed:
        number = whole(value)
        if number is None or not 0 <= number <= MAX_INDEX:
            raise InvalidArgument(f"{value!r} is not {each}: they are counted from 0", field)
        found.append(number)
    return tuple(found)


def index_name(index: object) -> str:
    """The name of an index as it is sent: "" stands for None, the server's default. Raises InvalidArgument."""
    if index is None:
        return ""
    if not isinstance(index, str) or not _is_unicode(index):
        raise InvalidArgument(f"the index is {index!r}; give its name as a str, or None for the default", "index")
    return index


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate
        return False
    return True


def number_of(value: object) -> float:
    """The value, numpy's numbers too; NaN where it is none, True and False among them."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int beyond the floats
        return math.inf


def check_one_of(value: object, known: tuple[str, ...], field: str) -> None:
    """Raise InvalidArgument unless it is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise InvalidArgument(f"unknown {field} {value!r}: choose {', '.join(known[:-1])} or {known[-1]}", field)
