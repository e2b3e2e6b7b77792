"""The rules that a question must keep. The client checks before it sends, the server before it works."""

import itertools
import math
from collections.abc import Sequence
from numbers import Real
from typing import get_args

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, is_number
from polysem.proto.types import (
    MAX_DISTANCE,
    MAX_METRIC_RANGES,
    MAX_PAGE_SIZE,
    MAX_SILHOUETTE_THRESHOLDS,
    MAX_SIMILAR,
    MAX_STRONGEST,
    MAX_TEXT_BYTES,
    MAX_THRESHOLDS,
    NEURON_METRICS,
    Algorithm,
    Clustering,
    Embedding,
    EmbeddingChoice,
    ExplainQuery,
    LayerNorm,
    Linkage,
    ListQuery,
    MetricRange,
    Similarity,
    SimilarQuery,
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


def check_list(query: ListQuery) -> None:
    """Raise InvalidArgument for an unknown metric, a range that holds nothing, or a page of impossible size."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    if query.sort_by is not None:
        _one_of(query.sort_by, NEURON_METRICS, "sort_by")
    if len(query.where) > MAX_METRIC_RANGES:
        raise InvalidArgument(f"where has {len(query.where)} ranges; give at most {MAX_METRIC_RANGES}", "where")
    for range_ in query.where:
        _check_metric_range(range_)
    check_count(query.page_size, "page_size", 1, MAX_PAGE_SIZE)
    check_count(query.skip, "skip", 0)


def check_similar(query: SimilarQuery) -> None:
    """Raise InvalidArgument for what is no cluster's label, an unknown similarity, or too many clusters wanted."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    _one_of(query.similarity, get_args(Similarity), "similarity")
    for label in query.clusters:
        if not is_number(label) or not 0 <= label <= MAX_INDEX:
            raise InvalidArgument(f"{label!r} is not a cluster: their labels are counted from 0", "clusters")
    check_count(query.n_similar, "n_similar", 1, MAX_SIMILAR)


def check_explain(query: ExplainQuery) -> None:
    """Raise InvalidArgument for what is no text, or a fraction or number outside its range."""
    check_choice(query.choice)
    check_clustering(query.clustering)
    _check_text(query.text)
    fraction = _number(query.min_activation_fraction)
    if not 0 <= fraction <= 1:
        raise InvalidArgument(
            f"min_activation_fraction is {query.min_activation_fraction!r}; it is a share of the maximum, 0 to 1",
            "min_activation_fraction",
        )
    check_count(query.n_strongest, "n_strongest", 1, MAX_STRONGEST)


def _check_text(text: object) -> None:
    if not isinstance(text, str) or not text:
        raise InvalidArgument("there is no text to explain: give at least one character", "text")
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the text is not Unicode: half a character stands at place {error.start}", "text"
        ) from None
    if n_bytes > MAX_TEXT_BYTES:
        raise InvalidArgument(f"the text has {n_bytes} bytes; explain at most {MAX_TEXT_BYTES} at once", "text")


def _check_metric_range(range_: MetricRange) -> None:
    metric, least, most = range_.metric, range_.least, range_.most
    _one_of(metric, NEURON_METRICS, "where")
    for end in (least, most):
        if end is not None and math.isnan(_number(end)):
            raise InvalidArgument(f"an end of {metric} must be a number, not {end!r}", "where")
    if least is not None and most is not None and most < least:
        raise InvalidArgument(f"no {metric} is at least {least:g} and at most {most:g}; swap the two", "where")


def check_examples(places: Sequence[int]) -> None:
    """Raise InvalidArgument for what is no place in a neuron's labels."""
    for place in places:
        if not is_number(place) or not 0 <= place <= MAX_INDEX:
            raise InvalidArgument(f"{place!r} is not an example: they are counted from 0", "examples")


def check_count(value: object, field: str, least: int, most: int = MAX_INDEX) -> None:
    """Raise InvalidArgument unless it is a whole number from least to most."""
    if not is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise InvalidArgument(f"{field} is {value!r}; it is a whole number from {least} to {most}", field)


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
