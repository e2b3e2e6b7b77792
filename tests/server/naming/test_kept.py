"""Names in their file: by set, with history, of two servers, on a full disk, in a damaged file."""

import logging
import sqlite3
from datetime import UTC, datetime

import numpy as np
import pytest

from polysem.proto.errors import FailedPrecondition
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName, NameScores
from polysem.server.naming import kept
from polysem.server.naming.kept import KeptNames, Place, digest, open_names

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
HERE = Place("a" * 64)
NEURON = NeuronId(1, 5)
NAME = KeptName(NEURON, (0, 2, 3), "decorators", "person", "ada", AT)
EVERY = np.array([(layer, neuron) for layer in range(3) for neuron in range(8)])


@pytest.fixture
def store(tmp_path):
    found = KeptNames(tmp_path)
    yield found
    found.close()


def listed(store, place=HERE, neurons=EVERY, history=False):
    return [name for page in store.listed(place, neurons, history) for name in page]


def test_a_name_is_found_by_its_set(store):
    assert store.keep(HERE, [NAME]) == 1
    assert store.of(HERE, NEURON) == {digest(np.array([0, 2, 3])): NAME}
    assert digest(np.array([0, 2, 3], np.int64)) != digest(np.array([0, 2]))


def test_the_same_again_changes_nothing(store):
    scored = NAME._replace(members=(1,), method="model", scores=NameScores(0.9, None, 0.7, 0.5))
    assert store.keep(HERE, [NAME, scored]) == 2
    assert store.keep(HERE, [NAME._replace(author="ben"), scored]) == 0
    assert [name.author for name in listed(store)] == ["ada", "ada"]
    assert scored in listed(store)


def test_a_name_takes_the_place_of_the_one_before_which_history_keeps(store):
    for text in ("one", "two", "", "three"):
        store.keep(HERE, [NAME._replace(text=text)])
    assert [name.text for name in listed(store)] == ["three"]
    assert [name.text for name in listed(store, history=True)] == ["one", "two", "", "three"]


def test_a_forgotten_name_is_not_listed(store):
    store.keep(HERE, [NAME])
    assert store.keep(HERE, [NAME._replace(text="")]) == 1
    assert store.keep(HERE, [NAME._replace(text=""), NAME._replace(members=(9,), text="")]) == 0
    assert (listed(store), store.of(HERE, NEURON)) == ([], {})


def test_names_are_listed_by_neuron_and_set_whatever_the_order_they_came_in(tmp_path, store, monkeypatch):
    monkeypatch.setattr(kept, "A_PAGE", 3)
    ids = [NeuronId(layer, neuron) for layer in range(3) for neuron in (7, 1)]
    names = [NAME._replace(neuron=id_, members=(member,)) for id_ in ids for member in (5, 4)]
    store.keep(HERE, names)
    other = KeptNames(tmp_path / "other")
    other.keep(HERE, names[::-1])
    assert listed(store) == listed(other)
    assert [name.neuron for name in listed(store)] == [NeuronId(layer, n) for layer in range(3) for n in (1, 1, 7, 7)]
    assert {name.neuron for name in listed(store, neurons=np.array([[1, 7], [2, 1], [0, 0]]))} == {(1, 7), (2, 1)}
    other.close()


def test_indexes_sides_and_owners_have_names_of_their_own(store):
    places = [HERE, Place("b" * 64), Place("a" * 64, "key"), Place("a" * 64, "", "negative")]
    for place in places:
        store.keep(place, [NAME._replace(text=place.text, side=place.side)])
    for place in places:
        assert [name.text for name in listed(store, place)] == [place.text]


def test_only_the_last_versions_are_remembered(store, monkeypatch):
    monkeypatch.setattr(kept, "MAX_VERSIONS", 3)
    for i in range(6):
        store.keep(HERE, [NAME._replace(text=f"{i}"), NAME._replace(members=(7,), text=f"other {i}")])
    texts = [name.text for name in listed(store, history=True)]
    assert sorted(texts) == ["3", "4", "5", "other 3", "other 4", "other 5"]


def test_all_names_of_a_call_are_kept_or_none(store, monkeypatch):
    monkeypatch.setattr(kept, "MAX_ROWS", 2)
    with pytest.raises(FailedPrecondition, match="has room for no more"):
        store.keep(HERE, [NAME._replace(members=(i,)) for i in range(5)])
    assert listed(store) == []


def test_names_outlive_their_server_and_two_servers_share_them(tmp_path, store):
    store.keep(HERE, [NAME])
    other = KeptNames(tmp_path)
    assert listed(other) == [NAME]
    other.keep(HERE, [NAME._replace(text="by the other")])
    assert [name.text for name in listed(store)] == ["by the other"]
    other.close()
    assert (tmp_path / kept.FILE).stat().st_mode & 0o777 == 0o600


def test_names_of_many_threads_are_all_kept(tmp_path, store):
    from concurrent.futures import ThreadPoolExecutor

    other = KeptNames(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: (store, other)[i % 2].keep(HERE, [NAME._replace(members=(i,))]), range(60)))
    other.close()
    assert sorted(name.members for name in listed(store)) == [(i,) for i in range(60)]


def test_a_damaged_file_is_told_and_kept(tmp_path, caplog):
    (tmp_path / kept.FILE).write_bytes(b"no database at all, whatever it is called" * 200)
    with caplog.at_level(logging.WARNING):
        reason = open_names(tmp_path)
    assert "this server keeps no names" in reason
    assert "restore names.sqlite from a backup" in reason
    assert (tmp_path / kept.FILE).read_bytes()[:11] == b"no database"


def test_another_versions_file_is_told(tmp_path, store):
    with sqlite3.connect(tmp_path / kept.FILE) as db:
        db.execute("PRAGMA user_version = 9")
    assert "have format 9, this version reads 1" in str(open_names(tmp_path))


def test_a_file_that_breaks_under_a_running_server_fails_naming_only(tmp_path, caplog):
    store = KeptNames(tmp_path)
    store.keep(HERE, [NAME._replace(members=(i,)) for i in range(500)])
    store.close()
    path = tmp_path / kept.FILE
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    broken = KeptNames(tmp_path)
    with caplog.at_level(logging.ERROR):
        assert broken.of(HERE, NEURON) == {}
        assert broken.of(HERE, NEURON) == {}
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1
    for ask in (lambda: listed(broken), lambda: broken.keep(HERE, [NAME])):
        with pytest.raises(FailedPrecondition, match=r"damaged.*restore names\.sqlite"):
            ask()
    broken.close()


def test_a_full_disk_refuses_names_and_still_reads_them(small_disk):
    store = KeptNames(small_disk.folder)
    store.keep(HERE, [NAME])
    small_disk.fill()
    many = [NAME._replace(members=tuple(range(i, i + 500))) for i in range(2000)]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.keep(HERE, many)
    assert NAME in listed(store)
    small_disk.free()
    assert store.keep(HERE, [NAME._replace(text="again")]) == 1
    store.close()
