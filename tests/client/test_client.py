"""The client against a real server: what it asks, what it refuses, and what it says when nobody answers."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest

from polysem.client import Client, NeuronId
from polysem.proto.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PolysemError,
    Unavailable,
    UnknownIndex,
    UnknownNeuron,
    Unsupported,
)
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES

N = 96  # neurons a layer of the small model


def ids(neurons):
    return [str(neuron.id) for neuron in neurons]


# ---- What comes back


def test_info_says_what_the_server_is(client):
    info = client.info()
    assert (info.model.n_layers, info.model.n_neurons_per_layer, info.model.d_model) == (2, N, 24)
    assert (info.device, info.dtype, info.default_index) == ("cpu", "float32", "small")
    assert info.limits.max_message_bytes == MAX_MESSAGE_BYTES


def test_the_default_index_comes_first(client):
    found = client.indexes()
    assert [index.name for index in found] == ["small", "pairs", "single"]
    assert found[0].n_documents == 120
    assert found[0].n_neurons_with_examples == 2 * N - 1


@pytest.mark.parametrize("one", ["1.5", "L1N5", (1, 5), NeuronId(1, 5), (np.int64(1), np.int32(5)), ["1.5"]])
def test_a_neuron_may_be_named_in_any_spelling(client, one):
    (neuron,) = client.cluster(one)
    assert neuron.id == (1, 5)
    np.testing.assert_array_equal(neuron.linkage, client.cluster("1.5")[0].linkage)


def test_neurons_come_in_the_order_asked(client):
    asked = ["1.90-95", "0.3", "1.0", "0.0-2"]
    want = ["1.90", "1.91", "1.92", "1.93", "1.94", "1.95", "0.3", "1.0", "0.0", "0.1", "0.2"]
    assert ids(client.cluster(*asked)) == ids(client.embed(*asked)) == want
    assert list(dict.fromkeys(str(example.neuron) for example in client.examples(*asked))) == want


def test_a_neuron_named_twice_comes_once_at_its_first_place(client):
    for answer in (client.cluster("1.7", "0.*", "1.6-8", "1.7"), client.embed("1.7", "0.*", "1.6-8", "1.7")):
        assert ids(answer) == ["1.7", *(f"0.{j}" for j in range(N)), "1.6", "1.8"]


def test_the_star_is_the_whole_model(client):
    assert ids(client.cluster("*")) == [f"{layer}.{j}" for layer in range(2) for j in range(N)]
    assert ids(client.cluster("1.*")) == [f"1.{j}" for j in range(N)]


def test_a_neuron_does_not_depend_on_what_was_asked_with_it(client):
    among_all = client.cluster("*")[N + 5]
    (alone,) = client.cluster("1.5")
    assert alone.metrics == among_all.metrics
    np.testing.assert_array_equal(alone.linkage, among_all.linkage)
    np.testing.assert_array_equal(client.embed("*")[N + 5].embeddings, client.embed("1.5")[0].embeddings)


def test_a_neuron_without_examples_is_not_an_error(client):
    (neuron,) = client.cluster("1.3")
    assert (neuron.metrics.n_examples, neuron.metrics.n_clusters) == (0, 0)
    assert neuron.labels.shape == (0,)
    assert neuron.linkage.shape == (0, 4)
    assert neuron.clusters == ()
    assert neuron.metrics.intra is neuron.metrics.max_distance is neuron.metrics.largest_share is None
    assert client.embed("1.3")[0].embeddings.shape == (0, 24)
    assert list(client.examples("1.3")) == list(neuron.examples) == []


def test_examples_stand_in_the_order_of_the_labels(client):
    neuron, embeddings, examples = client.cluster("1.5")[0], client.embed("1.5")[0], client.examples("1.5")
    assert len(neuron.labels) == len(embeddings.embeddings) == len(examples) == 30
    assert [example.example for example in examples] == list(range(30))
    contexts = [example.context for example in examples]
    assert contexts == sorted(contexts)


def test_an_example_shows_the_text_around_its_key_token(client):
    for example in client.examples("0.0-20"):
        assert example.tokens[example.key] is not None
        assert example.activations[example.key] == pytest.approx(example.activation, rel=1e-3)  # float16 around
        assert example.key <= 20
        assert len(example.tokens) == len(example.activations) <= 31
        assert example.position >= 1  # never BOS
        assert "<|endoftext|>" not in example.text
        assert example.activation > 0


def test_some_examples_may_be_named_by_place(client):
    every = client.examples("1.5", "0.2")
    some = client.examples("1.5", "0.2", examples=[4, 0, 99])
    want = [
        (e.neuron, e.example, e.text)
        for n in ("1.5", "0.2")
        for p in (4, 0)
        for e in every
        if (str(e.neuron), e.example) == (n, p)
    ]
    assert [(e.neuron, e.example, e.text) for e in some] == want
    assert len(some) == 4  # no neuron has a place 99


def test_a_whole_context_is_all_that_the_model_read(client, corpus_file):
    texts = {record["id"]: record["text"] for record in map(json.loads, corpus_file.read_text().splitlines())}
    around = client.examples("0.0-4", "1.10")
    for whole, part in zip(client.examples("0.0-4", "1.10", whole_context=True), around, strict=True):
        assert (whole.neuron, whole.example, whole.context, whole.position) == (
            part.neuron,
            part.example,
            part.context,
            part.position,
        )
        assert whole.tokens[0] == "<|endoftext|>"
        assert whole.key == whole.position
        read = "".join(whole.tokens[1:]).rstrip("�")  # a window may end within a character
        assert texts[whole.document].startswith(read)
        assert whole.activations[whole.key] == max(whole.activations[1:])
        first = whole.key - part.key
        np.testing.assert_allclose(
            whole.activations[first : first + len(part.tokens)], part.activations, rtol=2e-3, atol=1e-5
        )


def test_an_index_may_be_named(client):
    assert client.cluster("1.5", index="small")[0].metrics.n_examples == 30
    assert client.cluster("1.5", index="pairs")[0].metrics.n_examples == 2
    assert client.cluster("1.5", index="single")[0].metrics.n_examples == 1
    assert len(client.cluster("1.5", index="pairs")[0].examples) == 2  # of the same index
    assert client.cluster("1.5", index="pairs")[0].provenance.index == "pairs"


def test_an_answer_knows_what_it_depends_on(client):
    neuron = client.cluster(
        "1.5", algorithm="scc", embedding="pre_mlp", layer_norm="raw", thresholds=[0.1, 0.5], until_stable=True
    )[0]
    (info, *_), model = client.indexes(), client.info().model
    provenance = neuron.provenance
    assert (provenance.index, provenance.index_sha256) == ("small", info.sha256)
    assert (
        (provenance.model_id, provenance.model_sha256) == (model.id, model.sha256) == (info.model_id, info.model_sha256)
    )
    assert provenance.choice == EmbeddingChoice("pre_mlp", "raw")
    assert provenance.clustering == Clustering("scc", "average", 0.5, (0.1, 0.5), True, n_null=99)
    assert neuron.distance_threshold == 0.5
    assert neuron.timing.compute_ns > 0
    assert neuron.timing.batch_size >= 1


def test_scc_trees_have_the_thresholds_as_heights(client):
    for thresholds, known in [
        ([0.1, 0.3, 0.7], {0.1, 0.3, 0.7, 2.0}),
        ("linear", {*(r / 50 for r in range(1, 51)), 2.0}),
    ]:
        for neuron in client.cluster("0.*", algorithm="scc", thresholds=thresholds):
            assert set(neuron.linkage[:, 2]) <= known


# ---- What is wrong is told before anything is sent


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"neurons": []}, "neurons"),
        ({"neurons": ["12"]}, "neurons"),
        ({"neurons": ["7.5-2"]}, "neurons"),
        ({"algorithm": "kmeans"}, "algorithm"),
        ({"linkage": "ward"}, "linkage"),
        ({"embedding": "post_mlp"}, "embedding"),
        ({"layer_norm": "none"}, "layer_norm"),
        ({"distance_threshold": 2.5}, "distance_threshold"),
        ({"distance_threshold": float("nan")}, "distance_threshold"),
        ({"distance_threshold": "0.5"}, "distance_threshold"),
        ({"thresholds": "cubic"}, "thresholds"),
        ({"thresholds": []}, "thresholds"),
        ({"thresholds": [0.5, 0.5]}, "thresholds"),
        ({"thresholds": ["x"]}, "thresholds"),
        ({"thresholds": 0.5}, "thresholds"),
    ],
)
def test_a_wrong_argument_is_named_at_once(arguments, field):
    arguments = {"neurons": ["1.5"]} | arguments
    with Client("127.0.0.1:1") as nobody, pytest.raises(InvalidArgument) as raised:
        nobody.cluster(*arguments.pop("neurons"), **arguments)
    assert raised.value.field == field


@pytest.mark.parametrize("places", [[-1], [1.5], ["0"], [None]])
def test_a_wrong_place_is_named_at_once(places):
    with Client("127.0.0.1:1") as nobody, pytest.raises(InvalidArgument, match="not an example") as raised:
        nobody.examples("1.5", examples=places)
    assert raised.value.field == "examples"


def test_a_question_larger_than_a_message_is_not_sent():
    with Client("127.0.0.1:1") as nobody, pytest.raises(InvalidArgument, match="name ranges instead of single neurons"):
        nobody.cluster([(7, j) for j in range(200_000)])


# ---- What the server refuses


@pytest.mark.parametrize(
    ("named", "known"),
    [("2.0", "layers 0 to 1"), ("0.96", "neurons 0 to 95"), ("0.90-96", "neurons 0 to 95"), ("9.*", "layers 0 to 1")],
)
def test_an_unknown_neuron_is_told_with_those_that_are(client, named, known):
    for ask in (client.cluster, client.embed, client.examples):
        with pytest.raises(UnknownNeuron, match=f"there is no neuron {named.replace('*', '.*')}: .*{known}"):
            len(ask("0.0", named))
    assert issubclass(UnknownNeuron, LookupError)


def test_an_unknown_index_is_told_with_those_that_are(client):
    for ask in (client.cluster, client.embed, client.examples):
        with pytest.raises(UnknownIndex, match="there is no index 'large' here; the server has small, pairs, single"):
            len(ask("0.0", index="large"))
    assert issubclass(UnknownIndex, NotFound)


def test_a_very_long_wrong_name_is_still_told(client):
    with pytest.raises(UnknownIndex, match="there is no index 'xxx"):
        len(client.cluster("0.0", index="x" * 100_000))


def test_too_many_neurons_are_refused(client):
    with pytest.raises(
        InvalidArgument, match="2000001 neurons were named in one request; ask for at most 1048576"
    ) as raised:
        len(client.cluster("0.0-2000000"))
    assert raised.value.field == "neurons"


def test_an_error_leaves_the_client_usable(client):
    with pytest.raises(UnknownNeuron):
        len(client.cluster("9.0"))
    assert len(client.cluster("0.0")) == 1


# ---- Nobody, or somebody else, answers


@contextlib.contextmanager
def listening(treat):
    """A TCP port; `treat` is given each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()
        open_connections = []

        def accept():
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    open_connections.append(connection)
                    treat(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in open_connections:
                connection.close()


def every_call(client):
    return [
        client.info,
        client.indexes,
        *(lambda ask=ask: len(ask("0.0")) for ask in (client.cluster, client.embed, client.examples)),
    ]


def every_call_raises(client, error, match):
    """All at once, as each is made again several times."""
    with futures.ThreadPoolExecutor() as pool:
        for asked in [pool.submit(call) for call in every_call(client)]:
            with pytest.raises(error, match=match):
                asked.result()


def test_no_server_is_told_with_its_address_and_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    with Client(target) as nobody:
        every_call_raises(nobody, Unavailable, f"no Polysem server answers at {target}: start one with `polysem serve`")


def test_a_server_that_hangs_up_is_told():
    with listening(lambda connection: connection.close()) as target, Client(target, timeout_s=20) as client:
        every_call_raises(client, Unavailable, target)


def test_a_server_of_another_kind_is_told():
    def say_http(connection):
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()

    with listening(say_http) as target, Client(target, timeout_s=20) as client:
        every_call_raises(client, Unavailable, target)


def test_a_server_that_says_nothing_is_given_up_after_the_time_given():
    with listening(lambda connection: None) as target, Client(target, timeout_s=0.2) as client:
        for call in every_call(client):
            with pytest.raises(DeadlineExceeded, match=f"no answer from {target} in the time given; raise timeout_s"):
                call()


def test_a_server_that_does_not_know_the_call_is_told():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client:
            for call in every_call(client):
                with pytest.raises(Unsupported, match="it is older than this client, or it is not a Polysem server"):
                    call()
    finally:
        server.stop(None).wait()


def test_a_name_that_is_no_host_is_told():
    with Client("no-such-host.invalid:1", timeout_s=20) as client, pytest.raises((Unavailable, DeadlineExceeded)):
        client.info()


# ---- Its life


def test_a_closed_client_says_so(client):
    with Client(client.target) as short:
        unread = short.cluster("0.0")
        read = short.cluster("0.0")
        (neuron,) = read
    for call in [*every_call(short), lambda: len(unread), lambda: neuron.examples[0]]:
        with pytest.raises(FailedPrecondition, match="this client is closed"):
            call()
    assert len(read) == 1
    assert neuron.cut(0.1).distance_threshold == 0.1


def test_closing_twice_is_no_error(client):
    short = Client(client.target)
    short.close()
    short.close()


def test_a_client_shows_its_target():
    with Client("gpu-box:50051") as client:
        assert repr(client) == "Client('gpu-box:50051')"


def test_many_threads_may_share_a_client(client):
    want = [neuron.metrics for neuron in client.cluster("*")]
    with futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: [neuron.metrics for neuron in client.cluster("*")], range(16)))
    assert got == [want] * 16


def test_every_error_is_one_of_ours(client):
    for call in (
        lambda: len(client.cluster("9.0")),
        lambda: client.cluster("x"),
        lambda: len(client.embed("0.0", index="x")),
    ):
        with pytest.raises(PolysemError):
            call()


def test_importing_the_client_loads_nothing_heavy():
    script = "import sys, json, polysem.client; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout))
    heavy = {
        "torch",
        "transformers",
        "tokenizers",
        "numba",
        "scipy",
        "sklearn",
        "pandas",
        "polars",
        "pyarrow",
        "IPython",
    }
    assert loaded & heavy == set()
    assert not [name for name in loaded if name.startswith(("polysem.server", "polysem.kernels"))]
