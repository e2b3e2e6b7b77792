"""Whose a job is: its key's alone to see and end, at its key's cost, as long as the key lets in."""

import json
from contextlib import ExitStack, contextmanager

import grpc
import pytest

import polysem.server
from polysem.client import Client
from polysem.proto.errors import NotFound
from polysem.proto.facts import Selection
from polysem.server.jobs import runner
from polysem.server.serving import keys
from polysem.v1 import job_service_pb2 as pb
from polysem.v1 import job_service_pb2_grpc as pb_grpc

RULE = Selection("first", 0.5, 30)  # of the index in conftest


@pytest.fixture
def lab(served, tmp_path):
    """A function: `with lab(ada={…}) as (ada, ben)`, clients of two keys with these caps; `id_` is the key's."""

    @contextmanager
    def open_(**caps):
        made = [keys.create(tmp_path, owner, **caps.get(owner, {})) for owner in ("ada", "ben")]
        with served(state=tmp_path, require_keys=True) as target, ExitStack() as leaving:
            clients = []
            for key, token in made:
                clients.append(leaving.enter_context(Client(target, token=token)))
                clients[-1].id_, clients[-1].token = key.id, token
            yield clients

    return open_


def finished(client, job):
    *_, last = client.jobs.watch(job.id, heartbeat_s=1)
    return last


def jobs_of_all(index_folder, state):
    """By id, as an open server shows them."""
    with polysem.server.local(index_folder, device="cpu", state=state) as client:
        return {job.id: job for job in client.jobs.list()}


def cost_today(state, client):
    return json.loads((state / "key-usage.json").read_text()).get(client.id_, {}).get("cost", 0)


def test_a_job_is_its_keys_alone(lab, index_folder, tmp_path):
    with lab() as (ada, ben):
        adas = ada.jobs.measure("0.0", best_cut=False, request_id="nightly")
        bens = ben.jobs.measure("0.1", best_cut=False, request_id="nightly")
        assert ada.jobs.measure("0.0", best_cut=False, request_id="nightly").id == adas.id != bens.id
        assert [job.id for job in ada.jobs.list()] == [adas.id]
        assert [job.id for job in ben.jobs.list()] == [bens.id]
        assert finished(ada, adas).state == "done"
        for ask in (
            lambda: ben.jobs.get(adas.id),
            lambda: ben.jobs.cancel(adas.id),
            lambda: ben.jobs.delete(adas.id),
            lambda: list(ben.jobs.watch(adas.id)),
            lambda: ben.jobs.fetch(adas.id, tmp_path / "stolen.parquet"),
        ):
            with pytest.raises(NotFound, match=f"there is no job {adas.id!r} of your key; `polysem jobs list` shows"):
                ask()
        with grpc.insecure_channel(ben.target) as channel:
            call = pb_grpc.JobServiceStub(channel).ReadJobResult(
                pb.ReadJobResultRequest(id=adas.id), metadata=(("authorization", f"Bearer {ben.token}"),)
            )
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert ada.jobs.fetch(adas.id, tmp_path / "mine.parquet").exists()
    assert jobs_of_all(index_folder, tmp_path).keys() == {adas.id, bens.id}


def test_a_measure_job_is_charged_to_its_key_and_leaves_its_calls_free(lab, tmp_path):
    with lab(ada={"max_in_flight": 1}) as (ada, ben):
        assert finished(ada, ada.jobs.measure("0.*", best_cut=False)).state == "done"
        assert len(ada.cluster("0.0")) == 1
    assert cost_today(tmp_path, ada) > cost_today(tmp_path, ben) == 0


def test_an_index_job_is_charged_too(lab, tmp_path, corpus_file):
    with lab() as (ada, ben):
        ben.jobs.upload(corpus_file, "corpus.jsonl", shared=True)
        assert finished(ada, ada.jobs.index("adas", "corpus.jsonl", selection=RULE)).state == "done"
    assert cost_today(tmp_path, ada) > cost_today(tmp_path, ben) == 0


def test_a_job_beyond_its_keys_quota_fails_in_words(lab, corpus_file):
    with lab(ada={"daily_quota": 1e5}) as (ada, ben):
        ben.jobs.upload(corpus_file, "corpus.jsonl", shared=True)
        for job in (ada.jobs.measure("*", best_cut=False), ada.jobs.index("adas", "corpus.jsonl", selection=RULE)):
            ended = finished(ada, job)
            assert ended.state == "failed"
            assert "your key may use cost 1e+05 a day" in ended.error
        assert finished(ben, ben.jobs.measure("0.0", best_cut=False)).state == "done"


def test_a_job_ends_with_its_key(lab, index_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LOOK_S", 0)
    with lab() as (ada, ben):
        job = ada.jobs.measure("*")
        keys.revoke(tmp_path, ada.id_)
        assert finished(ben, ben.jobs.measure("0.0", best_cut=False)).state == "done"
    ended = jobs_of_all(index_folder, tmp_path)[job.id]
    assert ended.state == "failed"
    assert "this key has been revoked" in ended.error
