"""What clusters cause, over the wire."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.neurons import NeuronId
from polysem.proto.questions.ablation import (
    ABLATIONS,
    AblateQuery,
    AblationBatch,
    ablated_of,
    decode_ablate_query,
    encode_ablate_query,
)
from polysem.v1 import neuron_service_pb2 as pb

from ..made_up import assert_same, choices, clusterings, encoded, joined, over_the_wire

queries = st.builds(
    AblateQuery,
    neuron=st.builds(NeuronId, st.integers(0, 99), st.integers(0, 9999)),
    index=st.text(max_size=9),
    clusters=st.lists(st.integers(0, 99), max_size=16).map(tuple),
    other=st.none() | st.integers(100, 200),
    text=st.none() | st.text(min_size=1, max_size=9),
    ablation=st.sampled_from(ABLATIONS),
    n_tokens=st.integers(1, 256),
    n_controls=st.integers(0, 16),
    seed=st.integers(0, (1 << 63) - 1),
    choice=choices,
    clustering=clusterings,
    min_activation_fraction=st.floats(0, 1),
    side=st.sampled_from(["positive", "negative"]),
)


@given(queries)
def test_a_query_arrives_as_it_was_asked(query):
    assert decode_ablate_query(over_the_wire(encode_ablate_query(query))) == query


def test_a_query_has_its_defaults():
    assert decode_ablate_query(pb.AblateClustersRequest(layer=3, neuron=7)) == AblateQuery(NeuronId(3, 7))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=5), st.integers(40 << 10, 90_000)
)
def test_effects_of_any_number_arrive_in_messages_of_any_size(counts, max_bytes):
    rng, (n_effects, n_differences) = np.random.default_rng(0), np.array(counts, np.int32).T
    b, e, f = len(counts), int(n_effects.sum()), int(n_differences.sum())
    n_moved = rng.integers(0, 11, e).astype(np.int32)
    k = int(n_moved.sum())
    whole = [rng.integers(0, 99, e, np.int32) for _ in range(6)]
    batch = AblationBatch(
        rng.integers(0, 99, (b, 2), np.int32), n_effects, n_differences, *whole[:3],
        rng.integers(0, 99, (e, 2), np.int32), *whole[3:], *(rng.random(e) for _ in range(5)), n_moved,
        rng.integers(0, 99, k, np.int32), [f" é{i}" for i in range(k)], rng.random(k), rng.random(k),
        rng.integers(0, 99, (f, 2), np.int32), *(rng.random(f) for _ in range(3)),
    )  # fmt: skip
    assert_same(batch, joined(batch, encoded(batch, max_bytes)))


def test_what_is_not_known_yet_has_no_name():
    assert [ablated_of(n) for n in (0, 1, 4, 5)] == [None, "cluster", "control", None]
