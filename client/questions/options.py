"""The options of a clustering, which several questions have in common."""

from collections.abc import Sequence
from typing import Any, Unpack

from polysem.client.questions.embedding import EmbeddingOptions
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.clustering import Algorithm, Clustering, EmbeddingChoice, Linkage, ThresholdSchedule


class ClusteringOptions(EmbeddingOptions, total=False):
    """Options of clustering: see `Client.cluster`."""

    algorithm: Algorithm
    linkage: Linkage
    distance_threshold: float
    thresholds: Sequence[float] | ThresholdSchedule | None
    until_stable: bool
    neighbours: int | None


def read_options(**options: Unpack[ClusteringOptions]) -> tuple[EmbeddingChoice, Clustering]:
    """The options as a query holds them. Raises TypeError for an unknown name; values are checked with the query."""
    given: dict[str, Any] = {**options}
    if unknown := given.keys() - ClusteringOptions.__annotations__.keys():
        raise TypeError(
            f"there is no option {min(unknown)!r}; there are {', '.join(ClusteringOptions.__annotations__)}"
        )
    choice = EmbeddingChoice(**{name: given.pop(name) for name in EmbeddingOptions.__annotations__ if name in given})
    return choice, Clustering(**given | {"thresholds": _thresholds(given.get("thresholds"))})


def _thresholds(thresholds: Any) -> Any:
    if thresholds is None:
        return "linear"
    return thresholds if isinstance(thresholds, str) else numbers(thresholds, "thresholds")


def numbers(values: Any, field: str) -> tuple[float, ...]:
    """The numbers that the caller gave. Raises InvalidArgument where they are none."""
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"{field} must be numbers, not {values!r}", field) from error
