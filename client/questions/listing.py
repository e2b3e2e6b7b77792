"""Neurons filtered and sorted, page by page: `Client.neurons`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import numpy as np

from polysem.client import tables
from polysem.client.questions.options import ClusteringOptions, read_options
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id
from polysem.proto import checks
from polysem.proto.errors import InvalidArgument, Unsupported
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.clustering import Method, method_of, warn_of_mixed_methods
from polysem.proto.questions.listing import (
    NEURON_METRICS,
    ListQuery,
    MetricRange,
    NeuronTable,
    decode_neuron_page,
    encode_list_query,
)
from polysem.proto.questions.summary import NeuronKind, NeuronSummary, kind_of
from polysem.proto.sides import Side


@dataclass(frozen=True, slots=True)
class ListedNeuron:
    """A neuron in a listing. None where undefined; so are its clusters if it is too large for the linkage asked for.

    second_share        0..1: examples in the second largest cluster
    maximum_activation  and mean_activation: of its key activations over all contexts
    share_positive      0..1: contexts in which it is positive
    rare                a common and a rare behaviour: of 20 or more examples at least 0.9 in one cluster, 3 or more
                        not; where the neuron was tested, with a p_value of .05 or less
    p_value             of the rotation test that the index holds of it: a small one says, not one Gaussian cloud
    null_silhouette     mean best silhouette of its rotations
    excess_silhouette   by how much its own exceeds that, in frame own: how far apart its clusters are. These three are
                        None where the index holds no test; `polysem index --add-nulls` makes them
    q_value             Benjamini and Hochberg's q of p_value, over all tested neurons of the index's side
    significant_clusters
                        groups of 3 examples or more that its significant merges tell apart
    stability           mean bootstrap Jaccard index of its clusters of two examples or more, cut at 0.5
    prediction_strength at its significant number of clusters. These three are None but of HAC with average linkage of
                        neuron embeddings, folded and in frame raw, where `polysem index --test-clusters` tested them
    method              how its tree was made, as of Neuron; numbers of neighbours and neighbour_tree are approximate
                        and do not compare with others. None: left out, or an older server
    best_silhouette     over all cuts of its tree: how clear its clusters are, wherever it is cut; None with fewer than
                        3 examples, where the tree was not made from all pairwise distances, and from an older server
    kind                too_few, one, few, blurred or several, as the glossary defines; None: left out, or an older
                        server
    """

    id: NeuronId
    n_examples: int
    n_clusters: int | None
    max_distance: float | None
    mean_distance: float | None
    intra: float | None
    inter: float | None
    silhouette: float | None
    largest_share: float | None
    second_share: float | None
    maximum_activation: float
    mean_activation: float
    share_positive: float
    rare: bool
    side: Side = "positive"
    method: Method | None = None
    p_value: float | None = None
    null_silhouette: float | None = None
    excess_silhouette: float | None = None
    q_value: float | None = None
    significant_clusters: int | None = None
    stability: float | None = None
    prediction_strength: float | None = None
    best_silhouette: float | None = None
    kind: NeuronKind | None = None


def listed_of(answer: Answer) -> list[ListedNeuron]:
    """The rows of a page of neurons."""
    table: NeuronTable = answer.batch
    values: dict[str, list[Any]] = {name: getattr(table, name).tolist() for name in NEURON_METRICS}
    return [
        ListedNeuron(
            id=neuron_id(id_),
            rare=bool(table.rare[i]),
            side=answer.provenance.side,
            method=method_of(int(table.methods[i])),
            kind=kind_of(int(table.kinds[i])),
            **_row(values, i) | ({"n_clusters": None} if table.unclustered[i] else {}),
        )
        for i, id_ in enumerate(table.neurons)
    ]


def _row(values: dict[str, list[Any]], i: int) -> dict[str, Any]:
    row = {name: None if column[i] != column[i] else column[i] for name, column in values.items()}  # NaN
    n = row["significant_clusters"]
    return row | {"significant_clusters": None if n is None else int(n)}


def _by_neuron(batches: Sequence[NeuronTable]) -> Columns:
    whole = {"n_examples", "n_clusters", "rare"}
    return (
        tables.neurons([table.neurons for table in batches])
        | tables.columns_of(
            batches, {name: np.int32 if name in whole else np.float64 for name in (*NEURON_METRICS, "rare")}
        )
        | {"method": [method_of(number) for table in batches for number in table.methods.tolist()]}
        | {"kind": [kind_of(number) for table in batches for number in table.kinds.tolist()]}
    )


class Listing(Stream[ListedNeuron]):
    """Neurons with their metrics, in the order asked, fetched page by page.

    Warns (MixedMethodsWarning) where exact and approximate trees stand in it.
    """

    _noun = "neurons"
    _tables: ClassVar = {"neuron": _by_neuron}

    @property
    def n_matching(self) -> int:
        """Neurons that the filters let through, however few were asked for."""
        self._has(0)
        return self._read[0].n_matching if self._read else 0

    @property
    def n_approximate(self) -> int:
        """Number of n_matching whose trees are of graphs of nearest neighbours: the others' numbers do not compare."""
        self._has(0)
        return self._read[0].n_approximate if self._read else 0

    @property
    def summary(self) -> NeuronSummary | None:
        """Counts by layer, clearness and kind; None where it was not asked for."""
        self._has(0)
        return self._read[0].summary if self._read else None


