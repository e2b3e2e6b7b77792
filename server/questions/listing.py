"""Neurons by their metrics: which of them, in what order, page by page.

A page token is the question's fingerprint and a place in its order. An index never changes and the order has no ties,
so a token means the same page at any time, on any server of that index.
"""

import base64
import binascii
import hashlib
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.listing import ListQuery, MetricRange, NeuronMetric, NeuronPage, NeuronTable
from polysem.proto.questions.summary import KIND_NUMBERS, NeuronSummary, steps_of, summary_of
from polysem.server.index.format import Index
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.engine import Engine

_FINGERPRINT_BYTES = 12


def first_place(index: Index, query: ListQuery) -> int:
    """Return the place of the page's first neuron in the order asked for.

    Raises InvalidArgument for a token that is none, or of another question.
    """
    return _place(query.page_token, _fingerprint(index, query)) + query.skip


def page_of(table: NeuronTable, index: Index, neurons: IntArray | None, query: ListQuery) -> NeuronPage:
    """The page asked for. neurons (B, 2): to choose from; None: all. Cost: one sort, and of a summary one pass."""
    first = first_place(index, query)
    matching = _matching(table, neurons, query.where)
    summary = _summary(table, matching) if query.summary else None
    chosen = _of_kinds(table, matching, query)
    if query.sort_by is not None:
        values = _values(table, query.sort_by)[chosen]
        chosen = chosen[np.lexsort((chosen, -values if query.descending else values))]  # NaN comes last either way
    elif query.descending:
        chosen = chosen[::-1]
    last = first + query.page_size
    rows = chosen[first:last]
    page = NeuronTable(**{name: getattr(table, name)[rows] for name in NeuronTable.__dataclass_fields__})
    token = _token(_fingerprint(index, query), last) if last < len(chosen) else ""
    return NeuronPage(page, len(chosen), token, int(table.approximate[chosen].sum()), summary)


def _matching(table: NeuronTable, neurons: IntArray | None, where: tuple[MetricRange, ...]) -> Array:
    """Rows of the table, ascending."""
    wanted = np.ones(len(table.neurons), bool)
    if neurons is not None:
        wanted[:] = False
        rows, named = (of[:, 0].astype(np.int64) << 32 | of[:, 1] for of in (table.neurons, neurons))
        wanted[np.searchsorted(rows, named)] = True
    for range_ in where:
        values = _values(table, range_.metric)
        least = -np.inf if range_.least is None else range_.least
        most = np.inf if range_.most is None else range_.most
        wanted &= (values >= least) & (values <= most)
    return np.flatnonzero(wanted)


def _of_kinds(table: NeuronTable, rows: Array, query: ListQuery) -> Array:
    """Return the rows that are of the kinds asked for and in the cell asked for."""
    if query.kinds:
        rows = rows[np.isin(table.kinds[rows], [KIND_NUMBERS[kind] for kind in query.kinds])]
    if query.cell is not None:
        layer, step = query.cell
        rows = rows[table.neurons[rows, 0] == layer]
        rows = rows[steps_of(table.n_examples[rows], table.best_silhouette[rows]) == step]
    return rows


def _summary(table: NeuronTable, rows: Array) -> NeuronSummary:
    names = ("neurons", "n_examples", "best_silhouette", "p_value", "kinds")
    return summary_of(np.unique(table.neurons[:, 0]), *(getattr(table, name)[rows] for name in names))


def _values(table: NeuronTable, metric: NeuronMetric) -> Array:
    """(J,) float64, NaN where undefined."""
    values = getattr(table, metric).astype(np.float64)
    return np.where(table.unclustered, np.nan, values) if metric == "n_clusters" else values


def _fingerprint(index: Index, query: ListQuery) -> bytes:
    question = replace(query, index=index.sha256, page_size=1, page_token="", skip=0, summary=False)
    return hashlib.sha256(repr(question).encode()).digest()[:_FINGERPRINT_BYTES]


def _token(fingerprint: bytes, place: int) -> str:
    return base64.urlsafe_b64encode(fingerprint + place.to_bytes(6, "little")).decode()


def _place(token: str, fingerprint: bytes) -> int:
    if not token:
        return 0
    try:
        data = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != _FINGERPRINT_BYTES + 6:
        raise InvalidArgument(
            f"{token[:40]!r} is no page token; send the one that came with the page before", "page_token"
        )
    if data[:_FINGERPRINT_BYTES] != fingerprint:
        raise InvalidArgument(
            "this page token belongs to another question; ask the same again, or begin without a token",
            "page_token",
        )
    return int.from_bytes(data[_FINGERPRINT_BYTES:], "little")


class ListPlan(NamedTuple):
    """clustering: of the whole index. neurons (B, 2): to choose from; None: all."""

    clustering: ClusterWork
    neurons: IntArray | None
    query: ListQuery
    provenance: Provenance

    def page(self, table: NeuronTable) -> NeuronPage:
        """The page asked for, of a table of all neurons. Cost: one sort."""
        return page_of(table, self.clustering.index, self.neurons, self.query)


def plan(engine: Engine, query: ListQuery) -> ListPlan:
    """Also raises InvalidArgument for a page token that does not belong to the question, and for a cell's layer what is
    raised for neurons of it."""
    index = engine.index(query.index, query.side)
    engine.model_of(index).check_choice(query.choice)
    if query.cell is not None:
        index.neurons([NeuronRange(query.cell[0])])
    first_place(index, query)
    work = work_of(engine, index, query.choice, query.clustering)
    neurons = engine.neurons(index, query.neurons) if query.neurons else None
    return ListPlan(work, neurons, query, engine.provenance(index, query.choice, query.clustering))
