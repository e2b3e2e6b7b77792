"""The memory of jobs and uploads by hand, without a server."""

import sqlite3
from datetime import UTC, datetime

import pytest

from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, Overloaded
from polysem.proto.jobs import MAX_JOBS_PER_PAGE, MAX_NAME_CHARACTERS, IndexSpec, MeasureSpec
from polysem.server.jobs import store as stores
from polysem.server.jobs.store import JobStore, StoreLimits

LIMITS = StoreLimits(200, 1000, 1 << 30, 3600.0)


@pytest.fixture
def now(monkeypatch):
    """The time of day, in a list: to be moved."""
    time_s = [1_000_000.0]
    monkeypatch.setattr(stores.time, "time", lambda: time_s[0])
    return time_s


@pytest.fixture
def open_store(tmp_path, now):
    """A function: a store of these limits in the test's folder, closed at its end."""
    opened = []

    def open_store(**limits):
        opened.append(JobStore(tmp_path / "state", LIMITS._replace(**limits)))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


def create(store, request_id="", key="", spec=None, corpus=""):
    spec = spec or MeasureSpec()
    return store.create(spec, spec, request_id, 256, key, corpus)


def done(store, key="", n_bytes=10, spec=None):
    """A job with a result of so many bytes."""
    job = create(store, key=key, spec=spec)
    assert store.next().id == job.id
    folder = store.job_folder(job.id)
    folder.mkdir()
    (folder / "result").write_bytes(bytes(n_bytes))
    store.finish_done(job.id, folder / "result", "ab")
    return job.id


def at(time_s):
    return datetime.fromtimestamp(time_s, UTC)


def test_a_request_makes_one_job(open_store):
    store = open_store()
    job = create(store, "r" * MAX_NAME_CHARACTERS)
    assert create(store, "r" * MAX_NAME_CHARACTERS).id == job.id
    assert create(store, "r" * MAX_NAME_CHARACTERS, "ada").id != job.id  # another key's
    assert create(store).id != create(store).id  # none of these has a name
    with pytest.raises(InvalidArgument, match=f"the request id 'r+' made another job, {job.id}"):
        create(store, "r" * MAX_NAME_CHARACTERS, spec=MeasureSpec(index="other"))
    with pytest.raises(InvalidArgument, match=f"request_id has {MAX_NAME_CHARACTERS + 1} characters"):
        create(store, "r" * (MAX_NAME_CHARACTERS + 1))


def test_times_and_sizes_of_a_job_are_told(open_store, now):
    store = open_store()
    id_ = create(store, key="ada").id
    now[0] += 5
    assert store.next() == (id_, MeasureSpec(), 256, "ada", "")
    now[0] += 5
    folder = store.job_folder(id_)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "result").write_bytes(bytes(7))
    (folder / "beside").write_bytes(bytes(5))
    store.finish_done(id_, folder / "deep" / "result", "ab")
    job = store.get(id_)
    assert (job.created_at, job.started_at, job.finished_at) == (at(1e6), at(1e6 + 5), at(1e6 + 10))
    assert (job.expires_at, job.state) == (at(1e6 + 10 + 3600), "done")
    assert (job.result_bytes, job.result_sha256, store.disk_bytes(id_)) == (7, "ab", 12)
    assert store.result(id_) == folder / "deep" / "result"
    assert store.counts() == {"done": 1}


def test_a_result_is_where_there_is_one(open_store, now):
    store = open_store()
    id_ = create(store).id
    with pytest.raises(FailedPrecondition, match=f"job {id_} has no result: it is queued$"):
        store.result(id_)
    store.finish(id_, "failed", "no room")
    with pytest.raises(FailedPrecondition, match=r"it is failed \(no room\)$"):
        store.result(id_)
    id_ = done(store)
    (store.job_folder(id_) / "result").unlink()
    with pytest.raises(NotFound, match=f"the result of job {id_} is no longer there"):
        store.result(id_)
    now[0] += 3600
    assert id_ in store.uncleared()
    with pytest.raises(NotFound, match=f"the result of job {id_} was kept until 1970-01-12 14:46 UTC"):
        store.result(id_)