class Pages:
    """A listing page by page: what to ask next, until the last page or the limit."""

    def __init__(self, query: ListQuery, limit: int | None) -> None:
        encode_list_query(query)  # tells what is wrong with it
        if limit is not None:
            checks.check_count(limit, "limit", 1)
        self._query: ListQuery | None = query
        self._first = True
        self._left = limit
        self._newer = bool(query.kinds or query.summary or query.cell is not None)

    def next(self) -> Any:
        """The request for the next page; None where there is no more to ask."""
        if self._query is None:
            return None
        if self._left is not None:
            self._query = replace(self._query, page_size=min(self._left, self._query.page_size))
        return encode_list_query(self._query)

    def add(self, message: Any) -> Answer:
        """The page. Raises Unsupported where the server is too old to know kinds and summaries."""
        if self._newer and not message.HasField("kinds"):
            raise Unsupported(
                "the server is older than this client and knows no kinds of neurons and no summary; leave out kind, "
                "cell and summary, or update the server"
            )
        page, provenance, timing = decode_neuron_page(message)
        if self._first:
            warn_of_mixed_methods(page.n_approximate, page.n_matching)
        self._first = False
        if self._left is not None:
            self._left -= len(page.table.neurons)
        if self._query is not None:
            more = page.next_page_token and self._left != 0
            token = page.next_page_token
            self._query = replace(self._query, page_token=token, skip=0, summary=False) if more else None
        return Answer(page.table, provenance, timing, page.n_matching, page.n_approximate, page.summary)


def pages(
    neurons: Sequence[NeuronLike],
    sort_by: str | None,
    where: Mapping[Any, tuple[float | None, float | None]],
    kind: NeuronKind | Sequence[NeuronKind] | None,
    cell: tuple[int, int] | None,
    summary: bool,
    limit: int | None,
    skip: int,
    index: str | None,
    side: Side,
    **options: Unpack[ClusteringOptions],
) -> Pages:
    choice, clustering = read_options(**options)
    order = "" if sort_by is None else sort_by
    if not isinstance(order, str):
        raise InvalidArgument(f"sort_by is {sort_by!r}; give a metric's name, such as '-n_clusters'", "sort_by")
    if not isinstance(where, Mapping):
        raise InvalidArgument(f"where is {where!r}; give ends by metric, as {{'inter': (0.5, None)}}", "where")
    query = ListQuery(
        neurons=parse_neurons(*neurons) if neurons else (),
        index=checks.index_name(index),
        choice=choice,
        clustering=clustering,
        sort_by=order.removeprefix("-") or None,  # type: ignore[arg-type]
        descending=order.startswith("-"),
        where=tuple(_metric_range(metric, ends) for metric, ends in where.items()),
        skip=skip,
        side=side,
        kinds=(kind,) if isinstance(kind, str) else tuple(kind or ()),
        cell=cell,
        summary=summary,
    )
    return Pages(query, limit)


def _metric_range(metric: Any, ends: Any) -> MetricRange:
    try:
        least, most = ends
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"where {metric}: give its least and its most, as (25, None), not {ends!r}", "where"
        ) from error
    return MetricRange(metric, least, most)
