"""Malformed and hostile messages at a real server: does each get an answer or a typed refusal, and does it live?

    python tests/load/hostile.py                                 # 10,000 messages
    python tests/load/hostile.py --messages 300 --index FOLDER

Requests of every RPC are built from the descriptors by hypothesis, with extreme and unknown values, and then sent as
they are, cut, with bits turned over, with other messages behind them, or as plain garbage; none, one or several to a
call, with odd metadata and deadlines. Between them garbage comes to the port without any gRPC. Exit status 1 where a
call ended with INTERNAL or UNKNOWN, had no answer in 30 s, or goes on though nobody waits for it, or the server died
or logged an error.
"""

import argparse
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
from google.protobuf import descriptor, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from processes import free_port, indexed, metric, serving, small_index

from polysem.v1 import job_service_pb2, neuron_service_pb2

SERVICES = [
    neuron_service_pb2.DESCRIPTOR.services_by_name["NeuronService"],
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
]
METHODS = [method for service in SERVICES for method in service.methods]
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
ANSWER_S = 30.0
ENOUGH = 1  # answers read of one call; the rest is cancelled, for a whole model's importance is honest work for minutes

TEXTS = st.one_of(
    st.sampled_from(["", "small", "../../etc/passwd", "\0", "a\nb", "💥" * 300, "x" * 5000, "first", "top", "pydocs"]),
    st.text(max_size=40),
)
DOUBLES = st.one_of(st.sampled_from([0.5, 0.0, -1.0, 2.0, 1e-320, 1e308, float("nan"), float("inf")]), st.floats())


def whole_numbers(bits, signed):
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    edges = [0, 1, 2, 29, 95, 1000, 2**31 - 1, most, least]
    return st.one_of(st.sampled_from(edges), st.integers(0, 5), st.integers(least, most))


F = descriptor.FieldDescriptor
SCALARS = {
    F.TYPE_STRING: TEXTS,
    F.TYPE_BYTES: st.binary(max_size=300),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_DOUBLE: DOUBLES,
    F.TYPE_UINT32: whole_numbers(32, False),
    F.TYPE_UINT64: whole_numbers(64, False),
    F.TYPE_INT32: whole_numbers(32, True),
    F.TYPE_INT64: whole_numbers(64, True),
}


PLAUSIBLE = {
    F.TYPE_STRING: st.just(""),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_DOUBLE: st.sampled_from([0.3, 0.5, 1.0]),
    F.TYPE_UINT32: st.integers(0, 3),
    F.TYPE_UINT64: st.integers(0, 3),
}


def values(field, plausible):
    """plausible: what may pass the first checks and so come further."""
    if plausible and field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if plausible and field.type in PLAUSIBLE:
        return PLAUSIBLE[field.type]
    if field.message_type is not None:
        return messages(field.message_type)
    if field.enum_type is not None:
        return st.one_of(st.sampled_from([v.number for v in field.enum_type.values]), whole_numbers(32, True))
    return SCALARS[field.type]


@st.composite
def messages(draw, kind):
    """A message of this descriptor, each field with a value that its type can hold, or without."""
    message = message_factory.GetMessageClass(kind)()
    tame = draw(st.booleans())
    for field in kind.fields:
        if draw(st.integers(0, 2)) == 0 or (field.message_type and field.message_type.GetOptions().map_entry):
            continue
        plausible = tame and draw(st.integers(0, 19)) > 0
        if field.is_repeated:
            drawn = draw(st.lists(values(field, plausible), max_size=4)) * draw(st.sampled_from([1, 1, 1, 400]))
        else:
            drawn = draw(values(field, plausible))
        if field.is_repeated and field.message_type is None:
            getattr(message, field.name).extend(drawn)
        elif field.is_repeated:
            for one in drawn:
                getattr(message, field.name).add().CopyFrom(one)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(drawn)
        else:
            setattr(message, field.name, drawn)
    return message


