"""Bookkeeping fails no call: a full disk, no file descriptor left, files that cannot be read."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from polysem.client import Client
from polysem.client.commands import top
from polysem.proto.errors import FailedPrecondition, Overloaded, Unauthenticated
from polysem.server.serving import keys, small_file
from polysem.server.serving.books import Books
from polysem.server.serving.shortage import Redaction, shortage

from .test_watching import free_port

# ---- By hand


def fails(code):
    def write():
        raise OSError(code, os.strerror(code), "/srv/state/file")

    return write


def test_what_cannot_be_written_is_logged_once_and_again_when_it_can(caplog):
    books = Books()
    for _ in range(3):
        assert not books.attempt("file", fails(errno.ENOSPC))
    assert books.unwritten_s()["file"] >= 0
    assert books.attempt("file", lambda: None)
    assert books.attempt("file", lambda: None)
    assert books.unwritten_s() == {}
    assert [record.getMessage() for record in caplog.records] == [
        "file: No space left on device; calls go on, and it is tried again",
        "file: works again",
    ]


def test_other_errors_than_the_systems_are_not_the_books():
    with pytest.raises(ZeroDivisionError):
        Books().attempt("file", lambda: 1 / 0)


def test_a_file_is_changed_in_place_where_the_text_is_no_longer(tmp_path):
    path = tmp_path / "file.json"
    small_file.write(path, {"a": None, "b": [1, 2]})
    size = path.stat().st_size
    small_file.write_in_place(path, {"a": "long", "b": 1})
    assert small_file.read(path) == {"a": "long", "b": 1}
    assert path.stat().st_size == size
    with pytest.raises(OSError, match="No space left"):
        small_file.write_in_place(path, {"a": "x" * size})
    assert small_file.read(path) == {"a": "long", "b": 1}


def test_every_key_of_a_file_can_be_revoked_in_place(tmp_path):
    made = [keys.create(tmp_path, f"o{i}", max_in_flight=3)[0] for i in range(30)]
    before = (tmp_path / "keys.json").stat().st_size
    revoked = {
        key.id: {name: value for name, value in vars(key).items() if name != "last_used"} | {"revoked": keys._now()}
        for key in made
    }
    small_file.write_in_place(tmp_path / "keys.json", revoked)
    assert (tmp_path / "keys.json").stat().st_size == before
    assert all(key.revoked for key in keys.listed(tmp_path))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE])
def test_what_the_server_is_short_of_is_told_with_a_time_and_without_a_path(code):
    try:
        try:
            fails(code)()
        except OSError as error:
            raise FailedPrecondition("the build in /srv/state cannot go on") from error
    except FailedPrecondition as error:
        lacks = shortage(error)
    assert isinstance(lacks, Overloaded)
    assert lacks.retry_after_s == 60
    assert "/" not in lacks.message


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), ValueError("x"), KeyError(28)])
def test_other_errors_are_no_shortage(error):
    assert shortage(error) is None


def test_arrow_says_it_in_words():
    assert shortage(OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"))


def test_paths_of_the_server_are_taken_out():
    redaction = Redaction([Path("/srv/state"), Path("/data/indexes/small"), Path("/")])
    assert redaction.text("'/srv/state/jobs/1/x.tmp' and '/data/indexes/small': broken") == (
        "'state/jobs/1/x.tmp' and 'small': broken"
    )
    assert redaction.text("/srv/state-2/x /srv /etc/passwd") == "/srv/state-2/x /srv /etc/passwd"
    assert Redaction([]).text("/srv/state") == "/srv/state"


# ---- A server on a full disk


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(keys, "USAGE_EVERY_S", 0.05)


def until(holds):
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail("it never came")


@pytest.mark.usefixtures("quick")
def test_with_a_full_disk_calls_go_on_and_keys_are_revoked(served, small_disk, caplog):
    state, port = small_disk.folder, free_port()
    (key, token), (_, other) = keys.create(state, "ada"), keys.create(state, "ben")

    def unwritten():
        return top.read(f"127.0.0.1:{port}").by("polysem_unwritten_seconds", "what")

    with (
        served(state=state, require_keys=True, metrics_port=port) as target,
        Client(target, token=token) as ada,
        Client(target, token=other) as ben,
    ):
        assert unwritten() == {}
        small_disk.fill()
        until(lambda: "key-usage.json" in unwritten())
        for _ in range(10):
            assert len(ada.cluster("0.0-9")) == 10
        assert keys.revoke(state, key.id).revoked
        assert (state / "keys.json").stat().st_mode & 0o777 == 0o600
        with pytest.raises(Unauthenticated, match="has been revoked"):
            ada.info()
        assert len(ben.cluster("0.0")) == 1
        with pytest.raises(
            FailedPrecondition, match=r"cannot be written: No space left on device; nothing was changed"
        ):
            keys.create(state, "cleo" * 200)
        small_disk.free()
        until(lambda: unwritten() == {})
        assert keys.listed(state)[1].last_used
    said = [record.getMessage() for record in caplog.records if "key-usage" in record.getMessage()]
    assert len(said) == 2


def test_a_damaged_key_file_leaves_the_keys_before_it_in_force(tmp_path, caplog):
    _, token = keys.create(tmp_path, "ada")
    running = keys.Keys(tmp_path)
    good = (tmp_path / "keys.json").read_text()
    (tmp_path / "keys.json").write_text("{")
    for _ in range(3):
        assert running.caller(token).key
    assert len(caplog.records) == 1
    (tmp_path / "keys.json").write_text(good)
    key, _ = keys.create(tmp_path, "ben")
    keys.revoke(tmp_path, running.caller(token).key)
    with pytest.raises(Unauthenticated, match="has been revoked"):
        running.caller(token)
    assert key.id in running._keys


def test_damaged_usage_keeps_no_server_from_starting(tmp_path, caplog):
    _, token = keys.create(tmp_path, "ada", daily_quota=5)
    for text in ("", "[1]", "\0"):
        (tmp_path / "key-usage.json").write_text(text)
        assert keys.Keys(tmp_path).caller(token).account.spent() == 0
    assert "today's quotas begin anew" in caplog.text


# ---- A server without a file descriptor


SERVER = """
import asyncio, contextlib, os, resource, sys, threading, time
from pathlib import Path
from polysem.server import app, settings
from polysem.server.opening import open_engine
from polysem.server.serving import keys
keys.USAGE_EVERY_S = 0.05
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
given = settings.read(
    index=[Path(sys.argv[1])], port=0, device="cpu", state=Path(sys.argv[2]), require_keys=True,
    metrics_port=int(sys.argv[3]),
)
def starve():
    input()
    for _ in range(20):  # again: what was being written when the last one went has given its own back
        with contextlib.suppress(OSError):
            while True:
                os.dup(0)
        time.sleep(0.02)
    print("none left", flush=True)
