"""A running server: bind, load, warm up, answer, drain."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.types import MAX_MESSAGE_BYTES
from polysem.server.batcher import Batcher
from polysem.server.engine import Engine
from polysem.server.job_service import Jobs, JobService, open_jobs
from polysem.server.service import ErrorInterceptor, NeuronService
from polysem.server.settings import Settings
from polysem.v1 import job_service_pb2 as job_pb
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["NeuronService"].full_name
JOB_SERVICE = job_pb.DESCRIPTOR.services_by_name["JobService"].full_name
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server at the same port is told so
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),  # clients ping every 60 s
)
MAX_BATCH_COST = {"cpu": 3e8, "cuda": 3e10}  # some 20 ms on a CPU; what a GPU needs to be busy


@contextlib.asynccontextmanager
async def running(settings: Settings, load: Callable[[], Engine]) -> AsyncIterator[int]:
    """Serve what `load` loads; the port. Leaving stops new requests and gives those in flight `drain_s` seconds.

    The port is bound before anything is loaded, so a taken one is told at once. Raises InvalidArgument or
    FailedPrecondition for an address that cannot be listened on, and what `load` raises.
    """
    server = grpc.aio.server(interceptors=(ErrorInterceptor(),), options=OPTIONS)
    port = _bind(server, settings)
    try:
        engine = await _loaded(load)
        batcher = Batcher(
            settings.max_batch_cost or MAX_BATCH_COST[engine.model.device.type], settings.max_requests_in_flight
        )
        jobs = open_jobs(settings, engine, batcher)
    except BaseException:
        await server.start()  # gRPC gives a port back only after this
        await server.stop(None)
        raise
    pb_grpc.add_NeuronServiceServicer_to_server(NeuronService(engine, batcher, version("polysem")), server)  # type: ignore[no-untyped-call]
    job_pb_grpc.add_JobServiceServicer_to_server(JobService(jobs), server)  # type: ignore[no-untyped-call]
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (SERVICE, JOB_SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    batcher.start()
    await server.start()
    for name in ("", SERVICE, JOB_SERVICE):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield port
    finally:
        await servicer.enter_graceful_shutdown()
        if isinstance(jobs, Jobs):
            await jobs.drain()
        await server.stop(settings.drain_s)
        await batcher.close()
        if isinstance(jobs, Jobs):
            jobs.close()


async def _loaded(load: Callable[[], Engine]) -> Engine:
    """What `load` returns, from a thread that does not keep the process alive: Ctrl-C ends a long build at once."""
    loop = asyncio.get_running_loop()
    engine: asyncio.Future[Engine] = loop.create_future()

    def settle(result: Engine | Exception) -> None:
        if engine.cancelled():
            return
        if isinstance(result, Exception):
            engine.set_exception(result)
        else:
            engine.set_result(result)

    def run() -> None:
        result: Engine | Exception
        try:
            result = load()
        except Exception as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has gone meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="polysem-load", daemon=True).start()
    return await engine


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    host, port = settings.host, settings.port
    if not (settings.insecure or _is_loopback(host)):
        raise InvalidArgument(
            f"{host} can be reached from other machines, and this server has neither TLS nor keys; "
            "keep to 127.0.0.1 behind an SSH tunnel, or pass --insecure on a network that you trust",
            "host",
        )
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # gRPC would log a taken port in its own words before it says so
        return server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except (OSError, RuntimeError) as error:
        raise FailedPrecondition(
            f"cannot listen on {host}:{port}: the port is taken, or the address is not this machine's; "
            "choose another --port"
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def until_stopped(settings: Settings, load: Callable[[], Engine], ready: Callable[[int], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the port."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(settings, load) as port:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        ready(port)
        await stopped.wait()
