"""A client ahead of the server and a server ahead of the client: it just works, or one sentence says what is wrong."""

from concurrent import futures

import grpc
import pytest

from polysem.client import Client
from polysem.proto.errors import PolysemError
from polysem.v1 import neuron_service_pb2 as pb

NEURONS = "/polysem.v1.NeuronService/"
UNKNOWN_FIELD = b"\xc2\x3e\x05later"  # number 1000, a string
UNKNOWN_ALGORITHM = 77


@pytest.fixture
def newer_client(server):
    """A function that sends bytes to a method and gives the answers' bytes."""
    with grpc.insecure_channel(server.target) as channel:
        yield lambda method, data: list(channel.unary_stream(NEURONS + method)(data, timeout=20))


def test_a_field_that_the_server_does_not_know_is_passed_over(newer_client):
    question = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(layer=1, first=7, last=7)]).SerializeToString()
    (with_it,), (without,) = (
        [pb.ClusterNeuronsResponse.FromString(answer) for answer in newer_client("ClusterNeurons", sent)]
        for sent in (question + UNKNOWN_FIELD, question)
    )
    assert with_it.labels == without.labels
    assert len(with_it.labels.data) > 0


def test_an_algorithm_that_the_server_does_not_know_is_refused_with_those_it_does(newer_client):
    question = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()], algorithm=UNKNOWN_ALGORITHM)
    with pytest.raises(grpc.RpcError) as raised:
        newer_client("ClusterNeurons", question.SerializeToString())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "unknown algorithm number 77: this version knows hac, scc, components"


def test_a_call_that_the_server_does_not_know_is_unimplemented(newer_client):
    with pytest.raises(grpc.RpcError) as raised:
        newer_client("SplitNeurons", b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def newer_server(server):
    """A function: a client of a server that passes calls on to ours and changes the answers' bytes."""
    stopping, channel = [], grpc.insecure_channel(server.target)

    def start(change):
        class Passing(grpc.GenericRpcHandler):
            def service(self, details):
                ask = channel.unary_stream(details.method)
                return grpc.unary_stream_rpc_method_handler(lambda request, _: map(change, ask(request, timeout=20)))

        front = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Passing(),))
        port = front.add_insecure_port("127.0.0.1:0")
        front.start()
        client = Client(f"127.0.0.1:{port}", token="")
        stopping.extend([client.close, lambda: front.stop(None).wait()])
        return client

    yield start
    for stop in stopping:
        stop()
    channel.close()


def test_fields_of_an_answer_that_the_client_does_not_know_are_passed_over(newer_server, server):
    client = newer_server(lambda answer: answer + UNKNOWN_FIELD)
    assert client.info() == server.info()
    assert client.indexes() == server.indexes()
    (theirs,), (ours,) = client.cluster("1.7"), server.cluster("1.7")
    assert theirs.labels.tolist() == ours.labels.tolist()
    assert client.examples("1.7")[0].text == server.examples("1.7")[0].text


def test_fields_that_an_older_server_does_not_send_are_done_without(newer_server, server):
    def change(data):
        answer = pb.ClusterNeuronsResponse.FromString(data)
        answer.ClearField("libraries")
        return answer.SerializeToString()

    (older,), (now,) = newer_server(change).cluster("1.7"), server.cluster("1.7")
    assert older.labels.tolist() == now.labels.tolist()
    assert (older.library, now.library) == (None, "polysem")


def test_a_name_in_an_answer_that_the_client_does_not_know_is_told(newer_server):
    def change(data):
        answer = pb.ClusterNeuronsResponse.FromString(data)
        answer.provenance.algorithm = UNKNOWN_ALGORITHM
        return answer.SerializeToString()

    with pytest.raises(PolysemError, match="unknown algorithm number 77: this version knows hac, scc, components"):
        list(newer_server(change).cluster("1.7"))
