"""Names of clusters over the wire."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.questions.labels import (
    LabelBatch,
    LabelQuery,
    decode_label_query,
    encode_label_query,
    label_method_of,
)
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import asked, assert_same, choices, clusterings, encoded, joined, over_the_wire


@given(st.builds(LabelQuery, **asked, choice=choices, clustering=clusterings))
def test_a_query_arrives_as_it_was_asked(query):
    assert decode_label_query(over_the_wire(encode_label_query(query))) == query


def test_a_query_has_its_defaults():
    request = pb.LabelClustersRequest(neurons=[pb.NeuronRange()])
    assert decode_label_query(request) == LabelQuery(decode_label_query(request).neurons)


@given(n_clusters=st.lists(st.integers(0, 3_000), min_size=1, max_size=20), max_bytes=st.integers(40 << 10, 200_000))
def test_names_of_any_number_arrive_in_messages_of_any_size(n_clusters, max_bytes):
    rng, b, c = np.random.default_rng(0), len(n_clusters), sum(n_clusters)
    whole = [rng.integers(0, 99, c, np.int32) for _ in range(3)]
    texts = [f"`é{i}` after `@`" for i in range(c)]
    batch = LabelBatch(
        rng.integers(0, 99, (b, 2), np.int32), np.array(n_clusters, np.int32), whole[0], whole[1], texts, whole[2],
        *(rng.random(c) for _ in range(5)),
    )  # fmt: skip
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))


def test_methods_that_are_not_known_yet_have_no_name():
    assert [label_method_of(n) for n in (0, 1, 99)] == [None, "rule", None]
