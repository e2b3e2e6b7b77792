"""The client.

from polysem.client import Client

with Client("gpu-box:50051") as polysem:
    for neuron in polysem.cluster("7.1234", "8.0-99"):
        print(neuron.id, neuron.labels, neuron.metrics.intra)
"""

from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal

import grpc

from polysem.client import calls
from polysem.client.calls import StreamCall
from polysem.client.jobs import Jobs
from polysem.client.results import Answer, Embeddings, Example, embeddings_of, examples_of, neurons_of
from polysem.client.streams import Clusters, Stream
from polysem.proto import codec, status
from polysem.proto.errors import FailedPrecondition
from polysem.proto.neurons import NeuronId, NeuronLike
from polysem.proto.types import Algorithm, Embedding, IndexInfo, LayerNorm, Linkage, ServerInfo
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


class Client:
    """A connection to a Polysem server; close it, or use it in `with`.

    target     host:port
    timeout_s  how long a whole call may take; None: as long as it needs

    Every method raises the exceptions of polysem.proto.errors; what is wrong with the arguments is told before
    anything is sent.
    """

    def __init__(self, target: str = calls.DEFAULT_TARGET, *, timeout_s: float | None = None) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(target, calls.CHANNEL_OPTIONS)
        self._open_stub: Any = pb_grpc.NeuronServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._jobs = Jobs(job_pb_grpc.JobServiceStub(self._channel), target, timeout_s)  # type: ignore[no-untyped-call]

    def info(self) -> ServerInfo:
        """The server's model, device, limits and version."""
        try:
            return codec.decode_server_info(
                self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=self._timeout_s)
            )
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    def indexes(self) -> list[IndexInfo]:
        """The indexes that `index=` can name; the default comes first."""
        try:
            return codec.decode_indexes(self._stub.ListIndexes(pb.ListIndexesRequest(), timeout=self._timeout_s))
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    @property
    def jobs(self) -> Jobs:
        """Work that outlasts a call: measuring the whole model, indexing a corpus."""
        _ = self._stub  # not closed
        return self._jobs

    def cluster(
        self,
        *neurons: NeuronLike,
        algorithm: Algorithm = "hac",
        linkage: Linkage = "average",
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        distance_threshold: float = 0.5,
        thresholds: Sequence[float] | Literal["linear", "geometric"] | None = None,
        until_stable: bool = False,
        index: str | None = None,
    ) -> Clusters:
        """Feature clusters of the neurons, streamed in the order asked; a neuron named twice comes once.

        neurons             "7.1234", "L7N1234", (7, 1234), "7.0-99", "7.*", "*"
        algorithm           hac: agglomerative · scc: Sub-Cluster Component · components: of the graph distance <= t
        linkage             of hac: average, complete or single
        embedding           neuron: h ⊙ w (Foote 2024) · pre_mlp: h
        layer_norm          folded: h = x̂, w = γ⊙W · raw: h = γ⊙x̂+β, w = W
        distance_threshold  0..2: where the tree is cut
        thresholds          of scc's rounds, increasing, or the name of a schedule; None: linear, 0.02 to 1.0
        until_stable        of scc: repeat each round until nothing merges
        index               a name from `indexes()`; None: the server's default
        """
        call = calls.cluster(
            neurons, algorithm, linkage, embedding, layer_norm, distance_threshold, thresholds, until_stable, index
        )
        return Clusters(self._answers(call), partial(neurons_of, fetch_examples=partial(self._examples_of, index)))

    def embed(
        self,
        *neurons: NeuronLike,
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        index: str | None = None,
    ) -> Stream[Embeddings]:
        """The embeddings themselves: of each neuron an (n, d_model) float32 array, a row an example."""
        return Stream(self._answers(calls.embed(neurons, embedding, layer_norm, index)), embeddings_of)

    def examples(
        self,
        *neurons: NeuronLike,
        places: Sequence[int] = (),
        whole_context: bool = False,
        index: str | None = None,
    ) -> Stream[Example]:
        """The texts of the neurons' dataset examples, in the order of their labels.

        places         which of each neuron's examples; none: all
        whole_context  all that the model read, instead of 20 tokens before and 10 after the key token
        """
        return Stream(self._answers(calls.examples(neurons, places, whole_context, index)), examples_of)

    def _examples_of(self, index: str | None, neuron: NeuronId) -> Sequence[Example]:
        return self.examples(neuron, index=index)

    def _answers(self, call: StreamCall) -> Iterator[Answer]:
        assembler = calls.Assembler(call)
        try:
            for message in getattr(self._stub, call.method)(call.request, timeout=self._timeout_s):
                if (answer := assembler.add(message)) is not None:
                    yield answer
        except grpc.RpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    @property
    def _stub(self) -> Any:
        if self._open_stub is None:
            raise FailedPrecondition(calls.CLOSED)
        return self._open_stub

    def close(self) -> None:
        self._open_stub = None
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r})"
