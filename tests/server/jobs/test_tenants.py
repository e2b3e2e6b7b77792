"""Uploads and indexes are their key's alone unless shared; jobs of keys take turns; an administrator sees all."""

import json
import sqlite3
from contextlib import ExitStack, contextmanager

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from polysem.client import Client
from polysem.client.commands.cli import cli
from polysem.proto.errors import InvalidArgument, NotFound, Overloaded, PermissionDenied, UnknownIndex
from polysem.proto.jobs import MeasureSpec
from polysem.server.jobs.store import JobStore, StoreLimits
from polysem.server.jobs.tenants import in_turn
from polysem.server.serving import keys

from .at_work import RULE, finished, until


@pytest.fixture
def lab(served, tmp_path):
    """A function: `with lab(**settings) as (ada, ben, root)`, clients of three keys, the last an administrator's."""

    @contextmanager
    def open_(**flags):
        made = [keys.create(tmp_path, owner, admin=owner == "root") for owner in ("ada", "ben", "root")]
        with served(state=tmp_path, require_keys=True, **flags) as target, ExitStack() as leaving:
            clients = []
            for key, token in made:
                clients.append(leaving.enter_context(Client(target, token=token)))
                clients[-1].id_ = key.id
            yield clients

    return open_


def uploads(client):
    return [(corpus.name, corpus.owner) for corpus in client.jobs.corpora() if corpus.expires_at]


def indexes(client):
    return [index.name for index in client.indexes()]


@pytest.mark.parametrize(
    ("queued", "last_turn", "order"),
    [
        ([], {}, []),
        ([("1", "a"), ("2", "a"), ("3", "b")], {}, ["1", "3", "2"]),
        ([("1", "a"), ("2", "a"), ("3", "b")], {"a": 9.0}, ["3", "1", "2"]),
        ([("1", "a"), ("2", "b"), ("3", "c"), ("4", "a")], {"a": 3.0, "b": 1.0, "c": 2.0}, ["2", "3", "1", "4"]),
    ],
)
def test_owners_take_turns(queued, last_turn, order):
    assert in_turn(queued, last_turn) == order


@given(st.lists(st.sampled_from("abc"), max_size=20), st.dictionaries(st.sampled_from("abc"), st.floats(0, 9)))
def test_the_order_is_that_of_a_queue_that_is_asked_one_by_one(owners, last_turn):
    queued = [(str(i), owner) for i, owner in enumerate(owners)]
    whole, left, now = in_turn(queued, last_turn), list(queued), 10.0
    for expected in whole:
        id_ = in_turn(left, last_turn)[0]
        assert id_ == expected
        owner = dict(queued)[id_]
        left.remove((id_, owner))
        last_turn = {**last_turn, owner: (now := now + 1)}
    assert not left


def test_a_store_says_how_many_jobs_run_before_one_and_runs_them_so(tmp_path):
    store = JobStore(tmp_path, StoreLimits(100, 1 << 30, 1 << 30, 3600.0))
    ids = {}
    for name, owner in (("a1", "ada"), ("a2", "ada"), ("a3", "ada"), ("b1", "ben")):
        ids[name] = store.create(MeasureSpec(), MeasureSpec(), "", 256, owner).id
    assert store.next().id == ids["a1"]
    ahead = {name: store.get(id_).n_ahead for name, id_ in ids.items()}
    assert ahead == {"a1": 0, "b1": 1, "a2": 2, "a3": 3}
    assert {job.id: job.n_ahead for job in store.page(10, "")[0]} == {ids[name]: n for name, n in ahead.items()}
    assert store.next().id == ids["a1"]  # an interrupted one goes on
    for name in ("a1", "b1", "a2", "a3"):
        assert store.next().id == ids[name]
        store.finish(ids[name], "failed")
    assert store.next() is None
    store.close()


