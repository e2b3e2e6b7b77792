"""The explorer's own server, until Ctrl-C."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from polysem.client.client import Client
from polysem.client.explorer.app import LOOPBACK, make_app
from polysem.client.explorer.asking import Asking

STOP_S = 2  # that pages under way get when the explorer stops


def serve(client: Client, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run until Ctrl-C; `ready` is told the address once it is listened at. Raises OSError where it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    loopback = host in ("127.0.0.1", "::1", "localhost")
    asking = Asking(client.serving)
    app = make_app(client, LOOPBACK if loopback else ("*",), asking)
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, lifespan="off", timeout_graceful_shutdown=STOP_S
    )
    server = uvicorn.Server(config)
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{listening.getsockname()[1]}/")
    try:
        asyncio.run(server.serve([listening]))
    finally:
        asking.close()
        client.close()  # ends what is with the server, and so the threads that wait for it
