"""Results that go to a store: whole or not at all, whatever the store does, and through the commands."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from polysem.client.commands.cli import cli
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.work.publishing import Destination
from polysem.server.indexing import builder

FILES = {
    "contexts/tokens.npy": b"tokens",
    "layer_00/xhat.npy": b"rows of floats",
    "manifest.json": b"{}",
    "statistics/empty.npy": b"",
    "zz.npy": b"z",
}


class FrailStore(MemoryFileSystem):
    """Takes so many files; then fails, as it is told to."""

    protocol = "frail"
    store, pseudo_dirs = {}, [""]
    room, failure, cut = math.inf, OSError("no room\nat all"), 0
    taken: ClassVar = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("frail://"))

    def put_file(self, lpath, rpath, **options):
        if len(self.taken) >= FrailStore.room:
            raise FrailStore.failure
        data = Path(lpath).read_bytes()
        self.pipe_file(rpath, data[: len(data) - FrailStore.cut])
        self.taken.append(rpath)


class BucketStore(FrailStore):
    """Its first names are of buckets."""

    protocol = "bucket"

    @classmethod
    def _strip_protocol(cls, path):
        return str(path).removeprefix("bucket://").strip("/")

    def info(self, path, **options):
        raise PermissionError("the key 'ada' may not look here")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder, empty; so are all stores."""
    for kind in (FrailStore, BucketStore):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    for kind in (MemoryFileSystem, FrailStore):
        monkeypatch.setattr(kind, "store", {})
        monkeypatch.setattr(kind, "pseudo_dirs", [""])
    monkeypatch.setattr(FrailStore, "taken", [])
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make(place, files=FILES):
    for name, data in files.items():
        path = place.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def found(url):
    store, path = fsspec.url_to_fs(url)
    return {name.removeprefix(path).lstrip("/"): store.cat_file(name) for name in store.find(path)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_path_is_where_the_result_is_made(here):
    place = Destination("~/some/index")
    assert (place.url, place.made) == (None, False)
    assert place.local == Path.home() / "some" / "index"
    assert place.kept == Path.home() / "some" / "index.tmp"
    make(local := Destination("index"))
    local.publish()
    assert names(here) == ["index"]


@pytest.mark.parametrize("scheme", ["memory://", "frail://", "file://", "local://"])
def test_a_folder_is_copied_and_leaves_nothing_here(here, tmp_path, scheme):
    (here / "tiny").write_text("of somebody else, and in nobody's way")
    url = f"{scheme}{tmp_path}/bucket/deep/tiny/"
    place = Destination(url)
    assert not place.made
    assert names(here) == ["tiny"]  # nothing lies about where nothing is made
    make(place)
    place.publish()
    assert found(url) == FILES
    assert names(here) == ["tiny"]


def test_the_manifest_comes_last():
    make(place := Destination("frail://bucket/tiny"))
    place.publish()
    assert len(FrailStore.taken) == len(FILES)
    assert FrailStore.taken[-1] == "/bucket/tiny/manifest.json"


@pytest.mark.parametrize("room", range(len(FILES)))
def test_a_copy_that_broke_off_goes_on_with_what_is_lacking(here, monkeypatch, room):
    make(place := Destination("frail://bucket/tiny"))
    monkeypatch.setattr(FrailStore, "room", room)
    with pytest.raises(
        FailedPrecondition, match=r"^cannot write to 'frail://bucket/tiny': no room; 'tiny\.\w{8}' is k"
    ):
        place.publish()
    assert len(FrailStore.store) == room
    assert "/bucket/tiny/manifest.json" not in FrailStore.store
    monkeypatch.setattr(FrailStore, "room", math.inf)
    again = Destination("frail://bucket/tiny")
    assert again.made
    assert again.kept == again.local == place.local
    again.publish()
    assert found("frail://bucket/tiny") == FILES
    assert len(set(FrailStore.taken)) == len(FrailStore.taken) == len(FILES)
    assert names(here) == []


def test_what_was_made_but_not_copied_yet_is_copied(here):
    make(Destination("memory://bucket/tiny"))  # and then killed, while the build cleaned up
    again = Destination("memory://bucket/tiny")
    (here / f"{again.local}.tmp").mkdir()
    assert again.made
    again.publish()
    assert found("memory://bucket/tiny") == FILES
    assert names(here) == []


@pytest.mark.parametrize("there", ["/bucket/tiny", "/bucket/tiny/a.npy"])
def test_what_is_at_the_url_already_stays(there):
    MemoryFileSystem().pipe_file(there, b"precious")
    with pytest.raises(FailedPrecondition, match=r"something at 'memory://bucket/tiny' already; choose another name$"):
        Destination("memory://bucket/tiny")


def test_what_comes_to_the_url_meanwhile_stays():
    make(place := Destination("memory://bucket/tiny"))
    MemoryFileSystem().pipe_file("/bucket/tiny/manifest.json", b"of another")
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match=r"choose another name; what was made is kept in 'tiny\.\w{8}'$"):
            place.publish()
        with pytest.raises(FailedPrecondition, match="choose another name"):
            Destination("memory://bucket/tiny")
    assert found("memory://bucket/tiny") == {"manifest.json": b"of another"}


