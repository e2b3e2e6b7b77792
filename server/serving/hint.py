"""Commands that `polysem serve` says to try: they work as printed, on the same machine."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from polysem.server.serving import address, certificate
from polysem.server.settings import Settings

EVERY_ADDRESS = ("0.0.0.0", "::")


def lines(settings: Settings, port: int, neuron: str, polysem: str) -> Iterator[str]:
    """Yield what to type, in its order. polysem: how this terminal starts the command."""
    server = address.target(settings, port)
    options = ["--server", server]
    if settings.tls_cert is not None and settings.tls_key is not None:
        cert, key = settings.tls_cert, settings.tls_key
        hosts = list(_hosts(settings.host, cert, key))
        accepted = [host for host in hosts if certificate.refused(cert, key, host) is None]
        if not accepted:
            yield f"no client on this machine will accept {cert} here: {certificate.refused(cert, key, hosts[0])}"
            return
        if not server.startswith(address.UNIX):
            server = address.target(settings.model_copy(update={"host": accepted[0]}), port)
        options = ["--server", server, "--ca", str(cert.absolute())]
    if address.wants_keys(settings):
        state = [] if settings.state is None else ["--state", str(settings.state.expanduser().absolute())]
        yield f"a key, if you have none:  export $({polysem} keys create --owner {shlex.join(['me', *state])})"
    yield f"try:  {polysem} cluster {neuron} {shlex.join(options)}"


def _hosts(host: str, cert: Path, key: Path) -> Iterator[str]:
    """Names by which a client on this machine may reach the server."""
    if host.startswith(address.UNIX):
        yield "localhost"  # what gRPC takes the other end of a socket for
        return
    everywhere = host in EVERY_ADDRESS
    if not everywhere:
        yield host
    elif host == "0.0.0.0":
        yield "127.0.0.1"
    if everywhere or address.is_local(host):
        yield "localhost"
    if not address.is_local(host):
        yield from certificate.names(cert, key)
