"""Requests that are no message, or none at all: gRPC would answer UNKNOWN to the first and nothing to the other.

It would also wait for ever for a caller who begins a call and sends nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from polysem.proto.errors import DeadlineExceeded, InvalidArgument

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SILENCE_S = 60.0  # that a caller may take to send its first message


@dataclass(frozen=True)
class _Malformed:
    problem: str


def forgiving(handler: Any) -> Any:
    """The same handler from a stream of requests to a stream of answers, which may be encoded already.

    It raises InvalidArgument where a request is malformed or missing, DeadlineExceeded where none comes.
    """

    def decode(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            return _Malformed(f"the request's {len(data)} bytes are not the message that this call takes ({error})")

    def encode(message: Any) -> bytes:
        data: bytes = message if isinstance(message, bytes) else handler.response_serializer(message)
        return data

    async def answers(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any, None]:
        asked = _well_formed(requests) if handler.request_streaming else await only(requests)
        if not handler.response_streaming:
            yield await (handler.stream_unary or handler.unary_unary)(asked, context)
            return
        async for message in (handler.stream_stream or handler.unary_stream)(asked, context):
            yield message

    return grpc.stream_stream_rpc_method_handler(answers, decode, encode)


async def _well_formed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    request = await _first(requests)
    while request is not None:
        if isinstance(request, _Malformed):
            raise InvalidArgument(request.problem)
        yield request
        request = await anext(requests, None)


async def _first(requests: AsyncIterator[Any]) -> Any:
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"no request came in {SILENCE_S:g} s, so the call's place was given up; begin a call when there is "
            "something to send"
        ) from None


async def only(requests: AsyncIterator[Any]) -> Any:
    """The first request, which must be there."""
    async for request in _well_formed(requests):
        return request
    raise InvalidArgument("the call ended without a request; send one message, which may be empty")
