"""What happens around every call: is the server ready, who asks, how it ended; exceptions become statuses here."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from polysem.proto.errors import (
    Internal,
    InvalidArgument,
    Overloaded,
    PolysemError,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    WarmingUp,
)
from polysem.proto.wire import status
from polysem.server.serving import callers
from polysem.server.serving.audit import Refusals, audit
from polysem.server.serving.callers import CLASS_METADATA, Caller
from polysem.server.serving.keys import Keys
from polysem.server.serving.metrics import Metrics
from polysem.server.serving.shortage import Redaction, shortage

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

HEALTH = "/grpc.health.v1.Health/"
WARMING_UP = "the server is warming up: it loads the model and compiles its kernels; try again in a few seconds"
WARM_UP_RETRY_S = 2.0
ATTEMPTS = "grpc-previous-rpc-attempts"  # gRPC's own: how often the client has tried before

log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call while it is handled; what it was found to be about is added on the way."""

    method: str
    peer: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    caller: Caller = callers.ANYONE
    n_neurons: int = 0
    cost: float = 0.0
    started_ns: int = field(default_factory=time.monotonic_ns)


current: ContextVar[Call | None] = ContextVar("call", default=None)


def about(n_neurons: int, cost: float) -> None:
    """Note for the audit log how large the call is that is being handled."""
    if (call := current.get()) is not None:
        call.n_neurons, call.cost = n_neurons, cost


