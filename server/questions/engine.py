"""The resident model and the open indexes, and what a question makes of a query: work.

A `Work` says what to do with its items; works that compare equal may be joined into one run, whoever asked. An item's
answer does not depend on the other items. One thread at a time may run works of one copy of the model.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from polysem.kernels.large.libraries import Library
from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import InvalidArgument, UnknownIndex
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.proto.sides import Side
from polysem.proto.wire.columns import AnyBatch
from polysem.server.index.format import Index
from polysem.server.index.soundness import check_for_model
from polysem.server.model.model import Model
from polysem.server.naming.kept import KeptNames
from polysem.server.questions import frames
from polysem.server.questions.units import model_of

MAX_NEURONS_PER_REQUEST = 1 << 20
NO_NAMES = "no names are kept here: this process has no state folder; ask a server"


class Work(Protocol):
    """Work to do with items (M, k) int32 of an index."""

    def costs(self, items: IntArray) -> Array:
        """(M,) float64: n_examples² · d_model, or its like."""

    def run(self, items: IntArray) -> AnyBatch:
        """The items' answers, in their order."""


class Plan(NamedTuple):
    """A query made ready: the work, its items (M, k) int32, and what the answer depends on."""

    work: Work
    items: IntArray
    provenance: Provenance


@dataclass(frozen=True)
class Made:
    """An index that a job made: whose it is (a key's id, or "": everybody's), and whether others may name it, too."""

    index: Index
    owner: str
    shared: bool


class Engine:
    """The resident model and the open indexes; the first index is the default.

    indexes            by the names that requests give them
    version            of the software
    copies             of the model, on other devices
    neighbour_library  what searches nearest neighbours
    units              where encoders of latents lie; "": where the indexes' makers had them
    names              names that are kept, or why none are

    Raises ForeignIndex where an index was made with other weights.
    """

    def __init__(
        self,
        model: Model,
        indexes: Sequence[Index],
        version: str,
        neighbour_library: Library = "torch",
        copies: Sequence[Model] = (),
        units: str = "",
    ) -> None:
        for index in indexes:
            _check(index, model)
        self.model = model
        self.copies = copies
        self._own = {index.info.name: index for index in indexes}
        self._made: tuple[Made, ...] = ()  # replaced whole, for another thread may be reading it
        self.indexes: Mapping[str, Index] = self._own
        self.default_index = indexes[0].info.name
        self.neighbour_library = neighbour_library
        self.names: KeptNames | str = NO_NAMES
        self.version = version
        self._units = units
        self._models: dict[str, Model] = {}  # of indexes of latents, by their hashes

    def add(self, index: Index, owner: str = "", shared: bool = False) -> None:
        """Let requests name what a job made, in the place of its owner's of that name. Raises ForeignIndex."""
        _check(index, self.model)
        others = (made for made in self._made if (made.owner, made.index.info.name) != (owner, index.info.name))
        self._made = (*others, Made(index, owner, shared))
        self.indexes = self._seen_by("")

    def made_in(self, folder: Path) -> Index | None:
        """The index that a job made in the folder, if requests can name it."""
        return next((made.index for made in self._made if made.index.folder.parent == folder), None)

    def remove_from(self, folder: Path) -> None:
        """Forget the indexes in the folder; requests under way keep them."""
        self._made = tuple(made for made in self._made if made.index.folder.parent != folder)
        self.indexes = self._seen_by("")

    def seen_by(self, scope: str) -> "Engine":
        """The same with the indexes that this key may name: the server's, its own, and shared ones; "": with all."""
        seen = copy.copy(self)
        seen.indexes = self._seen_by(scope)
        return seen

    def is_operators(self, name: str) -> bool:
        """Whether the index of that name is no job's."""
        return name in self._own

    def only_seen_by(self, index: Index) -> str:
        """The key that alone may name the index; "" of one that others may name, too."""
        alone = (made.owner for made in self._made if made.index.folder == index.folder and not made.shared)
        return next(alone, "")

    def shared(self, name: str) -> Sequence[str]:
        """The owners of the shared indexes of that name."""
        return [made.owner for made in self._made if made.shared and made.index.info.name == name]

    def _seen_by(self, scope: str) -> Mapping[str, Index]:
        found = dict(self._own)
        for made in sorted(self._made, key=lambda made: made.owner != scope):
            if not scope or made.shared or made.owner in (scope, ""):
                found.setdefault(made.index.info.name, made.index)
        return found

    def index(self, name: str, side: Side = "positive") -> Index:
        """A side of the index of that name; none: the default. Raises UnknownIndex, and FailedPrecondition for a side
        that it does not hold."""
        try:
            return self.indexes[name or self.default_index].of(side)
        except KeyError:
            raise UnknownIndex(f"there is no index {name!r} here; the server has {', '.join(self.indexes)}") from None

    def model_of(self, index: Index) -> Model:
        """The model with the index's units, the same whenever it is asked for."""
        if not index.info.encoders:
            return self.model
        return self._models.setdefault(index.sha256, model_of(self.model, index, self._units))

    def neurons(self, index: Index, ranges: Sequence[NeuronRange]) -> IntArray:
        """(B, 2) of the ranges. Raises UnknownNeuron, FailedPrecondition for a layer that the index does not hold, and
        InvalidArgument for too many."""
        named = sum(
            1 + r.last - r.first if r.first is not None and r.last is not None
            else index.info.width(r.layer) if r.layer is not None
            else sum(index.info.widths)
            for r in ranges
        )  # fmt: skip
        if named > MAX_NEURONS_PER_REQUEST:
            raise InvalidArgument(
                f"{named} {index.info.unit}s were named in one request; ask for at most {MAX_NEURONS_PER_REQUEST} "
                "at once",
                "neurons",
            )
        return index.neurons(ranges)

    def provenance(
        self, index: Index, choice: EmbeddingChoice = EmbeddingChoice(), clustering: Clustering | None = None
    ) -> Provenance:
        """Return what an answer about the index depends on. FailedPrecondition for a frame that the index lacks."""
        frames.check_frame(index, choice)
        info = index.info
        return Provenance(
            info.name,
            index.sha256,
            info.model_id,
            info.model_sha256,
            self.version,
            choice,
            clustering,
            index.side,
            unit=info.unit,
        )


def _check(index: Index, model: Model) -> None:
    """Raise ForeignIndex or DamagedIndex unless the index is of this model."""
    index.check_model(model.info, model.settings)
    check_for_model(index, model.info, model.tokenizer.n_tokens)


def with_copy(work: Any, model: Model) -> Any:
    """The work, done by this copy of its model instead: of all dataclasses that it is made of."""
    if isinstance(work, Model):
        return work.on(model)
    if not is_dataclass(work) or isinstance(work, type):
        return work
    of = {field.name: getattr(work, field.name) for field in fields(work) if field.init}
    changed = {name: new for name, old in of.items() if (new := with_copy(old, model)) is not old}
    return replace(work, **changed) if changed else work
