"""Questions and batches that are made up, and what they are on the wire and back."""

from typing import get_args

import numpy as np
from hypothesis import strategies as st

from polysem.proto.facts import (
    Provenance,
    Timing,
    decode_head,
    encode_head,
)
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions.clustering import (
    ClusterBatch,
    Clustering,
    Embedding,
    EmbeddingChoice,
)
from polysem.proto.questions.embedding import EmbeddingBatch
from polysem.proto.questions.examples import ExampleBatch
from polysem.proto.wire import batches, columns
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES

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
neighbours = st.none() | st.integers(1, 1024)
clusterings = st.one_of(
    st.builds(
        Clustering,
        algorithm=st.just("hac"),
        linkage=st.sampled_from(["average", "complete", "single"]),
        distance_threshold=distances,
        thresholds=st.just("linear"),
        until_stable=st.just(False),
    ),
    st.builds(Clustering, linkage=st.just("single"), distance_threshold=distances, neighbours=neighbours),
    st.builds(
        Clustering,
        algorithm=st.just("scc"),
        linkage=st.just("average"),
        distance_threshold=distances,
        thresholds=thresholds,
        until_stable=st.booleans(),
        neighbours=neighbours,
    ),
    st.builds(
        Clustering,
        algorithm=st.just("components"),
        linkage=st.just("single"),
        distance_threshold=distances,
        thresholds=st.just("linear"),
        until_stable=st.just(False),
        neighbours=neighbours,
    ),
)
choices = st.builds(EmbeddingChoice, st.sampled_from(get_args(Embedding)), st.sampled_from(["folded", "raw"]))
asked = {"neurons": st.lists(ranges, min_size=1, max_size=5).map(tuple), "index": st.text(max_size=20)}


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
        libraries=whole(b),
        significance=rng.random((b, 4)),
        merge_tests=rng.random((m, 2)),
        key_tokens=whole(e),
        null_metrics=rng.random((b, 4)),
        stability=rng.random((e, 1)),
        prediction_strength=rng.random((b, 1)),
        cut_silhouettes=rng.random((m, 1)),
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
        part_numbers=rng.integers(1, 4, e, np.int32),
        part_counts=rng.integers(1, 4, e, np.int32),
        token_ids=rng.integers(0, 99, t, np.int32),
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
