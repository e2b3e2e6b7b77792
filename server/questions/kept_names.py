"""Names that people or language models gave: which index they are of, and who may keep them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from polysem.proto.arrays import IntArray
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.kept_names import KeptName, NameBatch, NameQuery, names_batch
from polysem.server.index.format import Index
from polysem.server.naming.kept import KeptNames, Place
from polysem.server.questions.engine import Engine


def keep(engine: Engine, index_name: str, names: Sequence[KeptName], author: str, others: bool) -> int:
    """Keep names; how many were not kept like this before.

    author  who gives them
    others  whether a name may say that it was given by another, and when

    Raises FailedPrecondition where this server keeps none, UnknownNeuron, InvalidArgument for examples that a neuron
    does not have.
    """
    kept = _kept(engine)
    if not names:
        return 0
    index = engine.index(index_name, names[0].side)
    now = datetime.now(UTC)
    for number, name in enumerate(names):
        _check(index, name, number)
    own = [
        name._replace(author=name.author or author, time=name.time or now)
        if others
        else name._replace(author=author, time=now)
        for name in names
    ]
    return kept.keep(place_of(engine, index), own)


def _kept(engine: Engine) -> KeptNames:
    if isinstance(engine.names, str):
        raise FailedPrecondition(engine.names)
    return engine.names


def _check(index: Index, name: KeptName, number: int) -> None:
    layer, neuron = name.neuron
    index.neurons([NeuronRange(layer, neuron, neuron)])  # raises UnknownNeuron
    n = int(index.n_examples[layer, neuron])
    if name.members[-1] >= n:
        raise InvalidArgument(
            f"neuron {name.neuron} has {n} examples on its {index.side} side, so none has the number "
            f"{name.members[-1]}",
            f"names[{number}].members",
        )


def place_of(engine: Engine, index: Index) -> Place:
    """Return where the names of a side of an index are kept."""
    return Place(index.sha256, engine.only_seen_by(index), index.side)


@dataclass(frozen=True)
class NameList:
    """Names of neurons (B, 2), to be read."""

    kept: KeptNames
    place: Place
    neurons: IntArray
    history: bool
    provenance: Provenance

    def batches(self) -> Iterator[NameBatch]:
        """Yield the names, by layer, neuron and set."""
        for names in self.kept.listed(self.place, self.neurons, self.history):
            yield names_batch(names)


def plan(engine: Engine, query: NameQuery) -> NameList:
    """Raises FailedPrecondition where this server keeps no names."""
    kept = _kept(engine)
    index = engine.index(query.index, query.side)
    neurons = engine.neurons(index, query.neurons)
    return NameList(kept, place_of(engine, index), np.asarray(neurons), query.history, engine.provenance(index))
