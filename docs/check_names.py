"""Fail if the site lacks a public name, which autodoc leaves out where it has no docstring.

python docs/check_names.py build/docs/objects.inv
"""

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.util.inventory import InventoryFile

import polysem.client
import polysem.server

DOCS = Path(__file__).parent
BY_ANOTHER = {"AsyncClient", "AsyncJobs"}  # their methods are documented once, as those of Client and Jobs


def main(inventory: Path) -> None:
    found = InventoryFile.loads(inventory.read_bytes(), uri="").data
    listed = {name for kind, names in found.items() if kind.startswith("py:") for name in names}
    wanted = set(public_names())
    missing = sorted(wanted - listed)
    print(f"{len(wanted)} public names, {len(missing)} of them without a docstring or a place in docs/api")
    sys.exit("\n".join(missing) or None)


def public_names() -> Iterator[str]:
    """The full names that the site must have: what `polysem.client` exports, errors, kernels, and their members."""
    for name in polysem.client.__all__:
        yield from with_members("polysem.client", name, getattr(polysem.client, name))
    yield "polysem.server.local"
    for module in modules():
        for name, thing in vars(module).items():
            of_module = getattr(thing, "__module__", None) == module.__name__
            if of_module and not name.startswith("_") and (inspect.isclass(thing) or inspect.isroutine(thing)):
                yield from with_members(module.__name__, name, thing)


def modules() -> Iterator[ModuleType]:
    """The modules whose every public name is documented: those that the pages of the API name as a whole."""
    for page in sorted((DOCS / "api").glob("*.md")):
        for line in page.read_text("utf-8").splitlines():
            if line.startswith(".. automodule:: "):
                yield import_module(line.split()[-1])


def with_members(path: str, name: str, thing: Any) -> Iterator[str]:
    """The name, and those of a class's own public methods and properties."""
    yield f"{path}.{name}"
    if inspect.isclass(thing) and name not in BY_ANOTHER:
        fields = {*getattr(thing, "_fields", ()), *getattr(thing, "__dataclass_fields__", ())}
        for member, value in vars(thing).items():
            documented = inspect.isroutine(value) or hasattr(value, "__get__")
            if not member.startswith("_") and member not in fields and documented:
                yield f"{path}.{name}.{member}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
