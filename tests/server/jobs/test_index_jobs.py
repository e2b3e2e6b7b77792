"""Index jobs and the corpora that are uploaded for them."""

import gzip
import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest

import polysem.server
from polysem.client import Client, connection
from polysem.proto.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    UnknownIndex,
)
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.in_process import _running
from polysem.server.index.format import open_index
from polysem.server.indexing import builder
from polysem.server.jobs import runner
from polysem.server.settings import Settings
from polysem.v1 import job_service_pb2 as pb
from polysem.v1 import job_service_pb2_grpc as pb_grpc

from .at_work import RULE, finished, measured, until


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
        assert finished(other, other.jobs.index("own", "corpus.jsonl", selection=RULE, negatives=4)).state == "done"
        (made,) = tmp_path.glob("jobs/*/own")
        assert 0 < open_index(made).n_negatives <= 4
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
        ({"negatives": 129}, "negatives is 129"),
        ({"negatives": -1}, "negatives is -1"),
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
        with pytest.raises(
            Overloaded, match=r"take 60 bytes of 100, so 60 bytes more of 'b\.txt' have no room"
        ) as raised:
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
