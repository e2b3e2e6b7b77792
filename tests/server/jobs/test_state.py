"""The state folder: whose it is, and where it may lie."""

import sqlite3

import pytest

import polysem.server
from polysem.proto.errors import (
    FailedPrecondition,
)
from polysem.proto.jobs import MeasureSpec, encode_job
from polysem.proto.neurons import NeuronRange
from polysem.proto.wire.batches import MAX_MESSAGE_BYTES
from polysem.server.database import check_local
from polysem.server.in_process import _running
from polysem.server.jobs.runner import MAX_RANGES
from polysem.server.jobs.store import JobStore, StoreLimits
from polysem.server.settings import Settings

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
            "DROP INDEX names; CREATE UNIQUE INDEX index_names ON jobs (index_name);"
            "ALTER TABLE jobs DROP COLUMN owner;"
            "ALTER TABLE corpora DROP COLUMN shared; DROP TABLE turns;"
            "INSERT INTO corpora VALUES ('old.txt', 7, 'ab', 9e9);"
            "UPDATE jobs SET request_id = 'mine'; PRAGMA user_version = 1"
        )
    db.close()
    for _ in range(2):
        store = JobStore(tmp_path, LIMITS)
        assert store.get(job.id, "any key").id == job.id
        assert store.made("mine", MeasureSpec()).id == job.id
        assert [(corpus.name, corpus.owner, corpus.shared) for corpus in store.corpora()] == [("old.txt", "", False)]
        store.close()


def test_jobs_of_another_format_are_left_alone(tmp_path):
    JobStore(tmp_path, LIMITS).close()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(FailedPrecondition, match="have format 99, this version reads 3"):
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


def test_a_page_of_jobs_holds_what_a_message_has_room_for(tmp_path):
    store = JobStore(tmp_path, LIMITS._replace(n_jobs=100))
    large = MeasureSpec(neurons=tuple(NeuronRange(0, j, j) for j in range(MAX_RANGES)))
    made = [store.create(large, large, "", 256).id for _ in range(30)]
    seen, token, pages = [], "", 0
    while token or not pages:
        jobs, token = store.page(500, token)
        assert sum(encode_job(job).ByteSize() for job in jobs) < MAX_MESSAGE_BYTES
        seen += [job.id for job in jobs]
        pages += 1
    assert seen == made[::-1]
    assert pages > 1
    store.close()
