"""Requests that are no message, or none at all: gRPC would answer UNKNOWN to the first and nothing to the other."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from polysem.proto.errors import InvalidArgument

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True)
class _Malformed:
    problem: str


def forgiving(handler: Any) -> Any:
    """The same handler from a stream of requests to a stream of answers, which may be encoded already.

    It raises InvalidArgument where a request is malformed or missing.
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
    async for request in requests:
        if isinstance(request, _Malformed):
            raise InvalidArgument(request.problem)
        yield request


async def only(requests: AsyncIterator[Any]) -> Any:
    """The first request, which must be there."""
    async for request in _well_formed(requests):
        return request
    raise InvalidArgument("the call ended without a request; send one message, which may be empty")
