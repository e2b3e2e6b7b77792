"""The questions about statistics, listings and what came after them, over the wire."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronId, NeuronRange
from polysem.proto.questions.explain import ExplainQuery, ExplanationBatch, decode_explain_query, encode_explain_query
from polysem.proto.questions.importance import (
    ImportanceBatch,
    ImportanceQuery,
    decode_importance_query,
    encode_importance_query,
)
from polysem.proto.questions.listing import (
    MAX_PAGE_SIZE,
    NEURON_METRICS,
    ListQuery,
    MetricRange,
    NeuronPage,
    NeuronTable,
    decode_list_query,
    decode_neuron_page,
    encode_list_query,
    encode_neuron_page,
)
from polysem.proto.questions.similar import SimilarBatch, SimilarQuery, decode_similar_query, encode_similar_query
from polysem.proto.questions.statistics import (
    StatisticsBatch,
    StatisticsQuery,
    decode_statistics_query,
    encode_statistics_query,
)
from polysem.proto.questions.summary import NEURON_KINDS
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import (
    LONGEST,
    TIMING,
    asked,
    assert_same,
    choices,
    clusterings,
    encoded,
    joined,
    over_the_wire,
    ranges,
)

ALL = (NeuronRange(),)
ends = st.none() | st.floats(allow_nan=False)
metric_ranges = st.tuples(st.sampled_from(NEURON_METRICS), ends, ends).map(
    lambda t: MetricRange(t[0], *(t[1:] if None in t[1:] else sorted(t[1:])))
)


@given(st.builds(StatisticsQuery, **asked))
def test_a_statistics_query_arrives_as_it_was_asked(query):
    assert decode_statistics_query(over_the_wire(encode_statistics_query(query))) == query


@given(
    st.builds(
        ListQuery,
        neurons=st.lists(ranges, max_size=5).map(tuple),
        index=st.text(max_size=20),
        choice=choices,
        clustering=clusterings,
        sort_by=st.none() | st.sampled_from(NEURON_METRICS),
        descending=st.booleans(),
        where=st.lists(metric_ranges, max_size=5).map(tuple),
        page_size=st.integers(1, MAX_PAGE_SIZE),
        page_token=st.text(max_size=20),
        skip=st.integers(0, 2**31 - 1),
        kinds=st.lists(st.sampled_from(NEURON_KINDS), max_size=5).map(tuple),
        cell=st.none() | st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 19)),
        summary=st.booleans(),
    )
)
def test_a_list_query_arrives_as_it_was_asked(query):
    assert decode_list_query(over_the_wire(encode_list_query(query))) == query


def test_what_is_not_said_means_the_default():
    assert decode_list_query(pb.ListNeuronsRequest()) == ListQuery()
    assert decode_statistics_query(pb.GetNeuronStatisticsRequest(neurons=[pb.NeuronRange()])) == StatisticsQuery(ALL)


def test_statistics_name_their_neurons():
    with pytest.raises(InvalidArgument, match="no neuron was named"):
        decode_statistics_query(pb.GetNeuronStatisticsRequest())


def make(type_, n, seed=0):
    """A batch of n rows, all columns on the neurons' axis."""
    rng = np.random.default_rng(seed)
    columns = {}
    for field in dataclasses.fields(type_):
        shape = {"neurons": (n, 2), "histogram": (n, 64)}.get(field.name, (n,))
        whole = "Int" in str(field.type) or "int32" in str(field.type)
        columns[field.name] = rng.integers(0, 99, shape, np.int32) if whole else rng.random(shape)
    return type_(**columns)


@pytest.mark.parametrize("n", [1, 3, 5_000])
def test_statistics_of_any_number_arrive(n):
    batch = make(StatisticsBatch, n)
    assert_same(batch, joined(batch, encoded(batch)))


@pytest.mark.parametrize("n", [0, 1, MAX_PAGE_SIZE])
def test_a_page_is_one_message_however_large_or_empty(n):
    page = NeuronPage(make(NeuronTable, n), 77_000, "token")
    message = encode_neuron_page(page, LONGEST, TIMING)
    assert message.ByteSize() < MAX_MESSAGE_BYTES * 0.7  # 4,096 rows of 172 bytes, and the longest provenance
    got, provenance, timing = decode_neuron_page(over_the_wire(message))
    assert (got.n_matching, got.next_page_token, provenance, timing) == (77_000, "token", LONGEST, TIMING)
    for field in dataclasses.fields(NeuronTable):
        np.testing.assert_array_equal(getattr(got.table, field.name), getattr(page.table, field.name))


