"""Requests that both clients send, and how an answer's messages become batches again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from polysem.client.addresses import DEFAULT_PORT
from polysem.client.streams import Stream
from polysem.proto.errors import ForeignIndex, InvalidArgument
from polysem.proto.facts import Answer, Provenance, decode_head
from polysem.proto.wire import batches, columns
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.proto.wire.columns import AnyBatch

Collected = TypeVar("Collected", bound=Stream[Any])

DEFAULT_TARGET = f"127.0.0.1:{DEFAULT_PORT}"
MAX_RESUMED = 3  # times that one answer is asked for again where it was cut off
HASHES = ("index_sha256", "model_sha256", "unembedding_sha256")  # that all of an answer has in common
CLOSED = "this client is closed; read all that you want of its answers before, inside `with`"


@dataclass(frozen=True)
class Call(Generic[Collected]):
    """A streaming RPC of NeuronService.

    method    its name
    request   its message; raises InvalidArgument where no server would read it
    batch     what it answers with
    view      makes of a batch the items that callers get
    stream    what they get them in
    expected  how many, where the question says so
    """

    method: str
    request: Any
    batch: type[AnyBatch]
    view: Callable[[Answer], Sequence[Any]]
    stream: type[Collected]
    expected: int | None = None

    def __post_init__(self) -> None:
        if self.request.ByteSize() > MAX_MESSAGE_BYTES:
            raise InvalidArgument(
                f"the question has {self.request.ByteSize()} bytes, a server reads {MAX_MESSAGE_BYTES}; "
                "name ranges instead of single neurons, or ask in parts",
                "neurons",
            )


class Assembler:
    """Messages in, answers out, for one streaming call, which may be made again where it was cut off.

    gRPC itself repeats a call only until its first message comes. Answers come in a fixed order with the same bytes
    from every server of an index, so the repeated call's are passed over as far as they were given out already.
    """

    def __init__(self, call: Call[Any], timeout_s: float | None) -> None:
        self._type = call.batch
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._joiner: batches.Joiner[Any] = batches.Joiner(call.batch)
        self._provenance: Provenance | None = None
        self._begun = False  # a message has come
        self._given = 0  # items given out
        self._passing = 0  # items yet to be passed over
        self._resumed = 0

    @property
    def timeout_s(self) -> float | None:
        """Return the time left of the time given."""
        return None if self._ends is None else max(self._ends - time.monotonic(), 0.0)

    def resumes(self, error: grpc.RpcError) -> bool:
        """Whether the call is to be made again after this."""
        if not self._begun or self._resumed == MAX_RESUMED or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return False
        self._joiner = batches.Joiner(self._type)
        self._begun, self._passing, self._resumed = False, self._given, self._resumed + 1
        return True

    def add(self, message: Any) -> Answer | None:
        """The batch that the message completes, if it does; raises ForeignIndex where a call resumed elsewhere."""
        self._begun = True
        batch = self._joiner.add(message)
        if batch is None:
            return None
        provenance, timing = decode_head(message)
        first = self._provenance = self._provenance or provenance
        if any(getattr(first, name) != getattr(provenance, name) for name in HASHES):
            raise ForeignIndex("the server that took over has another index or model; ask again")
        n = columns.n_items(batch)
        passed = min(self._passing, n)
        self._passing -= passed
        self._given += n - passed
        if passed and passed == n:
            return None
        return Answer(columns.take(batch, passed, n) if passed else batch, provenance, timing)
