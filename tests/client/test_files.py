"""Files that people keep: whole or not at all, and never over another without being told to."""

import os
from pathlib import Path

import pytest

from polysem.client import files
from polysem.proto.errors import FailedPrecondition


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def write(out, force, data, then):
    with files.writing(out, force) as file:
        file.write(data)
        then()


def raise_(error):
    raise error


def test_a_file_gets_its_name_when_all_is_there(tmp_path):
    out = tmp_path / "f.txt"
    with files.writing(out, force=False) as file:
        file.write(b"half")
        assert not out.exists()
        file.write(b" and whole")
    assert out.read_bytes() == b"half and whole"
    assert leftovers(tmp_path) == ["f.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_nothing_and_keeps_what_was_there(tmp_path, error):
    out = tmp_path / "f.txt"
    for before in (None, b"old"):
        if before:
            out.write_bytes(before)
        with pytest.raises(error):
            write(out, True, b"half", lambda: raise_(error))
        assert leftovers(tmp_path) == (["f.txt"] if before else [])
    assert out.read_bytes() == b"old"


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path):
    out = tmp_path / "f.txt"
    out.write_bytes(b"old")
    with pytest.raises(FailedPrecondition, match="exists already; choose another name, or --force"):
        files.check_free(out, force=False)
    with pytest.raises(FailedPrecondition, match="exists already"), files.writing(out, force=False):
        pytest.fail("nothing is written")
    with files.writing(out, force=True) as file:
        file.write(b"new")
    assert out.read_bytes() == b"new"


def test_a_file_that_came_meanwhile_is_kept(tmp_path):
    out = tmp_path / "f.txt"
    with pytest.raises(FailedPrecondition, match="exists already"):
        write(out, False, b"mine", lambda: out.write_bytes(b"another's"))
    assert out.read_bytes() == b"another's"
    assert leftovers(tmp_path) == ["f.txt"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real.txt").write_bytes(b"old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with files.writing(tmp_path / "link.txt", force=True) as file:
        file.write(b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_bytes() == b"new"


def test_a_device_is_written_at_once(tmp_path):
    near, far = os.pipe()
    with os.fdopen(near, "rb") as pipe:
        with files.writing(Path(f"/dev/fd/{far}"), force=False) as file:
            file.write(b"through a pipe")
        os.close(far)
        assert pipe.read() == b"through a pipe"


@pytest.mark.parametrize("place", ["missing/f.txt", "."])
def test_what_cannot_be_written_is_told(tmp_path, place):
    with pytest.raises(FailedPrecondition, match=r"there is no folder|is a folder"):
        files.check_free(tmp_path / place, force=True)


def test_a_full_disk_is_told():
    full = files.writing(Path("/dev/full"), force=False)
    with pytest.raises(FailedPrecondition, match="No space left on device"), full as file:
        file.write(b"x")
