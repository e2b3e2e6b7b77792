"""Health (grpc.health.v1): whether the server serves, asked once or watched. No key is needed for it.

grpcio's own servicer sends to a watcher while it holds the lock that every change needs: one watcher who opens no
window for the answer would keep the server from becoming ready, and from stopping.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from polysem.proto.errors import NotFound
from polysem.server.serving.malformed import Context

Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One status of all `services` and of "", the server; not serving at first. Lives in one event loop."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self._changed = asyncio.Event()  # set, and replaced, at each change

    def set(self, serving: bool) -> None:
        """Tell all watchers."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802
        """Raises NotFound for a service that is not here."""
        if request.service not in self._services:
            raise NotFound(f"there is no service {request.service[:80]!r} here")
        return self._status(request.service)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802
        """The status now, and at each change."""
        while True:
            changed = self._changed
            yield self._status(request.service)
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return Status(status=Status.SERVICE_UNKNOWN)
        return Status(status=Status.SERVING if self._serving else Status.NOT_SERVING)
