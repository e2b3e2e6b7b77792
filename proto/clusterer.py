"""Whatever can cluster the neurons of an index, wherever that is done."""

from collections.abc import Iterator
from typing import Protocol

from polysem.proto.facts import Answer, IndexInfo, ServerInfo
from polysem.proto.questions.clustering import ClusterQuery


class Clusterer(Protocol):
    """A client of a server, a server in this process without a port, or the workers of a cluster.

    target  its name in messages
    """

    target: str

    def info(self) -> ServerInfo:
        """Model, device, limits, version, and the name of the default index."""

    def indexes(self) -> list[IndexInfo]:
        """The indexes that a query can name."""

    def clusters(self, query: ClusterQuery) -> Iterator[Answer]:
        """ClusterBatches with the neurons of the query, in the order asked.

        Raises UnknownIndex, UnknownNeuron, InvalidArgument, and what comes between: Overloaded, Cancelled, Unavailable.
        """
