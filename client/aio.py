"""The client for asyncio: the methods of `Client`, to be awaited."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from polysem.client import calls, connection
from polysem.client.calls import Call
from polysem.client.client import AwaitedQuestions
from polysem.client.jobs import AsyncJobs
from polysem.client.questions.listing import Listing, Pages, listed_of
from polysem.client.streams import AsyncStream, Collected
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Answer, IndexInfo, ServerInfo, decode_indexes, decode_server_info
from polysem.proto.wire import status
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


class AsyncClient(AwaitedQuestions):
    """As `Client`, whose docstrings hold here; use it in `async with`. Make it inside a running event loop."""

    def __init__(
        self,
        target: str | Sequence[str] = calls.DEFAULT_TARGET,
        *,
        timeout_s: float | None = None,
        token: str | None = None,
        tls: bool | str | Path = False,
        bulk: bool = False,
    ) -> None:
        self.target = connection.named(target)
        self._timeout_s = timeout_s
        self._channel = connection.aio_channel(self.target, token, tls, bulk)
        self._open_stub: Any = pb_grpc.NeuronServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._jobs = AsyncJobs(job_pb_grpc.JobServiceStub(self._channel), self.target, timeout_s)  # type: ignore[no-untyped-call]

    async def info(self) -> ServerInfo:
        try:
            return decode_server_info(await self._ask("GetServerInfo", pb.GetServerInfoRequest()))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    async def serving(self, timeout_s: float = 5.0) -> bool:
        _ = self._stub  # not closed
        check: Any = self._channel.unary_unary(connection.HEALTH_CHECK)
        try:
            return bool(await check(b"", timeout=timeout_s) == connection.SERVING)
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    async def indexes(self) -> list[IndexInfo]:
        try:
            return decode_indexes(await self._ask("ListIndexes", pb.ListIndexesRequest()))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    @property
    def jobs(self) -> AsyncJobs:
        _ = self._stub  # not closed
        return self._jobs

    _asker = None  # neurons cannot await what they ask

    def _stream(self, call: Call[Collected]) -> AsyncStream[Collected]:
        return AsyncStream(self._answers(call), partial(call.stream, view=call.view), call.view)

    def _listing(self, pages: Pages) -> AsyncStream[Listing]:
        return AsyncStream(self._pages(pages), partial(Listing, view=listed_of), listed_of)

    async def _answers(self, call: Call[Any]) -> AsyncIterator[Answer]:
        assembler = calls.Assembler(call, self._timeout_s)
        while True:
            try:
                messages = getattr(self._stub, call.method)(call.request, timeout=assembler.timeout_s)
                noted = False
                async for message in messages:
                    if not noted:
                        connection.note_attempts(self.target, await messages.initial_metadata())
                        noted = True
                    if (answer := assembler.add(message)) is not None:
                        yield answer
                return
            except grpc.aio.AioRpcError as error:
                if not assembler.resumes(error):
                    raise status.from_rpc_error(error, self.target) from None
                connection.note_resumed(self.target)

    async def _pages(self, pages: Pages) -> AsyncIterator[Answer]:
        try:
            while (request := pages.next()) is not None:
                yield pages.add(await self._ask("ListNeurons", request))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.target) from None

    async def _ask(self, method: str, request: Any) -> Any:
        return await connection.aio_ask(getattr(self._stub, method), request, self.target, self._timeout_s)

    @property
    def _stub(self) -> Any:
        if self._open_stub is None:
            raise FailedPrecondition(calls.CLOSED)
        return self._open_stub

    async def close(self) -> None:
        self._open_stub = None
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.target!r})"