def test_half_a_copy_is_something_at_the_url_once_the_result_is_removed(here, monkeypatch):
    make(place := Destination("frail://bucket/tiny"))
    monkeypatch.setattr(FrailStore, "room", 2)
    with pytest.raises(FailedPrecondition):
        place.publish()
    place.local.rename(here.with_name("elsewhere"))
    with pytest.raises(FailedPrecondition, match=r"choose another name$"):
        Destination("frail://bucket/tiny")
    assert names(here) == []


def test_force_replaces_a_file_even_of_the_same_size():
    MemoryFileSystem().pipe_file("/bucket/all.parquet", b"old")
    place = Destination("memory://bucket/all.parquet", force=True)
    place.local.write_bytes(b"new")
    place.publish()
    assert found("memory://bucket/all.parquet") == {"": b"new"}


def test_each_result_has_a_place_of_its_own():
    places = [
        Destination(url, depends=depends) for url in ("memory://a/tiny", "memory://b/tiny") for depends in ("", "x")
    ]
    assert len({place.local for place in places}) == 4


def test_another_size_after_the_copy_is_told_and_copied_anew(monkeypatch):
    make(place := Destination("frail://bucket/tiny"), {"a.npy": b"12345"})
    monkeypatch.setattr(FrailStore, "cut", 2)
    with pytest.raises(
        FailedPrecondition, match=r"'/bucket/tiny/a\.npy' has 3 bytes after the copy, and .* 5; the same"
    ):
        place.publish()
    monkeypatch.setattr(FrailStore, "cut", 0)
    Destination("frail://bucket/tiny").publish()
    assert found("frail://bucket/tiny") == {"a.npy": b"12345"}


@pytest.mark.parametrize("url", ["memory://", "memory:///", "bucket://name", "bucket://name/"])
def test_a_url_without_a_name_is_told(url):
    with pytest.raises(InvalidArgument, match=f"the URL '{url}' names no file or folder"):
        Destination(url)


def test_an_unknown_scheme_is_told():
    with pytest.raises(
        FailedPrecondition, match=r"^cannot write to 'nowhere://bucket/tiny': Protocol not known: nowhere$"
    ):
        Destination("nowhere://bucket/tiny")


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_what_a_scheme_needs_is_told():
    with pytest.raises(FailedPrecondition, match=r"^cannot write to 's3://bucket/tiny': Install s3fs to access S3$"):
        Destination("s3://bucket/tiny")


def test_without_fsspec_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(FailedPrecondition, match="install fsspec: pip install fsspec"):
        Destination("memory://bucket/tiny")


def test_a_store_that_does_not_answer_is_told_before_anything_is_made(here):
    with pytest.raises(FailedPrecondition, match=r"^cannot write to 'bucket://a/b': the key 'ada' may not look here$"):
        Destination("bucket://a/b")
    assert names(here) == []