threading.Thread(target=starve, daemon=True).start()
asyncio.run(app.until_stopped(given, lambda: open_engine(given), lambda port: print(port, flush=True)))
"""


def test_without_a_file_descriptor_calls_go_on_and_keys_are_revoked(index_folder, tmp_path):
    (key, token), (_, other) = keys.create(tmp_path, "ada"), keys.create(tmp_path, "ben")
    command = [sys.executable, "-c", SERVER, str(index_folder), str(tmp_path), str(free_port())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            target = f"127.0.0.1:{int(process.stdout.readline())}"
            with Client(target, token=token) as ada, Client(target, token=other) as ben:
                assert len(ada.cluster("0.0")) == len(ben.cluster("0.0")) == 1  # connected
                process.stdin.write("go\n")
                process.stdin.flush()
                assert process.stdout.readline() == "none left\n"
                time.sleep(0.2)
                for ask in (
                    lambda client: client.cluster("*")[5],
                    Client.indexes,
                    lambda client: list(client.jobs.list()),
                ):
                    ask(ada)
                    ask(ben)
                assert ada.examples("1.*", whole_context=True)[3].tokens
                with pytest.raises(Overloaded, match="no file descriptor left") as raised:
                    ada.jobs.upload(Path(__file__), "x.txt")
                assert raised.value.retry_after_s == 60
                keys.revoke(tmp_path, key.id)
                with pytest.raises(Unauthenticated, match="has been revoked"):
                    ada.info()
                ben.info()
        finally:
            process.terminate()
            said = process.communicate()[1]
    assert said.count("key-usage.json: Too many open files") == 1


# ---- What a caller reads


def test_no_error_that_a_caller_reads_names_a_path_of_the_server(served, tmp_path, monkeypatch):
    from polysem.server.questions import clustering

    folder = tmp_path / "state"

    def run(self, items):
        raise FailedPrecondition(f"the finished shard '{folder}/jobs/1/x.npz' is damaged")

    monkeypatch.setattr(clustering.ClusterWork, "run", run)
    words = r"^the finished shard 'state/jobs/1/x\.npz' is damaged"
    with (
        served(state=folder) as target,
        Client(target) as client,
        pytest.raises(FailedPrecondition, match=words),
    ):
        len(client.cluster("0.0"))


def test_an_operating_systems_error_is_no_internal_one(served, monkeypatch, caplog):
    from polysem.server.questions import clustering

    monkeypatch.setattr(clustering.ClusterWork, "run", lambda self, items: fails(errno.EMFILE)())
    with served() as target, grpc.insecure_channel(target, (("grpc.enable_retries", 0),)) as channel:
        from polysem.v1 import neuron_service_pb2 as pb
        from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

        with caplog.at_level(logging.ERROR), pytest.raises(grpc.RpcError) as raised:
            list(pb_grpc.NeuronServiceStub(channel).ClusterNeurons(
                pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(layer=0, first=0, last=0)])
            ))  # fmt: skip
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "/srv/state" not in raised.value.details()
    (record,) = [record for record in caplog.records if "was refused" in record.getMessage()]
    assert re.search("/srv/state/file", record.exc_text or str(record.exc_info[1]))
    assert json.dumps(record.fields)
