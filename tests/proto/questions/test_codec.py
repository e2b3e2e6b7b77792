"""Questions and answers over the wire: what goes in comes out, in messages of at most 1 MiB."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import Internal, InvalidArgument
from polysem.proto.facts import (
    IndexInfo,
    Limits,
    ModelInfo,
    Provenance,
    Selection,
    ServerInfo,
    Timing,
    decode_head,
    decode_indexes,
    decode_provenance,
    decode_server_info,
    encode_head,
    encode_indexes,
    encode_provenance,
    encode_server_info,
)
from polysem.proto.neurons import NeuronRange, parse_neurons
from polysem.proto.questions.clustering import (
    ClusterBatch,
    Clustering,
    ClusterQuery,
    EmbeddingChoice,
    decode_cluster_query,
    encode_cluster_query,
    threshold_schedule,
)
from polysem.proto.questions.embedding import EmbeddingBatch, EmbedQuery, decode_embed_query, encode_embed_query
from polysem.proto.questions.examples import ExampleBatch, ExampleQuery, decode_example_query, encode_example_query
from polysem.proto.wire import batches, columns
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.proto.wire.tensors import decode_tensor, encode_tensor
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import tensor_pb2

ALL = (NeuronRange(),)
TIMING = Timing(queue_ns=12, compute_ns=2**40, batch_size=3)
LONGEST = Provenance(
    index="n" * 255,
    index_sha256="0" * 64,
    model_id="/" + "m" * 4095,
    model_sha256="f" * 64,
    software_version="0.1.0",
    clustering=Clustering("scc", thresholds=tuple(t / 1000 for t in range(1024))),
)


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


# ---- Questions

numbers = st.integers(0, 2**31 - 1)
ranges = st.one_of(
    st.just(NeuronRange()),
    numbers.map(NeuronRange),
    st.tuples(numbers, numbers, numbers).map(lambda t: NeuronRange(t[0], min(t[1:]), max(t[1:]))),
)
distances = st.floats(0, 2)
thresholds = st.one_of(
    st.sampled_from(["linear", "geometric"]),
    st.lists(distances, min_size=1, max_size=20, unique=True).map(lambda values: tuple(sorted(values))),
)
clusterings = st.one_of(
    st.builds(
        Clustering,
        algorithm=st.just("hac"),
        linkage=st.sampled_from(["average", "complete", "single"]),
        distance_threshold=distances,
        thresholds=st.just("linear"),
        until_stable=st.just(False),
    ),
    st.builds(
        Clustering,
        algorithm=st.just("scc"),
        linkage=st.just("average"),
        distance_threshold=distances,
        thresholds=thresholds,
        until_stable=st.booleans(),
    ),
    st.builds(
        Clustering,
        algorithm=st.just("components"),
        linkage=st.just("single"),
        distance_threshold=distances,
        thresholds=st.just("linear"),
        until_stable=st.just(False),
    ),
)
choices = st.builds(EmbeddingChoice, st.sampled_from(["neuron", "pre_mlp"]), st.sampled_from(["folded", "raw"]))
asked = {"neurons": st.lists(ranges, min_size=1, max_size=5).map(tuple), "index": st.text(max_size=20)}


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


# ---- Facts

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
)


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


# ---- Tensors


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 2), (0, 7), (7, 0), (2, 0, 3), (2, 3, 4)])
def test_a_tensor_keeps_its_dtype_shape_and_bytes(dtype, shape):
    array = (np.arange(np.prod(shape)) - 2).astype(dtype).reshape(shape)
    got = decode_tensor(over_the_wire(encode_tensor(array)))
    assert got.dtype == dtype
    assert got.shape == shape
    np.testing.assert_array_equal(got, array)


def test_a_tensor_is_little_endian_in_c_order_wherever_it_comes_from():
    want = np.arange(6, dtype="<i4").reshape(2, 3)
    for array in (
        want.astype(">i4"),
        np.asfortranarray(want),
        np.arange(12, dtype=np.int32).reshape(2, 6)[:, ::2] // 2,
    ):
        tensor = encode_tensor(array)
        assert tensor.data == want.tobytes()
        assert list(tensor.shape) == [2, 3]


def test_special_numbers_survive():
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    assert decode_tensor(encode_tensor(array)).tobytes() == array.tobytes()


@pytest.mark.parametrize("change", [b"", b"\0" * 23, b"\0" * 25, b"\0" * 28])
def test_a_tensor_with_other_bytes_than_its_shape_needs_is_refused(change):
    tensor = encode_tensor(np.zeros((2, 3), np.int32))
    tensor.data = change
    with pytest.raises(Internal, match=rf"tensor of shape \[2, 3\] came with {len(change)} bytes"):
        decode_tensor(tensor)


@pytest.mark.parametrize("shape", [[-1], [-1, -6], [2, -3], [2**62, 4]])
def test_a_tensor_of_impossible_shape_is_refused(shape):
    tensor = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_INT32, shape=shape, data=b"\0" * 24)
    with pytest.raises(Internal, match="tensor of shape"):
        decode_tensor(tensor)


@pytest.mark.parametrize("number", [0, 9])
def test_a_tensor_of_unknown_type_is_refused(number):
    with pytest.raises(Internal, match=f"unknown data type {number}: the server is newer"):
        decode_tensor(tensor_pb2.Tensor(data_type=number, shape=[1], data=b"\0" * 4))


# ---- Answers


def make_cluster_batch(n_examples, seed=0):
    rng = np.random.default_rng(seed)
    n_examples = np.array(n_examples, np.int32)
    b, e, m = len(n_examples), int(n_examples.sum()), int(np.maximum(n_examples - 1, 0).sum())

    def whole(*shape):
        return rng.integers(0, 2**31 - 1, shape, np.int32)

    return ClusterBatch(
        neurons=whole(b, 2),
        n_examples=n_examples,
        labels=whole(e),
        merges=whole(m, 2),
        heights=rng.random(m),
        node_centrals=whole(m),
        node_mean_distances=rng.random(m),
        n_clusters=whole(b),
        **{
            name: np.where(rng.random(b) < 0.3, np.nan, rng.random(b))
            for name in ("max_distance", "mean_distance", "intra", "inter", "silhouette", "largest_share")
        },
        methods=whole(b),
        silhouettes=rng.random((b, 3)),
    )


def make_embedding_batch(n_examples, d_model=5, seed=0):
    rng = np.random.default_rng(seed)
    n_examples = np.array(n_examples, np.int32)
    neurons = rng.integers(0, 99, (len(n_examples), 2), np.int32)
    return EmbeddingBatch(neurons, n_examples, rng.random((n_examples.sum(), d_model), np.float32))


def make_example_batch(n_tokens, texts=("a", "é", "", "😀", "\0", "word"), document="d", seed=0):
    rng = np.random.default_rng(seed)
    n_tokens = np.array(n_tokens, np.int32)
    e, t = len(n_tokens), int(n_tokens.sum())
    return ExampleBatch(
        neurons=rng.integers(0, 99, (e, 2), np.int32),
        places=rng.integers(0, 99, e, np.int32),
        documents=[f"{document}{i}" for i in range(e)],
        contexts=rng.integers(0, 99, e, np.int32),
        positions=rng.integers(0, 99, e, np.int32),
        activations=rng.random(e, np.float32),
        n_tokens=n_tokens,
        keys=rng.integers(0, 99, e, np.int32),
        tokens=[texts[i % len(texts)] for i in range(t)],
        token_activations=rng.random(t, np.float32),
    )


def encoded(batch, max_bytes=MAX_MESSAGE_BYTES):
    """The batch's messages as bytes, none of them too large."""
    made = batches.encode_batch(batch, encode_head(LONGEST, TIMING), max_bytes)
    messages = [message.SerializeToString() for message in made]
    assert max(map(len, messages), default=0) <= max_bytes
    return messages


