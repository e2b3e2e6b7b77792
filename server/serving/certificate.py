"""When a certificate ends (RFC 5280, 4.1.2.5). The standard library tells it of a connection's other end only."""

import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

END = "-----END CERTIFICATE-----"
SEQUENCE, UTC_TIME = 0x30, 0x17


def end_seconds(path: Path) -> Mapping[str, float]:
    """The end of a PEM file's first certificate, in seconds since 1970, for the metrics; empty where it has none."""
    try:
        first = path.read_text().split(END)[0] + END
        return {"tls_cert": _end(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :])).timestamp()}
    except (OSError, ValueError, IndexError, StopIteration):
        return {}


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
