"""The SAEs and transcoders whose latents jobs may index: those that the operator allowed. A name is looked up."""

from collections.abc import Sequence
from pathlib import Path

from polysem.proto.errors import InvalidArgument, NotFound

KIND = "sae:"


class Saes:
    """The folders or hub names that the operator gave, each by its last name.

    Raises NotFound for a path where nothing is, InvalidArgument where two have one name.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._places: dict[str, str] = {}
        for place in allowed:
            folder = _folder(place)
            if place.startswith((".", "/", "~")) and not folder.exists():
                raise NotFound(f"there is no folder {str(folder)!r} of an SAE for jobs to index")
            name = folder.name
            if name in self._places:
                raise InvalidArgument(f"two SAEs are called {name!r}: jobs name them by their folder's name", "saes")
            self._places[name] = place

    def units(self, named: str) -> str:
        """Return what `latent_model.described` takes for sae:NAME. Raises NotFound."""
        name = named.removeprefix(KIND)
        if name not in self._places:
            there = ", ".join(self._places) or "none (its operator allows one by `polysem serve --saes FOLDER`)"
            raise NotFound(f"there is no SAE {name!r} here; the server has {there}")
        return KIND + self._places[name]


def _folder(place: str) -> Path:
    """The place without the hook behind its @."""
    whole = Path(place).expanduser()
    return whole if whole.exists() else Path(place.rpartition("@")[0] or place).expanduser()
