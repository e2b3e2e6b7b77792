"""The question about direct logit effects, over the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.logit_effects import (
    MAX_LISTED,
    LogitEffectsBatch,
    LogitEffectsQuery,
    decode_logit_effects_query,
    encode_logit_effects_query,
)
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import asked, assert_same, encoded, joined, over_the_wire


@given(st.builds(LogitEffectsQuery, **asked, n_tokens=st.integers(1, MAX_LISTED)))
def test_a_query_arrives_as_it_was_asked(query):
    assert decode_logit_effects_query(over_the_wire(encode_logit_effects_query(query))) == query


def test_a_query_has_its_default_and_its_limit():
    request = pb.GetLogitEffectsRequest(neurons=[pb.NeuronRange()])
    assert decode_logit_effects_query(request) == LogitEffectsQuery((NeuronRange(),), n_tokens=10)
    request.n_tokens = 1001
    with pytest.raises(InvalidArgument, match="n_tokens is 1001; it is a whole number from 1 to 1000"):
        decode_logit_effects_query(request)


@given(n_tokens=st.lists(st.integers(0, 1_000), min_size=1, max_size=20), max_bytes=st.integers(40 << 10, 200_000))
def test_effects_of_any_size_arrive_in_messages_of_any_size(n_tokens, max_bytes):
    rng, b, t = np.random.default_rng(0), len(n_tokens), 2 * sum(n_tokens)

    def whole(*shape):
        return rng.integers(0, 99, shape, np.int32)

    def share(n):
        return rng.random(n, np.float32)

    texts = [("a", " 日本", "<0xE6>")[i % 3] for i in range(t)]
    counts = np.array(n_tokens, np.int32)
    batch = LogitEffectsBatch(whole(b, 2), counts, share(b), share(b), whole(b, 64), share(t), whole(t), texts)
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))