@st.composite
def payloads(draw, kind):
    """The bytes of a message, spoiled or not."""
    data = draw(messages(kind)).SerializeToString()
    way = draw(st.sampled_from(["whole"] * 5 + ["cut", "turned", "followed", "garbage", "nested", "long", "huge"]))
    if way == "cut":
        return data[: draw(st.integers(0, max(len(data) - 1, 0)))]
    if way == "turned" and data:
        turned = bytearray(data)
        for place in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=5)):
            turned[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(turned)
    if way == "followed":
        return data + draw(messages(draw(st.sampled_from(METHODS)).output_type)).SerializeToString()
    if way == "garbage":
        return draw(st.binary(max_size=200))
    if way == "nested":
        return b"\x0b" * draw(st.sampled_from([1, 99, 101, 5000]))  # groups that open and never close
    if way == "long":
        return b"\x0a\xff\xff\xff\xff\x0f" + data  # a field of 4 GiB, it says
    if way == "huge":
        return data + b"\x0a\xc0\x84\x3d" + bytes(1_000_000)  # an index name of 1 MB
    return data


@st.composite
def calls(draw):
    """(path, payloads, metadata, timeout)."""
    method = draw(st.sampled_from(METHODS))
    path = f"/{method.containing_service.full_name}/{method.name}"
    n = draw(st.sampled_from([1] * 12 + [0, 2, 4]))
    sent = [draw(payloads(method.input_type)) for _ in range(n)]
    metadata = draw(st.sampled_from([(), (), (), *ODD_METADATA]))
    return path, sent, metadata, draw(st.sampled_from([ANSWER_S] * 8 + [0.001]))


ODD_METADATA = (
    (("polysem-class", "bulk"),),
    (("polysem-class", "x" * 2000),),
    (("authorization", "Bearer " + "y" * 2000),),
    (("authorization", "Basic"),),
    (("grpc-previous-rpc-attempts", "many"),),
    (("grpc-previous-rpc-attempts", "9" * 4000),),
    (("x-bin", bytes(range(256))),),
    (("polysem-class", "bulk"),) * 100,
)


def strike(channel, path, sent, metadata, timeout_s):
    """The code that the call ends with."""
    call = channel.stream_stream(path)(iter(sent), metadata=metadata, timeout=timeout_s)
    try:
        for number, _ in enumerate(call, 1):
            if number == ENOUGH:
                call.cancel()
                return grpc.StatusCode.OK
    except grpc.RpcError:
        pass
    return call.code()


def strike_port(target, draw):
    """Bytes at the port that are no gRPC; whatever comes back, or the end of the connection within a second."""
    host, port = target.rsplit(":", 1)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    noise = draw.randbytes(draw.choice([1, 100, 20_000]))
    sent = draw.choice(
        [
            noise,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            preface + noise,
            preface + bytes(9) + noise,
            preface + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 500,  # a flood of SETTINGS
            preface + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" * 1 + bytes(8) * 500,  # pings that run into each other
            b"\x16\x03\x01" + noise,  # TLS, it says
        ]
    )
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
        connection.settimeout(0.05)
        try:
            connection.sendall(sent)
            connection.recv(4096)
        except OSError:
            pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--index", type=Path, help="default: the demo model over 60 documents")
    options = parser.parse_args()
    codes, wrong, slowest, sent_messages = Counter(), [], (0.0, ""), 0
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="polysem-hostile-") as name:
        folder = Path(name)
        port = free_port()
        arguments = (*indexed(options.index or small_index(folder)), "--metrics-port", port)
        with serving(folder / "state", arguments) as server:
            # Without retries: the first answer counts.
            plain = (("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1))
            with grpc.insecure_channel(server.target, plain) as channel:

                @settings(
                    max_examples=options.messages,
                    database=None,
                    deadline=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(calls())
                def all_strike(call):
                    nonlocal slowest, sent_messages
                    started = time.monotonic()
                    code = strike(channel, *call)
                    took_s = time.monotonic() - started
                    sent_messages += 1
                    codes[code.name] += 1
                    slowest = max(slowest, (took_s, call[0]))
                    if code in NEVER or took_s >= ANSWER_S:
                        wrong.append(
                            f"{code.name} after {took_s:.1f} s: {call[0]} {[s[:80] for s in call[1]]} {call[2]}"
                        )
                    if sent_messages % 50 == 0:
                        strike_port(server.target, draw)
                        server.client.info()
                        assert server.alive

                all_strike()
            time.sleep(2)  # so that what was left has been let go
            left = sum(metric(port, "queued_requests", "class").values())
            alive = server.alive and server.client.info().limits.max_message_bytes > 0
            logged = [line for line in server.log.read_text(errors="replace").splitlines() if "rror" in line]
    print(f"{sent_messages:,} messages: " + ", ".join(f"{n} {code}" for code, n in codes.most_common()))
    print(
        f"slowest {slowest[0]:.2f} s ({slowest[1].rsplit('/', 1)[-1]}); garbage at the port {sent_messages // 50} times"
    )
    print(
        f"INTERNAL, UNKNOWN or no answer: {len(wrong)} (target 0); lines of error in the log: {len(logged)} (target 0)"
    )
    print(f"calls that were left and are still at work: {left:.0f} (target 0)")
    print("the server lives" if alive else "the server died")
    for line in (wrong + logged)[:20]:
        print("   ", line[:600])
    sys.exit(bool(wrong or logged or left or not alive))


if __name__ == "__main__":
    os.environ["GRPC_VERBOSITY"] = "NONE"
    main()
