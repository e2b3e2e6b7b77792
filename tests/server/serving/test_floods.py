"""One key has more under way than its share, over real connections: it waits or is refused, and others are served."""

import asyncio
import threading
import time
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polysem.client import Client
from polysem.server.jobs import uploads
from polysem.server.jobs.watching import Watches
from polysem.server.questions import clustering
from polysem.server.serving import interceptor, keys
from polysem.server.serving.door import HEALTH, UPLOAD, WATCH
from polysem.v1 import job_service_pb2 as job_pb
from polysem.v1 import job_service_pb2_grpc as job_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

WHOLE = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()])


class Key:
    """A key's client, and stubs of its own for what the client would not do."""

    def __init__(self, target, token, leaving):
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.client = leaving.enter_context(Client(target, token=token))
        channel = leaving.enter_context(grpc.insecure_channel(target, (("grpc.enable_retries", 0),)))
        self.neurons, self.jobs = pb_grpc.NeuronServiceStub(channel), job_grpc.JobServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)


@pytest.fixture
def lab(served, tmp_path):
    @contextmanager
    def open_(**flags):
        tokens = [keys.create(tmp_path, owner)[1] for owner in ("ada", "ben")]
        with served(state=tmp_path, require_keys=True, **flags) as target, ExitStack() as leaving:
            yield [Key(target, token, leaving) for token in tokens]

    return open_


def ended(call):
    """The code and words with which a call that was let run ends."""
    with pytest.raises(grpc.RpcError) as raised:
        for _ in call:
            pass
    return raised.value.code(), raised.value.details()


def drips(seconds=20.0, name="drip.txt"):
    """An upload of 1 GB of which a byte comes now and then."""
    yield job_pb.UploadCorpusRequest(header=job_pb.CorpusHeader(name=name, bytes=10**9, sha256="0" * 64))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield job_pb.UploadCorpusRequest(chunk=b"x")
        time.sleep(0.02)


def test_an_answer_that_nobody_reads_is_given_up_and_its_place_with_it(lab, monkeypatch):
    monkeypatch.setattr(interceptor, "STALL_S", 0.5)
    large = pb.ClusterNeuronsResponse()
    large.labels.data = bytes(500_000)

    async def endless(self, request, context):
        while True:
            yield large.SerializeToString()

    monkeypatch.setattr("polysem.server.serving.service.NeuronService.ClusterNeurons", endless)
    with lab() as (ada, ben):
        unread = ada.neurons.ClusterNeurons(WHOLE, metadata=ada.metadata)
        next(unread)
        time.sleep(1.5)
        code, words = ended(unread)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert words.startswith("nothing of this answer was read for 0.5 s, so its place was given up; ask again")
        assert ben.client.info().limits.max_requests_in_flight == 1024


def test_another_keys_calls_pass_by_a_line(lab, monkeypatch):
    gate = threading.Semaphore(0)
    run = clustering.ClusterWork.run

    def run_when_let(self, items):
        assert gate.acquire(timeout=60)
        return run(self, items)

    monkeypatch.setattr(clustering.ClusterWork, "run", run_when_let)
    with lab() as (ada, ben):
        one = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(layer=0, first=0, last=0)])
        flood = [ada.neurons.ClusterNeurons(one, metadata=ada.metadata, timeout=60) for _ in range(90)]
        answers = []
        asking = threading.Thread(target=lambda: answers.extend(ben.client.cluster("0.1")))
        asking.start()
        for _ in range(5):
            ben.client.info()
        gate.release(10_000)
        asking.join(60)
        assert [str(neuron.id) for neuron in answers] == ["0.1"]
        assert sum(len(list(call)) for call in flood) == 90


def test_a_large_request_is_read_beside_the_event_loop(lab, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()
    plan = clustering.plan

    def slow(engine, query):
        if len(query.neurons) > 1:
            reading.set()
            assert go_on.wait(60)
        return plan(engine, query)

    monkeypatch.setattr(clustering, "plan", slow)
    with lab() as (ada, ben):
        large = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(layer=0, first=0, last=0)] * 1000)
        answers = ada.neurons.ClusterNeurons(large, metadata=ada.metadata, timeout=60)
        assert reading.wait(60)
        assert ben.client.info().version
        assert len(ben.client.cluster("0.1")) == 1
        go_on.set()
        assert sum(len(answer.n_examples.data) > 0 for answer in answers) == 1


