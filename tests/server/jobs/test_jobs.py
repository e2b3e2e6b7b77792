"""Jobs and uploads through a real server on loopback; the one that is killed stands in test_killed_jobs.py."""

import asyncio
import gzip
import hashlib
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import numpy as np
import pytest

import polysem.server
from polysem.client import AsyncClient, Client, connection
from polysem.client.measuring import measurements
from polysem.proto.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Overloaded,
    UnknownIndex,
    UnknownNeuron,
)
from polysem.proto.facts import Selection
from polysem.proto.jobs import MeasureSpec
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.server.corpus.documents import Corpus
from polysem.server.in_process import _running
from polysem.server.indexing import builder
from polysem.server.jobs import runner
from polysem.server.jobs.local_disk import check_local
from polysem.server.jobs.store import JobStore, StoreLimits
from polysem.server.questions import clustering
from polysem.server.settings import Settings
from polysem.v1 import job_service_pb2 as pb
from polysem.v1 import job_service_pb2_grpc as pb_grpc

RULE = Selection("first", 0.5, 30)  # of the index in conftest


@pytest.fixture(scope="module")
def client(index_folder, tmp_path_factory):
    """Of a server with jobs, over the small index."""
    with polysem.server.local(index_folder, device="cpu", state=tmp_path_factory.mktemp("state")) as client:
        yield client


@pytest.fixture
def stub(client):
    with grpc.insecure_channel(client.target) as channel:
        yield pb_grpc.JobServiceStub(channel)


@pytest.fixture
def gated(monkeypatch):
    """A function from whose call on batches of clusterings wait until they are let through, one for each release."""
    gate = threading.Semaphore(0)
    run = clustering.ClusterWork.run

    def run_when_let(self, items):
        assert gate.acquire(timeout=60)
        return run(self, items)

    def begin():
        monkeypatch.setattr(clustering.ClusterWork, "run", run_when_let)
        return gate

    yield begin
    gate.release(10_000)


@pytest.fixture
def gate(gated):
    return gated()


def finished(client, job):
    *_, last = client.jobs.watch(job.id, heartbeat_s=1)
    return last


def until(client, job, state):
    """The job, once it is in that state."""
    for _ in range(1000):
        if (now := client.jobs.get(job.id)).state == state:
            return now
        time.sleep(0.02)
    raise AssertionError(f"it stays {now.state}, and never is {state}")


def measured(client, *neurons, **options):
    """A small measure job, done."""
    job = finished(client, client.jobs.measure(*neurons, best_cut=False, **options))
    assert job.state == "done", job.error
    return job


# ---- Measuring


def test_a_measure_job_gives_the_file_of_polysem_measure(client, tmp_path):
    job = measured(client, "0.0-9", "1.5", algorithms=["hac"])
    out = client.jobs.fetch(job.id, tmp_path / "m.parquet")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == job.result_sha256
    assert out.stat().st_size == job.result_bytes
    assert list(tmp_path.iterdir()) == [out]
    file = measurements.read(out)
    assert len(file) == 11 * 2
    want = [n.metrics.intra for n in client.cluster("0.0-9", "1.5")]
    rows = file.rows(np.arange(22))
    got = [row["intra"] for row in rows if row["embedding"] == "neuron"]
    assert got == pytest.approx(want, nan_ok=True)
    assert job.spec.index == "small"


def test_a_job_is_known_by_its_id_to_every_client(client):
    job = measured(client, "0.1")

    async def ask():
        async with AsyncClient(client.target) as other:
            listed = [one async for one in other.jobs.list()]
            watched = [one async for one in other.jobs.watch(job.id)]
            return await other.jobs.get(job.id), listed, watched

    got, listed, watched = asyncio.run(ask())
    assert got == job == watched[-1]
    assert job in listed
    assert listed == list(client.jobs.list())


