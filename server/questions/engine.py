"""The resident model and the open indexes, and what a question makes of a query: work.

A `Work` says what to do with its items; works that compare equal may be joined into one run, whoever asked. An item's
answer does not depend on the other items. One thread at a time may run work.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from polysem.kernels.large.libraries import Library
from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import InvalidArgument, UnknownIndex
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.proto.sides import Side
from polysem.proto.wire.columns import AnyBatch
from polysem.server.index.format import Index
from polysem.server.model.model import Model
from polysem.server.questions import frames

MAX_NEURONS_PER_REQUEST = 1 << 20


class Work(Protocol):
    """What to do with items (M, k) int32 of an index."""

    def costs(self, items: IntArray) -> Array:
        """(M,) float64: n_examples² · d_model, or its like."""

    def run(self, items: IntArray) -> AnyBatch:
        """The items' answers, in their order."""


class Plan(NamedTuple):
    """A query made ready: the work, its items (M, k) int32, and what the answer depends on."""

    work: Work
    items: IntArray
    provenance: Provenance


class Engine:
    """The resident model and the open indexes; the first index is the default.

    neighbour_library  what searches nearest neighbours

    Raises ForeignIndex where an index was made with other weights.
    """

    def __init__(
        self, model: Model, indexes: Sequence[Index], version: str, neighbour_library: Library = "torch"
    ) -> None:
        for index in indexes:
            index.check_model(model.info)
        self.model = model
        self.indexes: Mapping[str, Index] = {index.info.name: index for index in indexes}
        self.default_index = indexes[0].info.name
        self.neighbour_library = neighbour_library
        self._version = version

    def add(self, index: Index) -> None:
        """Let requests name it, in the place of one that has its name. Raises ForeignIndex."""
        index.check_model(self.model.info)
        self.indexes = {**self.indexes, index.info.name: index}  # anew, for another thread may be reading them

    def remove(self, name: str) -> None:
        """Requests under way keep it."""
        self.indexes = {other: index for other, index in self.indexes.items() if other != name}

    def index(self, name: str, side: Side = "positive") -> Index:
        """A side of the index of that name; none: the default. Raises UnknownIndex, and FailedPrecondition for a side
        that it does not hold."""
        try:
            return self.indexes[name or self.default_index].of(side)
        except KeyError:
            raise UnknownIndex(f"there is no index {name!r} here; the server has {', '.join(self.indexes)}") from None

    def neurons(self, index: Index, ranges: Sequence[NeuronRange]) -> IntArray:
        """(B, 2) of the ranges. Raises UnknownNeuron, FailedPrecondition for a layer that the index does not hold, and
        InvalidArgument for too many."""
        n = index.info.n_neurons_per_layer
        named = sum(
            1 + r.last - r.first if r.first is not None and r.last is not None
            else n if r.layer is not None
            else n * len(index.info.held_layers)
            for r in ranges
        )  # fmt: skip
        if named > MAX_NEURONS_PER_REQUEST:
            raise InvalidArgument(
                f"{named} neurons were named in one request; ask for at most {MAX_NEURONS_PER_REQUEST} at once",
                "neurons",
            )
        return index.neurons(ranges)

    def provenance(
        self, index: Index, choice: EmbeddingChoice = EmbeddingChoice(), clustering: Clustering | None = None
    ) -> Provenance:
        """What an answer about the index depends on. Raises FailedPrecondition for a frame that the index lacks."""
        frames.check_frame(index, choice)
        info = index.info
        return Provenance(
            info.name, index.sha256, info.model_id, info.model_sha256, self._version, choice, clustering, index.side
        )
