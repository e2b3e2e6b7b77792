"""Watching a server: health while it warms up and drains, metrics, `polysem top`, logs with request ids, the audit."""

import contextlib
import json
import logging
import re
import socket
import threading
import time
import urllib.request

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polysem.client import Client
from polysem.client.commands import top
from polysem.client.commands.cli import cli
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from polysem.server import settings
from polysem.server.opening import open_engine
from polysem.server.questions import clustering
from polysem.server.serving import keys, logs, metrics
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def polysem(*args):
    return CliRunner().invoke(cli, [*args])


def health_of(target):
    with grpc.insecure_channel(target) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status


# ---- Health


@pytest.fixture
def starting(served, index_folder):
    """A server's target while it loads, and a function that lets it finish."""
    port, go_on = free_port(), threading.Event()

    def load():
        assert go_on.wait(60)
        return open_engine(settings.read(index=[index_folder], device="cpu"))

    done = threading.Event()

    def run():
        with served(load, port=port):
            done.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    target = f"127.0.0.1:{port}"
    for _ in range(200):
        try:
            health_of(target)
            break
        except grpc.RpcError:
            time.sleep(0.02)
    yield target, go_on.set
    go_on.set()
    done.set()
    thread.join()


def test_while_it_loads_health_says_not_serving_and_calls_are_told_to_wait(starting):
    target, _ = starting
    assert health_of(target) == health_pb2.HealthCheckResponse.NOT_SERVING
    with grpc.insecure_channel(target) as channel:
        for ask in (
            lambda stub: stub.GetServerInfo(pb.GetServerInfoRequest()),
            lambda stub: list(stub.ClusterNeurons(pb.ClusterNeuronsRequest())),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                ask(pb_grpc.NeuronServiceStub(channel))
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "the server is warming up" in raised.value.details()
    asked = polysem("health", "--server", target)
    assert (asked.exit_code, asked.stdout) == (1, "not serving: it is warming up, or stopping\n")
    with Client(target, timeout_s=0.5) as client, pytest.raises((Unavailable, TimeoutError)):
        client.info()


def test_methods_that_do_not_exist_are_told_so_while_it_loads_and_become_no_labels_of_metrics(starting):
    target, _ = starting
    with grpc.insecure_channel(target) as channel:
        for i in range(3):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(f"/polysem.v1.NeuronService/No{i}")(b"", timeout=20)
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_client_that_comes_too_early_is_served_when_the_server_is_ready(starting):
    target, go_on = starting
    threading.Timer(0.5, go_on).start()
    with Client(target) as client:
        assert len(client.cluster("0.0-9")) == 10
    asked = polysem("health", "--server", target, "--json")
    assert (asked.exit_code, json.loads(asked.stdout)) == (0, {"serving": True})


def test_a_job_that_is_sent_too_early_is_made_once(starting):
    target, go_on = starting
    threading.Timer(0.5, go_on).start()
    with Client(target) as client:
        job = client.jobs.measure("0.0", best_cut=False)
        assert [one.id for one in client.jobs.list() if one.id == job.id] == [job.id]


def test_while_it_drains_health_says_not_serving(index_folder, served, monkeypatch):
    gate = threading.Event()
    run = clustering.ClusterWork.run
    monkeypatch.setattr(clustering.ClusterWork, "run", lambda self, items: gate.wait(60) and run(self, items))
    statuses = []

    def watch(target, watching):
        with grpc.insecure_channel(target) as channel:
            for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                statuses.append(answer.status)
                watching.set()
                if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    gate.set()
                    return

    answers = []

    def ask(target):
        with Client(target) as client:
            answers.append(len(client.cluster("0.0")))

    with served() as target:
        watching = threading.Event()
        threads = [
            threading.Thread(target=watch, args=(target, watching)),
            threading.Thread(target=ask, args=(target,)),
        ]
        for thread in threads:
            thread.start()
        assert watching.wait(30)
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert statuses == [serving, not_serving]
    assert answers == [1]  # what was in flight was answered


def test_no_server_at_all_is_told_by_health():
    asked = polysem("health", "--server", "127.0.0.1:1")
    assert asked.exit_code == 1
    assert isinstance(asked.exception, Unavailable)


# ---- Metrics


@pytest.fixture
def watched(served):
    """A client of a server, and the address of its metrics."""
    port = free_port()
    with served(metrics_port=port) as target, Client(target) as client:
        yield client, f"127.0.0.1:{port}"


def test_metrics_count_what_was_done(watched):
    client, metrics = watched
    len(client.cluster("0.*"))
    with Client(client.target, bulk=True) as other:
        len(other.cluster("1.*"))
    with pytest.raises(NotFound):
        len(client.cluster("9.0"))
    seen = top.read(metrics)
    calls = "polysem_calls_total"
    assert seen.of(calls, method="ClusterNeurons", code="OK") == 2
    assert seen.of(calls, method="ClusterNeurons", code="NOT_FOUND") == 1
    for class_ in ("interactive", "bulk"):
        assert seen.of("polysem_batches_total", **{"class": class_}) >= 1
        assert seen.of("polysem_batch_size_sum", **{"class": class_}) == 96
        assert seen.of("polysem_wait_seconds_count", **{"class": class_}) == 1
        assert seen.of("polysem_queued_requests", **{"class": class_}) == 0
        assert seen.of("polysem_cost_total", **{"class": class_}) > 0
    for stage in ("compute", "encode"):
        assert seen.of("polysem_stage_seconds_sum", stage=stage) > 0
    assert set(seen.by("polysem_batches_total", "reason")) <= {"full", "idle"}
    assert seen.of("process_resident_memory_bytes") > 1e7


def test_a_caller_that_leaves_is_counted_as_cancelled_and_one_too_slow_as_expired(watched, monkeypatch):
    client, metrics = watched
    run = clustering.ClusterWork.run
    monkeypatch.setattr(clustering.ClusterWork, "run", lambda self, items: time.sleep(0.5) or run(self, items))
    with Client(client.target, timeout_s=0.2) as hurried, pytest.raises(TimeoutError):
        len(hurried.cluster("0.0"))
    leaving = Client(client.target)
    threading.Timer(0.2, leaving.close).start()
    with pytest.raises(Exception, match=r"(?i)cancel|closed"):
        len(leaving.cluster("0.0"))
    for _ in range(200):
        codes = top.read(metrics).by("polysem_calls_total", "code")
        if {"CANCELLED", "DEADLINE_EXCEEDED"} <= set(codes):
            return
        time.sleep(0.02)
    pytest.fail(f"only {codes} were counted")


def test_jobs_are_counted_by_their_state(served, tmp_path):
    port = free_port()
    with served(metrics_port=port, state=tmp_path) as target, Client(target) as client:
        job = client.jobs.measure("0.0-3", best_cut=False)
        for _ in range(600):
            if client.jobs.get(job.id).state == "done":
                break
            time.sleep(0.1)
        seen = top.read(f"127.0.0.1:{port}")
        assert seen.by("polysem_jobs", "state") == {"done": 1.0}
        assert seen.of("polysem_batches_total", **{"class": "bulk"}) >= 1  # a job's work may wait
        assert seen.of("polysem_batches_total", **{"class": "interactive"}) == 0


def test_metrics_are_what_prometheus_reads(watched):
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{watched[1]}/metrics") as answer:
        text = answer.read().decode()
    read = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert set(read) == set(top.parse(text, 0.0).values)  # and our own reader sees the same
    assert {name.split("_")[0] for name, _ in read} == {"polysem", "process"}


def test_connections_that_say_nothing_keep_nobody_from_the_metrics(watched, monkeypatch):
    monkeypatch.setattr(metrics._Reader, "timeout", 0.5)
    host, port = watched[1].split(":")
    silent = [socket.create_connection((host, int(port)), timeout=20) for _ in range(2 * metrics.MAX_READERS)]
    for connection in silent:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""  # closed by the other end
        connection.close()
    assert "polysem_" in urllib.request.urlopen(f"http://{watched[1]}/metrics", timeout=20).read().decode()


def test_metrics_of_a_taken_port_are_told(served):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition, match="choose another --metrics-port"), served(metrics_port=port):
            pytest.fail("it was served")


