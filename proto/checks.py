"""The rules that a question must keep. The client checks before it sends, the server before it works."""

import itertools
import math
from collections.abc import Sequence
from numbers import Real
from typing import get_args

from polysem.proto.errors import InvalidArgument
from polysem.proto.types import (
    MAX_DISTANCE,
    MAX_SILHOUETTE_THRESHOLDS,
    MAX_THRESHOLDS,
    Algorithm,
    Clustering,
    Embedding,
    EmbeddingChoice,
    LayerNorm,
    Linkage,
    ThresholdSchedule,
)


def check_choice(choice: EmbeddingChoice) -> None:
    """Raise InvalidArgument for an unknown embedding or LayerNorm mode."""
    _one_of(choice.embedding, get_args(Embedding), "embedding")
    _one_of(choice.layer_norm, get_args(LayerNorm), "layer_norm")


def check_clustering(clustering: Clustering) -> None:
    """Raise InvalidArgument for an unknown name, or a threshold that is not a number in its range."""
    _one_of(clustering.algorithm, get_args(Algorithm), "algorithm")
    _one_of(clustering.linkage, get_args(Linkage), "linkage")
    check_distance_threshold(clustering.distance_threshold)
    if isinstance(clustering.thresholds, str):
        _one_of(clustering.thresholds, get_args(ThresholdSchedule), "thresholds")
    else:
        _check_thresholds(clustering.thresholds)
    if len(clustering.silhouette_thresholds) > MAX_SILHOUETTE_THRESHOLDS:
        n = len(clustering.silhouette_thresholds)
        raise InvalidArgument(
            f"silhouette_thresholds has {n} values; give at most {MAX_SILHOUETTE_THRESHOLDS}", "silhouette_thresholds"
        )
    for value in clustering.silhouette_thresholds:
        _in_range(value, "silhouette_thresholds")


def check_distance_threshold(value: float) -> None:
    """Raise InvalidArgument unless 0 <= value <= 2."""
    _in_range(value, "distance_threshold")


def _check_thresholds(thresholds: Sequence[float]) -> None:
    if not 1 <= len(thresholds) <= MAX_THRESHOLDS:
        raise InvalidArgument(
            f"thresholds has {len(thresholds)} values; give 1 to {MAX_THRESHOLDS}, or leave it out",
            "thresholds",
        )
    for value in thresholds:
        _in_range(value, "thresholds")
    for low, high in itertools.pairwise(thresholds):
        if high <= low:
            raise InvalidArgument(f"thresholds must increase strictly, but {high:g} follows {low:g}", "thresholds")


def _in_range(value: float, field: str) -> None:
    number = _number(value)
    if not math.isfinite(number):
        raise InvalidArgument(f"{field} must be a number, not {value!r}", field)
    if not 0 <= number <= MAX_DISTANCE:
        raise InvalidArgument(f"{field} is {number:g}; a cosine distance lies between 0 and 2", field)


def _number(value: object) -> float:
    """The value, numpy's numbers too; NaN where it is none, True and False among them."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int beyond the floats
        return math.inf


def _one_of(value: object, known: tuple[str, ...], field: str) -> None:
    if value not in known:
        raise InvalidArgument(f"unknown {field} {value!r}: choose {', '.join(known[:-1])} or {known[-1]}", field)
