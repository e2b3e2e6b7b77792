"""Neurons listed by their metrics: against each neuron's own clustering, sorted and filtered in plain Python."""

import asyncio
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from polysem.client import AsyncClient
from polysem.proto.errors import InvalidArgument, UnknownIndex, UnknownNeuron
from polysem.proto.questions.listing import NEURON_METRICS, OF_TESTS, ListQuery, decode_neuron_page, encode_list_query
from polysem.proto.wire import status
from polysem.v1 import neuron_service_pb2 as pb

N = 96
METRICS = tuple(name for name in NEURON_METRICS if name != "best_silhouette")  # of every cut: test_summary.py
OF_NEURONS = tuple(name for name in METRICS if name not in OF_TESTS)  # those: test_held_nulls.py
HOW = [{}, {"algorithm": "scc", "distance_threshold": 0.3}, {"embedding": "pre_mlp", "linkage": "complete"}]


def want_of(client, *neurons, **how):
    """Each neuron's row, from its own clustering and statistics."""
    rows = {}
    for neuron, activity in zip(client.cluster(*neurons, **how), client.statistics(*neurons), strict=True):
        m = neuron.metrics
        sizes = sorted(np.bincount(neuron.labels).tolist(), reverse=True)
        rows[neuron.id] = {
            **{name: getattr(m, name) for name in METRICS[:8]},
            "second_share": sizes[1] / m.n_examples if len(sizes) > 1 else None,
            **{name: getattr(activity, name) for name in OF_NEURONS[9:]},
            **dict.fromkeys(OF_TESTS),  # which this index does not hold
            "rare": m.n_examples >= 20 and 0.9 * m.n_examples <= sizes[0] <= m.n_examples - 3,
        }
    return rows


def as_row(listed):
    return {name: getattr(listed, name) for name in (*METRICS, "rare")}


@pytest.mark.parametrize("how", HOW, ids=str)
def test_rows_are_those_of_each_neurons_clustering(polysem_client, how):
    listed = polysem_client.neurons(**how)
    assert {neuron.id: as_row(neuron) for neuron in listed} == want_of(polysem_client, "*", **how)
    assert [tuple(neuron.id) for neuron in listed] == [(layer, j) for layer in range(2) for j in range(N)]
    assert listed.n_matching == len(listed) == 2 * N


def test_some_neurons_have_a_common_and_a_rare_behaviour_and_some_not(polysem_client):
    found = {neuron.rare for neuron in polysem_client.neurons(distance_threshold=0.9)}
    assert found == {False, True}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sign", ["", "-"])
def test_neurons_are_sorted_by_any_metric_the_undefined_last(polysem_client, metric, sign):
    rows = want_of(polysem_client, "*")

    def place(key):
        value = rows[key][metric]
        return (value is None, 0 if value is None else -value if sign else value, key)

    assert [neuron.id for neuron in polysem_client.neurons(sort_by=sign + metric)] == sorted(rows, key=place)


@pytest.mark.parametrize("metric", OF_NEURONS)
def test_neurons_are_filtered_by_any_metric_ends_included(polysem_client, metric):
    rows = want_of(polysem_client, "*")
    values = sorted(row[metric] for row in rows.values() if row[metric] is not None)
    least, most = values[len(values) // 4], values[-len(values) // 4]
    for ends in [(least, None), (None, most), (least, most), (least, least), (None, None)]:
        want = [
            key
            for key, row in rows.items()
            if row[metric] is not None
            and (-math.inf if ends[0] is None else ends[0]) <= row[metric] <= (math.inf if ends[1] is None else ends[1])
        ]
        listed = polysem_client.neurons(where={metric: ends})
        assert [neuron.id for neuron in listed] == want
        assert listed.n_matching == len(want)


def test_filters_hold_together_and_within_the_neurons_named(polysem_client):
    rows = want_of(polysem_client, "1.*")
    want = [key for key, row in rows.items() if row["n_examples"] >= 20 and 2 <= row["n_clusters"] <= 5]
    found = polysem_client.neurons("1.*", where={"n_examples": (20, None), "n_clusters": (2, 5)})
    assert [neuron.id for neuron in found] == want
    assert 0 < len(want) < N


def test_layers_that_are_named_are_listed_in_one_order(polysem_client):
    every = list(polysem_client.neurons(sort_by="-n_examples"))
    for layers in ([0], [1], [1, 0]):
        found = polysem_client.neurons(*(f"{layer}.*" for layer in layers), sort_by="-n_examples")
        assert list(found) == [neuron for neuron in every if neuron.id.layer in layers]


def test_a_limit_and_a_skip_take_a_part_of_the_same_order(polysem_client):
    every = list(polysem_client.neurons(sort_by="-intra"))
    part = polysem_client.neurons(sort_by="-intra", limit=7, skip=13)
    assert list(part) == every[13:20]
    assert part.n_matching == 2 * N
    assert list(polysem_client.neurons(sort_by="-intra", limit=500)) == every
    assert list(polysem_client.neurons(skip=2 * N)) == []
    assert polysem_client.neurons(skip=2 * N).n_matching == 2 * N
    assert polysem_client.neurons(where={"n_examples": (1e6, None)}).n_matching == 0


def pages(client, query):
    """The pages of a question, one by one, as another language's client would ask."""
    request, found = encode_list_query(query), []
    while True:
        message = client._stub.ListNeurons(request)
        page, _, _ = decode_neuron_page(message)
        found.append(page)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest.mark.parametrize("page_size", [1, 7, 96, 191, 192, 4096])
def test_pages_laid_end_to_end_are_the_whole_order(polysem_client, page_size):
    found = pages(polysem_client, ListQuery(sort_by="n_clusters", descending=True, page_size=page_size))
    ids = np.concatenate([page.table.neurons for page in found])
    want = [tuple(neuron.id) for neuron in polysem_client.neurons(sort_by="-n_clusters")]
    assert [tuple(key) for key in ids.tolist()] == want
    assert len(found) == -(-2 * N // page_size)
    assert {page.n_matching for page in found} == {2 * N}


def test_a_page_token_means_the_same_page_again(polysem_client):
    first, second = pages(polysem_client, ListQuery(page_size=100))
    request = encode_list_query(ListQuery(page_size=9, page_token=first.next_page_token))
    for _ in range(2):
        page, _, _ = decode_neuron_page(polysem_client._stub.ListNeurons(request))
        np.testing.assert_array_equal(page.table.neurons, second.table.neurons[:9])


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("x", "'x' is no page token"),
        ("日本", "'日本' is no page token"),
        ("A" * 500, "is no page token; send the one that came with the page before"),
    ],
)
def test_what_is_no_page_token_is_told(polysem_client, token, words):
    with pytest.raises(InvalidArgument, match=words) as raised:
        ask(polysem_client, page_token=token)
    assert raised.value.field == "page_token"