def test_top_shows_the_classes_and_who_uses_the_server(watched):
    client, metrics = watched
    stop = threading.Event()

    def keep_asking():
        while not stop.is_set():
            len(client.cluster("0.*"))

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        shown = polysem("top", "--metrics", metrics, "--every", "0.5", "--once")
        figures = json.loads(polysem("top", "--metrics", metrics, "--every", "0.5", "--once", "--json").stdout)
    finally:
        stop.set()
        thread.join()
    assert shown.exit_code == 0
    for words in ("interactive", "bulk", "busy", "without a key", "OK"):
        assert words in shown.stdout
    assert figures["calls_per_s"] > 0
    assert 0 < figures["busy"] <= 1.2
    assert figures["classes"]["interactive"]["batch_size"] > 0
    assert figures["classes"]["bulk"]["batch_size"] is None


def test_top_without_a_server_says_what_to_start():
    failed = polysem("top", "--metrics", "127.0.0.1:1", "--once")
    assert isinstance(failed.exception, Unavailable)
    assert "--metrics-port" in str(failed.exception)


def test_what_is_no_metrics_is_told():
    with pytest.raises(InvalidArgument, match="these are no metrics: '<html>'"):
        top.parse("<html>\n", 0.0)


# ---- Logs


def test_an_error_carries_the_id_that_the_log_has(polysem_client, caplog):
    with caplog.at_level(logging.INFO, "polysem.audit"), pytest.raises(NotFound) as raised:
        len(polysem_client.cluster("9.0"))
    assert re.fullmatch("[0-9a-f]{12}", raised.value.request_id)
    for _ in range(100):
        ids = {record.fields["request_id"] for record in caplog.records if hasattr(record, "fields")}
        if raised.value.request_id in ids:
            return
        time.sleep(0.02)
    pytest.fail("the log does not have it")


