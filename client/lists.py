"""Lists of clusters that one keeps: in a link, in a file, in a report.

A cluster in a list is written 2.185.B@0.5: neuron, letter, and the distance at which the tree is cut.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neuron
from polysem.proto.questions.clustering import DEFAULT_DISTANCE_THRESHOLD, check_distance_threshold

MAX_IN_LINK = 50
MAX_LISTED = 10_000
_WRITTEN = re.compile(r"([0-9]{1,10}\.[0-9]{1,10})\.([A-Za-z]{1,3})(?:@([0-9.]{1,20}))?", re.ASCII)


class Listed(NamedTuple):
    """A cluster in a list: its neuron, its letter, and the cut that it is of."""

    neuron: NeuronId
    letter: str
    distance_threshold: float = DEFAULT_DISTANCE_THRESHOLD

    def __str__(self) -> str:
        return f"{self.neuron}.{self.letter}@{self.distance_threshold:g}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the cluster that 2.185.B@0.5 names; without @, at the usual cut. Raises InvalidArgument."""
        found = _WRITTEN.fullmatch(text.strip())
        if found is None or found[3] == ".":
            raise InvalidArgument(f"{text[:40]!r} is not a cluster: write 2.185.B, or 2.185.B@0.4 for another cut")
        try:
            cut = DEFAULT_DISTANCE_THRESHOLD if found[3] is None else float(found[3])
        except ValueError:
            raise InvalidArgument(f"{found[3]!r} is no distance to cut at; write 2.185.B@0.4") from None
        check_distance_threshold(cut)
        return cls(parse_neuron(found[1]), found[2].upper(), cut)


class ClusterList:
    """Clusters in an order of one's own, each once.

    clusters  Listed, or their text: "2.185.B@0.5"
    """

    def __init__(self, clusters: Iterable[Listed | str] = ()) -> None:
        self._clusters: dict[Listed, None] = {}
        for one in clusters:
            self.add(one)

    def add(self, cluster: "Listed | NeuronLike", letter: str = "", distance_threshold: float | None = None) -> None:
        """Add a cluster at the end: its text, or neuron, letter and cut. Raises InvalidArgument."""
        if letter:
            cut = DEFAULT_DISTANCE_THRESHOLD if distance_threshold is None else distance_threshold
            cluster = Listed.of(f"{parse_neuron(cluster)}.{letter}@{cut:g}")  # type: ignore[arg-type]
        one = cluster if isinstance(cluster, Listed) else Listed.of(str(cluster))
        if len(self._clusters) >= MAX_LISTED:
            raise InvalidArgument(f"the list has {MAX_LISTED:,} clusters already; begin another")
        self._clusters.setdefault(one)

    def remove(self, cluster: Listed | str) -> None:
        """Take a cluster out. Raises InvalidArgument for one that is not in the list."""
        one = cluster if isinstance(cluster, Listed) else Listed.of(cluster)
        if one not in self._clusters:
            raise InvalidArgument(f"{one} is not in the list")
        del self._clusters[one]

    def link(self, explorer: str = "", index: str | None = None) -> str:
        """Return the address of the list's page in an explorer. Raises InvalidArgument for more than 50 clusters."""
        if len(self) > MAX_IN_LINK:
            raise InvalidArgument(
                f"the list has {len(self)} clusters, an address holds {MAX_IN_LINK}; save it as a file"
            )
        named = {"c": ",".join(map(str, self._clusters))} | ({"index": index} if index else {})
        return f"{explorer.rstrip('/')}/list?{urlencode(named, safe=',@')}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the list of a link, or of clusters separated by commas or lines, as a saved file has them."""
        text = text.strip()
        if "?" in text:
            text = ",".join(parse_qs(urlsplit(text).query).get("c", []))
        return cls(part for part in re.split(r"[,\s]+", text) if part)

    @property
    def neurons(self) -> Sequence[NeuronId]:
        """The neurons of the clusters, each once, in their order."""
        return list(dict.fromkeys(one.neuron for one in self._clusters))

    def __iter__(self) -> Iterator[Listed]:
        return iter(self._clusters)

    def __len__(self) -> int:
        return len(self._clusters)

    def __contains__(self, cluster: object) -> bool:
        return (Listed.of(cluster) if isinstance(cluster, str) else cluster) in self._clusters

    def __str__(self) -> str:
        return "\n".join(map(str, self._clusters))

    def __repr__(self) -> str:
        return f"ClusterList({[str(one) for one in self._clusters]!r})"
