"""Rules that several questions keep. The client checks before it sends, the server before it works."""

import math
from numbers import Real

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, is_number


def check_count(value: object, field: str, least: int, most: int = MAX_INDEX) -> None:
    """Raise InvalidArgument unless it is a whole number from least to most."""
    if not is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise InvalidArgument(f"{field} is {value!r}; it is a whole number from {least} to {most}", field)


def number_of(value: object) -> float:
    """The value, numpy's numbers too; NaN where it is none, True and False among them."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int beyond the floats
        return math.inf


def check_one_of(value: object, known: tuple[str, ...], field: str) -> None:
    """Raise InvalidArgument unless it is one of the known names."""
    if value not in known:
        raise InvalidArgument(f"unknown {field} {value!r}: choose {', '.join(known[:-1])} or {known[-1]}", field)
