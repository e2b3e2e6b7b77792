"""The commands about a server itself: info, health, top."""

import sys
import time
from dataclasses import asdict

import click

from polysem.client import connection
from polysem.client.commands.options import asks_server, connect, print_json
from polysem.proto.errors import Unavailable

WAIT_STEP_S = 0.3  # between two questions whether a server answers


@click.command()
@asks_server
def info(server: str, timeout_s: float | None, as_json: bool) -> None:
    """Show a server's model, device, limits and indexes."""
    with connect(server, timeout_s) as client:
        about, indexes = client.info(), client.indexes()
    if as_json:
        print_json(asdict(about) | {"indexes": [asdict(index) for index in indexes]})
        return
    from polysem.client import terminal

    terminal.console().print(terminal.server_info(server, about, indexes))


@click.command()
@asks_server
@click.option(
    "--server-name",
    envvar="POLYSEM_SERVER_NAME",
    show_envvar=True,
    metavar="NAME",
    help="Name in the server's certificate, if it is not the host's.",
)
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait until the server answers."
)
def health(server: str, timeout_s: float | None, as_json: bool, server_name: str | None, wait_s: float) -> None:
    """Say whether a server answers: exit status 0 or 1.

    For a container's health check, and for scripts that wait for a server: polysem health --wait 120
    """
    meta = click.get_current_context().meta
    until = time.monotonic() + wait_s
    while True:
        serving, last = False, time.monotonic() >= until
        try:
            tls = meta["polysem.ca"] or meta["polysem.tls"]
            serving = connection.serving(server, tls, timeout_s or 5.0, server_name)
        except Unavailable:
            if last:
                raise
        if serving or last:
            break
        time.sleep(WAIT_STEP_S)
    if as_json:
        print_json({"serving": serving})
    else:
        click.echo("serving" if serving else "not serving: it is warming up, or stopping")
    if not serving:
        sys.exit(1)


@click.command()
@click.option(
    "--metrics",
    default="127.0.0.1:9464",
    envvar="POLYSEM_METRICS",
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="HOST:PORT of the server's metrics (its --metrics-port).",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two readings.",
)
@click.option("--once", is_flag=True, help="Print one reading and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print each reading as a JSON object.")
def top(metrics: str, every_s: float, once: bool, as_json: bool) -> None:
    """Watch a server's queue, batches, device and callers.

    Reads the port of `polysem serve --metrics-port 9464`; from another machine through `ssh -L 9464:localhost:9464`.
    """
    from rich.live import Live

    from polysem.client import terminal
    from polysem.client.commands import top as looking

    figures = looking.summaries(metrics, every_s)
    if as_json or once:
        for one in figures:
            print_json(one) if as_json else terminal.console().print(looking.picture(metrics, one))
            if once:
                return
    with Live(looking.picture(metrics, next(figures)), console=terminal.console(), screen=True) as live:
        for one in figures:
            live.update(looking.picture(metrics, one))


COMMANDS = (info, health, top)