def test_the_asyncio_client_does_all_that_the_other_does(client, corpus_file, tmp_path):
    async def use():
        async with AsyncClient(client.target) as polysem:
            kept = await polysem.jobs.upload(corpus_file, "async.jsonl")
            assert kept in await polysem.jobs.corpora()
            job = await polysem.jobs.index("by-async", "async.jsonl", selection=RULE)
            states = [one.state async for one in polysem.jobs.watch(job.id)]
            assert (await polysem.jobs.cancel(job.id)).state == "done"
            out = await polysem.jobs.fetch(job.id, tmp_path / "manifest.json")
            await polysem.jobs.delete(job.id)
            await polysem.jobs.delete_corpus("async.jsonl")
            other = await polysem.jobs.measure("0.0", best_cut=False)
            return states, out.read_text(), other.kind

    states, manifest, kind = asyncio.run(use())
    assert states[-1] == "done"
    assert '"async.jsonl"' in manifest
    assert kind == "measure"


def test_the_same_request_makes_one_job(client):
    first = client.jobs.measure("0.0", best_cut=False, request_id="mine")
    assert client.jobs.measure("0.0", best_cut=False, request_id="mine").id == first.id
    finished(client, first)
    assert client.jobs.measure("0.0", best_cut=False, request_id="mine").state == "done"
    with pytest.raises(InvalidArgument, match="'mine' made another job") as raised:
        client.jobs.measure("0.1", best_cut=False, request_id="mine")
    assert raised.value.field == "request_id"
    assert client.jobs.measure("0.0", best_cut=False).id != first.id


def test_pages_hold_every_job_once_latest_first(client, stub):
    made = [client.jobs.measure("0.0", best_cut=False).id for _ in range(5)]
    seen, token = [], ""
    while True:
        page = stub.ListJobs(pb.ListJobsRequest(page_size=2, page_token=token))
        assert len(page.jobs) <= 2
        seen += [job.id for job in page.jobs]
        if not (token := page.next_page_token):
            break
    assert seen[:5] == made[::-1]
    assert len(seen) == len(set(seen))
    with pytest.raises(grpc.RpcError) as raised:
        stub.ListJobs(pb.ListJobsRequest(page_token="x"))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for id_ in made:
        until(client, client.jobs.get(id_), "done")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"index": "none"}, UnknownIndex, "there is no index 'none'"),
        ({"distance_threshold": 3}, InvalidArgument, "between 0 and 2"),
        ({"algorithms": []}, InvalidArgument, "nothing is to be measured"),
        ({"algorithms": ["best"]}, InvalidArgument, "unknown algorithm 'best'"),
        ({"request_id": "x" * 101}, InvalidArgument, "request_id has 101 characters"),
    ],
)
def test_what_cannot_be_measured_is_told_before_a_job_is_made(client, options, error, words):
    before = len(list(client.jobs.list()))
    with pytest.raises(error, match=words):
        client.jobs.measure("0.0", **options)
    with pytest.raises(UnknownNeuron):
        client.jobs.measure("9.0")
    assert len(list(client.jobs.list())) == before


def test_a_job_that_is_not_there_is_not_found(client, tmp_path):
    for ask in (client.jobs.get, client.jobs.cancel, client.jobs.delete, lambda id_: list(client.jobs.watch(id_))):
        with pytest.raises(NotFound, match=r"there is no job .\.\./x."):
            ask("../x")
    with pytest.raises(NotFound):
        client.jobs.fetch("none", tmp_path / "x")


# ---- Watching, cancelling


def test_a_queued_and_a_running_job_can_be_cancelled_and_leave_nothing(index_folder, tmp_path, gate):
    with polysem.server.local(index_folder, device="cpu", state=tmp_path) as client:
        running, queued = client.jobs.measure(), client.jobs.measure()
        until(client, running, "running")
        assert client.jobs.get(queued.id).n_ahead == 1
        assert client.jobs.cancel(queued.id).state == "cancelled"
        with pytest.raises(FailedPrecondition, match="has not finished; cancel it first"):
            client.jobs.delete(running.id)
        threading.Timer(0.3, gate.release, [10_000]).start()
        client.jobs.cancel(running.id)
        assert until(client, running, "cancelled").finished_at is not None
        with pytest.raises(FailedPrecondition, match="has no result: it is cancelled"):
            client.jobs.fetch(running.id, tmp_path / "x")
        assert measured(client, "0.0").state == "done"  # and the next one runs
        assert len(list((tmp_path / "jobs").iterdir())) == 1
        client.jobs.delete(queued.id)
        assert queued.id not in {job.id for job in client.jobs.list()}


