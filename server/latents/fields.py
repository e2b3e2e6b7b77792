"""The fields of an encoder's config file; each that cannot be is refused with its name and its value."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition

MAX_BYTES = 4 << 20


def refused(path: Path, what: str) -> FailedPrecondition:
    """Return the error that says why an encoder's file is not read."""
    return FailedPrecondition(f"cannot read latents from {str(path)!r}: {what}")


class Fields:
    """A config: its file and its values."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def get(self, *names: str) -> Any:
        """Return the value of the first of these fields that is there and not null; None without one."""
        return next((value for name in names if (value := self.values.get(name)) is not None), None)

    def refuse(self, name: str, meant: str) -> FailedPrecondition:
        """Return the error about a field; meant: what Polysem reads in its place."""
        shown = repr(self.values[name]) if name in self.values else "missing"
        return refused(self.path, f"the field {name!r} is {shown[:80]}; {meant}")

    def text(self, name: str) -> str | None:
        """Return a field that is text; None where it is something else."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str, default: bool) -> bool:
        """Return a field that is true or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(name, "it is true or false")
        return default if value is None else value

    def whole(self, name: str) -> int:
        """Return a field that is a whole number above 0."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 1:
            raise self.refuse(name, "it is a whole number above 0")
        return int(value)

    def number(self, name: str) -> float:
        """Return a field that is a finite number above 0."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.refuse(name, "it is a number above 0")
        return float(value)

    def below(self, name: str) -> "Fields":
        """Return the fields of a field; none where it is missing."""
        value = self.values.get(name)
        if not isinstance(value, dict) and value is not None:
            raise self.refuse(name, "it holds fields")
        return Fields(self.path, value or {})

    def know(self, names: Iterable[str], library: str) -> None:
        """Refuse a field that is not one of `names`: it could change what latents do."""
        if strange := sorted(set(self.values) - set(names)):
            raise self.refuse(strange[0], f"Polysem knows no such field of {library}")


def read_json(path: Path) -> Fields:
    """Return the fields of a JSON file. Raises FailedPrecondition where it is none."""
    try:
        values = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise refused(path, f"it is not JSON ({first_line(error)})") from error
    return _fields(path, values)


def read_yaml(path: Path) -> Fields:
    """Return the fields of a YAML file. Raises FailedPrecondition where it is none."""
    import yaml

    try:
        values = yaml.safe_load(_bytes(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise refused(path, f"it is not YAML ({first_line(error)})") from error
    return _fields(path, values)


def _bytes(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise refused(path, f"it has {size:,} bytes, which no config has")
        return path.read_bytes()
    except OSError as error:
        raise refused(path, f"it cannot be opened ({error.strerror})") from error


def _fields(path: Path, values: object) -> Fields:
    if not isinstance(values, dict):
        raise refused(path, "it holds no fields")
    return Fields(path, values)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
