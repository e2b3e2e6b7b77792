"""Addresses of a server: loopback and unix sockets are open; others require TLS and keys, or `--insecure`."""

import ipaddress
import logging
import os
import socket
import ssl
from pathlib import Path

import grpc

from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.settings import Settings

UNIX = "unix:"
SOCKET_MODE = 0o660  # a unix socket is for its owner and group

log = logging.getLogger(__name__)


def target(settings: Settings, port: int) -> str:
    """Return the target for a client on this machine."""
    if settings.host.startswith(UNIX):
        return settings.host
    return f"[{settings.host}]:{port}" if ":" in settings.host else f"{settings.host}:{port}"


def wants_keys(settings: Settings) -> bool:
    """Say whether keys are required where the settings leave it open: on an address that other machines reach."""
    if settings.require_keys is not None:
        return settings.require_keys
    return not (settings.insecure or is_local(settings.host))


def check(settings: Settings) -> None:
    """Raises InvalidArgument for an address that would let anybody in, or TLS files of which one is missing."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_cert"
        raise InvalidArgument(f"TLS needs a certificate and its key: give --{missing.replace('_', '-')} too", missing)
    if settings.insecure or is_local(settings.host):
        return
    if settings.tls_cert is None or not wants_keys(settings):
        raise InvalidArgument(
            f"{settings.host} can be reached from other machines, and this server would have no "
            f"{'TLS' if settings.tls_cert is None else 'keys'}: give --tls-cert, --tls-key and `polysem keys create`, "
            "keep to 127.0.0.1 behind an SSH tunnel, or pass --insecure on a network that you trust",
            "host",
        )


def bind(server: grpc.aio.Server, settings: Settings) -> int:
    """Listen; the port, 0 for a unix socket. Raises FailedPrecondition where that cannot be."""
    host, port = settings.host, settings.port
    secured = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        secured = tls(settings.tls_cert, settings.tls_key)
    if host.startswith(UNIX):
        return _bind_socket(server, Path(host.removeprefix(UNIX)), secured)
    address = target(settings, port)
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # gRPC would log a taken port in its own words before it says so
        return _listen(server, address, secured)
    except (OSError, RuntimeError) as error:
        raise FailedPrecondition(
            f"cannot listen on {host}:{port}: the port is taken, or the address is not this machine's; "
            "choose another --port"
        ) from error


def _bind_socket(server: grpc.aio.Server, path: Path, secured: grpc.ServerCredentials | None) -> int:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as other:
            try:
                other.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)  # of a server that was killed
            else:
                raise FailedPrecondition(f"cannot listen on {UNIX}{path}: a server is there already; choose another")
    elif path.exists():
        raise FailedPrecondition(f"cannot listen on {UNIX}{path}: there is a file of that name; choose another path")
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        _listen(server, f"{UNIX}{path}", secured)
    except RuntimeError as error:
        raise FailedPrecondition(
            f"cannot listen on {UNIX}{path}: its folder is missing or cannot be written, or the path is longer than "
            "107 characters"
        ) from error
    finally:
        os.umask(before)
    return 0


def _listen(server: grpc.aio.Server, address: str, secured: grpc.ServerCredentials | None) -> int:
    return server.add_insecure_port(address) if secured is None else server.add_secure_port(address, secured)


def tls(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Credentials that follow their files: new connections get what stands there. Raises FailedPrecondition."""
    configuration = _configuration(certificate, key)
    seen = _stamps(certificate, key)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        now = _stamps(certificate, key)
        if now == seen:
            return None
        try:
            configuration = _configuration(certificate, key)
        except FailedPrecondition as error:  # one file may have been replaced before the other
            log.warning("TLS goes on with the certificate before: %s", error.message)
            return None
        seen = now
        log.warning("TLS uses the certificate that stands in %s now", certificate)
        return configuration

    return grpc.dynamic_ssl_server_credentials(configuration, renewed)  # type: ignore[arg-type]  # None: unchanged


def _configuration(certificate: Path, key: Path) -> grpc.ServerCertificateConfiguration:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise FailedPrecondition(
            f"{certificate} and {key} are no PEM certificate with its unencrypted key ({error})"
        ) from error


def _stamps(*paths: Path) -> tuple[int, ...]:
    try:
        return tuple(path.stat().st_mtime_ns for path in paths)
    except OSError:
        return ()


def is_local(host: str) -> bool:
    """Only processes of this machine reach it."""
    if host == "localhost" or host.startswith(UNIX):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