def test_a_watcher_hears_a_heartbeat_while_nothing_changes(client, stub, gate):
    job = client.jobs.measure("0.0-9", best_cut=False)
    until(client, job, "running")
    messages = stub.WatchJob(pb.WatchJobRequest(id=job.id, heartbeat_s=0.1))
    first = next(messages)
    assert not first.heartbeat
    assert [next(messages).heartbeat for _ in range(3)] == [True] * 3
    gate.release(10_000)
    last = [first, *messages][-1]
    assert last.job.state == pb.JOB_STATE_DONE
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.WatchJob(pb.WatchJobRequest(id=job.id, heartbeat_s=99)))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_watcher_sees_how_far_the_job_is(client):
    seen = list(client.jobs.watch(client.jobs.measure().id))
    assert seen[-1].state == "done"
    assert all(job.done <= job.total == 192 * 4 for job in seen if job.stage == "cluster")


def test_requests_are_answered_while_a_job_runs(client):
    job = client.jobs.measure()
    n = 0
    while client.jobs.get(job.id).state in ("queued", "running"):
        assert len(client.cluster("1.1")) == 1
        n += 1
    assert n > 3


# ---- Results


def test_a_result_is_read_from_any_byte_on(client, stub, tmp_path):
    job = measured(client)
    whole = client.jobs.fetch(job.id, tmp_path / "whole").read_bytes()
    for offset in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):
        messages = list(stub.ReadJobResult(pb.ReadJobResultRequest(id=job.id, offset=offset)))
        assert b"".join(message.chunk for message in messages) == whole[offset:]
        assert all(message.ByteSize() < MAX_MESSAGE_BYTES for message in messages)
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.ReadJobResult(pb.ReadJobResultRequest(id=job.id, offset=len(whole) + 1)))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_fetch_that_was_broken_off_goes_on_and_a_wrong_byte_is_seen(client, tmp_path):
    job = measured(client)
    whole = client.jobs.fetch(job.id, tmp_path / "whole").read_bytes()
    out, partial = tmp_path / "out", tmp_path / f"out.{job.id}.partial"
    partial.write_bytes(whole[:1000])
    got = []
    client.jobs.fetch(job.id, out, progress=got.append)
    assert sum(got) == len(whole) - 1000
    assert out.read_bytes() == whole
    with pytest.raises(FailedPrecondition, match="exists already"):
        client.jobs.fetch(job.id, out)
    partial.write_bytes(b"x" + whole[1:1000])
    with pytest.raises(Internal, match="nothing was kept"):
        client.jobs.fetch(job.id, out, force=True)
    assert not partial.exists()
    assert out.read_bytes() == whole