def joined(batch, messages):
    """What the messages say, one batch after the other."""
    type_ = columns.LAYOUTS[type(batch)].message
    joiner = batches.Joiner(type(batch))
    messages = [type_.FromString(message) for message in messages]
    assert all(decode_head(message) == (LONGEST, TIMING) for message in messages)
    return [answer for message in messages if (answer := joiner.add(message)) is not None]


def assert_same(batch, answers):
    """Each axis of the answers, laid end to end, is the batch's."""
    for name in columns.LAYOUTS[type(batch)].axes:
        want, parts = getattr(batch, name), [getattr(answer, name) for answer in answers]
        if name in columns.LAYOUTS[type(batch)].texts:
            assert [text for part in parts for text in part] == list(want)
        else:
            got = np.concatenate(parts)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def assert_whole(answers):
    """Each answer has all the rows that its items need, so that it can be read alone."""
    for answer in answers:
        ends = {axis: offsets[-1] for axis, offsets in columns.offsets(answer).items()}
        for name, axis in columns.LAYOUTS[type(answer)].axes.items():
            assert len(getattr(answer, name)) == ends[axis], name


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


@of_each_kind
def test_a_column_that_an_older_server_does_not_send_is_told(batch):
    (message,) = batches.encode_batch(batch, encode_head(LONGEST, TIMING))
    message.ClearField("neurons")
    with pytest.raises(Internal, match="the server sent no neurons: it is older than this client"):
        batches.Joiner(type(batch)).add(message)


def test_a_row_too_large_for_a_message_is_told_not_sent():
    with pytest.raises(Internal, match="does not fit"):
        list(batches.encode_batch(make_embedding_batch([2], 2**18), encode_head(LONGEST, TIMING)))
