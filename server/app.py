"""A running server: bind, answer health, load, warm up, answer, drain."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.server.jobs.service import Jobs, JobService, open_jobs
from polysem.server.model.devices import device_memory
from polysem.server.naming.kept import KeptNames, open_names
from polysem.server.opening import open_batcher
from polysem.server.paths import cache_folder, state_folder
from polysem.server.questions.engine import Engine
from polysem.server.serving import address
from polysem.server.serving.books import Books
from polysem.server.serving.certificate import end_seconds
from polysem.server.serving.door import Door
from polysem.server.serving.health import Health
from polysem.server.serving.interceptor import Interceptor
from polysem.server.serving.keys import Keys
from polysem.server.serving.metrics import Metrics, Port
from polysem.server.serving.private import keep_private
from polysem.server.serving.search_files import SearchFiles
from polysem.server.serving.service import NeuronService
from polysem.server.serving.shortage import Redaction
from polysem.server.settings import Settings
from polysem.v1 import job_service_pb2 as job_pb
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["NeuronService"].full_name
JOB_SERVICE = job_pb.DESCRIPTOR.services_by_name["JobService"].full_name
MAX_PENDING = 10_000
MAX_STREAMS = 256  # of one connection; gRPC's clients keep further calls back
MAX_CONNECTIONS = 4096
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Calls that wait to be looked at: from 1,000 on gRPC would drop some, without our words.
    ("grpc.server.max_pending_requests", MAX_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING),
    ("grpc.so_reuseport", 0),  # a second server at the same port is told so
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),  # clients ping every 60 s
    ("grpc.keepalive_time_ms", 60_000),  # a caller whose machine is gone is let go
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # as many as these
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # Else gRPC refuses calls without our words while streams that have ended are cleared away. Resets are for a proxy.
    ("grpc.http.overload_protection", 0),
    ("grpc.max_connection_idle_ms", 3_600_000),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
)

log = logging.getLogger(__name__)


class LateService:
    """A service whose methods are known to gRPC before it is there itself: `servicer`, from when it is set.

    gRPC takes up calls one after another, but those of each method that it knows apart from the others'.
    """

    def __init__(self) -> None:
        self.servicer: Any = None

    def __getattr__(self, method: str) -> Callable[[Any, Any], Any]:
        return lambda request, context: getattr(self.servicer, method)(request, context)


@contextlib.asynccontextmanager
async def running(settings: Settings, load: Callable[[], Engine], books: Books | None = None) -> AsyncIterator[int]:
    """Serve what `load` loads; the port. Leaving stops new requests and gives those in flight `drain_s` seconds.

    The port is bound before anything is loaded, so a taken one is told at once, and answers health from then on: not
    serving until all is loaded and warmed up, nor while it drains. Raises InvalidArgument or FailedPrecondition for an
    address that cannot be listened on, and what `load` raises.
    """
    address.check(settings)
    state = state_folder(settings.state)
    books = books or Books()
    keys = Keys(state, books) if address.wants_keys(settings) else None
    metrics = Metrics()
    if (cert := settings.tls_cert) is not None:
        metrics.gauge("certificate_end_seconds", "When the certificate ends", "file", lambda: end_seconds(cert))
    metrics.gauge("unwritten_seconds", "Since when entries of a kind cannot be written", "what", books.unwritten_s)
    door = Door(settings.max_requests_in_flight, metrics)
    interceptor = Interceptor(metrics, door, keys)
    server = grpc.aio.server(interceptors=(interceptor,), options=OPTIONS)
    neurons, jobs_ = LateService(), LateService()
    pb_grpc.add_NeuronServiceServicer_to_server(neurons, server)  # type: ignore[no-untyped-call]
    job_pb_grpc.add_JobServiceServicer_to_server(jobs_, server)  # type: ignore[no-untyped-call]
    health = Health((SERVICE, JOB_SERVICE))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (SERVICE, JOB_SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = address.bind(server, settings)
    async with contextlib.AsyncExitStack() as leaving:
        await server.start()
        leaving.push_async_callback(server.stop, None)  # gRPC gives a port back only after this
        if settings.metrics_port is not None:
            leaving.callback(Port(metrics, settings.metrics_host, settings.metrics_port).close)
        engine = await _loaded(load)
        engine.names = await asyncio.to_thread(open_names, state)
        if isinstance(engine.names, KeptNames):
            leaving.callback(engine.names.close)
        batcher = open_batcher(settings, engine, metrics)
        search_files = SearchFiles(batcher, state)
        neurons.servicer = NeuronService(engine, batcher, search_files, state)
        devices = [model.device for model in (engine.model, *engine.copies)]
        metrics.gauge("device_memory_bytes", "Of the GPUs' memory", "kind", lambda: device_memory(*devices))
        batcher.start()
        door.computed_for = batcher.computed_for
        leaving.push_async_callback(batcher.close)
        leaving.push_async_callback(search_files.close)
        interceptor.redaction = Redaction(_folders(settings, state, engine))
        jobs = open_jobs(settings, state, engine, batcher, keys, interceptor.redaction)
        jobs_.servicer = JobService(jobs)
        for sentence in keep_private(state):
            log.warning(sentence)
        if isinstance(jobs, Jobs):
            leaving.callback(jobs.close)
            metrics.gauge("state_disk_bytes", "Of the state folder's disk", "kind", jobs.store.room.bytes)
            metrics.gauge("jobs", "Jobs that are kept", "state", jobs.store.counts)
        if keys is not None:
            leaving.callback(keys.keep)
            leaving.callback(asyncio.create_task(keys.keep_regularly()).cancel)
            leaving.callback(asyncio.create_task(interceptor.end_calls_of_revoked_keys()).cancel)
        leaving.callback(interceptor.refusals.write)
        interceptor.ready = True
        health.set(True)
        try:
            yield port
        finally:
            health.set(False)
            if isinstance(jobs, Jobs):
                await jobs.drain()
            await server.stop(settings.drain_s)


def _folders(settings: Settings, state: Path, engine: Engine) -> list[Path]:
    """The paths of this machine that might stand in an error."""
    indexes = [index.folder for index in engine.indexes.values()]
    return [
        state,
        cache_folder(),
        *indexes,
        *(Path(os.path.expanduser(path)) for path in (*settings.corpora, *settings.index)),
        *(Path(place) for place in map(os.path.expanduser, settings.saes) if os.path.isabs(place)),
    ]


async def _loaded(load: Callable[[], Engine]) -> Engine:
    """Run `load` in a thread that does not keep the process alive: Ctrl-C ends a long build at once."""
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


async def until_stopped(
    settings: Settings, load: Callable[[], Engine], ready: Callable[[int], None], books: Books | None = None
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the port."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(settings, load, books) as port:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        ready(port)
        await stopped.wait()
