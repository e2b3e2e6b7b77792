"""When a certificate ends, whom it names, and who would refuse it.

The standard library tells all this of a connection's other end only: the end is read from the file (RFC 5280, 4.1.2.5),
the rest by a handshake in memory.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

END = "-----END CERTIFICATE-----"
SEQUENCE, UTC_TIME = 0x30, 0x17


def end_seconds(path: Path) -> Mapping[str, float]:
    """The end of a PEM file's first certificate, in seconds since 1970, for the metrics; empty where it has none."""
    try:
        first = path.read_text().split(END)[0] + END
        return {"tls_cert": _end(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :])).timestamp()}
    except (OSError, ValueError, IndexError, StopIteration):
        return {}


def names(cert: Path, key: Path) -> list[str]:
    """The hosts and addresses that a PEM certificate is of, without patterns; none where it is refused for all."""
    try:
        found = _handshake(cert, key, None).getpeercert() or {}
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return []
    alternative: Any = found.get("subjectAltName", ())
    subject: Any = found.get("subject", ())
    common = [pair for several in subject for pair in several]
    kinds = ("DNS", "IP Address", "commonName")
    return [
        name for kind, name in (*alternative, *([] if alternative else common)) if kind in kinds and "*" not in name
    ]


def refused(cert: Path, key: Path, host: str) -> str | None:
    """Why a client that trusts the PEM file `cert` itself refuses it at `host`; None: it does not."""
    try:
        _handshake(cert, key, host)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _handshake(cert: Path, key: Path, host: str | None) -> ssl.SSLObject:
    """The client's end. Raises what the handshake does. host: None to ask for no name."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(cert, key, password="")
    client.load_verify_locations(cert)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: also one that another authority signed
    client.check_hostname = host is not None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname=host)
    answering = server.wrap_bio(there, back, server_side=True)
    for end in (asking, answering, asking):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return asking


def _end(der: bytes) -> datetime:
    certificate = next(_values(der))[1]
    signed = next(_values(certificate))[1]
    sequences = (value for tag, value in _values(signed) if tag == SEQUENCE)
    _, _, validity, *_ = sequences  # signature, issuer, validity, subject, …
    _, (tag, text) = _values(validity)
    return datetime.strptime(text.decode(), "%y%m%d%H%M%SZ" if tag == UTC_TIME else "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _values(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each value in a row (X.690, definite lengths)."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            n = length & 0x7F
            length, at = int.from_bytes(der[at : at + n]), at + n
        yield tag, der[at : at + length]
        at += length
