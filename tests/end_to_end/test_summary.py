"""Kinds, best silhouettes and summaries through a server: against scikit-learn, and counted in plain Python."""

import asyncio
import collections

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from polysem.client import AsyncClient
from polysem.client.questions.listing import pages
from polysem.proto.errors import InvalidArgument, UnknownNeuron, Unsupported
from polysem.proto.questions.summary import NEURON_KINDS
from polysem.v1 import neuron_service_pb2 as pb


@pytest.fixture(scope="module")
def every(polysem_client):
    return list(polysem_client.neurons())


def test_best_silhouettes_are_the_best_of_scikit_learns_over_all_cuts(polysem_client, every):
    rows = [row for row in every if row.n_examples > 2][::8]
    assert len(rows) > 8
    ids = [row.id for row in rows]
    for row, embedded, neuron in zip(rows, polysem_client.embed(*ids), polysem_client.cluster(*ids), strict=True):
        d = squareform(pdist(np.array(embedded.embeddings).astype(np.float64), "cosine"))
        cuts = [fcluster(neuron.linkage, height, "distance") for height in np.unique(neuron.linkage[:, 2])]
        scores = [silhouette_score(d, labels, metric="precomputed") for labels in cuts if 1 < labels.max() < len(d)]
        assert row.best_silhouette == pytest.approx(max(scores, default=0.0), abs=1e-4)


def test_below_three_examples_there_is_none(every):
    assert {row.best_silhouette is None for row in every if row.n_examples < 3} == {True}
    assert {row.best_silhouette is None for row in every if row.n_examples >= 3} == {False}


def test_trees_of_neighbour_graphs_have_none(polysem_client):
    found = polysem_client.neurons(algorithm="scc", neighbours=5)
    assert {row.best_silhouette for row in found} == {None}
    assert len({row.kind for row in found}) > 1  # the silhouette at the cut stands in


@pytest.mark.parametrize(
    "how", [{}, {"distance_threshold": 0.9}, {"algorithm": "scc", "distance_threshold": 0.2}], ids=str
)
def test_kinds_are_those_of_each_neurons_clusters(polysem_client, how):
    listed = list(polysem_client.neurons(**how))
    found = set()
    for row, neuron in zip(listed, polysem_client.cluster("*", **how), strict=True):
        n, (first, second, *_) = row.n_examples, (*sorted(np.bincount(neuron.labels), reverse=True), 0, 0)
        if n < 20:
            want = "too_few"
        elif 10 * first >= 9 * n:
            want = "one"
        elif 10 * (first + second) >= 6 * n and 10 * second >= n:
            want = "few"
        else:
            want = "blurred" if row.best_silhouette < 0.3 else "several"
        assert row.kind == want
        found.add(want)
    assert len(found) > 1


@pytest.mark.parametrize("kind", [*NEURON_KINDS, ("one", "blurred"), (), None], ids=str)
def test_neurons_of_the_kinds_asked_for_are_listed_in_the_same_order(polysem_client, kind):
    asked = NEURON_KINDS if not kind else (kind,) if isinstance(kind, str) else kind
    every = polysem_client.neurons(sort_by="-best_silhouette")
    listed = polysem_client.neurons(sort_by="-best_silhouette", kind=kind)
    assert list(listed) == [row for row in every if row.kind in asked]
    assert listed.n_matching == len(listed)
    assert listed.summary is None


def test_best_silhouettes_sort_and_filter(polysem_client, every):
    def place(row):
        return (row.best_silhouette is None, row.best_silhouette or 0, row.id)

    assert list(polysem_client.neurons(sort_by="best_silhouette")) == sorted(every, key=place)
    want = [row for row in every if row.best_silhouette is not None and 0.2 <= row.best_silhouette <= 0.4]
    assert 0 < len(want) < len(every)
    assert list(polysem_client.neurons(where={"best_silhouette": (0.2, 0.4)})) == want


def counted(rows, layers):
    clarity = np.zeros((len(layers), 20), int)
    for row in rows:
        if row.n_examples >= 20 and row.best_silhouette is not None:
            clarity[layers.index(row.id.layer), min(int(row.best_silhouette / 0.05 + 1e-9), 19)] += 1
    return clarity.tolist(), collections.Counter(row.kind for row in rows)


@pytest.mark.parametrize(
    ("neurons", "where"),
    [((), {}), (("1.*",), {}), ((), {"n_examples": (10, 25)}), (("0.0-50",), {"intra": (None, 0.4)})],
)
def test_a_summary_counts_what_passes_the_filters_whatever_kind_and_cell(polysem_client, every, neurons, where):
    want = list(polysem_client.neurons(*neurons, where=where))
    for also in ({}, {"kind": "too_few"}, {"cell": (1, 7)}, {"kind": ["one", "few"], "cell": (0, 6), "limit": 1}):
        found = polysem_client.neurons(*neurons, where=where, summary=True, **also).summary
        assert found.layers.tolist() == [0, 1]
        assert (found.clarity.tolist(), collections.Counter(found.kinds)) == counted(want, [0, 1])
        assert (found.n_neurons, found.n_tested) == (len(want), 0)


def test_a_cell_lists_the_neurons_that_are_counted_there(polysem_client, every):
    clarity = polysem_client.neurons(summary=True, limit=1).summary.clarity
    seen = []
    for layer, step in np.argwhere(clarity >= 0).tolist():
        listed = polysem_client.neurons(cell=(layer, step))
        assert len(listed) == clarity[layer, step]
        assert {row.id.layer for row in listed} <= {layer}
        seen += listed
    assert sorted(seen, key=lambda row: row.id) == [row for row in every if row.n_examples >= 20]
    few = polysem_client.neurons(cell=tuple(np.argwhere(clarity > 0)[0].tolist()), kind="too_few")
    assert few.n_matching == 0  # they are in no cell


def test_only_the_first_page_counts_and_its_token_fits_the_next(polysem_client, every):
    asked = pages((), None, {}, None, None, True, None, 0, None, "positive")
    asked._query = asked._query.__class__(page_size=100, summary=True)
    requests, summaries = [], []
    while (request := asked.next()) is not None:
        requests.append(request.summary)
        summaries.append(asked.add(polysem_client._stub.ListNeurons(request)).summary)
    assert requests == [True, False]
    assert [summary is not None for summary in summaries] == [True, False]


def test_an_older_servers_answer_to_a_question_of_kinds_is_refused():
    answer = pb.ListNeuronsResponse(n_matching=3)  # it passed over what it does not know
    for kind, cell, summary in [("one", None, False), (None, (0, 1), False), (None, None, True)]:
        with pytest.raises(Unsupported, match="the server is older than this client and knows no kinds of neurons"):
            pages((), None, {}, kind, cell, summary, None, 0, None, "positive").add(answer)


def test_a_cell_of_a_layer_that_is_not_there_is_told(polysem_client):
    with pytest.raises(UnknownNeuron, match="layers 0 to 1"):
        list(polysem_client.neurons(cell=(2, 5)))
    with pytest.raises(InvalidArgument, match="unknown kind 'clear'"):
        polysem_client.neurons(kind="clear")


def test_the_asynchronous_client_says_the_same(polysem_client):
    async def asked():
        async with AsyncClient(polysem_client.target) as client:
            return await client.neurons(kind="too_few", summary=True)

    found, want = asyncio.run(asked()), polysem_client.neurons(kind="too_few", summary=True)
    assert list(found) == list(want)
    assert found.summary.kinds == want.summary.kinds
    np.testing.assert_array_equal(found.summary.clarity, want.summary.clarity)