@given(
    st.builds(
        SimilarQuery,
        neuron=st.builds(NeuronId, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
        index=st.text(max_size=20),
        clusters=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
        choice=choices,
        clustering=clusterings,
        similarity=st.sampled_from(["pre_mlp", "neuron"]),
        every_layer=st.booleans(),
        n_similar=st.integers(1, 1000),
    )
)
def test_a_similar_query_arrives_as_it_was_asked(query):
    assert decode_similar_query(over_the_wire(encode_similar_query(query))) == query


def test_a_similar_query_has_its_defaults():
    assert decode_similar_query(pb.FindSimilarClustersRequest(layer=1, neuron=2)) == SimilarQuery(NeuronId(1, 2))


@given(n_similar=st.lists(st.integers(0, 3_000), min_size=1, max_size=20), max_bytes=st.integers(40 << 10, 200_000))
def test_similar_clusters_of_any_number_arrive_in_messages_of_any_size(n_similar, max_bytes):
    rng, b, k = np.random.default_rng(0), len(n_similar), sum(n_similar)

    def whole(*shape):
        return rng.integers(0, 99, shape, np.int32)

    counts = np.array(n_similar, np.int32)
    batch = SimilarBatch(
        whole(b, 2), whole(b), whole(b), counts, whole(k, 2), whole(k), whole(k), whole(k), rng.random(k),
        methods=whole(b), similar_methods=whole(k),
    )  # fmt: skip
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))


@given(
    st.builds(
        ImportanceQuery,
        **asked,
        examples=st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
        tokens_before=st.integers(0, 2**31 - 1),
        mask_token=st.none() | st.integers(0, 2**31 - 1),
    )
)
def test_an_importance_query_arrives_as_it_was_asked(query):
    assert decode_importance_query(over_the_wire(encode_importance_query(query))) == query


def test_an_importance_query_has_its_defaults():
    request = pb.MeasureImportanceRequest(neurons=[pb.NeuronRange()])
    assert decode_importance_query(request) == ImportanceQuery(ALL)


@given(n_tokens=st.lists(st.integers(0, 3_000), min_size=1, max_size=20), max_bytes=st.integers(40 << 10, 200_000))
def test_importances_of_any_size_arrive_in_messages_of_any_size(n_tokens, max_bytes):
    rng, e, t = np.random.default_rng(0), len(n_tokens), sum(n_tokens)

    def whole(*shape):
        return rng.integers(0, 99, shape, np.int32)

    texts = [("a", "日本", "")[i % 3] for i in range(t)]
    counts = np.array(n_tokens, np.int32)
    batch = ImportanceBatch(
        whole(e, 2), whole(e), rng.random(e, np.float32), counts, texts, rng.random(t, np.float32), whole(t), whole(t)
    )
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))


@given(
    st.builds(
        ExplainQuery,
        text=st.text(st.characters(codec="utf-8"), min_size=1),
        neurons=st.lists(ranges, max_size=5).map(tuple),
        index=st.text(max_size=20),
        choice=choices,
        clustering=clusterings,
        min_activation_fraction=st.floats(0, 1),
        n_strongest=st.integers(1, 100),
    )
)
def test_an_explain_query_arrives_as_it_was_asked(query):
    assert decode_explain_query(over_the_wire(encode_explain_query(query))) == query


def test_an_explain_query_has_its_defaults():
    assert decode_explain_query(pb.ExplainTextRequest(text="x")) == ExplainQuery("x")


@given(n_firings=st.lists(st.integers(0, 3_000), min_size=1, max_size=20), max_bytes=st.integers(40 << 10, 200_000))
def test_explanations_of_any_size_arrive_in_messages_of_any_size(n_firings, max_bytes):
    rng, t, f = np.random.default_rng(0), len(n_firings), sum(n_firings)

    def whole(*shape):
        return rng.integers(0, 99, shape, np.int32)

    def share():
        return rng.random(f, np.float32)

    counts = np.array(n_firings, np.int32)
    texts = [("a", "日本", "")[i % 3] for i in range(t)]
    batch = ExplanationBatch(
        whole(t), texts, counts, whole(f, 2), share(), share(), whole(f), whole(f), share(), whole(t), whole(t)
    )
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))