def test_a_page_token_of_another_question_is_told(polysem_client):
    first, *_ = pages(polysem_client, ListQuery(page_size=100))
    for other in ({"sort_by": pb.NEURON_METRIC_INTRA}, {"descending": True}, {"neurons": [pb.NeuronRange(layer=1)]}):
        with pytest.raises(InvalidArgument, match="belongs to another question"):
            ask(polysem_client, page_token=first.next_page_token, **other)


def ask(client, **fields):
    import grpc

    try:
        return client._stub.ListNeurons(pb.ListNeuronsRequest(**fields))
    except grpc.RpcError as error:
        raise status.from_rpc_error(error, client.target) from None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"page_size": 4097}, "page_size is 4097; it is a whole number from 1 to 4096"),
        ({"sort_by": 99}, "unknown sort_by number 99"),
        ({"where": [pb.MetricRange(least=1)]}, "a range names no metric"),
        ({"where": [pb.MetricRange(metric=1)] * 65}, "where has 65 ranges; give at most 64"),
        ({"where": [pb.MetricRange(metric=1, least=math.nan)]}, "must be a number, not nan"),
        ({"clustering": pb.Clustering(distance_threshold=3)}, "lies between 0 and 2"),
    ],
)
def test_the_server_refuses_what_a_client_would(polysem_client, fields, words):
    with pytest.raises(InvalidArgument, match=words):
        ask(polysem_client, **fields)


@pytest.mark.parametrize(
    ("neurons", "how", "error", "words"),
    [
        ([], {"sort_by": "size"}, InvalidArgument, "unknown sort_by 'size': choose n_examples, "),
        ([], {"sort_by": "--intra"}, InvalidArgument, "unknown sort_by '-intra'"),
        ([], {"where": {"size": (1, 2)}}, InvalidArgument, "unknown where 'size'"),
        ([], {"where": {"intra": 0.3}}, InvalidArgument, r"give its least and its most, as \(25, None\), not 0.3"),
        ([], {"where": {"intra": ("a", None)}}, InvalidArgument, "an end of intra must be a number, not 'a'"),
        ([], {"where": {"intra": (0.5, 0.3)}}, InvalidArgument, "no intra is at least 0.5 and at most 0.3"),
        ([], {"limit": 0}, InvalidArgument, "limit is 0; it is a whole number from 1"),
        ([], {"skip": -1}, InvalidArgument, "skip is -1; it is a whole number from 0"),
        ([], {"index": "none"}, UnknownIndex, "there is no index 'none'"),
        (["2.0"], {}, UnknownNeuron, "there is no neuron 2.0"),
        (["x"], {}, InvalidArgument, "'x' is not a neuron"),
    ],
)
def test_wrong_questions_get_a_sentence(polysem_client, neurons, how, error, words):
    with pytest.raises(error, match=words):
        list(polysem_client.neurons(*neurons, **how))


def test_a_listing_becomes_a_table(polysem_client):
    listed = polysem_client.neurons(sort_by="intra", limit=5)
    frame = listed.to_pandas()
    assert list(frame.columns) == ["layer", "neuron", *NEURON_METRICS, "rare", "method", "kind", "side"]
    assert frame["neuron"].tolist() == [neuron.id.neuron for neuron in listed]
    assert listed.to_polars().shape == listed.to_arrow().shape == frame.shape


def test_the_asynchronous_client_says_the_same(polysem_client):
    async def asked():
        async with AsyncClient(polysem_client.target) as client:
            return await client.neurons(sort_by="-inter", limit=9)

    found = asyncio.run(asked())
    assert list(found) == list(polysem_client.neurons(sort_by="-inter", limit=9))
    assert found.n_matching == 2 * N


@pytest.mark.parametrize("columns", ["80", "60"])
def test_ids_are_whole_in_a_narrow_terminal(polysem_client, columns):
    ran = subprocess.run(
        [sys.executable, "-m", "polysem", "neurons", "1.90-95", "--server", polysem_client.target],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": columns},
        check=True,
    )
    shown = {line.split()[0] for line in ran.stdout.splitlines() if line.strip()}
    assert {f"1.{i}" for i in range(90, 96)} <= shown
