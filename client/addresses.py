"""Addresses of servers, as people write them and as gRPC does, and the environment's proxies that stand between."""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Sequence

from polysem.proto.errors import InvalidArgument, Unavailable

DEFAULT_PORT = 50051
FORMS = "write host:port, such as gpu-box:50051, or unix:/path of its socket"
SCHEME = re.compile(r"[a-zA-Z][\w+.-]*://")
SOCKETS = ("unix:", "unix-abstract:", "vsock:")
OF_GRPC = (*SOCKETS, "ipv4:", "ipv6:", "xds:")  # gRPC's own spellings, left as they are
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # as gRPC reads them, the first that is set
NO_PROXIES = ("no_grpc_proxy", "no_proxy")


def named(target: str | Sequence[str]) -> str:
    """The target in one string, each server with its port; several servers by commas. Raises InvalidArgument."""
    if isinstance(target, str) and target.startswith(OF_GRPC):
        return target
    if not isinstance(target, str | Iterable):
        raise InvalidArgument(f"{target!r} is no server: {FORMS}", "target")
    names = target.split(",") if isinstance(target, str) else target
    found = [_named(name) for name in names if name != ""]
    if not found:
        raise InvalidArgument("no server was named: give at least one host:port", "target")
    return ",".join(found)


def _named(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidArgument(f"{name!r} is no server: {FORMS}", "target")
    name = name.strip()
    if name.startswith(OF_GRPC):
        return name
    if name.startswith("dns:"):
        return f"dns:///{with_port(name.rpartition('/')[2].removeprefix('dns:'), DEFAULT_PORT)}"
    return with_port(name, DEFAULT_PORT)


def with_port(name: str, default: int) -> str:
    """host:port of a name that may have no port. Raises InvalidArgument for what is no address."""
    if scheme := SCHEME.match(name):
        raise InvalidArgument(
            f"{name!r} is no address of a server: leave out {scheme[0]!r} and write host:port", "target"
        )
    bare = name.count(":") > 1 and not name.startswith("[")  # an IPv6 address by itself
    host, separator, port = (name, "", "") if bare else name.rpartition(":") if _has_port(name) else (name, "", "")
    if not host or re.search(r"[\s/@?#\\\x00-\x1f\ud800-\udfff]", host):
        raise InvalidArgument(f"{name!r} is no address of a server: {FORMS}", "target")
    if separator and not (port.isascii() and port.isdecimal() and 1 <= int(port[:9]) <= 65535):
        raise InvalidArgument(f"{name!r} has no port from 1 to 65535 after its colon: {FORMS}", "target")
    return f"{f'[{host}]' if bare else host}:{port or default}"


def _has_port(name: str) -> bool:
    return ":" in name.rpartition("]")[2]


def resolved(names: Sequence[str]) -> str:
    """The addresses of several servers, host:port each. Raises Unavailable for an unknown host, InvalidArgument where
    some are of IPv4 and some of IPv6 only."""
    found: dict[int, list[str]] = {socket.AF_INET: [], socket.AF_INET6: []}
    for name in names:
        host, _, port = name.rpartition(":")
        try:
            addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"no Polysem server is at {name}: the host is not known ({error})") from error
        family, *_, (ip, *_) = min(addresses, key=lambda address: address[0] != socket.AF_INET)
        found[family].append(f"{ip}:{port}" if family == socket.AF_INET else f"[{ip}]:{port}")
    if all(found.values()):
        raise InvalidArgument(
            "some of the servers have an IPv4 address and some only an IPv6 one: name like ones", "target"
        )
    if found[socket.AF_INET]:
        return "ipv4:" + ",".join(found[socket.AF_INET])
    return "ipv6:" + ",".join(found[socket.AF_INET6])


def are_several(target: str) -> bool:
    """Whether the target names more than one server."""
    return "," in target and not target.startswith(SOCKETS)


def is_on_this_machine(target: str) -> bool:
    """Whether one of the servers is a unix socket or at a loopback address."""
    if target.startswith(SOCKETS):
        return True
    return any(map(_is_loopback, hosts(target)))


def hosts(target: str) -> list[str]:
    """The servers' names or addresses, without ports."""
    names = re.sub(r"^(ipv4|ipv6|dns|xds):(//[^/]*/)?", "", target).split(",")
    return [(name.rpartition(":")[0] if _has_port(name) else name).strip("[]").lower() for name in names]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_no_proxy(target: str) -> bool:
    """Whether proxies of the environment are never asked: on this machine, and for several servers, since gRPC would
    ask a proxy for all of them in one name."""
    return are_several(target) or is_on_this_machine(target)


def proxy(target: str) -> str:
    """The proxy through which gRPC goes to the target, and the variable that names it, in words; "" where none."""
    name = next((name for name in PROXIES if os.environ.get(name)), None)
    if name is None or has_no_proxy(target) or all(map(_is_excepted, hosts(target))):
        return ""
    return f"the proxy {_without_password(os.environ[name])}, which ${name} names"


def _is_excepted(host: str) -> bool:
    """Whether no_proxy lists the host, as gRPC reads it: endings of names, and networks."""
    listed = next((os.environ[name] for name in NO_PROXIES if os.environ.get(name)), "")
    entries = [entry.strip().lower() for entry in listed.split(",")]
    return any(entry and (host.endswith(entry) or _is_in(host, entry)) for entry in entries)


def _is_in(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _without_password(url: str) -> str:
    scheme = SCHEME.match(url)  # by hand: what is no URL is to be named as well
    return f"{scheme[0] if scheme else ''}{url.rpartition('@')[2]}" if "@" in url else url