def test_a_result_out_of_time_is_removed_and_said_to_be(index_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSEM_RESULT_DAYS", str(1 / 86_400))
    with polysem.server.local(index_folder, device="cpu", state=tmp_path) as client:
        job = finished(client, client.jobs.measure("0.0", best_cut=False))
        assert job.expires_at - job.finished_at == timedelta(seconds=1)
        time.sleep(1.1)
        finished(client, client.jobs.measure("0.0", best_cut=False))  # the runner tidies up before each job
        assert client.jobs.get(job.id).state == "expired"
        with pytest.raises(FailedPrecondition, match="it is expired"):
            client.jobs.fetch(job.id, tmp_path / "x")
        with grpc.insecure_channel(client.target) as channel, pytest.raises(grpc.RpcError) as raised:
            list(pb_grpc.JobServiceStub(channel).ReadJobResult(pb.ReadJobResultRequest(id=job.id)))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert not (tmp_path / "jobs" / job.id).exists()


# ---- Indexing


def test_an_index_job_makes_what_polysem_index_makes_and_requests_name_it_also_after_a_restart(
    small_model, index_folder, corpus_file, tmp_path, gated
):
    with polysem.server.local(index_folder, device="cpu", state=tmp_path / "state") as client:
        client.jobs.upload(corpus_file, "texts.jsonl")
        job = finished(client, client.jobs.index("texts", "texts.jsonl", selection=RULE))
        assert job.state == "done", job.error
        assert [index.name for index in client.indexes()] == ["small", "texts"]
        answers = [neuron.labels.tolist() for neuron in client.cluster("0.*", index="texts")]
    want = builder.build(
        small_model,
        Corpus("texts.jsonl", path=corpus_file),
        tmp_path / "texts",
        builder.Recipe(RULE),
        batch_tokens=256,
    )
    assert job.result_sha256 == want.sha256
    with polysem.server.local(index_folder, device="cpu", state=tmp_path / "state") as client:
        assert client.indexes()[1].sha256 == want.sha256
        assert [neuron.labels.tolist() for neuron in client.cluster("0.*", index="texts")] == answers
        assert client.jobs.get(job.id) == job
        with pytest.raises(InvalidArgument, match="a job has made the index 'texts'"):
            client.jobs.index("texts", "texts.jsonl")
        gate = gated()
        running = client.jobs.measure()
        until(client, running, "running")
        client.jobs.delete(job.id)  # it does not wait for the job at work
        assert len(client.indexes()) == 1
        gate.release(10_000)
        client.jobs.cancel(running.id)
        with pytest.raises(UnknownIndex):
            len(client.cluster("0.0", index="texts"))
        again = finished(client, client.jobs.index("texts", "texts.jsonl", selection=RULE))
        assert again.result_sha256 == want.sha256


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "-x", ".hidden", "x" * 101, "a\0b", "é", "a b", "x\n"]
)
def test_a_name_is_never_a_path(client, stub, name):
    header = pb.UploadCorpusRequest(header=pb.CorpusHeader(name=name + ".jsonl" if name else "", bytes=1, sha256="0"))
    for call in (
        lambda: stub.UploadCorpus(iter([header])),
        lambda: stub.CreateJob(pb.CreateJobRequest(index=pb.IndexJob(name=name, corpus="pydocs"))),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises((NotFound, InvalidArgument), match="corpus"):
        client.jobs.index("fine", name)


def test_only_corpora_that_the_operator_allowed_can_be_named(index_folder, corpus_file, tmp_path, monkeypatch, client):
    with pytest.raises(NotFound, match="there is no corpus"):
        client.jobs.index("x", str(corpus_file))
    monkeypatch.setenv("POLYSEM_CORPORA", str(corpus_file))
    with polysem.server.local(index_folder, device="cpu", state=tmp_path) as other:
        assert [corpus.name for corpus in other.jobs.corpora()] == ["corpus.jsonl", "pydocs"]
        assert finished(other, other.jobs.index("own", "corpus.jsonl", selection=RULE)).state == "done"
        with pytest.raises(FailedPrecondition, match="a corpus of the server's own"):
            other.jobs.upload(corpus_file)
        with pytest.raises(NotFound, match="no uploaded corpus"):
            other.jobs.delete_corpus("corpus.jsonl")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "small"}, "has an index 'small' already"),
        ({"name": "x.tmp"}, "of unfinished ones"),
        ({"selection": Selection("best")}, "unknown selection"),
        ({"selection": Selection("first", 2.0)}, "min_activation_fraction"),
        ({"context_length": 33}, "context_length is 33"),
        ({"windows": "some"}, "unknown windows"),
    ],
)
def test_an_index_that_cannot_be_is_refused_before_a_job_is_made(client, options, words):
    with pytest.raises(InvalidArgument, match=words):
        client.jobs.index(**{"name": "x", "corpus": "pydocs"} | options)


