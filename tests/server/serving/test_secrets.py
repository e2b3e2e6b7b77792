"""No key in any log, and no line of another form than asked for."""

import json
import logging
import os
import subprocess
import sys
import time

import pytest

from polysem.client import Client
from polysem.proto.errors import Unauthenticated
from polysem.server import settings
from polysem.server.serving import keys, logs
from polysem.server.serving.interceptor import _token

from ...load import http2

SERVE = [sys.executable, "-m", "polysem.client.commands.cli", "serve", "--port", "0", "--device", "cpu"]
INFO = b"/polysem.v1.NeuronService/GetServerInfo"


@pytest.mark.parametrize("more", ["\xa0", "\x85", "é", "\x7f", "\t", "x y", "\u3000"])
def test_a_key_with_other_characters_than_a_key_has_is_refused(more):
    for wrong in (f"Bearer psm_1_a{more}", f"Bearer {more}psm_1_a", f"Bearer psm_1{more}_a"):
        if wrong.strip(" ") == wrong and " " in wrong.removeprefix("Bearer ").strip():
            continue
        with pytest.raises(Unauthenticated, match="no key has") as raised:
            _token(wrong)
        assert "psm" not in str(raised.value)
    assert _token("bearer  psm_1_a ") == "psm_1_a"


@pytest.fixture
def server(index_folder, tmp_path):
    """A function that starts `polysem serve --require-keys` with options: (process, target); stderr is a file."""
    processes = []

    def start(*options, **environment):
        log = (tmp_path / "log").open("w")
        command = [
            *SERVE,
            "--index",
            index_folder,
            "--state",
            tmp_path,
            "--require-keys",
            "--metrics-port",
            "0",
            *options,
        ]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | environment
        )
        log.close()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def target_of(process, tmp_path):
    for _ in range(1200):
        if "listening on " in (text := (tmp_path / "log").read_text()):
            return text.split("listening on ")[1].split(";")[0]
        assert process.poll() is None, text
        time.sleep(0.05)
    raise AssertionError("it does not listen")


def strike(target, token):
    """What comes with keys and breaks off, or is no UTF-8; the answer to a key with one byte too many."""
    odd = f"Bearer {token}".encode() + b"\xa0"
    for fields in (((b"authorization", odd),), ((b"x-other", token.encode() + b"\xff\xfe"),)):
        connection = http2.Connection(target)
        connection.send(http2.call(1, INFO, *fields))
        answer = connection.receive(b"grpc-status")
        connection.close()
        yield answer
    connection = http2.Connection(target)
    connection.send(http2.call(1, INFO, (b"authorization", f"Bearer {token}".encode()), message=None))
    connection.send(http2.reset(1) + http2.frame(99, 0, 1, token.encode()) + token.encode())
    connection.close()
    with Client(target, token=token) as client, pytest.raises(Exception, match="no neuron 9"):
        len(client.cluster("9.0"))


def test_no_line_of_the_log_holds_a_key_whatever_comes(server, tmp_path):
    _, token = keys.create(tmp_path, "ada")
    process = server("--log-format", "json", GRPC_TRACE="http,api", GRPC_VERBOSITY="DEBUG", PYTHONWARNINGS="default")
    target = target_of(process, tmp_path)
    odd, other = strike(target, token)
    assert b"characters that no key has" in odd.replace(b"%20", b" ")
    assert b"grpc-status" in other
    process.terminate()
    assert process.wait(30) == 0
    text = (tmp_path / "log").read_text()
    assert token.split("_", 2)[2] not in text
    assert token.split("_", 2)[2] not in (tmp_path / "audit.jsonl").read_text()
    assert "Invalid encoding" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert "NOT_FOUND" in {line.get("code") for line in lines}
    assert lines[-1]["message"] == "stopped"
    assert process.stdout.read() == ""


@pytest.mark.usefixtures("own_logging")
def test_in_text_a_line_of_grpcs_own_says_no_more_than_its_kind(capsys):
    logs.configure(settings.read())
    of_grpc = logging.getLogger("grpc._cython.cygrpc")
    for failure in (lambda: b"Bearer \xff".decode(), lambda: 1 / 0):
        try:
            failure()
        except ValueError:
            of_grpc.exception("Invalid encoding on %s", b"Bearer secret")
        except ArithmeticError:
            of_grpc.exception("Bearer secret")
    of_grpc.warning("Bearer secret")
    logging.getLogger("polysem").warning("ours")
    assert capsys.readouterr().err == ("ERROR:grpc._cython.cygrpc:gRPC met ZeroDivisionError\nWARNING:polysem:ours\n")


def test_in_json_all_that_any_library_writes_is_json(tmp_path):
    script = (
        "import logging, os, sys, threading, warnings\n"
        "from polysem.server import settings\nfrom polysem.server.serving import logs\n"
        "logs.configure(settings.read(log_format='json'))\nlogs.everything_as_json()\n"
        "os.write(2, b'E0000 00:00:1.5 9 chttp2.cc:1] Bearer secret\\n')\n"
        "os.write(2, b'I1129 23:30:46.09 9 ssl.cc:1] Bearer secret\\n')\n"
        "os.write(2, 'a C library says é\\n'.encode())\n"
        "print('printed', file=sys.stderr, flush=True)\n"
        "warnings.warn('warned')\n"
        "logging.getLogger('grpc._cython.cygrpc').error('Bearer secret')\n"
        "try:\n    1 / 0\nexcept Exception:\n"
        "    logging.getLogger('grpc._common').exception('Bearer secret')\n"
        "threading.Thread(target=lambda: [][0]).start()\n"
        "threading.Event().wait(0.3)\nraise KeyError('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "secret" not in done.stderr
    said = [(line["logger"], line["message"]) for line in map(json.loads, done.stderr.splitlines())]
    assert ("stderr", "a C library says é") in said
    assert ("stderr", "printed") in said
    assert ("grpc._common", "gRPC met ZeroDivisionError") in said
    assert any("warned" in message for _, message in said)
    assert "IndexError" in done.stderr
    assert "KeyError" in done.stderr


def test_in_json_a_server_that_cannot_start_says_so_in_json(server, tmp_path):
    process = server("--log-format", "json")  # no key yet
    assert process.wait(60) == 1
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["message"].startswith("nobody could come in")
    assert json.loads(line)["level"] == "critical"