# ---- Through the commands


@pytest.fixture
def line(checkpoint, corpus_file):
    """An index's command, without its --out."""
    return ["index", "--model", str(checkpoint), "--corpus", str(corpus_file), "--max-examples", "9", "--device", "cpu"]


def run(*words):
    return CliRunner().invoke(cli, [*map(str, words)])


def never(*arguments):
    raise AssertionError("it was made already")


def stop(*arguments):
    raise KeyboardInterrupt


def test_an_index_at_a_url_is_the_local_one_file_by_file(here, line):
    assert run(*line, "--out", "tiny").exit_code == 0
    done = run(*line, "--out", "memory://bucket/tiny")
    assert done.exit_code == 0, done.output
    assert "copying tiny." in done.output
    assert "memory://bucket/tiny: " in done.output
    local = {
        path.relative_to(here / "tiny").as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()
    }
    assert "manifest.json" in local
    assert found("memory://bucket/tiny") == local
    assert names(here) == ["tiny"]


def test_an_index_whose_copy_broke_off_is_not_made_again(here, line, monkeypatch):
    monkeypatch.setattr(FrailStore, "room", 5)
    broken = run(*line, "--out", "frail://bucket/tiny")
    assert isinstance(broken.exception, FailedPrecondition)
    monkeypatch.setattr(FrailStore, "room", math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(builder, "build", never)
        assert run(*line, "--out", "frail://bucket/tiny", "--executor", "local", "--ray-workers", 3).exit_code == 0
    assert "manifest.json" in found("frail://bucket/tiny")
    assert names(here) == []


def test_other_arguments_do_not_get_what_was_made_before(here, line, monkeypatch):
    monkeypatch.setattr(FrailStore, "room", 0)
    assert isinstance(run(*line, "--out", "frail://bucket/tiny").exception, FailedPrecondition)
    monkeypatch.setattr(FrailStore, "room", math.inf)
    done = run(*line, "--max-documents", 40, "--out", "frail://bucket/tiny")
    assert "from 40 contexts" in done.output


def test_a_build_that_was_stopped_goes_on(here, line, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(builder.Build, "_assemble", stop)
        stopped = run(*line, "--out", "memory://bucket/tiny")
    assert stopped.exit_code == 1
    (work,) = names(here)
    assert f"stopped; what is done is kept in {work}, and the same command goes on" in stopped.output
    assert work.endswith(".tmp")
    assert run(*line, "--out", "memory://bucket/tiny").exit_code == 0
    assert names(here) == []


def test_a_copy_that_was_stopped_says_what_is_kept(here, line, monkeypatch):
    monkeypatch.setattr(FrailStore, "failure", KeyboardInterrupt())
    monkeypatch.setattr(FrailStore, "room", 1)
    stopped = run(*line, "--out", "frail://bucket/tiny")
    made, note = names(here)
    assert note == f"{made}.copying"
    assert f"stopped; what is done is kept in {made}, and the same command goes on" in stopped.output


def test_a_build_that_could_not_begin_leaves_nothing(here, line):
    for words in (["--context-length", 99], ["--model", "nobody/nothing"]):
        assert run(*line, *words, "--out", "memory://bucket/tiny").exit_code == 1
        assert names(here) == []


def test_measurements_at_a_url_are_the_local_ones(here, index_folder):
    words = ["measure", "0.0-3", "--index", index_folder, "--out"]
    assert run(*words, "few.parquet").exit_code == 0
    done = run(*words, "memory://bucket/few.parquet")
    assert done.exit_code == 0, done.output
    assert "memory://bucket/few.parquet: 4 neurons by 6 clusterings" in done.output
    assert found("memory://bucket/few.parquet") == {"": Path("few.parquet").read_bytes()}
    assert names(here) == ["few.parquet"]
    assert isinstance(run(*words, "memory://bucket/few.parquet").exception, FailedPrecondition)
    assert run(*words, "memory://bucket/few.parquet", "--force").exit_code == 0