def test_one_key_cannot_fill_the_queue(tmp_path):
    store = JobStore(tmp_path, StoreLimits(4, 1 << 30, 1 << 30, 3600.0, key_share=0.5))
    for _ in range(2):
        store.create(MeasureSpec(), MeasureSpec(), "", 256, "ada")
    with pytest.raises(Overloaded, match=r"^2 jobs of your key are waiting already"):
        store.create(MeasureSpec(), MeasureSpec(), "", 256, "ada")
    for owner in ("ben", "cy"):
        store.create(MeasureSpec(), MeasureSpec(), "", 256, owner)
    with pytest.raises(Overloaded, match=r"^4 jobs are waiting already"):
        store.create(MeasureSpec(), MeasureSpec(), "", 256, "dan")
    store.close()


def test_one_keys_results_leave_room_for_others(tmp_path):
    store = JobStore(tmp_path, StoreLimits(9, 1000, 1 << 30, 3600.0, key_share=0.5))
    job = store.create(MeasureSpec(), MeasureSpec(), "", 256, "ada")
    store.job_folder(job.id).mkdir()
    result = store.job_folder(job.id) / "measurements.parquet"
    result.write_bytes(bytes(600))
    store.finish_done(job.id, result, "ab")
    with pytest.raises(Overloaded, match=r"^the results of your key's earlier jobs take 0 MB of 0"):
        store.create(MeasureSpec(), MeasureSpec(), "", 256, "ada")
    assert store.create(MeasureSpec(), MeasureSpec(), "", 256, "ben").state == "queued"
    store.close()


def test_an_upload_is_its_keys_alone(lab, corpus_file, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"text": "another text"}\n' * 30)
    with lab() as (ada, ben, root):
        adas = ada.jobs.upload(corpus_file, "texts.jsonl")
        assert (adas.owner, adas.shared) == (ada.id_, False)
        assert uploads(ben) == []
        with pytest.raises(NotFound, match=r"there is no corpus 'texts\.jsonl' here"):
            ben.jobs.index("bens", "texts.jsonl", selection=RULE)
        with pytest.raises(NotFound, match=r"there is no uploaded corpus 'texts\.jsonl'"):
            ben.jobs.delete_corpus("texts.jsonl")
        with pytest.raises(NotFound, match=f"there is no corpus '{ada.id_}/texts.jsonl' here"):
            ben.jobs.index("bens", f"{ada.id_}/texts.jsonl", selection=RULE)
        bens = ben.jobs.upload(tmp_path / "other.jsonl", "texts.jsonl")  # the name is free for him
        assert bens.sha256 != adas.sha256
        assert uploads(ben) == [("texts.jsonl", ben.id_)]
        assert {*uploads(root)} == {("texts.jsonl", ada.id_), ("texts.jsonl", ben.id_)}
        root.jobs.delete_corpus(f"{ada.id_}/texts.jsonl")
        assert uploads(ada) == []
        assert uploads(ben) == [("texts.jsonl", ben.id_)]


def test_a_shared_upload_is_for_all_to_index_and_its_keys_to_remove(lab, corpus_file):
    with lab() as (ada, ben, _):
        assert ada.jobs.upload(corpus_file, "texts.jsonl", shared=True).shared
        assert uploads(ben) == [("texts.jsonl", ada.id_)]
        assert finished(ben, ben.jobs.index("bens", "texts.jsonl", selection=RULE)).state == "done"
        with pytest.raises(PermissionDenied, match=f"shared by the key {ada.id_}, which alone can remove it"):
            ben.jobs.delete_corpus("texts.jsonl")
        assert uploads(ada) == [("texts.jsonl", ada.id_)]


