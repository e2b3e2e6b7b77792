"""A full disk: jobs and uploads end in words and free what they took, space can be freed, the server starts."""

import contextlib

import pytest

import polysem.server
from polysem.proto.errors import FailedPrecondition, NotFound, Overloaded
from polysem.proto.jobs import MeasureSpec
from polysem.server.jobs import room, runner
from polysem.server.jobs.store import JobStore, StoreLimits

from .at_work import RULE, finished, measured, until

FULL = "the server's disk is full; delete results and uploads"


# ---- Room, by hand


def test_a_reserve_is_left_free(small_disk):
    some = room.Room(small_disk.folder, 15 << 20)
    some.set_aside()  # 4 of the disk's 24 MiB
    some.check()
    some.check(4 << 20)
    with pytest.raises(Overloaded, match=r"has 21 MB free, of which jobs and uploads leave 16 MB, and this needs 6 MB"):
        some.check(6 << 20)
    small_disk.fill()
    with pytest.raises(Overloaded, match="has 0 MB free") as raised:
        some.check()
    assert raised.value.retry_after_s == 60
    assert some.bytes()["reserved"] == 15 << 20


def test_the_spare_is_set_aside_given_up_on_a_full_disk_and_made_again(small_disk):
    some = room.Room(small_disk.folder, 0)
    spare = small_disk.folder / room.SPARE
    some.set_aside()
    some.give_up()
    assert spare.stat().st_blocks * 512 >= room.SPARE_BYTES
    small_disk.fill()
    some.give_up()
    assert some.free_bytes >= room.SPARE_BYTES
    small_disk.fill()
    some.set_aside()
    assert not spare.exists()
    small_disk.free()
    some.set_aside()
    assert spare.exists()


def test_transactions_on_a_full_disk_use_the_spare(small_disk):
    limits = StoreLimits(1000, 1 << 30, 1 << 30, 3600.0)
    store = JobStore(small_disk.folder, limits)
    ids = [store.create(MeasureSpec(), MeasureSpec(), "", 256).id for _ in range(100)]
    small_disk.fill()
    for id_ in ids:
        store.cancel(id_)
        store.delete(id_)
        store.clear(id_)
    assert store.page(0, "")[0] == []
    store.close()
    JobStore(small_disk.folder, limits).close()


# ---- A server


@pytest.fixture
def serving(small_disk, index_folder, monkeypatch):
    """A function: `with serving() as client`, over the small disk, whose reserve is a byte."""
    monkeypatch.setenv("POLYSEM_MIN_FREE_BYTES", "1")
    return lambda: polysem.server.local(index_folder, device="cpu", state=small_disk.folder)


def leave(small_disk, n_bytes):
    """Fill the disk but for so much."""
    small_disk.fill()
    with (small_disk.folder / "filler").open("r+b") as file:
        file.truncate(file.seek(0, 2) - n_bytes)


@pytest.mark.parametrize("looks", [True, False], ids=["seen beforehand", "met"])
def test_a_job_that_fills_the_disk_fails_and_frees_it(serving, small_disk, corpus_file, monkeypatch, looks):
    with serving() as client:
        done = measured(client, "0.0-3")
        client.jobs.upload(corpus_file, "texts.jsonl")
        monkeypatch.setattr(runner, "LOOK_S", 0)
        if not looks:
            monkeypatch.setattr(room.Room, "check", lambda self, n_bytes=0: None)
            monkeypatch.setattr(room, "SPARE_BYTES", 1)
            (small_disk.folder / room.SPARE).unlink()
        for submit in (
            lambda: client.jobs.index("texts", "texts.jsonl", selection=RULE),
            lambda: client.jobs.measure("*", algorithms=["hac", "scc"]),
        ):
            leave(small_disk, 80 << 10)
            job = finished(client, submit())
            assert job.state == "failed"
            assert job.error.startswith((FULL, "the server's disk has 0 MB free") if looks else FULL)
            assert not (small_disk.folder / "jobs" / job.id).exists()
            small_disk.free()
        small_disk.fill()
        assert client.jobs.get(job.id).state == "failed"
        client.jobs.delete(done.id)
        client.jobs.delete_corpus("texts.jsonl")
        assert [corpus.name for corpus in client.jobs.corpora()] == ["pydocs"]
        with pytest.raises(NotFound):
            client.jobs.get(done.id)
        assert len(client.cluster("0.*")) == 96
    with serving() as client:  # still full
        assert client.jobs.get(job.id).error == job.error
        small_disk.free()
        assert measured(client, "0.0-3").state == "done"


