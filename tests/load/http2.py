"""HTTP/2 frames by hand: what no gRPC client would send (RFC 9113; header fields as literals, RFC 7541 6.2.2)."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
CANCEL = 8


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _string(data):
    """A length with a prefix of 7 bits, and the bytes."""
    n = len(data)
    if n < 127:
        return bytes([n]) + data
    head, n = b"\x7f", n - 127
    while n >= 128:
        head, n = head + bytes([n % 128 + 128]), n // 128
    return head + bytes([n]) + data


def field(name, value):
    return b"\0" + _string(name) + _string(value)


def call(stream, path, *fields, message=b"", ends=True):
    """A gRPC call: its headers, and a message; no message where it is None."""
    usual = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    block = b"".join(field(name, value) for name, value in (*usual, *fields))
    opened = frame(HEADERS, END_HEADERS, stream, block)
    if message is None:
        return opened
    return opened + frame(DATA, END_STREAM * ends, stream, b"\0" + len(message).to_bytes(4, "big") + message)


def reset(stream):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))


class Connection:
    """A connection whose other end reads frames written by hand."""

    def __init__(self, target, timeout_s=10.0):
        host, port = target.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
        self.send(PREFACE + frame(SETTINGS))

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, until):
        """All bytes up to those that hold `until`, or to the end of the connection."""
        got = b""
        while until not in got and (some := self.socket.recv(65536)):
            got += some
        return got

    def close(self):
        self.socket.close()
