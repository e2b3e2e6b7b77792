"""Maps, over the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.maps import MapBatch, MapQuery, decode_map_query, encode_map_query
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import assert_same, encoded, joined, over_the_wire

numbers = st.lists(st.integers(0, (1 << 31) - 1), max_size=9, unique=True).map(tuple)
queries = st.builds(
    MapQuery,
    layers=numbers,
    groups=numbers,
    index=st.text(max_size=9),
    side=st.sampled_from(["positive", "negative"]),
)


@given(queries)
def test_a_query_arrives_as_it_was_asked(query):
    assert decode_map_query(over_the_wire(encode_map_query(query))) == query


def test_a_query_has_its_defaults_and_names_nothing_twice():
    assert decode_map_query(pb.MapClustersRequest()) == MapQuery()
    assert decode_map_query(pb.MapClustersRequest(layers=[2, 1, 2], groups=[0, 0])) == MapQuery((2, 1), (0,))


@pytest.mark.parametrize("wrong", [{"layers": (-1,)}, {"groups": (0.5,)}, {"side": "left"}])
def test_what_is_no_number_is_not_sent(wrong):
    with pytest.raises(InvalidArgument):
        encode_map_query(MapQuery(**wrong))


@given(st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=4), st.integers(40 << 10, 90_000))
def test_maps_of_any_size_arrive_in_messages_of_any_size(layers, max_bytes):
    rng, n = np.random.default_rng(0), len(layers)
    sizes = np.array([size for groups in layers for size in groups], np.int32)
    g, c = len(sizes), int(sizes.sum())
    of_layers = [rng.integers(0, 99, n, np.int32) for _ in range(4)]
    batch = MapBatch(
        *of_layers, rng.random(n), np.array([len(groups) for groups in layers], np.int32),
        rng.integers(0, 99, g, np.int32), [f" é{i}" for i in range(g)], rng.random(g), rng.random(g), sizes,
        *(rng.integers(0, 99, c, np.int32) for _ in range(5)), rng.random(c),
    )  # fmt: skip
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))
