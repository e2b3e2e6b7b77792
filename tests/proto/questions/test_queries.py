"""Queries arrive as they were asked, and what is wrong is refused on both ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.clustering import (
    Clustering,
    ClusterQuery,
    EmbeddingChoice,
    decode_cluster_query,
    encode_cluster_query,
)
from polysem.proto.questions.embedding import EmbedQuery, decode_embed_query, encode_embed_query
from polysem.proto.questions.examples import ExampleQuery, decode_example_query, encode_example_query
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import (
    ALL,
    asked,
    choices,
    clusterings,
    numbers,
    over_the_wire,
    ranges,
)


@given(st.builds(ClusterQuery, **asked, choice=choices, clustering=clusterings))
def test_a_cluster_query_arrives_as_it_was_asked(query):
    assert decode_cluster_query(over_the_wire(encode_cluster_query(query))) == query


@given(st.builds(EmbedQuery, **asked, choice=choices))
def test_an_embed_query_arrives_as_it_was_asked(query):
    assert decode_embed_query(over_the_wire(encode_embed_query(query))) == query


@given(st.builds(ExampleQuery, **asked, examples=st.lists(numbers).map(tuple), whole_context=st.booleans()))
def test_an_example_query_arrives_as_it_was_asked(query):
    assert decode_example_query(over_the_wire(encode_example_query(query))) == query


def test_what_is_not_said_means_the_default():
    neurons = [pb.NeuronRange()]
    assert decode_cluster_query(pb.ClusterNeuronsRequest(neurons=neurons)) == ClusterQuery(ALL)
    assert decode_embed_query(pb.EmbedNeuronsRequest(neurons=neurons)) == EmbedQuery(ALL)
    assert decode_example_query(pb.GetExamplesRequest(neurons=neurons)) == ExampleQuery(ALL)


def test_the_defaults_are_those_of_the_paper():
    default = ClusterQuery(ALL)
    assert default.choice == EmbeddingChoice("neuron", "folded")
    assert default.clustering == Clustering("hac", "average", 0.5, "linear", False)


def test_a_threshold_of_zero_is_not_the_default():
    request = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()], distance_threshold=0.0)
    assert decode_cluster_query(request).clustering.distance_threshold == 0


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        ("hac", Clustering("hac", "complete", 0.25)),
        ("scc", Clustering("scc", "average", 0.25, (0.1, 0.2), True)),
        ("components", Clustering("components", "single", 0.25)),
    ],
)
def test_parameters_that_an_algorithm_does_not_use_are_forgotten(algorithm, kept):
    asked = Clustering(algorithm, "complete", 0.25, (0.1, 0.2), True)
    assert decode_cluster_query(encode_cluster_query(ClusterQuery(ALL, clustering=asked))).clustering == kept


@pytest.mark.parametrize("field", ["algorithm", "linkage", "embedding", "layer_norm", "threshold_schedule"])
@pytest.mark.parametrize("number", [9, -1])
def test_an_unknown_number_is_refused_and_the_known_names_told(field, number):
    request = over_the_wire(pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()], **{field: number}))
    with pytest.raises(InvalidArgument, match=f"unknown {field} number {number}: this version knows") as raised:
        decode_cluster_query(request)
    assert raised.value.field == field


@pytest.mark.parametrize("field", ["algorithm", "linkage", "embedding", "layer_norm", "thresholds"])
@pytest.mark.parametrize("name", ["x", "", "HAC"])
def test_an_unknown_name_is_refused_before_it_is_sent(field, name):
    place = "choice" if field in ("embedding", "layer_norm") else "clustering"
    part = (EmbeddingChoice if place == "choice" else Clustering)(**{field: name})
    with pytest.raises(InvalidArgument, match=f"unknown {field} {name!r}: choose") as raised:
        encode_cluster_query(ClusterQuery(ALL, **{place: part}))
    assert raised.value.field == field


@pytest.mark.parametrize(
    "half",
    [{"first": 1}, {"last": 1}, {"layer": 1, "first": 1}, {"layer": 1, "last": 1}, {"first": 1, "last": 2}],
)
def test_half_a_range_is_refused(half):
    with pytest.raises(InvalidArgument, match="a range has first and last and a layer, or neither") as raised:
        decode_cluster_query(pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(**half)]))
    assert raised.value.field == "neurons"


@pytest.mark.parametrize("decode", [decode_cluster_query, decode_embed_query, decode_example_query])
@pytest.mark.parametrize("neurons", [[], [pb.NeuronRange(layer=7, first=5, last=2)]])
def test_no_range_and_a_backward_one_are_refused(decode, neurons):
    type_ = {"decode_cluster_query": pb.ClusterNeuronsRequest, "decode_embed_query": pb.EmbedNeuronsRequest}
    with pytest.raises(InvalidArgument, match=r"no neuron was named|runs backwards") as raised:
        decode(type_.get(decode.__name__, pb.GetExamplesRequest)(neurons=neurons))
    assert raised.value.field == "neurons"


NOT_A_DISTANCE = [float("nan"), float("inf"), -float("inf"), -0.001, 2.001, 1e300, -5]


@pytest.mark.parametrize("value", NOT_A_DISTANCE)
def test_a_cut_outside_the_distances_is_refused_at_both_ends(value):
    with pytest.raises(InvalidArgument, match="distance_threshold") as sent:
        encode_cluster_query(ClusterQuery(ALL, clustering=Clustering(distance_threshold=value)))
    request = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()], distance_threshold=value)
    with pytest.raises(InvalidArgument, match="distance_threshold") as received:
        decode_cluster_query(over_the_wire(request))
    assert sent.value.field == received.value.field == "distance_threshold"


@pytest.mark.parametrize("value", [True, "0.5", None, 10**400, 1j, [0.5]])
def test_what_is_no_number_is_no_threshold(value):
    for clustering in (Clustering(distance_threshold=value), Clustering("scc", thresholds=(value,))):
        with pytest.raises(InvalidArgument, match="must be a number, not"):
            encode_cluster_query(ClusterQuery(ALL, clustering=clustering))


@pytest.mark.parametrize("value", [1, np.float32(0.25), np.float64(0.25), np.int64(1), 0, 2])
def test_any_number_within_the_distances_is_a_threshold(value):
    query = ClusterQuery(ALL, clustering=Clustering(distance_threshold=value))
    assert decode_cluster_query(encode_cluster_query(query)).clustering.distance_threshold == value


@pytest.mark.parametrize(
    "values",
    [
        *((value,) for value in NOT_A_DISTANCE),
        (0.1, float("nan")),
        (0.2, 0.1),
        (0.1, 0.1),
        tuple(np.linspace(0, 2, 1025)),
    ],
)
def test_thresholds_that_are_no_rounds_are_refused_at_both_ends(values):
    with pytest.raises(InvalidArgument, match="thresholds") as sent:
        encode_cluster_query(ClusterQuery(ALL, clustering=Clustering("scc", thresholds=values)))
    request = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()], algorithm=pb.ALGORITHM_SCC, thresholds=values)
    with pytest.raises(InvalidArgument, match="thresholds") as received:
        decode_cluster_query(over_the_wire(request))
    assert sent.value.field == received.value.field == "thresholds"


def test_no_threshold_at_all_is_refused_before_it_is_sent():
    with pytest.raises(InvalidArgument, match="thresholds has 0 values; give 1 to 1024, or leave it out"):
        encode_cluster_query(ClusterQuery(ALL, clustering=Clustering("scc", thresholds=())))


def test_as_many_thresholds_as_the_limit_are_taken():
    query = ClusterQuery(ALL, clustering=Clustering("scc", thresholds=tuple(np.linspace(0, 2, 1024).tolist())))
    assert decode_cluster_query(over_the_wire(encode_cluster_query(query))) == query


@pytest.mark.parametrize("place", [-1, 2**31, 1.5, "0", None, True])
def test_what_is_no_place_is_refused_before_it_is_sent(place):
    with pytest.raises(InvalidArgument, match="is not an example: they are counted from 0") as raised:
        encode_example_query(ExampleQuery(ALL, examples=(0, place)))
    assert raised.value.field == "examples"


@given(neurons=st.lists(ranges, min_size=1, max_size=3).map(tuple))
def test_ranges_as_parsed_are_ranges_as_sent(neurons):
    query = EmbedQuery(parse_neurons(*map(str, neurons)))
    assert decode_embed_query(encode_embed_query(query)).neurons == neurons