def test_running_and_queued_jobs_are_ended_on_a_full_disk(serving, small_disk, gate):
    with serving() as client:
        running, queued = client.jobs.measure("*"), client.jobs.measure("0.0")
        until(client, running, "running")
        small_disk.fill()
        with pytest.raises(Overloaded, match="the server's disk"):
            client.jobs.measure("0.1")
        assert client.jobs.cancel(queued.id).state == "cancelled"
        client.jobs.cancel(running.id)
        gate.release(10_000)
        until(client, running, "cancelled")
        for job in (running, queued):
            client.jobs.delete(job.id)
        assert list(client.jobs.list()) == []


def test_a_job_that_a_full_disk_stopped_at_any_moment_ends_when_the_server_is_back(
    serving, small_disk, gate, monkeypatch
):
    with serving() as client:
        job = client.jobs.measure("*")
        until(client, job, "running")
        small_disk.fill()
        gate.release(3)
    (small_disk.folder / room.SPARE).unlink(missing_ok=True)
    gate.release(10_000)
    small_disk.fill()
    monkeypatch.setattr(runner, "TIDY_S", 0.05)
    with serving() as client:
        assert len(client.cluster("0.0")) == 1
        small_disk.free()
        ended = finished(client, job)
        assert ended.state in ("done", "failed")


def test_an_upload_that_fills_the_disk_is_refused_and_leaves_nothing(serving, small_disk, tmp_path, monkeypatch):
    (tmp_path / "large.txt").write_bytes(b"a line\n" * 300_000)
    with serving() as client:
        leave(small_disk, 1 << 20)
        with pytest.raises(Overloaded, match=r"has 1 MB free, .* and this needs 2 MB"):
            client.jobs.upload(tmp_path / "large.txt")
        monkeypatch.setattr(room.Room, "check", lambda self, n_bytes=0: None)
        with pytest.raises(Overloaded, match=FULL):
            client.jobs.upload(tmp_path / "large.txt")
        assert list((small_disk.folder / "corpora").iterdir()) == []


def test_what_jobs_and_uploads_take_is_seen_while_they_take_it(small_disk, index_folder, tmp_path, monkeypatch, gate):
    monkeypatch.setenv("POLYSEM_MIN_FREE_BYTES", str(10 << 20))
    monkeypatch.setattr(runner, "LOOK_S", 0)
    (tmp_path / "some.txt").write_bytes(b"a line\n" * 100_000)
    with polysem.server.local(index_folder, device="cpu", state=small_disk.folder) as client:
        job = client.jobs.measure("*")
        until(client, job, "running")
        leave(small_disk, 9 << 20)
        gate.release(10_000)
        assert "of which jobs and uploads leave 10 MB" in finished(client, job).error
        with pytest.raises(Overloaded, match="leave 10 MB"):
            client.jobs.upload(tmp_path / "some.txt")
        with pytest.raises(Overloaded, match="leave 10 MB"):
            client.jobs.measure("0.0")


def test_a_result_whose_file_is_gone_is_not_found(serving, small_disk, tmp_path):
    with serving() as client:
        job = measured(client, "0.0")
        (small_disk.folder / "jobs" / job.id / runner.MEASUREMENTS).unlink()
        with pytest.raises(NotFound, match="is no longer there; submit it again"):
            client.jobs.fetch(job.id, tmp_path / "x.parquet")
        client.jobs.delete(job.id)


def test_an_upload_whose_file_is_gone_is_forgotten(serving, small_disk, corpus_file):
    with serving() as client:
        client.jobs.upload(corpus_file, "texts.jsonl")
    (small_disk.folder / "corpora" / "texts.jsonl").unlink()
    with serving() as client:
        assert client.jobs.upload(corpus_file, "texts.jsonl").name == "texts.jsonl"


@pytest.mark.parametrize("n_bytes", [0, 1 << 12, 1 << 16])
def test_a_server_starts_on_a_full_disk_also_where_it_never_was(serving, small_disk, n_bytes):
    leave(small_disk, n_bytes)
    with serving() as client:
        assert len(client.cluster("0.0")) == 1
        with contextlib.suppress(FailedPrecondition):  # which says why this server takes no jobs
            assert list(client.jobs.list()) == []


def test_a_damaged_database_is_told(tmp_path, index_folder):
    (tmp_path / "jobs.sqlite").write_bytes(b"no database at all" * 100)
    with (
        pytest.raises(FailedPrecondition, match=r"cannot be read \(file is not a database\)"),
        polysem.server.local(index_folder, device="cpu", state=tmp_path),
    ):
        pytest.fail("it was served")