class Interceptor(grpc.aio.ServerInterceptor):
    """keys None: everybody may come in. Until `ready` is set only health is answered, and never asks for a key.

    redaction: of the server's paths, which no caller is to read
    """

    def __init__(self, metrics: Metrics, keys: Keys | None = None) -> None:
        self.ready = False
        self.redaction = Redaction(())
        self.refusals = Refusals()
        self._metrics, self._keys = metrics, keys

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        method = details.method
        if method.startswith(HEALTH):
            return _health(await continuation(details))
        if not self.ready:
            return grpc.stream_unary_rpc_method_handler(self._answering_once(method, _refuse_while_warming_up))
        handler = await continuation(details)
        if handler is None:
            return None
        handler = _forgiving(handler)
        if handler.response_streaming:
            return handler._replace(stream_stream=self._answering_often(method, handler.stream_stream))
        return handler._replace(stream_unary=self._answering_once(method, handler.stream_unary))

    def _answering_once(self, method: str, handle: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def guarded(request: Any, context: Context) -> Any:
            call = Call(method, context.peer())
            try:
                self._enter(call, context)
                answer = await handle(request, context)
                await _tell_attempts(context)
            except BaseException as error:
                await self._failed(call, context, error)
            else:
                self._ended(call, "OK")
                return answer

        return guarded

    def _answering_often(self, method: str, handle: Callable[[Any, Context], AsyncIterator[Any]]) -> Any:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            call = Call(method, context.peer())
            first = True
            try:
                self._enter(call, context)
                async for message in handle(request, context):
                    if first:
                        await _tell_attempts(context)
                        first = False
                    self._check(call)
                    yield message
            except BaseException as error:
                await self._failed(call, context, error)
            else:
                self._ended(call, "OK")

        return guarded

    # ---- Who asks

    def _enter(self, call: Call, context: Context) -> None:
        """Find out who asks; raises Unauthenticated."""
        current.set(call)
        metadata = {str(name): value for name, value in context.invocation_metadata() or ()}
        if self._keys is None:
            caller = Caller(share=context.peer())
        else:
            caller = self._keys.caller(_token(metadata.get("authorization")))
        call.caller = caller.asking_for(str(metadata.get(CLASS_METADATA, "")))
        callers.current.set(call.caller)

    def _check(self, call: Call) -> None:
        """Raises Unauthenticated where the key has been revoked meanwhile."""
        if self._keys is not None:
            self._keys.check(call.caller.key)

    # ---- How it ended

    async def _failed(self, call: Call, context: Context, error: BaseException) -> None:
        """Log, count and send the error. Cancellation goes on."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            left_s = context.time_remaining()
            self._ended(call, "CANCELLED" if left_s is None or left_s > 0 else "DEADLINE_EXCEEDED")
            raise error
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            self._ended(call, "ABORTED")
            raise error
        error = self._translated(call, error)
        sent = rpc_status.to_status(status.to_status(error, call.id))
        self._ended(call, sent.code.name)
        try:
            await context.abort(sent.code, sent.details, (*sent.trailing_metadata, *_pushback(error)))
        except grpc.aio.InternalError:  # the caller has left in this very moment
            raise asyncio.CancelledError from None

    def _translated(self, call: Call, error: Exception) -> PolysemError:
        """What the caller reads of it."""
        if isinstance(error, PolysemError):
            error.message = self.redaction.text(error.message)
            return error
        fields = {"exc_info": error, "extra": {"fields": {"request_id": call.id}}}
        if (lacks := shortage(error)) is not None:
            log.error("call %s was refused: %s", call.id, lacks.message, **fields)  # type: ignore[arg-type]
            return lacks
        log.error("internal error %s", call.id, **fields)  # type: ignore[arg-type]
        return Internal(f"something went wrong in the server; its log has the details under {call.id}")

    def _ended(self, call: Call, code: str) -> None:
        ms = (time.monotonic_ns() - call.started_ns) / 1e6
        method = call.method.rsplit("/", 1)[-1] if call.method.startswith("/polysem.v1.") else "other"
        self._metrics.calls.labels(method, code).inc()
        self._metrics.call_seconds.labels(method).observe(ms / 1e3)
        if code == "UNAUTHENTICATED" and not call.caller.key:
            self.refusals.add(call.peer)
            return
        record = {
            "request_id": call.id,
            "key": call.caller.key,
            "class": call.caller.class_,
            "method": method,
            "neurons": call.n_neurons,
            "cost": call.cost,
            "code": code,
            "ms": round(ms, 1),
        }
        audit.info("call", extra={"fields": record})


# ---- Requests that are no message, or none at all: gRPC would answer UNKNOWN to the first and nothing to the other


@dataclass(frozen=True)
class _Malformed:
    problem: str


def _forgiving(handler: Any) -> Any:
    """The same handler taking a stream of requests, which raises InvalidArgument where one is malformed or missing."""

    def decode(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            return _Malformed(f"the request's {len(data)} bytes are not the message that this call takes ({error})")

    async def once(requests: AsyncIterator[Any], context: Context) -> Any:
        return await handler.unary_unary(await _only(requests), context)

    async def often(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for message in handler.unary_stream(await _only(requests), context):
            yield message

    async def streamed_once(requests: AsyncIterator[Any], context: Context) -> Any:
        return await handler.stream_unary(_well_formed(requests), context)

    async def streamed_often(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for message in handler.stream_stream(_well_formed(requests), context):
            yield message

    streamed = handler.request_streaming
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(
            streamed_often if streamed else often, decode, handler.response_serializer
        )
    return grpc.stream_unary_rpc_method_handler(
        streamed_once if streamed else once, decode, handler.response_serializer
    )


async def _well_formed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Malformed):
            raise InvalidArgument(request.problem)
        yield request


async def _only(requests: AsyncIterator[Any]) -> Any:
    """The first request, which must be there."""
    async for request in _well_formed(requests):
        return request
    raise InvalidArgument("the call ended without a request; send one message, which may be empty")


def _health(handler: Any) -> Any:
    """Health's handler, with the same forgiveness. Its calls are neither counted nor logged."""
    if handler is None:
        return None

    async def handle(requests: AsyncIterator[Any], context: Context) -> Any:
        try:
            # Watch writes its answers itself, so that it too is awaited.
            answer: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
            return await answer(await _only(requests), context)
        except InvalidArgument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        except NotImplementedError:  # List, which grpcio's asynchronous servicer has only by name
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask with Check or Watch")

    forgiving = _forgiving(handler)
    kind = "stream_stream" if handler.response_streaming else "stream_unary"
    return forgiving._replace(**{kind: handle})


async def _refuse_while_warming_up(request: Any, context: Context) -> Any:
    raise WarmingUp(WARMING_UP)


def _token(authorization: str | bytes | None) -> str:
    if authorization is None:
        raise Unauthenticated("this server wants a key: set POLYSEM_TOKEN, or pass token=… or --token")
    scheme, _, token = str(authorization).partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the metadata `authorization` must read `Bearer KEY`")
    if not (token.isascii() and token.isprintable() and " " not in token):  # gRPC reads other bytes as Latin-1
        raise Unauthenticated("the key in the metadata `authorization` has characters that no key has; copy it anew")
    return token


def _pushback(error: PolysemError) -> tuple[tuple[str, str], ...]:
    """When gRPC's clients should try again; -1: not at all."""
    if isinstance(error, QuotaExceeded):
        return (("grpc-retry-pushback-ms", "-1"),)
    if isinstance(error, Overloaded):
        return (("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1e3))),)
    if isinstance(error, Unavailable):
        return (("grpc-retry-pushback-ms", str(int(WARM_UP_RETRY_S * 1e3))),)
    return ()


async def _tell_attempts(context: Context) -> None:
    """Tell a client that had to try more than once which attempt it was; its gRPC hides that from it."""
    for name, value in context.invocation_metadata() or ():
        if name == ATTEMPTS:
            with suppress(ValueError):
                await context.send_initial_metadata((("polysem-attempts", str(int(value) + 1)),))
