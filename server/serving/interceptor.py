"""Interceptor around every call: is the server ready, who asks, how it ended; exceptions become statuses here."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_status import rpc_status

from polysem.proto.errors import (
    DeadlineExceeded,
    Internal,
    Overloaded,
    PolysemError,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    WarmingUp,
)
from polysem.proto.wire import status
from polysem.server.serving import callers
from polysem.server.serving.audit import Refusals, address_of, audit
from polysem.server.serving.callers import CLASS_METADATA, Caller
from polysem.server.serving.door import PING, Door, Place, kind_of
from polysem.server.serving.keys import Keys
from polysem.server.serving.malformed import Context, forgiving
from polysem.server.serving.metrics import Metrics
from polysem.server.serving.shortage import Redaction, shortage

HEALTH = "/grpc.health.v1.Health/"
WARMING_UP = "the server is warming up: it loads the model and compiles its kernels; try again in a few seconds"
WARM_UP_RETRY_S = 2.0
STALL_S = 60.0  # that a caller may leave an answer unread
REVOKED_S = 1.0  # until calls of a revoked key are looked for
LISTEN_S = 1.0  # to a caller who is refused, for the end of what it sends
MAX_UNHEARD = 16  # messages of it
ATTEMPTS = "grpc-previous-rpc-attempts"  # gRPC's own: how often the client has tried before

log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call while it is handled; what it was found to be about is added on the way."""

    method: str
    peer: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    caller: Caller = callers.ANYONE
    place: Place | None = None
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

    def __init__(self, metrics: Metrics, door: Door, keys: Keys | None = None) -> None:
        self.ready = False
        self.redaction = Redaction(())
        self.refusals = Refusals()
        self._metrics, self._door, self._keys = metrics, door, keys
        self._at_work: dict[asyncio.Timeout, Call] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        method = details.method
        handler = await continuation(details)
        if method.startswith(HEALTH):
            return self._health(method, handler)
        if handler is None:  # also while it warms up: what callers name must not become labels of metrics
            return None
        if not self.ready:
            return grpc.stream_stream_rpc_method_handler(self._answering(method, _refuse_while_warming_up))
        handler = forgiving(handler)
        return handler._replace(stream_stream=self._answering(method, handler.stream_stream))

    def _answering(self, method: str, handle: Callable[[Any, Context], AsyncGenerator[Any, None]]) -> Any:
        """Also of one answer: written like several, it is known when nobody reads it."""

        async def guarded(requests: Any, context: Context) -> None:
            call = Call(method, context.peer())
            async with (
                self._inside(call, requests, context),
                self._while_its_key_lasts(call),
                contextlib.aclosing(handle(requests, context)) as answers,
            ):
                first = True
                async for message in answers:
                    if first:
                        await _tell_attempts(context)
                        first = False
                    self._check(call)
                    await _write(call.place, context, message)

        return guarded

    def _health(self, method: str, handler: Any) -> Any:
        """Health's handler, for which no key is needed. Its calls are neither counted nor logged."""
        if handler is None:
            return None
        kind, handler = kind_of(method), forgiving(handler)

        async def handle(requests: AsyncIterator[Any], context: Context) -> None:
            peer = context.peer()
            place = None
            try:
                place = await self._door.enter(peer, kind)
                async with contextlib.aclosing(handler.stream_stream(requests, context)) as answers:
                    async for answer in answers:
                        await _write(place, context, answer)
            except NotImplementedError:  # List
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask with Check or Watch")
            except PolysemError as error:
                if isinstance(error, Overloaded):
                    await self._door.hold_back(peer)
                sent = rpc_status.to_status(status.to_status(error))
                await context.abort(sent.code, sent.details)
            finally:
                if place is not None:
                    place.left()

        return handler._replace(stream_stream=handle)

    # ---- Who asks

    @contextlib.asynccontextmanager
    async def _inside(self, call: Call, requests: Any, context: Context) -> AsyncIterator[None]:
        """The call once it has come in, until it has ended, however it does."""
        current.set(call)
        try:
            try:
                await self._enter(call, context)
                yield
            except BaseException as error:
                await self._failed(call, requests, context, error)
            else:
                self._ended(call, "OK")
        finally:
            if call.place is not None:
                call.place.left()

    async def _enter(self, call: Call, context: Context) -> None:
        """Find out who asks, and wait at the door. Raises Unauthenticated, Overloaded."""
        metadata = {str(name): value for name, value in context.invocation_metadata() or ()}
        try:
            if self._keys is None:
                caller = Caller(share=call.peer)
            else:
                caller = self._keys.caller(_token(metadata.get("authorization")))
        except Unauthenticated:
            call.caller = Caller(share=address_of(call.peer))
            call.place = await self._door.enter(call.caller.share, PING)
            raise
        call.caller = caller.asking_for(str(metadata.get(CLASS_METADATA, "")))
        callers.current.set(call.caller)
        call.place = await self._door.enter(caller.share, kind_of(call.method), caller.max_in_flight)

    def _check(self, call: Call) -> None:
        """Raises Unauthenticated where the key has been revoked meanwhile."""
        if self._keys is not None:
            self._keys.check(call.caller.key)

    @contextlib.asynccontextmanager
    async def _while_its_key_lasts(self, call: Call) -> AsyncIterator[None]:
        """Raises Unauthenticated soon after the key is revoked, also where the call waits for something."""
        try:
            async with asyncio.timeout(None) as ending:
                self._at_work[ending] = call
                try:
                    yield
                finally:
                    self._at_work.pop(ending, None)
        except TimeoutError:
            self._check(call)
            raise

    async def end_calls_of_revoked_keys(self) -> None:
        """Look for them for as long as the server runs."""
        while True:
            await asyncio.sleep(REVOKED_S)
            for key in {call.caller.key for call in self._at_work.values()}:
                try:
                    if self._keys is not None:
                        self._keys.check(key)
                except Unauthenticated:
                    self._end(key)

    def _end(self, key: str) -> None:
        for ending in [ending for ending, call in self._at_work.items() if call.caller.key == key]:
            del self._at_work[ending]
            ending.reschedule(0)

    # ---- How it ended

    async def _failed(self, call: Call, requests: Any, context: Context, error: BaseException) -> None:
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
        if isinstance(error, Overloaded | Unauthenticated):
            await self._door.hold_back(call.caller.share)
        await _all_said(requests)
        try:
            await context.abort(sent.code, sent.details, (*sent.trailing_metadata, *_pushback(error)))
        except grpc.aio.InternalError:  # the caller has left in this very moment
            raise asyncio.CancelledError from None

    def _translated(self, call: Call, error: Exception) -> PolysemError:
        """Return what the caller reads of it."""
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


async def _write(place: Place | None, context: Context, message: Any) -> None:
    """Send an answer. Raises DeadlineExceeded where the caller does not read on."""
    try:
        async with asyncio.timeout(STALL_S):
            await context.write(message)
    except TimeoutError:
        raise DeadlineExceeded(
            f"nothing of this answer was read for {STALL_S:g} s, so its place was given up; ask again, and read on"
        ) from None
    finally:
        if place is not None:
            place.begun()


async def _refuse_while_warming_up(requests: Any, context: Context) -> AsyncGenerator[Any, None]:
    raise WarmingUp(WARMING_UP)
    yield


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


async def _all_said(requests: Any) -> None:
    """Read the rest of what the caller sends, if it ends soon: a proxy may drop an error that comes before the end."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(LISTEN_S):
            for _ in range(MAX_UNHEARD):
                await anext(requests)


async def _tell_attempts(context: Context) -> None:
    """Tell a client that had to try more than once which attempt it was; its gRPC hides that from it."""
    for name, value in context.invocation_metadata() or ():
        if name == ATTEMPTS:
            with contextlib.suppress(ValueError):
                await context.send_initial_metadata((("polysem-attempts", str(int(value) + 1)),))
