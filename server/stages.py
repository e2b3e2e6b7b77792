"""What a worker does of an index build: the two passes of the model, each a shard's arrays from a piece of contexts.

Both pickle, so that a worker on another machine gets them once, and then pieces only.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from polysem.proto.shards import Advance, Arrays
from polysem.proto.types import ModelInfo, Selection
from polysem.server import scan, selection
from polysem.server.arrays import Array
from polysem.server.contexts import Piece
from polysem.server.model import Model
from polysem.server.scan import KeyActivations, Part, Reading, Scan
from polysem.server.selection import Candidates


@dataclass(frozen=True)
class ScanStage:
    """given: (J,) float32 maxima for the selection, or None for the corpus's own. at_once: contexts held unreduced."""

    reading: Reading
    rule: Selection
    given: Array | None
    at_once: int

    def __call__(self, model: Model, piece: Piece, advance: Advance) -> Callable[[], Arrays]:
        """What was read is reduced beside the next."""
        first, *others = piece.pieces(self.at_once)
        found = scan.key_activations(model, first, self.reading, advance)
        parts: list[Scan] = []
        with ThreadPoolExecutor(1) as reducer:
            for some in others:
                part = reducer.submit(self._reduced, found, model.info)
                found = scan.key_activations(model, some, self.reading, advance)
                parts.append(part.result())
        info = model.info
        return lambda: _flatten(joined([*parts, self._reduced(found, info)], self.rule, self.given))

    def _reduced(self, found: KeyActivations, info: ModelInfo) -> Scan:
        return scan.reduced(found, info, self.rule, self.given)


@dataclass(frozen=True)
class CollectStage:
    """maximum: (J,) float32, over the whole corpus."""

    reading: Reading
    maximum: Array

    def __call__(self, model: Model, taken: tuple[Piece, Sequence[Part]], advance: Advance) -> Callable[[], Arrays]:
        piece, parts = taken
        layers = scan.collect(model, piece, parts, self.maximum, self.reading, advance)
        return lambda: {
            f"{name}_{layer}": array for layer, part in enumerate(layers) for name, array in part._asdict().items()
        }


def joined(parts: Sequence[Scan], rule: Selection, given: Array | None) -> Scan:
    """The scans of parts of a corpus as one of all of them."""
    if len(parts) == 1:
        return parts[0]
    return Scan(
        selection.join([part.candidates for part in parts], rule, given),
        np.max([part.maximum for part in parts], axis=0),
        np.sum([part.total for part in parts], axis=0),
        np.sum([part.n_positive for part in parts], axis=0),
    )


def _flatten(part: Scan) -> dict[str, Array]:
    return part.candidates._asdict() | {name: getattr(part, name) for name in ("maximum", "total", "n_positive")}


def unflatten(values: dict[str, Array]) -> Scan:
    """A shard's arrays as the scan that they are of."""
    candidates = Candidates(*(values.pop(name) for name in Candidates._fields))
    return Scan(candidates, **values)