def test_an_index_is_its_keys_alone_also_after_a_restart(lab, served, corpus_file, tmp_path):
    with lab() as (ada, ben, root):
        ada.jobs.upload(corpus_file, "texts.jsonl", shared=True)
        job = ada.jobs.index("texts", "texts.jsonl", selection=RULE)
        assert finished(ada, job).state == "done"
        assert indexes(ada) == ["small", "texts"] == indexes(root)
        assert indexes(ben) == ["small"]
        for ask in (
            lambda: list(ben.cluster("0.0", index="texts")),
            lambda: list(ben.neurons(index="texts")),
            lambda: list(ben.explain("a text", "0.0", index="texts")),
            lambda: ben.jobs.measure("0.0", index="texts"),
        ):
            with pytest.raises(UnknownIndex, match="there is no index 'texts'"):
                ask()
        assert finished(ada, ada.jobs.measure("0.0", index="texts", best_cut=False)).state == "done"
        other = ben.jobs.index("texts", "texts.jsonl", selection=RULE, max_documents=5)
        assert finished(ben, other).state == "done"
        sha256 = [client.indexes()[1].sha256 for client in (ada, ben)]
        assert sha256[0] != sha256[1]
        for client, own in ((ada, sha256[0]), (ben, sha256[1])):
            assert client.cluster("0.0", index="texts")[0].provenance.index_sha256 == own
    with lab() as (carl, *_):
        assert indexes(carl) == ["small"]


def test_a_shared_index_is_for_all_to_ask_and_its_keys_to_remove(lab, corpus_file):
    with lab() as (ada, ben, root):
        ada.jobs.upload(corpus_file, "texts.jsonl", shared=True)
        job = ada.jobs.index("texts", "texts.jsonl", selection=RULE, shared=True)
        assert finished(ada, job).state == "done"
        assert len(ben.cluster("0.0", index="texts")) == 1
        with pytest.raises(InvalidArgument, match=f"the key {ada.id_} shares an index 'texts' already"):
            ben.jobs.index("texts", "texts.jsonl", selection=RULE, shared=True)
        with pytest.raises(NotFound, match="there is no job"):
            ben.jobs.delete(job.id)
        root.jobs.delete(job.id)
        with pytest.raises(UnknownIndex):
            list(ada.cluster("0.0", index="texts"))


def test_an_administrator_sees_and_ends_all_jobs(lab, gate):
    with lab() as (ada, ben, root):
        running, waiting = ada.jobs.measure("*"), ben.jobs.measure("*")
        until(ada, running, "running")
        assert [(job.id, job.owner) for job in root.jobs.list()] == [(waiting.id, ben.id_), (running.id, ada.id_)]
        assert root.jobs.cancel(waiting.id).state == "cancelled"
        assert ben.jobs.get(waiting.id).state == "cancelled"
        assert [job.id for job in ada.jobs.list()] == [running.id]
        gate.release(10_000)  # the server ends when its job does


def test_keys_say_who_may_what(tmp_path):
    made = [
        json.loads(CliRunner().invoke(cli, ["keys", "create", "--state", str(tmp_path), "--json", *options]).output)
        for options in (["--owner", "ada"], ["--owner", "root", "--admin"])
    ]
    assert [key["admin"] for key in made] == [False, True]
    listed = CliRunner().invoke(cli, ["keys", "list", "--state", str(tmp_path)], env={"COLUMNS": "200"}).output
    assert "may see and end" in listed
    assert [("all keys' jobs" in line, "its own" in line) for line in listed.splitlines()[1:3]] == [
        (False, True),
        (True, False),
    ]


def test_keys_of_an_earlier_version_are_nobodys_administrators(tmp_path):
    key, token = keys.create(tmp_path, "ada")
    stored = json.loads((tmp_path / keys.KEYS).read_text())
    del stored[key.id]["admin"]
    (tmp_path / keys.KEYS).write_text(json.dumps(stored))
    assert not keys.Keys(tmp_path).caller(token).admin


def test_jobs_of_format_2_are_kept(tmp_path):
    limits = StoreLimits(10, 1 << 30, 1 << 30, 3600.0)
    store = JobStore(tmp_path, limits)
    job = store.create(MeasureSpec(), MeasureSpec(), "mine", 256, "ada")
    store.close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.executescript(
            "DROP INDEX names; CREATE UNIQUE INDEX index_names ON jobs (index_name);"
            "ALTER TABLE corpora DROP COLUMN shared; DROP TABLE turns; PRAGMA user_version = 2"
        )
    db.close()
    for _ in range(2):
        store = JobStore(tmp_path, limits)
        assert store.get(job.id, "ada").owner == "ada"
        store.close()