def test_a_corpus_that_is_no_text_fails_its_job_in_words(client, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    client.jobs.upload(tmp_path / "bad.jsonl")
    job = finished(client, client.jobs.index("bad", "bad.jsonl"))
    assert job.state == "failed"
    assert "line 1 of 'bad.jsonl' is not JSON" in job.error
    assert "bad" not in {index.name for index in client.indexes()}


# ---- Uploads


def uploads(client):
    return {corpus.name for corpus in client.jobs.corpora()} - {"pydocs"}


def test_an_upload_is_kept_whole_and_the_same_again_is_no_error(client, corpus_file, tmp_path):
    kept = client.jobs.upload(corpus_file, "kept.jsonl")
    assert kept.sha256 == hashlib.sha256(corpus_file.read_bytes()).hexdigest()
    assert kept.expires_at > datetime.now(UTC) + timedelta(days=29)
    assert client.jobs.upload(corpus_file, "kept.jsonl") == kept
    (tmp_path / "kept.jsonl.gz").write_bytes(gzip.compress(corpus_file.read_bytes()))
    assert client.jobs.upload(tmp_path / "kept.jsonl.gz") == kept
    (tmp_path / "other.txt").write_text("another\n")
    with pytest.raises(InvalidArgument, match=r"NAME\.jsonl"):
        client.jobs.upload(tmp_path / "other.txt", "kept")
    with pytest.raises(FailedPrecondition, match=r"another corpus 'kept\.jsonl' is here"):
        client.jobs.upload(tmp_path / "other.txt", "kept.jsonl")
    client.jobs.delete_corpus("kept.jsonl")
    assert "kept.jsonl" not in uploads(client)
    with pytest.raises(NotFound, match="there is no corpus"):
        client.jobs.upload(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("n_bytes", "sha256", "chunks", "words"),
    [
        (5, "0" * 64, [b"hello"], "arrived with the sha256 2cf24dba"),
        (6, "0" * 64, [b"hello"], "ended after 5 of the 6 bytes"),
        (4, "0" * 64, [b"hello"], "goes on after the 4 bytes"),
        (0, "0" * 64, [], "is empty"),
    ],
)
def test_an_upload_that_is_not_what_it_says_leaves_nothing(client, stub, n_bytes, sha256, chunks, words):
    header = pb.UploadCorpusRequest(header=pb.CorpusHeader(name="wrong.txt", bytes=n_bytes, sha256=sha256))
    before = uploads(client)
    with pytest.raises(grpc.RpcError) as raised:
        stub.UploadCorpus(iter([header, *(pb.UploadCorpusRequest(chunk=chunk) for chunk in chunks)]))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in raised.value.details()
    assert uploads(client) == before


def test_an_upload_without_a_header_or_with_two_is_refused(stub):
    header = pb.UploadCorpusRequest(header=pb.CorpusHeader(name="two.txt", bytes=5, sha256="0"))
    for requests in ([], [pb.UploadCorpusRequest(chunk=b"x")], [header, header]):
        with pytest.raises(grpc.RpcError) as raised:
            stub.UploadCorpus(iter(requests))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_upload_of_other_bytes_than_messages_is_refused(client):
    with grpc.insecure_channel(client.target) as channel:
        upload = channel.stream_unary("/polysem.v1.JobService/UploadCorpus")
        with pytest.raises(grpc.RpcError) as raised:
            upload(iter([b"\xff\xff\xff"]))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_upload_broken_off_half_way_leaves_nothing(index_folder, tmp_path):
    with polysem.server.local(index_folder, device="cpu", state=tmp_path) as client:
        begun, go_on = threading.Event(), threading.Event()

        def requests():
            yield pb.UploadCorpusRequest(header=pb.CorpusHeader(name="half.txt", bytes=10, sha256="0" * 64))
            yield pb.UploadCorpusRequest(chunk=b"hello")
            begun.set()
            go_on.wait(10)

        with grpc.insecure_channel(client.target) as channel:
            call = pb_grpc.JobServiceStub(channel).UploadCorpus.future(requests())
            assert begun.wait(10)
            for _ in range(100):
                if list((tmp_path / "corpora").iterdir()):
                    break
                time.sleep(0.02)
            assert len(list((tmp_path / "corpora").iterdir())) == 1
            call.cancel()
            go_on.set()
        for _ in range(100):
            if not list((tmp_path / "corpora").iterdir()):
                break
            time.sleep(0.02)
        assert list((tmp_path / "corpora").iterdir()) == []
        assert uploads(client) == set()
        (tmp_path / "whole.txt").write_text("whole\n")
        client.jobs.upload(tmp_path / "whole.txt", "half.txt")
    (tmp_path / "corpora" / ".upload-of-a-killed-server").write_text("x")
    with polysem.server.local(index_folder, device="cpu", state=tmp_path) as client:
        assert uploads(client) == {"half.txt"}
        assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["half.txt"]


def test_what_has_no_room_is_refused_with_a_time_to_come_back(index_folder, tmp_path, monkeypatch, gate):
    monkeypatch.setenv("POLYSEM_MAX_JOBS", "2")
    monkeypatch.setenv("POLYSEM_MAX_UPLOAD_BYTES", "100")
    monkeypatch.setenv("POLYSEM_MAX_RESULT_BYTES", "1")
    monkeypatch.setattr(runner, "LOOK_S", 600)  # the first one may write
    for name, n in (("a.txt", 60), ("b.txt", 60), ("c.txt", 101)):
        (tmp_path / name).write_text("x" * n)
    with polysem.server.local(index_folder, device="cpu", state=tmp_path / "state") as client:
        client.jobs.upload(tmp_path / "a.txt")
        with pytest.raises(Overloaded, match=r"take 60 bytes of 100, so 'b\.txt' with 60 has no room") as raised:
            client.jobs.upload(tmp_path / "b.txt")
        assert raised.value.retry_after_s == 60
        with pytest.raises(InvalidArgument, match="keeps at most 100 of all uploads"):
            client.jobs.upload(tmp_path / "c.txt")
        running, queued = client.jobs.measure("0.0", best_cut=False), client.jobs.index("i", "a.txt")
        until(client, running, "running")
        with pytest.raises(Overloaded, match="2 jobs are waiting already") as raised:
            client.jobs.measure("0.0", best_cut=False)
        assert raised.value.retry_after_s == 60
        with pytest.raises(FailedPrecondition, match=f"job {queued.id} needs the corpus"):
            client.jobs.delete_corpus("a.txt")
        gate.release(10_000)
        assert finished(client, running).state == "done"
        assert "the results of earlier jobs take" in finished(client, queued).error
        with pytest.raises(Overloaded, match="the results of earlier jobs take") as raised:
            client.jobs.measure("0.0", best_cut=False)
        assert 60 <= raised.value.retry_after_s <= 3600
        client.jobs.delete(running.id)
        assert client.jobs.measure("0.0", best_cut=False).state in ("queued", "running")


def test_calls_that_may_be_repeated_are_calls_of_the_service():
    service = pb.DESCRIPTOR.services_by_name["JobService"]
    assert set(connection.RETRIED_JOB_CALLS) < {method.name for method in service.methods}


def test_a_client_waits_for_a_server_that_is_back_in_a_second(index_folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(index=[index_folder], port=port, device="cpu", state=tmp_path)
    with _running(settings) as client:
        job = measured(client, "0.0")
    with Client(f"127.0.0.1:{port}") as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: list(client.jobs.watch(job.id)))
        time.sleep(1)
        with _running(settings):
            assert asked.result()[-1] == job


def test_a_cancelled_jobs_questions_end_with_it(client, gate):
    job = client.jobs.measure("*", algorithms=["hac", "scc"])
    until(client, job, "running")
    gate.release(1)
    client.jobs.cancel(job.id)
    gate.release(10)  # for what was under way
    until(client, job, "cancelled")
    time.sleep(0.2)
    gate.release(100)
    time.sleep(0.2)
    assert gate._value >= 100  # nobody takes them


def test_a_job_that_writes_more_than_there_is_room_for_ends_in_words(index_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSEM_MAX_RESULT_BYTES", "2000")
    monkeypatch.setattr(runner, "LOOK_S", 0)
    with polysem.server.local(index_folder, device="cpu", state=tmp_path) as client:
        job = finished(client, client.jobs.measure("0.*", best_cut=False))
        assert job.state == "failed"
        assert "take 0 MB of 0, and what this one has written" in job.error
        for _ in range(100):
            if not (tmp_path / "jobs" / job.id).exists():
                break
            time.sleep(0.02)
        assert list((tmp_path / "jobs").iterdir()) == []


# ---- The state folder


LIMITS = StoreLimits(10, 1 << 30, 1 << 30, 3600.0)


def test_two_servers_do_not_share_a_state_folder(index_folder, tmp_path):
    with (
        polysem.server.local(index_folder, device="cpu", state=tmp_path),
        pytest.raises(FailedPrecondition, match="another server keeps its jobs"),
        polysem.server.local(index_folder, device="cpu", state=tmp_path),
    ):
        pytest.fail("it was served")


def test_jobs_of_a_time_without_owners_are_everybodys(tmp_path):
    store = JobStore(tmp_path, LIMITS)
    job = store.create(MeasureSpec(), MeasureSpec(), "mine", 256)
    store.close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.executescript(
            "ALTER TABLE jobs DROP COLUMN owner; UPDATE jobs SET request_id = 'mine'; PRAGMA user_version = 1"
        )
    db.close()
    for _ in range(2):
        store = JobStore(tmp_path, LIMITS)
        assert store.get(job.id, "any key").id == job.id
        assert store.made("mine", MeasureSpec()).id == job.id
        store.close()


def test_jobs_of_another_format_are_left_alone(tmp_path):
    JobStore(tmp_path, LIMITS).close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(FailedPrecondition, match="have format 99, this version reads 2"):
        JobStore(tmp_path, LIMITS)


LOCAL = "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n"


@pytest.mark.parametrize(
    "line",
    [
        "server:/home {} nfs4 rw,vers=4.2 0 0",
        "//server/share {} cifs rw 0 0",
        "me@box: {} fuse.sshfs rw 0 0",
        "10.0.0.1@tcp:/scratch {} lustre rw 0 0",
    ],
)
def test_a_network_file_system_is_refused_with_advice(tmp_path, line):
    check_local(tmp_path, LOCAL)
    check_local(tmp_path, "")
    kind = line.split()[2]
    with pytest.raises(FailedPrecondition, match=rf"network file system \({kind} at .*--state"):
        check_local(tmp_path, LOCAL + line.format(tmp_path.parent) + "\n")
    check_local(tmp_path, LOCAL + line.format(f"{tmp_path}-beside") + "\n")
    local_again = f"{line.format(tmp_path.parent)}\n/dev/sdb1 {tmp_path.parent} xfs rw 0 0\n"
    check_local(tmp_path, LOCAL + local_again)


def test_a_mount_point_with_a_space_is_understood(tmp_path):
    folder = tmp_path / "my home"
    folder.mkdir()
    table = LOCAL + f"server:/home {tmp_path}/my\\040home nfs rw 0 0\n"
    with pytest.raises(FailedPrecondition, match="nfs"):
        check_local(folder, table)


def test_a_server_whose_usual_state_folder_cannot_be_says_why_and_serves(index_folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with _running(Settings(index=[index_folder], port=0, device="cpu")) as client:
        assert len(client.cluster("0.0")) == 1
        with pytest.raises(FailedPrecondition, match=r"this server takes no jobs: .* cannot be used"):
            list(client.jobs.list())


def test_the_store_forgets_nothing_that_it_said(tmp_path):
    store = JobStore(tmp_path, LIMITS)
    made = [store.create(MeasureSpec(), MeasureSpec(index="i"), f"r{i}", 256) for i in range(3)]
    task = store.next()
    assert task.id == made[0].id
    assert store.next().id == made[0].id  # until it has ended
    assert store.cancel(made[1].id).state == "cancelled"
    store.close()
    store = JobStore(tmp_path, LIMITS)
    assert store.next().id == made[0].id
    store.finish(made[0].id, "failed", "why")
    assert store.next().id == made[2].id
    assert [job.state for job in store.page(0, "")[0]] == ["running", "cancelled", "failed"]
    assert store.get(made[0].id).error == "why"
    store.close()