def test_what_has_ended_is_cleared_once(open_store, now):
    store = open_store()
    kept, failed = done(store), create(store).id
    store.finish(failed, "failed")
    queued = create(store).id
    assert store.uncleared() == [failed]
    store.clear(failed)
    assert store.uncleared() == []
    now[0] += 3599
    assert store.uncleared() == []
    now[0] += 1
    before = store.changes
    assert store.uncleared() == [kept]
    assert store.changes == before + 1
    assert store.uncleared() == [kept]
    assert store.changes == before + 1  # there was nothing more to change
    assert store.get(queued).state == "queued"


def test_a_forgotten_job_is_gone_once_it_is_cleared(open_store):
    store = open_store()
    id_ = create(store, "mine").id
    with pytest.raises(FailedPrecondition, match=f"job {id_} has not finished; cancel it first"):
        store.delete(id_)
    assert not store.is_cancelled(id_)
    assert store.cancel(id_).state == "cancelled"
    assert store.is_cancelled(id_)
    store.delete(id_)
    with pytest.raises(NotFound, match=f"there is no job '{id_}'; "):
        store.get(id_)
    assert create(store, "mine").id != id_
    assert store.uncleared() == [id_]
    store.clear(id_)
    assert store.uncleared() == []


def test_a_running_job_is_cancelled_by_its_runner(open_store):
    store = open_store()
    id_ = create(store).id
    store.next()
    assert store.cancel(id_).state == "running"
    assert store.is_cancelled(id_)


def test_only_so_many_jobs_without_a_result_are_remembered(open_store, monkeypatch):
    monkeypatch.setattr(stores, "MAX_REMEMBERED", 2)
    store = open_store()
    ids = [create(store).id for _ in range(3)]
    for id_ in ids:
        store.finish(id_, "failed")
        store.clear(id_)
    assert [job.id for job in store.page(0, "")[0]] == ids[:0:-1]


def test_pages_follow_each_other_without_gap(open_store):
    store = open_store()
    ids = [create(store).id for _ in range(5)][::-1]
    assert [job.id for job in store.page(5, "")[0]] == ids
    assert store.page(5, "")[1] == ""
    first, token = store.page(3, "")
    rest, end = store.page(3, token)
    assert ([job.id for job in first + rest], end) == (ids, "")
    assert store.page(1, "1") == ([], "")
    for bad in ("x", "-1", "1.0", "²", "9" * 19):
        with pytest.raises(InvalidArgument, match=f"'{bad}' is not a page token"):
            store.page(3, bad)
    assert len(store.page(3, "9" * 18)[0]) == 3


def test_a_page_has_a_hundred_jobs_where_nothing_is_said(open_store):
    store = open_store()
    for _ in range(101):
        create(store)
    assert len(store.page(0, "")[0]) == 100
    assert len(store.page(MAX_JOBS_PER_PAGE + 1, "")[0]) == 101


def test_a_key_sees_its_own_jobs_and_those_of_none(open_store):
    store = open_store()
    ids = {key: create(store, key=key).id for key in ("", "ada", "ben")}
    assert [job.id for job in store.page(0, "", "ada")[0]] == [ids["ada"], ids[""]]
    assert len(store.page(0, "")[0]) == 3
    with pytest.raises(NotFound, match=f"there is no job '{ids['ben']}' of your key; "):
        store.get(ids["ben"], "ada")


def test_a_key_may_always_have_one_job(open_store):
    store = open_store(n_jobs=5, key_share=0.1)
    create(store, key="ada")
    with pytest.raises(Overloaded, match=r"^1 jobs of your key are waiting") as raised:
        create(store, key="ada")
    assert raised.value.retry_after_s == 60
    for _ in range(4):
        create(store)  # of no key, so no share
    with pytest.raises(Overloaded, match=r"^5 jobs are waiting already"):
        create(store)