def test_watches_have_a_share_and_others_theirs(lab, monkeypatch):
    with lab() as (ada, ben):
        job = ada.client.jobs.measure("*")
        request = job_pb.WatchJobRequest(id=job.id, heartbeat_s=60)
        monkeypatch.setattr(Watches, "messages", forever)
        watching = [ada.jobs.WatchJob(request, metadata=ada.metadata) for _ in range(WATCH.in_hand)]
        for watch in watching:
            next(watch)
        code, words = ended(ada.jobs.WatchJob(request, metadata=ada.metadata))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert words.startswith("64 watches are open already, as many as one key or connection may have; end some")
        bens = ben.client.jobs.measure("0.0")
        assert next(ben.jobs.WatchJob(job_pb.WatchJobRequest(id=bens.id), metadata=ben.metadata)).job.id
        watching[0].cancel()
        for _ in range(100):
            again = ada.jobs.WatchJob(request, metadata=ada.metadata)
            try:
                assert next(again).job.id
                break
            except grpc.RpcError:
                time.sleep(0.02)
        else:
            pytest.fail("the place was not given back")


async def forever(self, id_, heartbeat_s):
    yield job_pb.WatchJobResponse(job=job_pb.Job(id=id_)).SerializeToString()
    await asyncio.sleep(3600)


def test_watches_of_one_job_share_one_look():
    looks = []

    def job(id_):
        looks.append(id_)
        return job_pb.Job(id=id_, done=len(looks))

    async def main():
        version = [0]
        watches = Watches(lambda: version[0], job)
        watching = [watches.messages("1a", 60.0) for _ in range(300)]
        first = await asyncio.gather(*(anext(one) for one in watching))
        version[0] += 1
        second = await asyncio.gather(*(anext(one) for one in watching))
        for one in watching:
            await one.aclose()
        assert not watches._looks
        return first, second

    first, second = asyncio.run(main())
    assert looks == ["1a", "1a"]
    assert len({id(message) for message in first}) == len({id(message) for message in second}) == 1
    assert job_pb.WatchJobResponse.FromString(second[0]).job.done == 2


def test_a_watch_that_cannot_go_on_ends_for_all():
    def job(id_):
        raise LookupError(id_)

    async def main():
        watches = Watches(lambda: 0, job)
        ends = await asyncio.gather(*(anext(watches.messages("1a", 60.0)) for _ in range(3)), return_exceptions=True)
        assert [repr(end) for end in ends] == ["LookupError('1a')"] * 3
        assert not watches._looks

    asyncio.run(main())


def test_watches_of_health_have_a_share_of_their_connection(served):
    with served() as target, grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(HEALTH.in_hand)]
        assert {next(watch).status for watch in watching} == {health_pb2.HealthCheckResponse.SERVING}
        code, words = ended(health.Watch(health_pb2.HealthCheckRequest()))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert words.startswith("16 watches of health are open already, as many as one key or connection may have")
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        with Client(target) as other:
            assert other.info().version


def test_an_upload_that_drips_is_ended_and_leaves_nothing(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(uploads, "STALL_S", 0.5)
    with lab() as (ada, _):
        with pytest.raises(grpc.RpcError) as raised:
            ada.jobs.UploadCorpus(drips(), metadata=ada.metadata)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "bytes of 'drip.txt' came in 0.5 s, and an upload must bring 65,536; send it again" in (
            raised.value.details()
        )
        assert [corpus.name for corpus in ada.client.jobs.corpora()] == ["pydocs"]
    assert not [*(tmp_path / "corpora").iterdir()]


def test_calls_of_a_revoked_key_end_also_where_they_have_nothing_to_say(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(interceptor, "REVOKED_S", 0.1)
    with lab() as (ada, ben):
        job = ada.client.jobs.measure("*")
        watching = ada.jobs.WatchJob(job_pb.WatchJobRequest(id=job.id, heartbeat_s=60), metadata=ada.metadata)
        next(watching)
        upload = ada.jobs.UploadCorpus.future(drips(), metadata=ada.metadata)
        (key,) = (key.id for key in keys.listed(tmp_path) if key.owner == "ada")
        keys.revoke(tmp_path, key)
        for code, words in (ended(watching), (upload.exception().code(), upload.exception().details())):
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert words.startswith("this key has been revoked")
        assert ben.client.info().version
    assert not [*(tmp_path / "corpora").iterdir()]


def test_what_uploads_promise_keeps_no_room_from_others(lab, tmp_path):
    (tmp_path / "bens.txt").write_text("a text\n" * 100)
    with lab(max_upload_bytes=4 * 10**9) as (ada, ben):
        dripping = [
            ada.jobs.UploadCorpus.future(drips(name=f"{i}.txt"), metadata=ada.metadata) for i in range(UPLOAD.in_hand)
        ]
        for _ in range(500):
            if len([*(tmp_path / "corpora").iterdir()]) == UPLOAD.in_hand:
                break
            time.sleep(0.02)
        with pytest.raises(grpc.RpcError) as raised:
            ada.jobs.UploadCorpus(drips(name="more.txt"), metadata=ada.metadata)
        assert raised.value.details().startswith("2 uploads are open already, as many as one key or connection may")
        assert ben.client.jobs.upload(tmp_path / "bens.txt", "bens.txt").bytes == 700
        for call in dripping:
            call.cancel()
