"""Connection to a server: channel options, retries, TLS, and what each call carries besides its question."""

import asyncio
import json
import logging
import os
from collections import namedtuple
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from polysem.client import addresses
from polysem.proto.checks import number_of
from polysem.proto.errors import DeadlineExceeded, InvalidArgument, PolysemError, Unavailable
from polysem.proto.wire import status
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.v1 import job_service_pb2 as job_pb
from polysem.v1 import neuron_service_pb2 as neuron_pb

log = logging.getLogger("polysem")

HEALTH_CHECK = "/grpc.health.v1.Health/Check"  # an empty question asks for the whole server
SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING)
MAX_ATTEMPTS = 5  # gRPC allows no more
FOREVER_S = 1e9  # 30 years; gRPC cannot count much further
ATTEMPTS_METADATA = "polysem-attempts"  # the server's: which attempt of the call it has accepted
NEURONS = neuron_pb.DESCRIPTOR.services_by_name["NeuronService"].full_name
JOBS = job_pb.DESCRIPTOR.services_by_name["JobService"].full_name
RETRIED_JOB_CALLS = (
    "CreateJob",
    "GetJob",
    "ListJobs",
    "CancelJob",
    "ListCorpora",
)  # a job is made once for its request id


def _retried(names: list[dict[str, str]], *codes: str) -> dict[str, Any]:
    policy = {
        "maxAttempts": MAX_ATTEMPTS,
        "initialBackoff": "0.1s",  # where the server does not say how long
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": codes,
    }
    return {"name": names, "retryPolicy": policy}


SERVICE_CONFIG: dict[str, Any] = {
    "methodConfig": [
        # A server that begins to drain drops what comes in at that moment, and gRPC calls it CANCELLED.
        _retried([{"service": NEURONS}], "UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"),
        # Room for jobs comes in minutes or hours, so that is told instead; watching and reading go on by themselves.
        _retried([{"service": JOBS, "method": method} for method in RETRIED_JOB_CALLS], "UNAVAILABLE", "CANCELLED"),
    ]
}
# Of several servers each call takes the next that says it serves.
REPLICAS_CONFIG = SERVICE_CONFIG | {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": NEURONS},
}


def _address(target: str) -> tuple[str, list[tuple[str, Any]]]:
    """Return the target as gRPC writes it, and the channel's options."""
    options: list[tuple[str, Any]] = [("grpc.keepalive_time_ms", 60_000)]  # the server allows a ping every 30 s
    options.append(("grpc.keepalive_timeout_ms", 20_000))
    options.append(("grpc.max_reconnect_backoff_ms", 5_000))  # a server that comes back is found within that
    options.append(("grpc.max_send_message_length", MAX_MESSAGE_BYTES))  # told at once, instead of sent and refused
    if addresses.has_no_proxy(target):
        options.append(("grpc.enable_http_proxy", 0))
    if target.startswith("unix:"):
        options.append(("grpc.default_authority", "localhost"))  # a path is no name that a certificate could have
    several = addresses.are_several(target)
    if several and not target.startswith(addresses.OF_GRPC):
        names = target.split(",")
        options.append(("grpc.default_authority", names[0]))  # the name that all certificates must have
        target = addresses.resolved(names)
    config = REPLICAS_CONFIG if several or target.startswith("dns:") else SERVICE_CONFIG
    options.append(("grpc.service_config", json.dumps(config)))
    return target, options


def translated(
    error: grpc.RpcError | asyncio.CancelledError, target: str, check_open: Callable[[], object]
) -> BaseException:
    """Return what to raise in place of gRPC's error: what the server raised, or what came between.

    check_open  raises where the client was closed, which is then all that there is to say

    A proxy that may stand in the way is named. A cancellation stays one where the task itself is cancelled.
    """
    if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
        return error
    try:
        check_open()
    except PolysemError as closed:
        return closed
    if isinstance(error, asyncio.CancelledError):
        return error
    found = status.from_rpc_error(error, target)
    lost = isinstance(found, Unavailable | DeadlineExceeded) and not found.request_id  # no server has seen it
    if lost and (proxy := addresses.proxy(target)):
        host = addresses.hosts(target)[0]
        return type(found)(f"{found.message}; it was asked through {proxy}: to go without it, set no_proxy={host}")
    return found


def seconds(timeout_s: float | None) -> float | None:
    """A time to wait, in gRPC's range; None: without end. Raises InvalidArgument for what is no time."""
    if timeout_s is None:
        return None
    number = number_of(timeout_s)
    if not number > 0:
        raise InvalidArgument(
            f"timeout_s is {timeout_s!r}; give seconds above 0, or None to wait without end", "timeout_s"
        )
    return number if number < FOREVER_S else None


def channel(target: str, token: str | None, tls: bool | str | Path, bulk: bool) -> grpc.Channel:
    """A channel; see `Client` for the arguments. Raises InvalidArgument for a wrong token or CA file."""
    metadata = _metadata(token, bulk)
    secured = _credentials(tls)
    address, options = _address(target)
    opened = (
        grpc.insecure_channel(address, options) if secured is None else grpc.secure_channel(address, secured, options)
    )
    return grpc.intercept_channel(opened, _Carrying(metadata)) if metadata else opened