def test_results_leave_room_up_to_the_last_byte(open_store, now):
    store = open_store()
    done(store, n_bytes=400)
    now[0] += 100
    done(store, n_bytes=599)
    store.check_result_room()
    with pytest.raises(
        Overloaded, match="the results of earlier jobs take 0 MB of 0, and what this one has written"
    ) as full:
        store.check_result_room(working_bytes=1)
    assert full.value.retry_after_s == 3500  # until the first expires
    done(store, n_bytes=1)
    with pytest.raises(Overloaded, match="take 0 MB of 0; delete one"):
        store.check_result_room()
    now[0] += 3450
    with pytest.raises(Overloaded) as full:
        store.check_result_room()
    assert full.value.retry_after_s == 60


def test_room_is_told_in_megabytes_and_the_longest_wait_is_an_hour(open_store):
    store = open_store(result_bytes=10**12, lifetime_s=1e6)
    done(store)
    with pytest.raises(Overloaded, match="take 0 MB of 1,000,000, and what this one has written 1,000,000 MB") as full:
        store.check_result_room(working_bytes=10**12)
    assert full.value.retry_after_s == 3600


def test_an_index_has_one_maker(open_store):
    store = open_store()
    spec = IndexSpec(name="mine", corpus="c", shared=True)
    id_ = done(store, "ada", spec=spec)
    with pytest.raises(InvalidArgument, match="a job has made the index 'mine', or is making it; take another name"):
        create(store, key="ada", spec=spec)
    done(store, "ada")
    assert store.indexes() == [(store.job_folder(id_) / "mine", "ada", True)]


def test_uploads_are_listed_kept_and_forgotten(open_store, now):
    store = open_store()
    made = store.add_corpus("ada/b.txt", 7, "ab", True)
    assert (made.name, made.bytes, made.sha256, made.owner, made.shared) == ("b.txt", 7, "ab", "ada", True)
    assert made.expires_at == at(1e6 + 3600)
    store.add_corpus("a.txt", 1, "cd", False)
    assert [(one.name, one.owner, one.shared) for one in store.corpora()] == [
        ("a.txt", "", False),
        ("b.txt", "ada", True),
    ]
    id_ = create(store, corpus="ada/b.txt").id
    with pytest.raises(FailedPrecondition, match=rf"job {id_} needs the corpus 'b\.txt'; cancel it first"):
        store.check_corpus_unused("ada/b.txt")
    store.check_corpus_unused("a.txt")
    assert store.corpora_out_of_time() == []
    now[0] += 3600
    assert store.corpora_out_of_time() == ["a.txt"]
    store.cancel(id_)
    store.check_corpus_unused("ada/b.txt")
    assert sorted(store.corpora_out_of_time()) == ["a.txt", "ada/b.txt"]
    store.forget_corpus("a.txt")
    assert [one.name for one in store.corpora()] == ["b.txt"]


def test_every_change_is_counted_and_a_failed_one_leaves_nothing(open_store):
    store = open_store()
    before = store.changes
    id_ = create(store).id
    assert store.changes == before + 1
    with pytest.raises(FailedPrecondition):
        store.delete(id_)
    assert store.changes == before + 1
    create(store)  # no transaction was left open
    store.close()
    assert store.counts() == {}
    with pytest.raises(sqlite3.ProgrammingError):
        store.get(id_)


def test_files_of_the_state_are_its_owners_alone(open_store, tmp_path):
    open_store()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert {modes.pop("corpora"), modes.pop("jobs"), (tmp_path / "state").stat().st_mode & 0o777} == {0o700}
    assert {name for name, mode in modes.items() if mode == 0o600} >= {"lock", "jobs.sqlite", "jobs.sqlite-wal"}
