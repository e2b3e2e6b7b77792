"""The client for asyncio: the methods of `Client`, to be awaited."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from polysem.client import addresses, calls, connection
from polysem.client.awaited import AwaitedQuestions
from polysem.client.calls import Call
from polysem.client.client import NO_COPY
from polysem.client.jobs import AsyncJobs
from polysem.client.naming import AwaitedNaming
from polysem.client.questions.listing import Listing, Pages, listed_of
from polysem.client.streams import ANOTHER_LOOP, AsyncStream, Collected
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Answer, IndexInfo, ServerInfo, decode_indexes, decode_server_info
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


class AsyncClient(AwaitedNaming, AwaitedQuestions):
    """A client for asyncio, used in `async with`. Its methods are those of `Client`, whose docstrings hold here.

    It may be made before its event loop runs, and belongs to the loop in which it is first used.
    """

    def __init__(
        self,
        target: str | Sequence[str] = calls.DEFAULT_TARGET,
        *,
        timeout_s: float | None = None,
        token: str | None = None,
        tls: bool | str | Path = False,
        bulk: bool = False,
    ) -> None:
        self.target = addresses.named(target)
        self._timeout_s = connection.seconds(timeout_s)
        self._opens = connection.aio_channel(self.target, token, tls, bulk)
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._jobs = AsyncJobs(self._job_stub, self.target, self._timeout_s)

    async def info(self) -> ServerInfo:
        with self._translated():
            return decode_server_info(await self._ask("GetServerInfo", pb.GetServerInfoRequest()))

    async def serving(self, timeout_s: float = 5.0) -> bool:
        check: Any = self._connected().unary_unary(connection.HEALTH_CHECK)
        with self._translated():
            return bool(await check(b"", timeout=connection.seconds(timeout_s)) == connection.SERVING)

    async def indexes(self) -> list[IndexInfo]:
        with self._translated():
            return decode_indexes(await self._ask("ListIndexes", pb.ListIndexesRequest()))

    @property
    def jobs(self) -> AsyncJobs:
        self._check_open()
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
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) or self._closed or not assembler.resumes(error):
                    raise connection.translated(error, self.target, self._check_open) from None
                connection.note_resumed(self.target)

    async def _pages(self, pages: Pages) -> AsyncIterator[Answer]:
        with self._translated():
            while (request := pages.next()) is not None:
                yield pages.add(await self._ask("ListNeurons", request))

    async def _ask(self, method: str, request: Any) -> Any:
        return await connection.aio_ask(getattr(self._stub, method), request, self.target, self._timeout_s)

    @property
    def _stub(self) -> Any:
        return pb_grpc.NeuronServiceStub(self._connected())  # type: ignore[no-untyped-call]

    def _job_stub(self) -> Any:
        return job_pb_grpc.JobServiceStub(self._connected())  # type: ignore[no-untyped-call]

    def _connected(self) -> grpc.aio.Channel:
        """The channel, opened on first use. Raises FailedPrecondition once closed, and in another event loop."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel, self._loop = self._opens(), loop
        elif self._loop is not loop:
            raise FailedPrecondition(f"this AsyncClient {ANOTHER_LOOP}")
        return self._channel

    def _check_open(self) -> None:
        if self._closed:
            raise FailedPrecondition(calls.CLOSED)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raise connection.translated(error, self.target, self._check_open) from None

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()
        self._channel = None

    def __reduce__(self) -> Any:
        raise TypeError(NO_COPY.format("AsyncClient"))

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.target!r})"