@pytest.mark.usefixtures("own_logging")
def test_the_audit_has_who_asked_what_and_how_it_ended_but_no_key_and_no_text(served, tmp_path):
    key, token = keys.create(tmp_path, "ada")
    given = {"require_keys": True, "state": tmp_path}
    logs.configure(settings.read(**given))
    with served(**given) as target, Client(target, token=token) as client:
        len(client.cluster("0.0-9"))
        with pytest.raises(NotFound):
            len(client.cluster("0.0", index="a secret name"))
        with Client(target, token="psm_00000000_wrong") as other, pytest.raises(Exception, match="not one of"):
            other.info()
    text = (tmp_path / "audit.jsonl").read_text()
    ok, missing, stranger = [json.loads(line) for line in text.splitlines()]
    assert (ok["key"], ok["method"], ok["neurons"], ok["code"]) == (key.id, "ClusterNeurons", 10, "OK")
    assert ok["cost"] > 0
    assert ok["ms"] > 0
    assert (missing["code"], missing["key"]) == ("NOT_FOUND", key.id)
    assert (stranger["code"], stranger["refusals"]) == ("UNAUTHENTICATED", 1)
    assert stranger["address"] == "ipv4:127.0.0.1"
    for secret in (token, token.split("_", 2)[2], "wrong", "secret name"):
        assert secret not in text
    assert ok["request_id"] != missing["request_id"]


@pytest.mark.usefixtures("own_logging")
def test_json_logs_are_a_json_object_a_line(capsys):
    logs.configure(settings.read(log_format="json"))
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        logging.getLogger("polysem.server").exception("it broke: %s", "é", extra={"fields": {"request_id": "1a2b"}})
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["message"], said["request_id"]) == ("error", "it broke: é", "1a2b")
    assert "ZeroDivisionError: by nothing" in said["traceback"]


def test_an_audit_log_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(FailedPrecondition, match=r"cannot be written: .*--audit-log"):
        logs.configure(settings.read(audit_log=tmp_path))


def test_the_shell_shows_the_id_of_a_refused_request(polysem_client, capsys, monkeypatch):
    from polysem.client.commands.cli import main

    monkeypatch.setattr("sys.argv", ["polysem", "cluster", "9.0", "--server", polysem_client.target])
    with pytest.raises(SystemExit):
        main()
    assert re.search(r"\(request [0-9a-f]{12}\)$", capsys.readouterr().err.strip())
