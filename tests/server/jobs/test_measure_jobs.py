"""Jobs and uploads through a real server on loopback; one is killed in tests/load/kill.py."""

import asyncio
import hashlib
import json
import threading
import time
from datetime import timedelta

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

import polysem.server
from polysem.client import AsyncClient
from polysem.client.commands.cli import cli
from polysem.client.measuring import measurements
from polysem.client.measuring.measure import Measuring, variants
from polysem.proto.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    UnknownIndex,
    UnknownNeuron,
)
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.v1 import job_service_pb2 as pb
from polysem.v1 import job_service_pb2_grpc as pb_grpc

from .at_work import RULE, finished, measured, until


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


def test_a_measure_job_says_what_is_more_than_chance(client, tmp_path):
    line = ["jobs", "submit", "measure", "0.0-9", "--null", "19", "--seed", "3", "--no-best-cut", "--json"]
    made = CliRunner().invoke(cli, [*line, "--server", client.target])
    assert made.exit_code == 0, made.output
    job = finished(client, client.jobs.get(json.loads(made.output)["id"]))
    assert (job.spec.n_null, job.spec.seed) == (19, 3)
    assert (job.spec.algorithms, job.spec.embeddings) == (("hac",), ("neuron",))
    got = client.jobs.fetch(job.id, tmp_path / "job.parquet").read_bytes()
    Measuring(client, ["0.0-9"], variants(["hac"], ["neuron"]), best_cut=False, n_null=19, seed=3).run(
        tmp_path / "here.parquet"
    )
    assert got == (tmp_path / "here.parquet").read_bytes()
    measured = measurements.read(tmp_path / "here.parquet")
    for column in measurements.SIGNIFICANCE:
        assert not np.isnan(measured.column(column)).all(), column


def test_controls_of_a_measure_job_are_drawn_by_its_seed(client, tmp_path):
    made = [measured(client, "0.0-9", algorithms=["hac"], embeddings=["permuted"], seed=seed) for seed in (0, 0, 1)]
    files = [measurements.read(client.jobs.fetch(job.id, tmp_path / job.id)) for job in made]
    first, again, other = (file.column("mean_distance") for file in files)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


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
        ({"n_null": 2000}, InvalidArgument, "n_null is 2000; give 0 to 1999"),
        ({"n_null": -1}, InvalidArgument, "n_null is -1; give 0 to 1999"),
        ({"seed": 1 << 63}, InvalidArgument, r"seed is 9223372036854775808; give 0 to 2\^63 - 1"),
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
    with pytest.raises(InvalidArgument, match=r"the job names 4,097 ranges of neurons; name at most 4,096, such as"):
        client.jobs.measure(*["0.0"] * 4097)
    assert len(list(client.jobs.list())) == before


def test_a_job_that_is_not_there_is_not_found(client, tmp_path):
    for ask in (client.jobs.get, client.jobs.cancel, client.jobs.delete, lambda id_: list(client.jobs.watch(id_))):
        with pytest.raises(NotFound, match=r"there is no job .\.\./x."):
            ask("../x")
    with pytest.raises(NotFound):
        client.jobs.fetch("none", tmp_path / "x")


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