def aio_channel(target: str, token: str | None, tls: bool | str | Path, bulk: bool) -> Callable[[], grpc.aio.Channel]:
    """The same for asyncio: the arguments are checked now, the channel is opened in an event loop."""
    metadata = _metadata(token, bulk)
    secured = _credentials(tls)
    interceptors = [kind(metadata) for kind in _AIO_KINDS] if metadata else []
    address, options = _address(target)
    if secured is None:
        return partial(grpc.aio.insecure_channel, address, options, interceptors=interceptors)
    return partial(grpc.aio.secure_channel, address, secured, options, interceptors=interceptors)


def _metadata(token: str | None, bulk: bool) -> tuple[tuple[str, str], ...]:
    token = token if token is not None else os.environ.get("POLYSEM_TOKEN")
    if token and not (isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token):
        raise InvalidArgument("the token is no key of Polysem's: copy it anew, without quotes or spaces", "token")
    carried = []
    if token:
        carried.append(("authorization", f"Bearer {token}"))
    if bulk:
        carried.append(("polysem-class", "bulk"))
    return tuple(carried)


def _credentials(tls: bool | str | Path) -> grpc.ChannelCredentials | None:
    """None: plaintext. tls is True (the system's authorities) or the path of a CA's or the server's own certificate."""
    if tls is False:
        return None
    if tls is True:
        return grpc.ssl_channel_credentials()
    if not isinstance(tls, str | os.PathLike):
        raise InvalidArgument(f"tls is {tls!r}; give True, False, or the file of a certificate", "tls")
    try:
        certificate = Path(os.path.expanduser(tls)).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"the CA's certificate {str(tls)!r} cannot be read: {error.strerror}", "tls") from error
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise InvalidArgument(f"{str(tls)!r} holds no PEM certificate; give the CA's, or the server's own", "tls")
    return grpc.ssl_channel_credentials(certificate)


def serving(target: str, tls: bool | str | Path, timeout_s: float, server_name: str | None = None) -> bool:
    """Whether the server says that it serves, by the standard health service. Raises Unavailable and its like.

    server_name: the name in the server's certificate, where it is not the target's.
    """
    secured = _credentials(tls or False)
    target = addresses.named(target)
    address, options = _address(target)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    opened = (
        grpc.insecure_channel(address, options) if secured is None else grpc.secure_channel(address, secured, options)
    )
    with opened as channel:
        try:
            return says_it_serves(channel, timeout_s)
        except grpc.RpcError as error:
            raise translated(error, target, lambda: None) from None


def says_it_serves(channel: grpc.Channel, timeout_s: float) -> bool:
    """The same, over a channel that is open; gRPC's own errors."""
    check: Any = channel.unary_unary(HEALTH_CHECK)
    return bool(check(b"", timeout=seconds(timeout_s)) == SERVING)


def note_attempts(target: str, initial_metadata: Iterable[Any]) -> None:
    """Log that the server took the call only after earlier attempts, if it did."""
    for name, value in initial_metadata:
        if name == ATTEMPTS_METADATA:
            log.warning("%s was busy or away: it took the call at attempt %s of %d", target, value, MAX_ATTEMPTS)


def ask(method: Any, request: Any, target: str, timeout_s: float | None) -> Any:
    """The answer of a call with one answer, with a word in the log where it took several attempts."""
    answer, call = method.with_call(request, timeout=timeout_s)
    note_attempts(target, call.initial_metadata())
    return answer


async def aio_ask(method: Any, request: Any, target: str, timeout_s: float | None) -> Any:
    """The same for asyncio."""
    call = method(request, timeout=timeout_s)
    answer = await call
    note_attempts(target, await call.initial_metadata())
    return answer


def note_resumed(target: str) -> None:
    """Log that an answer was cut off and the rest of it is asked for again."""
    log.warning("%s broke off amid an answer: asking again for the rest", target)


_Details = namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"))


class _Carrying(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds metadata to every call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        carried = (*(details.metadata or ()), *self._metadata)
        return continuation(
            _Details(
                details.method,
                details.timeout,
                carried,
                details.credentials,
                details.wait_for_ready,
                details.compression,
            ),
            request,
        )

    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


class _AioCarrying:
    """The same; asyncio's channel wants a class for each kind of call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    async def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        carried = grpc.aio.Metadata(*(details.metadata or ()), *self._metadata)
        return await continuation(details._replace(metadata=carried), request)


class _AioUnaryUnary(_AioCarrying, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = _AioCarrying._intercept


class _AioUnaryStream(_AioCarrying, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _AioCarrying._intercept


class _AioStreamUnary(_AioCarrying, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary: Any = _AioCarrying._intercept


class _AioStreamStream(_AioCarrying, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _AioCarrying._intercept


_AIO_KINDS = (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)
