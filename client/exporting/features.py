"""A neuron as it is exported: its clusters with their names, its examples, its statistics and what it writes."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from polysem.client import letters
from polysem.client.client import Client
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.client.questions.labels import Label
from polysem.client.questions.logit_effects import LogitEffects
from polysem.client.questions.statistics import Statistics
from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, Unsupported
from polysem.proto.facts import IndexInfo, ModelInfo
from polysem.proto.neurons import NeuronId


@dataclass(frozen=True, slots=True)
class Subject:
    """Facts that all exported features have in common.

    question      how they were clustered, in words
    licence       of the corpus's texts, as the person who exports them says; "" where nothing was said
    bos_token_id  the model's; None where its tokenizer has none
    """

    model: ModelInfo
    index: IndexInfo
    side: str
    question: str
    licence: str
    version: str
    bos_token_id: int | None

    @property
    def units(self) -> str:
        """Words for the units that are exported."""
        return "latents" if self.index.encoders else "MLP neurons"


class Group(NamedTuple):
    """A cluster as it is exported: the largest first; single examples together, at the end.

    cluster  None for the single examples
    """

    letter: str
    cluster: Cluster | None
    name: Label | None
    examples: Sequence[Example]

    @property
    def title(self) -> str:
        """Its letter and its name, for people."""
        if self.cluster is None:
            return f"{self.letter} single examples"
        return f"{self.letter} {self.name.text}" if self.name and self.name.text else self.letter


class Feature(NamedTuple):
    """A neuron as it is exported. effects: None where the server cannot tell them."""

    neuron: Neuron
    groups: Sequence[Group]
    statistics: Statistics
    effects: LogitEffects | None

    @property
    def sign(self) -> int:
        """-1 on the negative side, whose activations other tools want turned."""
        return _sign(self.neuron)

    @property
    def id(self) -> NeuronId:
        """Layer and number of the neuron."""
        return self.neuron.id


def _sign(neuron: Neuron) -> int:
    return -1 if neuron.side == "negative" else 1


def gather(client: Client, neurons: Sequence[str], options: dict[str, Any], whole_context: bool) -> list[Feature]:
    """Return the features of these neurons, those with dataset examples.

    options  those of `Client.cluster`; n_null is 0 unless it is given, also for one neuron alone
    """
    options = {"n_null": 0} | options  # else a piece's last neuron would be tested where it is alone
    at = {"index": options.get("index"), "side": options.get("side", "positive")}
    found = [neuron for neuron in client.cluster(*neurons, **options) if len(neuron.labels)]
    if not found:
        return []
    ids = [str(neuron.id) for neuron in found]
    naming = {name: value for name, value in options.items() if name not in ("n_null", "seed")}
    names = {(one.neuron, one.cluster): one for one in client.labels(*ids, **naming)}
    examples: dict[NeuronId, list[Example]] = {neuron.id: [] for neuron in found}
    for example in client.examples(*ids, whole_context=whole_context, **at):
        examples[example.neuron].append(example)
    try:
        effects: Sequence[LogitEffects | None] = list(client.logit_effects(*ids, **at))
    except (Unsupported, FailedPrecondition):
        effects = [None] * len(ids)
    statistics = list(client.statistics(*ids, **at))
    return [
        Feature(neuron, _groups(neuron, examples[neuron.id], names), known, writes)
        for neuron, known, writes in zip(found, statistics, effects, strict=True)
    ]


def _groups(neuron: Neuron, examples: Sequence[Example], names: dict[tuple[NeuronId, int], Label]) -> Sequence[Group]:
    sign = _sign(neuron)

    def strongest(members: Sequence[int]) -> list[Example]:
        return sorted((examples[i] for i in members), key=lambda one: (-sign * one.activation, one.example))

    groups, single = [], []
    for cluster in sorted(neuron.clusters, key=lambda one: (-one.size, one.label)):
        if cluster.letter == letters.SINGLE:
            single += cluster.members.tolist()
        else:
            name = names.get((neuron.id, cluster.label))
            groups.append(Group(cluster.letter, cluster, name, strongest(cluster.members.tolist())))
    if single:
        groups.append(Group(letters.SINGLE, None, None, strongest(single)))
    return groups


def numbers(values: Array) -> list[float]:
    """Return (N,) float32 as the shortest decimals that are read as the same numbers."""
    return [float(str(value)) for value in np.asarray(values, np.float32)]


def number(value: float) -> float:
    """Return a float32 as `numbers` does."""
    return numbers(np.array([value]))[0]


def dumped(value: Any) -> bytes:
    """Return JSON, the same bytes for the same value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def zipped_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return lines of JSON, gzipped without a time."""
    return gzip.compress(b"".join(dumped(row) + b"\n" for row in rows), 6, mtime=0)
