"""Search of feature clusters by words and key tokens: SearchClusters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from polysem.proto.checks import check_count, check_one_of
from polysem.proto.errors import InvalidArgument
from polysem.proto.facts import Provenance, decode_provenance, encode_provenance
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.labels import LABEL_METHODS, LabelMethod, label_method_of
from polysem.proto.sides import Side
from polysem.proto.wire.names import decode_side, encode_side
from polysem.v1 import neuron_service_pb2 as pb

FoundBy = Literal["key", "name", "text"]
FOUND_BY: tuple[FoundBy, ...] = get_args(FoundBy)
MAX_PAGE, PAGE, LEAST = 100, 20, 2
MAX_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Words that are looked for, in what, and among which clusters; cursor: where the answer before ended."""

    query: str
    found_by: tuple[FoundBy, ...] = FOUND_BY
    layer: int | None = None
    least_size: int = LEAST
    page_size: int = PAGE
    cursor: str = ""
    index: str = ""
    side: Side = "positive"


class FoundCluster(NamedTuple):
    """A feature cluster that a search found, in the default clustering.

    neuron    whose cluster it is
    label     its number in the neuron's labels
    rank      how many clusters of the neuron are larger
    size      its examples
    central   number of the central example
    name      by rules, or kept
    method    how the name was found
    found_by  "key": the query is a key token of it; "name": its name has the words; "text": its texts
    share     0..1: of its key tokens, those that are the query; 0 where not found by them
    n_texts   examples that were looked at, at most 64
    n_with    those of them that have every word
    examples  numbers of some of those; else of the central one
    """

    neuron: NeuronId
    label: int
    rank: int
    size: int
    central: int
    name: str
    method: LabelMethod | None
    found_by: FoundBy
    share: float
    n_texts: int
    n_with: int
    examples: tuple[int, ...]


class SearchAnswer(NamedTuple):
    """A page of clusters that were found.

    clusters    by key token, the largest share first, then by name, then by text
    cursor      where the next page begins; "": there is none
    counts      of the first page: clusters found by each; 1000 stands for as many or more; {} where it took too long
    layers      likewise: clusters found in each layer, whichever was asked for, among the first 1000 by each
    stopped     whether the search took too long, so that there may be more
    n_done      while the server makes the search file: neurons that are done, of n_to_do. There are no clusters yet
    n_to_do     0: the search file is made
    provenance  what the answer depends on
    """

    clusters: Sequence[FoundCluster]
    cursor: str
    counts: dict[FoundBy, int]
    stopped: bool
    n_done: int
    n_to_do: int
    provenance: Provenance
    layers: dict[int, int]


def encode_search_query(query: SearchQuery) -> Any:
    """Return the request. Raises InvalidArgument for what no server would read."""
    if not isinstance(query.query, str):
        raise InvalidArgument(f"the query is {query.query!r}; give a text", "query")
    for by in query.found_by:
        check_one_of(by, FOUND_BY, "found_by")
    if query.layer is not None:
        check_count(query.layer, "layer", 0)
    check_count(query.least_size, "least_size", LEAST)
    check_count(query.page_size, "page_size", 1, MAX_PAGE)
    return pb.SearchClustersRequest(
        index=query.index,
        side=encode_side(query.side),
        query=query.query,
        found_by=[1 + FOUND_BY.index(by) for by in query.found_by],  # type: ignore[misc]
        layer=query.layer,
        least_size=query.least_size,
        page_size=query.page_size,
        page_token=query.cursor,
    )


def decode_search_query(request: pb.SearchClustersRequest) -> SearchQuery:
    found_by = tuple(dict.fromkeys(_found_by(number) for number in request.found_by))
    check_count(request.page_size, "page_size", 0, MAX_PAGE)
    return SearchQuery(
        request.query,
        found_by or FOUND_BY,
        request.layer if request.HasField("layer") else None,
        max(request.least_size, LEAST),
        request.page_size or PAGE,
        request.page_token,
        request.index,
        decode_side(request.side),
    )


def _found_by(number: int) -> FoundBy:
    if not 0 < number <= len(FOUND_BY):
        raise InvalidArgument(f"unknown found_by number {number}: this version knows {', '.join(FOUND_BY)}", "found_by")
    return FOUND_BY[number - 1]


def encode_search_answer(answer: SearchAnswer) -> Any:
    """Return the answer's message."""
    return pb.SearchClustersResponse(
        provenance=encode_provenance(answer.provenance),
        clusters=[_encode(cluster) for cluster in answer.clusters],
        next_page_token=answer.cursor,
        n_found=[answer.counts[by] for by in FOUND_BY] if answer.counts else [],
        stopped=answer.stopped,
        n_done=answer.n_done,
        n_to_do=answer.n_to_do,
        layers=list(answer.layers),
        n_in_layers=list(answer.layers.values()),
    )


def _encode(one: FoundCluster) -> pb.FoundCluster:
    return pb.FoundCluster(
        layer=one.neuron.layer,
        neuron=one.neuron.neuron,
        label=one.label,
        rank=one.rank,
        size=one.size,
        central=one.central,
        name=one.name,
        method=1 + LABEL_METHODS.index(one.method or "rule"),  # type: ignore[arg-type]
        found_by=1 + FOUND_BY.index(one.found_by),  # type: ignore[arg-type]
        share=one.share,
        n_texts=one.n_texts,
        n_with=one.n_with,
        examples=one.examples,
    )


def decode_search_answer(message: Any) -> SearchAnswer:
    return SearchAnswer(
        [_decode(one) for one in message.clusters],
        message.next_page_token,
        dict(zip(FOUND_BY, message.n_found, strict=False)),
        message.stopped,
        message.n_done,
        message.n_to_do,
        decode_provenance(message.provenance),
        dict(zip(message.layers, message.n_in_layers, strict=True)),
    )


def _decode(one: pb.FoundCluster) -> FoundCluster:
    return FoundCluster(
        NeuronId(one.layer, one.neuron),
        one.label,
        one.rank,
        one.size,
        one.central,
        one.name,
        label_method_of(one.method),
        _found_by(one.found_by),
        one.share,
        one.n_texts,
        one.n_with,
        tuple(one.examples),
    )
