"""Facts arrive whole."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.facts import (
    IndexInfo,
    Limits,
    ModelInfo,
    Selection,
    ServerInfo,
    decode_indexes,
    decode_provenance,
    decode_server_info,
    encode_indexes,
    encode_provenance,
    encode_server_info,
)
from polysem.proto.questions.clustering import (
    Clustering,
    ClusterQuery,
    encode_cluster_query,
    threshold_schedule,
)

from .made_up import (
    ALL,
    LONGEST,
    choices,
    clusterings,
    over_the_wire,
)

names = st.text(st.characters(codec="utf-8"), max_size=20)
counts = st.integers(0, 2**32 - 1)
large = st.integers(0, 2**63)


@given(
    st.builds(
        ServerInfo,
        version=names,
        model=st.builds(ModelInfo, names, names, counts, counts, counts, counts),
        device=names,
        dtype=names,
        default_index=names,
        limits=st.builds(Limits, large, large, counts, counts, *[st.floats(0, 1e300)] * 4, counts, st.floats(0, 1e300)),
    )
)
def test_server_info_arrives_whole(info):
    assert decode_server_info(over_the_wire(encode_server_info(info))) == info


indexes = st.builds(
    IndexInfo,
    *[names] * 6,
    selection=st.builds(Selection, st.sampled_from(["first", "top"]), st.floats(0, 1), counts),
    context_length=counts,
    bos=st.booleans(),
    windows=st.sampled_from(["first", "all"]),
    n_documents=large,
    n_contexts=large,
    n_tokens=large,
    n_layers=counts,
    n_neurons_per_layer=counts,
    n_examples=large,
    n_neurons_with_examples=large,
    software_version=names,
    n_longer_documents=st.none() | large,
    n_skipped_documents=large,
)


INDEX = IndexInfo(*"abcdef", Selection(), 32, True, "first", 9, 9, 99, 2, 4, 8, 8, "1")


def test_an_index_says_what_of_its_corpus_was_cut_or_left_out():
    longer, skipped = (
        dataclasses.replace(INDEX, n_longer_documents=n, n_skipped_documents=m) for n, m in ((2000, 0), (None, 1))
    )
    assert longer.notes == ["2,000 documents were longer than one context; --windows all reads them whole"]
    assert skipped.notes == ["1 document was no text and was left out"]
    assert INDEX.notes == []


@given(st.lists(indexes, max_size=3))
def test_indexes_arrive_whole_and_in_order(found):
    assert decode_indexes(over_the_wire(encode_indexes(found))) == found


@given(choice=choices, clustering=st.none() | clusterings)
def test_provenance_arrives_whole(choice, clustering):
    sent = dataclasses.replace(LONGEST, choice=choice, clustering=clustering)
    got = decode_provenance(over_the_wire(encode_provenance(sent)))
    if clustering and clustering.algorithm == "scc" and isinstance(clustering.thresholds, str):
        spelled_out = threshold_schedule(clustering.thresholds)  # its numbers, not its name, are the fact
        sent = dataclasses.replace(sent, clustering=dataclasses.replace(clustering, thresholds=spelled_out))
    assert got == sent


def test_the_linear_schedule_cuts_at_a_half_in_round_25():
    linear = threshold_schedule("linear")
    assert linear == tuple(float(f"{r / 50:.2f}") for r in range(1, 51))  # each the float nearest its decimal
    assert linear[24] == 0.5
    np.testing.assert_allclose(linear, np.linspace(0, 1, 51)[1:], rtol=0, atol=1e-15)


def test_both_schedules_are_thresholds_that_can_be_asked_for():
    for name in ("linear", "geometric"):
        values = threshold_schedule(name)
        assert len(values) == 50
        encode_cluster_query(ClusterQuery(ALL, clustering=Clustering("scc", thresholds=values)))
    np.testing.assert_array_equal(threshold_schedule("geometric"), 1 - np.geomspace(1, 0.1, 50))
