"""Batches of any size arrive in messages of any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import Internal
from polysem.proto.facts import (
    encode_head,
)
from polysem.proto.wire import batches, columns
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES

from ..made_up import (
    LONGEST,
    TIMING,
    assert_same,
    assert_whole,
    encoded,
    joined,
    make_cluster_batch,
    make_embedding_batch,
    make_example_batch,
)

TRIPLE = [make_cluster_batch([3, 0, 1]), make_embedding_batch([3, 0, 1]), make_example_batch([3, 1, 7])]
of_each_kind = pytest.mark.parametrize("batch", TRIPLE, ids=lambda batch: type(batch).__name__)


@of_each_kind
def test_a_small_batch_is_one_message(batch):
    (message,) = encoded(batch)
    answers = joined(batch, [message])
    assert_same(batch, answers)
    assert len(message) < 16_000


@of_each_kind
def test_a_batch_of_nothing_is_no_message(batch):
    assert encoded(columns.take(batch, 0, 0)) == []


@of_each_kind
def test_a_cut_batch_is_its_items_alone(batch):
    for first, last in [(0, 3), (0, 1), (1, 2), (1, 3), (2, 2)]:
        part = columns.take(batch, first, last)
        assert len(part.neurons) == last - first
        assert_whole([part])
        np.testing.assert_array_equal(part.neurons, batch.neurons[first:last])
    assert columns.take(batch, 0, 3) is batch  # nothing is copied


def sizes(largest):
    return st.lists(st.sampled_from([0, 1, 2, 3]) | st.integers(0, largest), min_size=1, max_size=30)


SMALLEST = 40 << 10  # above what a message holds beside its arrays


@given(n_examples=sizes(3_000), max_bytes=st.integers(SMALLEST, 200_000), seed=st.integers(0, 9))
def test_clusterings_of_any_size_arrive_in_messages_of_any_size(n_examples, max_bytes, seed):
    batch = make_cluster_batch(n_examples, seed)
    answers = joined(batch, encoded(batch, max_bytes))
    assert_whole(answers)
    assert_same(batch, answers)


@given(n_examples=sizes(500), d_model=st.integers(1, 200), max_bytes=st.integers(SMALLEST, 200_000))
def test_embeddings_of_any_size_arrive_in_messages_of_any_size(n_examples, d_model, max_bytes):
    batch = make_embedding_batch(n_examples, d_model)
    answers = joined(batch, encoded(batch, max_bytes))
    assert_whole(answers)
    assert_same(batch, answers)


@given(
    n_tokens=sizes(3_000),
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=5),
    max_bytes=st.integers(SMALLEST, 200_000),
)
def test_examples_of_any_size_arrive_in_messages_of_any_size(n_tokens, texts, max_bytes):
    batch = make_example_batch(n_tokens, texts)
    answers = joined(batch, encoded(batch, max_bytes))
    assert_whole(answers)
    assert_same(batch, answers)


@pytest.mark.parametrize(
    ("batch", "at_least"),
    [
        (make_cluster_batch([100] * 5_000), 10),
        (make_cluster_batch([100_000]), 3),
        (make_cluster_batch([5, 100_000, 0, 30_000, 1]), 4),
        (make_embedding_batch([2_000], 768), 6),
        (make_embedding_batch([100] * 20, 768), 6),
        (make_example_batch([31] * 1_000, texts=["a long token"] * 3, document="x" * 511), 2),
        (make_example_batch([1024] * 100, texts=["日本" * 20]), 10),
        (make_example_batch([200_000], texts=["a", "日本" * 20]), 10),
        (make_example_batch([2] * 2_000, document="日" * 511), 3),
    ],
    ids=[
        *["5000 neurons of 100", "a neuron of 100000", "large beside small", "embeddings (2000, 768) of one neuron"],
        *["embeddings (2000, 768) of many", "long names", "whole contexts", "one endless example", "wide names"],
    ],
)
def test_no_message_is_above_a_mebibyte(batch, at_least):
    messages = encoded(batch)
    assert len(messages) >= at_least
    assert sum(map(len, messages)) / len(messages) > MAX_MESSAGE_BYTES / 3  # and few are nearly empty
    answers = joined(batch, messages)
    assert_whole(answers)
    assert_same(batch, answers)


def test_only_a_neuron_too_large_for_a_message_is_sent_in_pieces():
    messages = list(batches.encode_batch(make_cluster_batch([100] * 5_000), encode_head(LONGEST, TIMING)))
    assert not any(message.continues for message in messages)
    messages = list(batches.encode_batch(make_cluster_batch([5, 100_000, 7]), encode_head(LONGEST, TIMING)))
    continues = [message.continues for message in messages]
    assert continues[0] is False
    assert continues[-1] is False
    assert continues[1:-2] == [True] * (len(continues) - 3)
    assert min(message.ByteSize() for message in messages[1:-2]) > MAX_MESSAGE_BYTES - (64 << 10)  # each is filled


@of_each_kind
def test_a_column_that_an_older_server_does_not_send_is_told(batch):
    (message,) = batches.encode_batch(batch, encode_head(LONGEST, TIMING))
    message.ClearField("neurons")
    with pytest.raises(Internal, match="the server sent no neurons: it is older than this client"):
        batches.Joiner(type(batch)).add(message)


def test_a_row_too_large_for_a_message_is_told_not_sent():
    with pytest.raises(Internal, match="does not fit"):
        list(batches.encode_batch(make_embedding_batch([2], 2**18), encode_head(LONGEST, TIMING)))
