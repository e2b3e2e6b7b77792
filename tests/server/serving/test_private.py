"""The state folder is its owner's alone, or the server says what is open to whom."""

import logging
import stat

import pytest

from polysem.client import Client
from polysem.server.serving import keys
from polysem.server.serving.private import keep_private


def modes(folder):
    """Permission bits by path, of the folder and all that is in it."""
    found = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    return {".": stat.S_IMODE(folder.stat().st_mode)} | found


@pytest.fixture
def wide_umask():
    import os

    before = os.umask(0)
    yield
    os.umask(before)


def test_what_a_server_makes_is_its_owners_alone(served, tmp_path, wide_umask, caplog):
    state = tmp_path / "state"
    _, token = keys.create(state, "ada")
    (tmp_path / "mine.txt").write_text("a text\n" * 20)
    with served(state=state, require_keys=True) as target, Client(target, token=token) as client:
        client.jobs.upload(tmp_path / "mine.txt", "mine.txt")
        *_, job = client.jobs.watch(client.jobs.measure("0.0", best_cut=False).id)
        assert job.state == "done"
        found = modes(state)
    assert found["."] == found["corpora"] == found["jobs"] == 0o700
    assert {name: oct(mode) for name, mode in found.items() if "/" not in name and mode & 0o077} == {}
    assert not [record for record in caplog.records if "is open" in record.getMessage()]


def test_what_was_open_is_closed_and_a_folder_that_was_there_is_told(served, tmp_path, caplog):
    state = tmp_path / "state"
    _, token = keys.create(state, "ada")
    (state / "corpora").mkdir()
    (state / "others").write_text("not ours")
    for path, mode in ((state, 0o777), (state / "keys.json", 0o644), (state / "corpora", 0o755)):
        path.chmod(mode)
    (state / "others").chmod(0o644)
    with (
        caplog.at_level(logging.WARNING),
        served(state=state, require_keys=True) as target,
        Client(target, token=token) as client,
    ):
        client.info()
        found = modes(state)
    assert (found["keys.json"], found["corpora"], found["others"]) == (0o600, 0o700, 0o644)
    assert [record.getMessage() for record in caplog.records if "is open" in record.getMessage()] == [
        f"the folder {str(state)!r} is open: its group may read and change it, everybody may read and change it; "
        f"close it with `chmod 700 {state}`"
    ]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o700, None),
        (0o750, "its group may read it; close"),
        (0o701, None),
        (0o702, "everybody may change it; close"),
        (0o755, "its group may read it, everybody may read it; close"),
    ],
)
def test_who_may_what_is_said(tmp_path, mode, words):
    tmp_path.chmod(mode)
    said = keep_private(tmp_path)
    tmp_path.chmod(0o700)
    assert (words is None and said == []) or words in said[0]
